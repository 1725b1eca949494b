"""Sentence and image embeddings without PyTorch: onnxruntime, tokenizers and NumPy.

import embedder
vectors = embedder.encode(["a text", "another"], model="all-MiniLM-L6-v2")
"""

from typing import TYPE_CHECKING

from embedder.common.cpp_runtime import initialise_cpp_runtime
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
    WorkerError,
)

if TYPE_CHECKING:
    from embedder.pool import EncoderPool, encode_multi_process, start_multi_process_pool, stop_multi_process_pool
    from embedder.vectors.adapters import FaissIndex, UsearchIndex
    from embedder.vectors.index.vector_index import VectorIndex
    from embedder.vectors.mining import community_detection, paraphrase_mining, paraphrase_mining_embeddings
    from embedder.vectors.pairs import bitext_mining, mine_hard_negatives
    from embedder.vectors.quantization import quantize_embeddings, semantic_search_quantized
    from embedder.vectors.search import semantic_search
    from embedder.vectors.similarity import (
        cos_sim,
        dot_score,
        euclidean_sim,
        manhattan_sim,
        normalize_embeddings,
        pairwise_cos_sim,
        pairwise_dot_score,
        pairwise_euclidean_sim,
        pairwise_manhattan_sim,
        truncate_embeddings,
    )

__version__ = "0.1.0"

initialise_cpp_runtime()

__all__ = [
    "ArtifactError",
    "DependencyError",
    "Embedder",
    "EmbedderError",
    "EncodeOptions",
    "EncoderPool",
    "FaissIndex",
    "FormatError",
    "ImageError",
    "InputError",
    "ModelNotFoundError",
    "ProviderError",
    "UsearchIndex",
    "VectorIndex",
    "WorkerError",
    "__version__",
    "bitext_mining",
    "community_detection",
    "cos_sim",
    "dot_score",
    "encode",
    "encode_multi_process",
    "euclidean_sim",
    "manhattan_sim",
    "mine_hard_negatives",
    "normalize_embeddings",
    "pairwise_cos_sim",
    "pairwise_dot_score",
    "pairwise_euclidean_sim",
    "pairwise_manhattan_sim",
    "paraphrase_mining",
    "paraphrase_mining_embeddings",
    "quantize_embeddings",
    "semantic_search",
    "semantic_search_quantized",
    "start_multi_process_pool",
    "stop_multi_process_pool",
    "truncate_embeddings",
]

# Imported when they are first asked for: who only encodes need not wait for them at the start of each process.
_LATER = {
    "vectors.adapters": ("FaissIndex", "UsearchIndex"),
    "vectors.index.vector_index": ("VectorIndex",),
    "vectors.mining": ("community_detection", "paraphrase_mining", "paraphrase_mining_embeddings"),
    "vectors.pairs": ("bitext_mining", "mine_hard_negatives"),
    "pool": ("EncoderPool", "encode_multi_process", "start_multi_process_pool", "stop_multi_process_pool"),
    "vectors.quantization": ("quantize_embeddings", "semantic_search_quantized"),
    "vectors.search": ("semantic_search",),
    "vectors.similarity": (
        *("cos_sim", "dot_score", "euclidean_sim", "manhattan_sim", "normalize_embeddings", "truncate_embeddings"),
        *("pairwise_cos_sim", "pairwise_dot_score", "pairwise_euclidean_sim", "pairwise_manhattan_sim"),
    ),
}

if not TYPE_CHECKING:

    def __getattr__(name):  # noqa: ANN001, ANN202
        import importlib

        for module, names in _LATER.items():
            if name in names:
                value = getattr(importlib.import_module(f"embedder.{module}"), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():  # noqa: ANN202
        return sorted({*globals(), *__all__})
