"""The offline part: turns a sentence-transformers checkpoint into an artifact for `embedder`.

The stages are folders, in the order in which they run. `pipeline` puts them together.

    checkpoint   find it and read what it says of itself
    tokenizer    one tokenizer.json with all settings applied
    body         each transformer as a graph, by a native builder or by tracing
    head         pooling and the layers after it, added to the graph
    dtype        the fastest fp32 form, int8, fp16
    write        the artifact's files and manifest, and the output directory
    verify       the artifact's vectors beside those of a reference

`families` has what is known of each family of models. `graph` and `samples` serve several stages.
"""

import os

__version__ = "0.1.0"

# onnxruntime 1.32 reports to its maker unless this is set before it is imported. A user who wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
