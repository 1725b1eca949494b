"""Sentence and image embeddings without PyTorch: onnxruntime, tokenizers and NumPy.

import embedder
vectors = embedder.encode(["a text", "another"], model="all-MiniLM-L6-v2")
"""

from embedder.encoder import Embedder, EncodeOptions, encode
from embedder.errors import (
    ArtifactError,
    DependencyError,
    EmbedderError,
    FormatError,
    ImageError,
    InputError,
    ModelNotFoundError,
    ProviderError,
)

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "DependencyError",
    "Embedder",
    "EmbedderError",
    "EncodeOptions",
    "FormatError",
    "ImageError",
    "InputError",
    "ModelNotFoundError",
    "ProviderError",
    "__version__",
    "encode",
]
