"""The offline stage: turns a sentence-transformers checkpoint into an artifact for `embedder`.

checkpoint → convert → fuse → head → choose → write → verify; one file a stage, put together in `pipeline`.
"""

__version__ = "0.1.0"
