"""`SparseVectors`, the result of `SparseEncoder.encode`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_count, check_counts, shown
from embedder.common.records import frozen
from embedder.errors import DependencyError, InputError

# The places of a vector's numbers that are not 0, int32 (k,), and the numbers, float32 (k,).
SparseRow: TypeAlias = tuple[NDArray[np.int32], NDArray[np.float32]]


@frozen
class SparseVectors:
    """Sparse vectors, in the layout that scipy calls CSR. The arrays cannot be written to.

    `vectors[i]` is one vector, as its places and its numbers. A slice, a list of indices or a mask gives SparseVectors.

    Attributes:
        indptr: int64 (n + 1,). Vector i has the numbers from `indptr[i]` to `indptr[i + 1]`.
        indices: the place of each number, int32. They rise within a vector.
        values: the numbers, float32.
        dimension: the length of a vector.

    Raises:
        InputError: the arrays do not fit together.

    Example:
        >>> vectors = SparseVectors.of_dense([[0, 2, 0], [1, 0, 3]])
        >>> vectors[1]
        (array([0, 2], dtype=int32), array([1., 3.], dtype=float32))
        >>> len(vectors), vectors.dimension
        (2, 3)
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: NDArray[np.float32]
    dimension: int

    # Vectors compare by identity, because == of two arrays is an array.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __post_init__(self) -> None:
        _check_dimension(self.dimension)
        object.__setattr__(self, "dimension", int(self.dimension))
        for name, kind in (("indptr", np.int64), ("indices", np.int32), ("values", np.float32)):
            array = _as_array(name, getattr(self, name), np.dtype(kind)).view()
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        problem = _problem_of(self)
        if problem is not None:
            raise InputError(f"these are no sparse vectors: {problem}")

    @classmethod
    def of_rows(cls, rows: Sequence[SparseRow], dimension: int) -> SparseVectors:
        """Return vectors, each given as its places, which rise, and its numbers.

        Raises:
            InputError: a place is not within the dimension, or the places of a vector do not rise.

        Example:
            >>> SparseVectors.of_rows([([1], [2.0]), ([], [])], 3).to_dense().tolist()
            [[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]
        """
        indptr = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(indices) for indices, _ in rows], out=indptr[1:])
        parts = [_as_array("places", row[0], np.dtype(np.int32)) for row in rows]
        indices = np.concatenate([np.zeros(0, np.int32), *parts])
        numbers = [_as_array("numbers", row[1], np.dtype(np.float32)) for row in rows]
        values = np.concatenate([np.zeros(0, np.float32), *numbers])
        return cls(indptr, indices, values, dimension)

    @classmethod
    def of_dense(cls, vectors: ArrayLike) -> SparseVectors:
        """Return the vectors of an array, (n, dimension).

        Raises:
            InputError: the array has another number of axes, or these are no numbers.

        Example:
            >>> SparseVectors.of_dense([[0, 2]]).indices
            array([1], dtype=int32)
        """
        dense = _as_array("vectors", vectors, np.dtype(np.float32))
        if dense.ndim != 2:
            raise InputError(f"vectors should be (n, dimension), not {dense.shape}")
        rows, indices = dense.nonzero()
        indptr = np.searchsorted(rows, np.arange(len(dense) + 1))
        return cls(indptr, indices.astype(np.int32), dense[rows, indices], dense.shape[1])

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __iter__(self) -> Iterator[SparseRow]:
        for start, end in zip(self.indptr[:-1].tolist(), self.indptr[1:].tolist(), strict=True):
            yield self.indices[start:end], self.values[start:end]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            row = range(len(self))[int(key)]
            start, end = self.indptr[row], self.indptr[row + 1]
            return self.indices[start:end], self.values[start:end]
        rows = np.arange(len(self))[key]
        if rows.ndim != 1:
            raise IndexError(f"the index should be a number, a slice, or one list of numbers, not {shown(key)}")
        return self.take(rows)

    def __repr__(self) -> str:
        return f"SparseVectors({len(self)} of length {self.dimension}, {len(self.values)} numbers)"

    @property
    def shape(self) -> tuple[int, int]:
        """Number of vectors, and the length of each."""
        return len(self), self.dimension

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many numbers of each vector are kept, int64 (n,)."""
        return np.diff(self.indptr)

    def take(self, rows: NDArray[np.integer[Any]]) -> SparseVectors:
        """Return the vectors with these indices, in this order.

        Example:
            >>> SparseVectors.of_dense([[0, 2], [1, 0]]).take(np.array([1, 1])).to_dense().tolist()
            [[1.0, 0.0], [1.0, 0.0]]
        """
        counts = self.counts[rows]
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        places = np.repeat(self.indptr[:-1][rows] - indptr[:-1], counts) + np.arange(indptr[-1])
        return SparseVectors(indptr, self.indices[places], self.values[places], self.dimension)

    def to_dense(self) -> NDArray[np.float32]:
        """Return the vectors as an array, float32 (n, dimension). It takes 4 bytes for each number, also for each 0.

        Example:
            >>> SparseVectors.of_dense([[0, 2]]).to_dense()
            array([[0., 2.]], dtype=float32)
        """
        dense = np.zeros(self.shape, np.float32)
        dense[np.repeat(np.arange(len(self)), self.counts), self.indices] = self.values
        return dense

    def to_scipy(self) -> Any:
        """Return the vectors as a `scipy.sparse.csr_matrix`, which shares their memory.

        Raises:
            DependencyError: scipy is not installed.

        Example:
            >>> SparseVectors.of_dense([[0, 2]]).to_scipy().shape  # doctest: +SKIP
            (1, 2)
        """
        try:
            from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
        except ImportError as error:
            raise DependencyError("to_scipy needs scipy. Run: pip install scipy") from error
        return csr_matrix((self.values, self.indices, self.indptr), self.shape, copy=False)

    def largest(self, count: int) -> SparseVectors:
        """Return the vectors with at most `count` numbers each, those of the largest absolute value.

        Of equal numbers, the first ones are kept.

        Raises:
            InputError: `count` is not a whole number of at least 1.

        Example:
            >>> SparseVectors.of_dense([[1, 3, 2]]).largest(2).to_dense().tolist()
            [[0.0, 3.0, 2.0]]
        """
        check_counts(count=count)
        if not (self.counts > count).any():
            return self
        rows = []
        for indices, values in self:
            if len(values) > count:
                kept = np.sort(np.argsort(-np.abs(values), kind="stable")[:count])
                indices, values = indices[kept], values[kept]
            rows.append((indices, values))
        return SparseVectors.of_rows(rows, self.dimension)


def _check_dimension(dimension: object) -> None:
    check_count("dimension", -1 if dimension is None else dimension, 2**31 - 1, smallest=0)


def _as_array(name: str, numbers: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array of this dtype.

    Raises:
        InputError: these are no numbers, or NumPy would round or wrap whole numbers.
    """
    try:
        array = np.asarray(numbers)
    except ValueError as error:
        raise InputError(f"{name} should be an array of numbers: {error}") from error
    if array.dtype == dtype:
        return array
    limits = np.iinfo(dtype) if dtype.kind == "i" else None
    known = "iu" if limits else "iuf"
    if array.size and (
        array.dtype.kind not in known or (limits and not limits.min <= array.min() <= array.max() <= limits.max)
    ):
        raise InputError(f"{name} should be numbers that fit into {dtype}, not {shown(numbers)}")
    with np.errstate(over="ignore"):  # a number that is too large becomes infinity
        return array.astype(dtype)


def _problem_of(vectors: SparseVectors) -> str | None:
    """Return what is wrong with the arrays, or None."""
    indptr, indices, values = vectors.indptr, vectors.indices, vectors.values
    if indptr.ndim != 1 or indices.ndim != 1 or values.ndim != 1 or not len(indptr):
        return "indptr, indices and values should have one axis, and indptr at least one number"
    if indptr[0] != 0 or indptr[-1] != len(indices) or len(indices) != len(values) or (np.diff(indptr) < 0).any():
        return "indptr should rise from 0 to the number of indices and of values"
    if len(indices) and not (indices.min() >= 0 and indices.max() < vectors.dimension):
        return f"a place is not within the dimension {vectors.dimension}"
    rising = np.diff(indices) > 0
    starts = indptr[1:-1]
    rising[starts[(starts > 0) & (starts < len(indices))] - 1] = True
    return None if rising.all() else "the places of a vector should rise"


def concatenate(parts: Sequence[SparseVectors], dimension: int) -> SparseVectors:
    """Return the vectors of all parts, one after another.

    Args:
        parts: vectors of one dimension.
        dimension: this dimension.

    Example:
        >>> len(concatenate([SparseVectors.of_dense([[0, 2]])] * 2, 2))
        2
    """
    if len(parts) == 1:
        return parts[0]
    counts = np.concatenate([np.zeros(1, np.int64), *(part.counts for part in parts)])
    indices = np.concatenate([np.zeros(0, np.int32), *(part.indices for part in parts)])
    values = np.concatenate([np.zeros(0, np.float32), *(part.values for part in parts)])
    return SparseVectors(np.cumsum(counts), indices, values, dimension)
