"""Facts about published checkpoints that their own files do not state."""

# These models leave the prompt out of the pooling. sentence-transformers too recognises them by their names.
PROMPT_NOT_POOLED = ("hkunlp/instructor-base", "hkunlp/instructor-large", "hkunlp/instructor-xl")

# For each text model, the image model with the same vector space. The documentation of the text model says so.
IMAGE_MODELS = {"clip-ViT-B-32-multilingual-v1": "clip-ViT-B-32"}
