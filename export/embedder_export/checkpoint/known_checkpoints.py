"""Facts about single published checkpoints that no file of theirs states.

sentence-transformers knows the first by the model's name too. The second stands in the model's documentation.
"""

# The prompt is left out of the pooling. Nothing in these repositories says so.
PROMPT_NOT_POOLED = ("hkunlp/instructor-base", "hkunlp/instructor-large", "hkunlp/instructor-xl")

# The texts of the first model are compared with the images of the second. No file of the first names the second.
IMAGE_MODELS = {"clip-ViT-B-32-multilingual-v1": "clip-ViT-B-32"}
