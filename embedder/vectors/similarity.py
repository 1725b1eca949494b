"""Compare embeddings by cosine, dot product, Euclidean or Manhattan distance; normalise and truncate them.

All dtypes are converted to float32 or float64 before anything is computed. So float16 and int8 embeddings cannot
overflow, and embeddings of two dtypes can be compared. (torch computes in the dtype of its inputs.) A single vector
(dim,) is treated as one row.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_count
from embedder.errors import InputError
from embedder.vectors.arrays import (
    as_float32,
    as_vectors,
    matching_embeddings,
    rows_per_block,
)

# A vector is divided by at least this norm, so that a vector of zeros stays zero. torch.nn.functional.normalize has the
# same limit.
MIN_NORM = 1e-12
# A sum of squares in float32 is exact enough between these two numbers. Outside, it has lost digits or overflowed.
_SAFE_SQUARES_RANGE = (1e-25, 1e37)
# `_euclidean` subtracts large numbers to get a squared distance. If the result is below this share of the squared
# norms, it has too few correct digits, even in float64.
_MIN_SQUARED_DISTANCE_SHARE = 1e-7

SimilarityFunction = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


def norms_of(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the Euclidean norm of each row of `rows` (n, dim), float32 (n,)."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares: NDArray[np.float32] = np.einsum("ij,ij->i", rows, rows)
        smallest, largest = _SAFE_SQUARES_RANGE
        safe = (squares > smallest) & (squares < largest)
        norms: NDArray[np.float32] = np.sqrt(squares, dtype=np.float32)
        if not safe.all():
            unsafe = np.flatnonzero(~safe)
            norms[unsafe] = np.linalg.norm(rows[unsafe].astype(np.float64), axis=1)
    return norms


def normalize(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows of `embeddings` (n, dim) scaled to length 1. A row of zeros stays zero."""
    norms = np.maximum(norms_of(embeddings), np.float32(MIN_NORM))
    return np.divide(embeddings, norms[:, None], dtype=np.float32)


def normalize_embeddings(embeddings: ArrayLike) -> NDArray[np.float32]:
    """Return each vector scaled to length 1, float32. A vector of zeros stays zero.

    Args:
        embeddings: (n, dim) or (dim,). The result has the same shape.

    Raises:
        InputError: the embeddings have another shape or are not numbers.

    Example:
        >>> normalize_embeddings([3.0, 4.0]).tolist()
        [0.6000000238418579, 0.800000011920929]
    """
    vectors = as_vectors(embeddings)
    return normalize(as_float32(np.atleast_2d(vectors))).reshape(vectors.shape)


def truncate_embeddings(embeddings: ArrayLike, truncate_dim: int | None) -> NDArray[np.generic]:
    """Return the first `truncate_dim` numbers of each vector, in the dtype of `embeddings`.

    The result is not normalised again.

    Args:
        embeddings: (n, dim) or (dim,).
        truncate_dim: the number of numbers to keep. None keeps all, and so does a number above dim.

    Returns:
        (n, truncate_dim) or (truncate_dim,). If `embeddings` is an array, the result is a view of it.

    Raises:
        InputError: `truncate_dim` is not a whole number of at least 1, or `embeddings` has another shape.

    Example:
        >>> truncate_embeddings(np.ones((2, 8)), 3).shape
        (2, 3)
    """
    check_count("truncate_dim", truncate_dim)
    return as_vectors(embeddings)[..., :truncate_dim]


def cos_sim(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Return the cosine of every row of `a` with every row of `b`. It is 0 for a row of zeros.

    Args:
        a: (n, dim) or (dim,).
        b: (m, dim) or (dim,).

    Returns:
        float32 of shape (n, m).

    Raises:
        InputError: an argument has another shape or does not contain numbers, or the dimensions differ.

    Example:
        >>> cos_sim([[1.0, 0.0], [1.0, 1.0]], [2.0, 0.0]).round(2).tolist()
        [[1.0], [0.7099999785423279]]
    """
    return similarity("cosine", a, b)


def dot_score(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Return the dot product of every row of `a` with every row of `b`.

    Args:
        a: (n, dim) or (dim,).
        b: (m, dim) or (dim,).

    Returns:
        float32 of shape (n, m).

    Raises:
        InputError: see `cos_sim`.

    Example:
        >>> dot_score([1.0, 2.0], [3.0, 4.0]).tolist()
        [[11.0]]
    """
    return similarity("dot", a, b)


def euclidean_sim(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Return the negative Euclidean distance between every row of `a` and every row of `b`.

    Args:
        a: (n, dim) or (dim,).
        b: (m, dim) or (dim,).

    Returns:
        float32 of shape (n, m).

    Raises:
        InputError: see `cos_sim`.

    Example:
        >>> euclidean_sim([0.0, 0.0], [3.0, 4.0]).tolist()
        [[-5.0]]
    """
    return similarity("euclidean", a, b)


def manhattan_sim(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Return the negative Manhattan distance between every row of `a` and every row of `b`.

    Args:
        a: (n, dim) or (dim,).
        b: (m, dim) or (dim,).

    Returns:
        float32 of shape (n, m).

    Raises:
        InputError: see `cos_sim`.

    Example:
        >>> manhattan_sim([0.0, 0.0], [3.0, 4.0]).tolist()
        [[-7.0]]
    """
    return similarity("manhattan", a, b)


def pairwise_cos_sim(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Return the cosine of row i of `a` with row i of `b`, for each i.

    Args:
        a: (n, dim). A single vector (dim,) is compared with every row of `b`.
        b: (n, dim). A single vector (dim,) is compared with every row of `a`.

    Returns:
        float32 of shape (n,), or () for two single vectors.

    Raises:
        InputError: an argument has another shape or does not contain numbers, or the two shapes do not match.

    Example:
        >>> pairwise_cos_sim([[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [4.0, 0.0]]).tolist()
        [1.0, 0.0]
    """
    return _pairwise(a, b, lambda x, y: np.einsum("ij,ij->i", normalize(x), normalize(y)))


def pairwise_dot_score(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Return the dot product of row i of `a` with row i of `b`, for each i.

    Args:
        a: (n, dim) or (dim,), as for `pairwise_cos_sim`.
        b: (n, dim) or (dim,), as for `pairwise_cos_sim`.

    Returns:
        float32 of shape (n,), or () for two single vectors.

    Raises:
        InputError: see `pairwise_cos_sim`.

    Example:
        >>> float(pairwise_dot_score([1.0, 2.0], [3.0, 4.0]))
        11.0
    """
    return _pairwise(a, b, lambda x, y: np.einsum("ij,ij->i", x, y))


def pairwise_euclidean_sim(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Return the negative Euclidean distance between row i of `a` and row i of `b`, for each i.

    Args:
        a: (n, dim) or (dim,), as for `pairwise_cos_sim`.
        b: (n, dim) or (dim,), as for `pairwise_cos_sim`.

    Returns:
        float32 of shape (n,), or () for two single vectors.

    Raises:
        InputError: see `pairwise_cos_sim`.

    Example:
        >>> float(pairwise_euclidean_sim([0.0, 0.0], [3.0, 4.0]))
        -5.0
    """
    return _pairwise(a, b, lambda x, y: -norms_of(x - y))


def pairwise_manhattan_sim(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Return the negative Manhattan distance between row i of `a` and row i of `b`, for each i.

    Args:
        a: (n, dim) or (dim,), as for `pairwise_cos_sim`.
        b: (n, dim) or (dim,), as for `pairwise_cos_sim`.

    Returns:
        float32 of shape (n,), or () for two single vectors.

    Raises:
        InputError: see `pairwise_cos_sim`.

    Example:
        >>> float(pairwise_manhattan_sim([0.0, 0.0], [3.0, 4.0]))
        -7.0
    """
    return _pairwise(a, b, lambda x, y: -np.abs(x - y).sum(axis=1))


def _pairwise(a: ArrayLike, b: ArrayLike, function: SimilarityFunction) -> NDArray[np.float32]:
    vectors_a, vectors_b = as_vectors(a), as_vectors(b)
    single_a, single_b = vectors_a.ndim == 1, vectors_b.ndim == 1
    rows_a, rows_b = np.atleast_2d(vectors_a), np.atleast_2d(vectors_b)
    if rows_a.shape[1] != rows_b.shape[1] or not (single_a or single_b or len(rows_a) == len(rows_b)):
        raise InputError(f"embeddings should be (n, dim) and (n, dim), not {vectors_a.shape} and {vectors_b.shape}")
    n = len(rows_a) if single_b else len(rows_b)
    scores = np.empty(n, np.float32)
    size = rows_per_block(rows_a)
    for start in range(0, n, size):
        part = slice(start, start + size)
        x, y = as_float32(rows_a if single_a else rows_a[part]), as_float32(rows_b if single_b else rows_b[part])
        scores[part] = function(*np.broadcast_arrays(x, y))
    return scores.reshape(()) if single_a and single_b else scores


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return normalize(a) @ normalize(b).T


def _dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return a @ b.T


def _euclidean(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute |a - b|² as |a|² + |b|² - 2ab in float64. If this loses too many digits, subtract the vectors first."""
    squares = np.empty((len(a), len(b)))
    a64 = a.astype(np.float64)
    squares_a = np.einsum("ij,ij->i", a64, a64)
    for start in range(0, len(b), rows_per_block(b)):
        part = slice(start, start + rows_per_block(b))
        b64 = b[part].astype(np.float64)
        squared_norms = squares_a[:, None] + np.einsum("ij,ij->i", b64, b64)
        squares[:, part] = squared_norms - 2 * (a64 @ b64.T)
        inexact = np.argwhere(squares[:, part] <= _MIN_SQUARED_DISTANCE_SHARE * squared_norms)
        for pairs in np.split(inexact, range(len(b64), len(inexact), max(1, len(b64)))):
            differences = a64[pairs[:, 0]] - b64[pairs[:, 1]]
            squares[pairs[:, 0], start + pairs[:, 1]] = np.einsum("ij,ij->i", differences, differences)
    return -np.sqrt(squares, dtype=np.float64).astype(np.float32)


def _manhattan(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    scores = np.empty((len(a), len(b)), np.float32)
    size = rows_per_block(b)
    ones = np.ones(b.shape[1], np.float32)
    buffer = np.empty((size, b.shape[1]), np.float32)
    for start in range(0, len(b), size):
        rows = b[start : start + size]
        differences = buffer[: len(rows)]
        for index, row in enumerate(a):
            np.abs(np.subtract(rows, row, out=differences), out=differences)
            scores[index, start : start + size] = differences @ ones
    return np.negative(scores, out=scores)


_FUNCTIONS: dict[str, SimilarityFunction] = {
    "cosine": _cosine,
    "dot": _dot,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
}


def similarity(function: str, a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Compare every row of `a` (n, dim) with every row of `b` (m, dim). Higher is more similar.

    Args:
        function: "cosine", "dot", "euclidean" or "manhattan". The last two give negative distances.
        a: (n, dim) or (dim,).
        b: (m, dim) or (dim,).

    Returns:
        float32 of shape (n, m).

    Raises:
        InputError: an argument has another shape or does not contain numbers, or the dimensions differ.

    Example:
        >>> similarity("dot", [1.0, 2.0], [3.0, 4.0]).tolist()
        [[11.0]]
    """
    rows_a, rows_b = matching_embeddings(a, b)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return _FUNCTIONS[function](as_float32(rows_a), as_float32(rows_b))
