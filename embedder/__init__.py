"""Sentence and image embeddings, and re-ranking, without PyTorch: onnxruntime, tokenizers and NumPy.

Example:
    >>> import embedder  # doctest: +SKIP
    >>> embedder.encode(["a text", "another"], model="all-MiniLM-L6-v2").shape  # doctest: +SKIP
    (2, 384)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from embedder.common.cpp_runtime import initialise_cpp_runtime
from embedder.errors import (
    ArtifactError,
    ConflictError,
    CutTextWarning,
    DependencyError,
    DeviceMemoryError,
    EmbedderError,
    FormatError,
    ImageError,
    InputError,
    ModelNotFoundError,
    ProviderError,
    SettingError,
    WorkerError,
)

if TYPE_CHECKING:
    from embedder.cross_encoder import CrossEncoder
    from embedder.encoder import Embedder
    from embedder.engine.batching import BatchLimits
    from embedder.engine.chunks import Chunk
    from embedder.files.encode_to_file import encode_to_file
    from embedder.inputs import Token, TokenizedText
    from embedder.kept_models import encode, release_models
    from embedder.multi_vector_encoder import MultiVectorEncoder
    from embedder.options import EncodeOptions, EncodeSettings, MultiVectorOptions, PredictOptions
    from embedder.pool import EncoderPool
    from embedder.ranked import RankedDocument
    from embedder.results import EncodeResult
    from embedder.sparse_encoder import SparseEncoder, SparseOptions
    from embedder.vectors.adapters.faiss_index import FaissIndex
    from embedder.vectors.adapters.usearch_index import UsearchIndex
    from embedder.vectors.index.entries import IndexEntry
    from embedder.vectors.index.vector_index import VectorIndex
    from embedder.vectors.maxsim import maxsim, maxsim_pairwise
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
    from embedder.vectors.sparse.index import SparseIndex
    from embedder.vectors.sparse.scores import sparse_cos_sim, sparse_dot_score
    from embedder.vectors.sparse.vectors import SparseVectors

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "BatchLimits",
    "Chunk",
    "ConflictError",
    "CrossEncoder",
    "CutTextWarning",
    "DependencyError",
    "DeviceMemoryError",
    "Embedder",
    "EmbedderError",
    "EncodeOptions",
    "EncodeResult",
    "EncodeSettings",
    "EncoderPool",
    "FaissIndex",
    "FormatError",
    "ImageError",
    "IndexEntry",
    "InputError",
    "ModelNotFoundError",
    "MultiVectorEncoder",
    "MultiVectorOptions",
    "PredictOptions",
    "ProviderError",
    "RankedDocument",
    "SettingError",
    "SparseEncoder",
    "SparseIndex",
    "SparseOptions",
    "SparseVectors",
    "Token",
    "TokenizedText",
    "UsearchIndex",
    "VectorIndex",
    "WorkerError",
    "__version__",
    "bitext_mining",
    "community_detection",
    "cos_sim",
    "dot_score",
    "encode",
    "encode_to_file",
    "euclidean_sim",
    "manhattan_sim",
    "maxsim",
    "maxsim_pairwise",
    "mine_hard_negatives",
    "normalize_embeddings",
    "pairwise_cos_sim",
    "pairwise_dot_score",
    "pairwise_euclidean_sim",
    "pairwise_manhattan_sim",
    "paraphrase_mining",
    "paraphrase_mining_embeddings",
    "quantize_embeddings",
    "release_models",
    "semantic_search",
    "semantic_search_quantized",
    "sparse_cos_sim",
    "sparse_dot_score",
    "truncate_embeddings",
]

# Since version 1.32 onnxruntime sends telemetry: it keeps an identifier and a database in the user's cache, and uploads
# from this process. It reads this variable when it is imported. Set the variable to 0 to allow telemetry.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# This must run before usearch is imported; `cpp_runtime` says why.
initialise_cpp_runtime()

# Public names by module. A module is imported when one of its names is first used, so `import embedder` is fast.
_LAZY = {
    "cross_encoder": ("CrossEncoder",),
    "encoder": ("Embedder",),
    "engine.batching": ("BatchLimits",),
    "engine.chunks": ("Chunk",),
    "inputs": ("Token", "TokenizedText"),
    "files.encode_to_file": ("encode_to_file",),
    "kept_models": ("encode", "release_models"),
    "multi_vector_encoder": ("MultiVectorEncoder",),
    "options": ("EncodeOptions", "EncodeSettings", "MultiVectorOptions", "PredictOptions"),
    "pool": ("EncoderPool",),
    "ranked": ("RankedDocument",),
    "results": ("EncodeResult",),
    "sparse_encoder": ("SparseEncoder", "SparseOptions"),
    "vectors.adapters.faiss_index": ("FaissIndex",),
    "vectors.adapters.usearch_index": ("UsearchIndex",),
    "vectors.index.entries": ("IndexEntry",),
    "vectors.index.vector_index": ("VectorIndex",),
    "vectors.maxsim": ("maxsim", "maxsim_pairwise"),
    "vectors.mining": ("community_detection", "paraphrase_mining", "paraphrase_mining_embeddings"),
    "vectors.pairs": ("bitext_mining", "mine_hard_negatives"),
    "vectors.quantization": ("quantize_embeddings", "semantic_search_quantized"),
    "vectors.search": ("semantic_search",),
    "vectors.similarity": (
        *("cos_sim", "dot_score", "euclidean_sim", "manhattan_sim", "normalize_embeddings", "truncate_embeddings"),
        *("pairwise_cos_sim", "pairwise_dot_score", "pairwise_euclidean_sim", "pairwise_manhattan_sim"),
    ),
    "vectors.sparse.index": ("SparseIndex",),
    "vectors.sparse.scores": ("sparse_cos_sim", "sparse_dot_score"),
    "vectors.sparse.vectors": ("SparseVectors",),
}

if not TYPE_CHECKING:

    def __getattr__(name):  # noqa: ANN001, ANN202
        import importlib

        for module, names in _LAZY.items():
            if name in names:
                value = getattr(importlib.import_module(f"embedder.{module}"), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():  # noqa: ANN202
        return sorted({*globals(), *__all__})
