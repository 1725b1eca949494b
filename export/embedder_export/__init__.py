"""The exporter. It turns a sentence-transformers checkpoint into an artifact for `embedder`.

Each stage is a folder. `pipeline` runs the stages in this order:

    checkpoint   find the checkpoint and read its settings
    tokenizer    write one tokenizer.json with all settings applied
    body         turn each transformer into a graph, by a native builder or by tracing
    head         add the pooling and the layers after it to the graph
    dtype        choose the fastest fp32 graph, and make the int8 and fp16 graphs
    write        write the artifact's files and manifest, and replace the output directory
    verify       compare the artifact's vectors with a reference's

`families` describes each family of models. `graph` and `samples` serve several stages.
"""

import os

__version__ = "0.1.0"

# onnxruntime 1.32 sends telemetry to its maker unless this is set before the import. To allow telemetry, set it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
