"""Compare sparse vectors: dot products, cosines, and what two vectors have in common."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedder.errors import InputError
from embedder.vectors.sparse.vectors import SparseVectors


def sparse_dot_score(a: SparseVectors, b: SparseVectors) -> NDArray[np.float32]:
    """Return the dot product of every vector of `a` with every vector of `b`, float32 (n, m).

    Raises:
        InputError: these are no sparse vectors of one dimension.

    Example:
        >>> sparse_dot_score(SparseVectors.of_dense([[0, 2]]), SparseVectors.of_dense([[3, 4], [1, 0]])).tolist()
        [[8.0, 0.0]]
    """
    check_same_dimension(a, b)
    scores = np.empty((len(a), len(b)), np.float32)
    scratch = np.zeros(a.dimension, np.float64)
    for row, (indices, values) in enumerate(a):
        scratch[indices] = values
        scores[row] = _sums(scratch[b.indices] * b.values, b)
        scratch[indices] = 0
    return scores


def sparse_cos_sim(a: SparseVectors, b: SparseVectors) -> NDArray[np.float32]:
    """Return the cosine of every vector of `a` with every vector of `b`, float32 (n, m). It is 0 for a vector of zeros.

    Raises:
        InputError: as in `sparse_dot_score`.

    Example:
        >>> sparse_cos_sim(SparseVectors.of_dense([[0, 2]]), SparseVectors.of_dense([[0, 4]])).tolist()
        [[1.0]]
    """
    return sparse_dot_score(scaled(a), scaled(b))


def scaled(vectors: SparseVectors) -> SparseVectors:
    """Return the vectors scaled to length 1. A vector of zeros stays.

    Example:
        >>> scaled(SparseVectors.of_dense([[0, 4]])).values.tolist()
        [1.0]
    """
    lengths = np.sqrt(_sums(vectors.values.astype(np.float64) ** 2, vectors))
    values = vectors.values / np.repeat(np.maximum(lengths, 1e-12), vectors.counts)
    return SparseVectors(vectors.indptr, vectors.indices, values.astype(np.float32), vectors.dimension)


def intersection(a: SparseVectors, b: SparseVectors) -> SparseVectors:
    """Return the product of one vector with each of several, number by number, where it is positive.

    Args:
        a: one vector.
        b: vectors of the same dimension.

    Raises:
        InputError: `a` has not exactly one vector, or the dimensions differ.

    Example:
        >>> intersection(SparseVectors.of_dense([[0, 2]]), SparseVectors.of_dense([[3, 4]])).to_dense().tolist()
        [[0.0, 8.0]]
    """
    check_same_dimension(a, b)
    if len(a) != 1:
        raise InputError(f"intersection takes one vector first, not {len(a)}")
    scratch = np.zeros(a.dimension, np.float32)
    scratch[a.indices] = a.values
    products = scratch[b.indices] * b.values
    kept = products > 0
    counts = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
    return SparseVectors(counts[b.indptr], b.indices[kept], products[kept], b.dimension)


def sparsity(vectors: SparseVectors) -> dict[str, float]:
    """Return the mean number of numbers that are not 0, and the mean share of zeros, as sentence-transformers does.

    Raises:
        InputError: these are no sparse vectors.

    Example:
        >>> sparsity(SparseVectors.of_dense([[0, 0, 0, 2]]))
        {'active_dims': 1.0, 'sparsity_ratio': 0.75}
    """
    check_same_dimension(vectors, vectors)
    if not len(vectors) or not vectors.dimension:
        return {"active_dims": 0.0, "sparsity_ratio": 1.0}
    active = float(np.count_nonzero(vectors.values)) / len(vectors)
    return {"active_dims": active, "sparsity_ratio": 1 - active / vectors.dimension}


def check_same_dimension(a: object, b: object) -> None:
    """Check that both are sparse vectors of one dimension.

    Raises:
        InputError: they are not.

    Example:
        >>> check_same_dimension(SparseVectors.of_dense([[1]]), SparseVectors.of_dense([[2]]))
    """
    for vectors in (a, b):
        if not isinstance(vectors, SparseVectors):
            raise InputError(f"sparse vectors should be SparseVectors, not {type(vectors).__name__}")
    assert isinstance(a, SparseVectors)
    assert isinstance(b, SparseVectors)
    if a.dimension != b.dimension:
        raise InputError(f"vectors of length {a.dimension} cannot be compared with vectors of length {b.dimension}")


def _sums(numbers: NDArray[np.float64], vectors: SparseVectors) -> NDArray[np.float64]:
    """Return the sum of each vector's numbers, float64 (n,)."""
    sums = np.zeros(len(vectors))
    some = vectors.counts > 0
    if some.any():
        sums[some] = np.add.reduceat(numbers, vectors.indptr[:-1][some])
    return sums
