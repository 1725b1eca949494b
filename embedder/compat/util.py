"""The functions of `sentence_transformers.util` that are about embeddings, with its names and order of arguments.

They take arrays, lists and tensors of torch. The other names raise an ImportError that says what to use.
"""

from __future__ import annotations

import logging as python_logging
import sys
from typing import TYPE_CHECKING, Any

from embedder.compat.quantization import quantize_embeddings
from embedder.compat.refusals import UTIL, refuse_import
from embedder.compat.similarity import (
    SimilarityFunction,
    TensorFunction,
    cos_sim,
    dot_score,
    euclidean_sim,
    manhattan_sim,
    on_arrays,
    pairwise_angle_sim,
    pairwise_cos_sim,
    pairwise_dot_score,
    pairwise_euclidean_sim,
    pairwise_manhattan_sim,
    pytorch_cos_sim,
)
from embedder.compat.tensors import as_array, as_tensor, is_tensor
from embedder.vectors import mining, search
from embedder.vectors import similarity as arrays

__all__ = [
    "LoggingHandler",
    "SimilarityFunction",
    "community_detection",
    "cos_sim",
    "dot_score",
    "euclidean_sim",
    "information_retrieval",
    "manhattan_sim",
    "normalize_embeddings",
    "pairwise_angle_sim",
    "pairwise_cos_sim",
    "pairwise_dot_score",
    "pairwise_euclidean_sim",
    "pairwise_manhattan_sim",
    "paraphrase_mining",
    "paraphrase_mining_embeddings",
    "pytorch_cos_sim",
    "quantize_embeddings",
    "semantic_search",
    "truncate_embeddings",
]

# A module with a path is a package for Python: it asks `ModuleFinder` for modules such as util.similarity.
__path__: list[str] = []

Pairs = list[list[float | int]]


class LoggingHandler(python_logging.StreamHandler[Any]):
    """Writes records to standard output. Programs of sentence-transformers pass it to `logging.basicConfig`.

    Example:
        >>> LoggingHandler(20).level
        20
    """

    def __init__(self, level: int = python_logging.NOTSET) -> None:
        super().__init__(sys.stdout)
        self.setLevel(level)


def normalize_embeddings(embeddings: Any) -> Any:
    """Return each vector scaled to length 1, as `embedder.normalize_embeddings` does. A tensor gives a tensor.

    Example:
        >>> normalize_embeddings([0.0, 2.0]).tolist()
        [0.0, 1.0]
    """
    vectors = arrays.normalize_embeddings(as_array(embeddings))
    return as_tensor(vectors).to(embeddings.device) if is_tensor(embeddings) else vectors


def truncate_embeddings(embeddings: Any, truncate_dim: int | None) -> Any:
    """Return the first `truncate_dim` numbers of each vector. A tensor gives a tensor.

    Example:
        >>> truncate_embeddings([[1.0, 2.0, 3.0]], 2).tolist()
        [[1.0, 2.0]]
    """
    if is_tensor(embeddings):
        arrays.truncate_embeddings([[0.0]], truncate_dim)  # checks the number
        return embeddings[..., :truncate_dim]
    return arrays.truncate_embeddings(as_array(embeddings), truncate_dim)


def semantic_search(
    query_embeddings: Any,
    corpus_embeddings: Any,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500_000,
    top_k: int = 10,
    score_function: TensorFunction = cos_sim,
) -> list[list[search.Hit]]:
    """Find the `top_k` vectors of a corpus that score highest with each query, as `embedder.semantic_search` does.

    Example:
        >>> semantic_search([1.0, 0.0], [[0.0, 1.0], [2.0, 0.0]], top_k=1)
        [[{'corpus_id': 1, 'score': 1.0}]]
    """
    return search.semantic_search(
        as_array(query_embeddings),
        as_array(corpus_embeddings),
        query_chunk_size,
        corpus_chunk_size,
        top_k,
        on_arrays(score_function),
    )


information_retrieval = semantic_search


def paraphrase_mining(
    model: Any,
    sentences: list[str],
    show_progress_bar: bool = False,
    batch_size: int = 32,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100_000,
    max_pairs: int = 500_000,
    top_k: int = 100,
    score_function: TensorFunction = cos_sim,
    truncate_dim: int | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> Pairs:
    """Encode `sentences` and find the nearest pairs, as `embedder.paraphrase_mining` does.

    Example:
        >>> paraphrase_mining(model, ["A cat sat.", "It rains.", "A cat was sitting."])[0][1:]  # doctest: +SKIP
        [0, 2]
    """
    return mining.paraphrase_mining(
        model,
        sentences,
        query_chunk_size=query_chunk_size,
        corpus_chunk_size=corpus_chunk_size,
        max_pairs=max_pairs,
        top_k=top_k,
        score_function=on_arrays(score_function),
        show_progress_bar=show_progress_bar,
        batch_size=batch_size,
        truncate_dim=truncate_dim,
        prompt_name=prompt_name,
        prompt=prompt,
    )


def paraphrase_mining_embeddings(
    embeddings: Any,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100_000,
    max_pairs: int = 500_000,
    top_k: int = 100,
    score_function: TensorFunction = cos_sim,
) -> Pairs:
    """Find the nearest pairs of rows, as `embedder.paraphrase_mining_embeddings` does.

    Example:
        >>> paraphrase_mining_embeddings([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], max_pairs=1)
        [[1.0, 0, 2]]
    """
    return mining.paraphrase_mining_embeddings(
        as_array(embeddings), query_chunk_size, corpus_chunk_size, max_pairs, top_k, on_arrays(score_function)
    )


def community_detection(
    embeddings: Any,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Find groups of near rows, as `embedder.community_detection` does.

    Example:
        >>> community_detection([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]], min_community_size=2)
        [[0, 2]]
    """
    return mining.community_detection(
        as_array(embeddings), threshold, min_community_size, batch_size, show_progress_bar
    )


if not TYPE_CHECKING:

    def __getattr__(name):  # noqa: ANN001, ANN202
        raise refuse_import(__name__, name, UTIL)
