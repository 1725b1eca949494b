"""Postings: for each place, the vectors that have a number there. A search reads only the places of its query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedder.common.records import frozen
from embedder.vectors.sparse.vectors import SparseRow, SparseVectors


@frozen
class Postings:
    """The numbers of some vectors, ordered by their places.

    Attributes:
        count: number of vectors.
        starts: int64 (dimension + 1,). Place i has the numbers from `starts[i]` to `starts[i + 1]`.
        rows: the vector of each number, int32. They rise within a place.
        values: the numbers, float32.

    Example:
        >>> Postings.of(SparseVectors.of_dense([[0, 2], [1, 3]])).rows.tolist()
        [1, 0, 1]
    """

    count: int
    starts: NDArray[np.int64]
    rows: NDArray[np.int32]
    values: NDArray[np.float32]

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @classmethod
    def of(cls, vectors: SparseVectors) -> Postings:
        """Return the postings of vectors.

        Example:
            >>> Postings.of(SparseVectors.of_dense([[0, 2]])).starts.tolist()
            [0, 0, 1]
        """
        rows = np.repeat(np.arange(len(vectors), dtype=np.int32), vectors.counts)
        return _ordered(vectors.indices, rows, vectors.values, len(vectors), vectors.dimension)

    def scores(self, query: SparseRow) -> NDArray[np.float64]:
        """Return the dot product of a query with each vector, float64 (count,).

        Args:
            query: its places and its numbers.

        Example:
            >>> Postings.of(SparseVectors.of_dense([[0, 2], [1, 3]])).scores(([1], [2.0])).tolist()
            [4.0, 6.0]
        """
        indices, values = query
        parts = [(self.starts[place], self.starts[place + 1]) for place in indices]
        if not parts:
            return np.zeros(self.count)
        rows = np.concatenate([self.rows[start:end] for start, end in parts])
        products = np.concatenate(
            [self.values[start:end] * value for (start, end), value in zip(parts, values, strict=True)]
        )
        # `bincount` adds in float64, in the order of the places: a score does not depend on the other vectors.
        sums: NDArray[np.float64] = np.bincount(rows, products, self.count).astype(np.float64, copy=False)
        return sums


def merged(parts: Sequence[Postings]) -> Postings:
    """Return the postings of the vectors of all parts, one part after another. All have one dimension.

    Example:
        >>> merged([Postings.of(SparseVectors.of_dense([[0, 2]]))] * 2).rows.tolist()
        [0, 1]
    """
    if len(parts) == 1:
        return parts[0]
    sizes = [np.diff(part.starts) for part in parts]
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.sum(sizes, axis=0))])
    rows, values = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    count, free = 0, starts[:-1].copy()  # the first place for the numbers of each part
    for part, size in zip(parts, sizes, strict=True):
        targets = np.repeat(free - part.starts[:-1], size)
        targets += np.arange(len(targets))
        rows[targets], values[targets] = part.rows + np.int32(count), part.values
        count += part.count
        free += size
    return Postings(count, starts, rows, values)


def _ordered(
    places: NDArray[np.int32], rows: NDArray[np.int32], values: NDArray[np.float32], count: int, dimension: int
) -> Postings:
    order = np.argsort(places, kind="stable")
    starts = np.zeros(dimension + 1, np.int64)
    np.cumsum(np.bincount(places, minlength=dimension), out=starts[1:])
    return Postings(count, starts, rows[order], values[order])
