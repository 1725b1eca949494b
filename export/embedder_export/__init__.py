"""The offline stage: turns a sentence-transformers checkpoint into an artifact for `embedder`.

checkpoint → convert, tokenizer → head → choose → write → verify; one file a stage, put together in `pipeline`.
Graphs are written by the builders in `native`, or by `traced` and `fuse`, which need the extra [torch].
"""

__version__ = "0.1.0"
