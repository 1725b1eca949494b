"""Stage 2: read the checkpoint's tokenizer as sentence-transformers sets it up."""
