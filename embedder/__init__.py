"""Sentence embeddings without PyTorch: onnxruntime, tokenizers and NumPy.

import embedder
vectors = embedder.encode(["a text", "another"], model="all-MiniLM-L6-v2")
"""

from embedder.adapters import FaissIndex, UsearchIndex
from embedder.encoder import Embedder, EncodeOptions, encode
from embedder.errors import (
    ArtifactError,
    DependencyError,
    EmbedderError,
    FormatError,
    InputError,
    ModelNotFoundError,
    ProviderError,
    WorkerError,
)
from embedder.index import VectorIndex
from embedder.mining import community_detection, paraphrase_mining, paraphrase_mining_embeddings
from embedder.pairs import bitext_mining, mine_hard_negatives
from embedder.pools import EncoderPool, encode_multi_process, start_multi_process_pool, stop_multi_process_pool
from embedder.quantization import quantize_embeddings, semantic_search_quantized
from embedder.search import semantic_search
from embedder.similarity import (
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

__all__ = [
    "ArtifactError",
    "DependencyError",
    "Embedder",
    "EmbedderError",
    "EncodeOptions",
    "EncoderPool",
    "FaissIndex",
    "FormatError",
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
