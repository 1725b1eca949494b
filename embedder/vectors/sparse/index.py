"""The public class `SparseIndex`: an inverted index of sparse vectors."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_count, check_counts
from embedder.common.files import file_to_replace
from embedder.common.forks import renew_after_fork
from embedder.common.records import frozen
from embedder.errors import InputError
from embedder.vectors.index.ids import as_whole_numbers, next_ids
from embedder.vectors.search import Hit
from embedder.vectors.sparse.file import read_sparse_index, write_sparse_index
from embedder.vectors.sparse.postings import Postings, merged
from embedder.vectors.sparse.vectors import SparseVectors


@frozen
class _State:
    """What an index holds. A search uses one state from its start to its end.

    Attributes:
        parts: the postings, in the order in which they were added.
        ids: the id of each vector, int64 (n,).
    """

    parts: tuple[Postings, ...]
    ids: NDArray[np.int64]


class SparseIndex:
    """Sparse vectors with ids: add, search, save and load. A search gives the exact dot products.

    For each word, the index has the vectors with a number there. So a search reads only the words of its query. An
    index is safe to share between threads. A search uses the index as it was when the search began.

    Example:
        >>> index = SparseIndex(3)
        >>> index.add(SparseVectors.of_dense([[0, 2, 0], [1, 0, 3]]), ids=[7, 8])
        array([7, 8])
        >>> index.search(SparseVectors.of_dense([[1, 0, 1]]), top_k=1)
        [[{'corpus_id': 8, 'score': 4.0}]]
    """

    def __init__(self, dimension: int) -> None:
        """Make an empty index.

        Args:
            dimension: the length of a vector; see `SparseEncoder.dimension`.

        Raises:
            InputError: it is not a whole number of at least 1.
        """
        check_counts(dimension=dimension)
        check_count("dimension", dimension, 2**31 - 1)
        self._dimension = int(dimension)
        self._state = _State((), np.zeros(0, np.int64))
        self.__setstate__(self.__getstate__())

    def __getstate__(self) -> dict[str, Any]:
        return {"_dimension": self._dimension, "_state": self._state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Replace the lock after a fork: a thread of the parent may have held it."""
        self._adding = threading.Lock()

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return self._dimension

    @property
    def ids(self) -> NDArray[np.int64]:
        """The id of each vector, int64 (n,), in the order in which they were added."""
        ids = self._state.ids.view()
        ids.flags.writeable = False
        return ids

    def __len__(self) -> int:
        return len(self._state.ids)

    def __repr__(self) -> str:
        return f"SparseIndex({len(self)} vectors of length {self.dimension})"

    def add(self, vectors: SparseVectors, ids: ArrayLike | None = None) -> NDArray[np.int64]:
        """Add vectors, and return their ids.

        Args:
            vectors: vectors of this dimension.
            ids: a whole number for each vector. None counts on from the largest id.

        Raises:
            InputError: the vectors have another dimension or a number that is not finite; or the ids are no whole
                numbers, not one for each vector, or not new. Nothing has been added.

        Example:
            >>> SparseIndex(2).add(SparseVectors.of_dense([[0, 2]]))
            array([0])
        """
        self._check(vectors)
        _check_finite(vectors)
        part = Postings.of(vectors)
        with self._adding:
            state = self._state
            new = _new_ids(ids, len(vectors), state.ids)
            if len(new):
                self._state = _State(_joined(state.parts, part), np.concatenate([state.ids, new]))
        return new

    def search(self, queries: SparseVectors, top_k: int = 10) -> list[list[Hit]]:
        """Find the vectors with the highest dot products. A vector that shares no place with the query is not found.

        Args:
            queries: vectors of this dimension.
            top_k: most vectors to return for each query.

        Returns:
            A list for each query with entries {"corpus_id": id, "score": float}, the highest score first. Among equal
            scores, the vector that was added first comes first.

        Raises:
            InputError: the queries have another dimension or a number that is not finite; or `top_k` is not a whole
                number of at least 1.

        Example:
            >>> index = SparseIndex(2)
            >>> _ = index.add(SparseVectors.of_dense([[0, 2], [1, 1]]))
            >>> index.search(SparseVectors.of_dense([[0, 1]]))
            [[{'corpus_id': 0, 'score': 2.0}, {'corpus_id': 1, 'score': 1.0}]]
        """
        self._check(queries)
        check_counts(top_k=top_k)
        _check_finite(queries)
        state = self._state
        return [_hits(state, query, top_k) for query in queries]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a file. An existing file is replaced when the new one is complete.

        Raises:
            OSError: the path is a directory, its parent directory does not exist, or the file cannot be written. An
                existing file is unchanged.

        Example:
            >>> index.save("texts.sparse")  # doctest: +SKIP
        """
        state = self._state
        parts = state.parts or (Postings.of(SparseVectors.of_rows([], self.dimension)),)
        write_sparse_index(file_to_replace(path), merged(parts), state.ids)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SparseIndex:
        """Load an index from a file, which is checked and then mapped into memory.

        Raises:
            ArtifactError: the file cannot be read, is no such index, or is damaged.
            FormatError: a newer version of embedder wrote it.

        Example:
            >>> SparseIndex.load("texts.sparse")  # doctest: +SKIP
            SparseIndex(1000 vectors of length 30522)
        """
        postings, ids = read_sparse_index(Path(path))
        index = cls(len(postings.starts) - 1)
        index._state = _State((postings,) if len(ids) else (), ids)
        return index

    def _check(self, vectors: object) -> None:
        if not isinstance(vectors, SparseVectors):
            raise InputError(f"a SparseIndex takes SparseVectors, not {type(vectors).__name__}")
        if vectors.dimension != self.dimension:
            raise InputError(f"the index has vectors of length {self.dimension}, not {vectors.dimension}")


def _check_finite(vectors: SparseVectors) -> None:
    if not np.isfinite(vectors.values).all():
        raise InputError("the vectors have NaN or infinity in them")


def _joined(parts: tuple[Postings, ...], new: Postings) -> tuple[Postings, ...]:
    """Return the parts with a new last one. Last parts are merged until each part is more than twice the next one.

    So there are few parts, and each number is copied only a few times.
    """
    first = len(parts)
    count = new.count
    while first and parts[first - 1].count <= 2 * count:
        first -= 1
        count += parts[first].count
    return (*parts[:first], merged((*parts[first:], new)))


def _new_ids(ids: ArrayLike | None, count: int, there: NDArray[np.int64]) -> NDArray[np.int64]:
    if ids is None:
        return next_ids(int(there.max(initial=-1)) + 1, count)
    new = as_whole_numbers(ids)
    if len(new) != count:
        raise InputError(f"ids should be a whole number for each of the {count} vectors, not {len(new)} numbers")
    if len(np.unique(new)) < count or np.isin(new, there).any():
        raise InputError("ids should differ from each other and from those of the index")
    return new


def _hits(state: _State, query: tuple[NDArray[np.int32], NDArray[np.float32]], top_k: int) -> list[Hit]:
    if not state.parts:
        return []
    scores = np.concatenate([part.scores(query) for part in state.parts])
    (found,) = scores.nonzero()
    if len(found) > top_k:
        kept = scores[found]
        least = np.partition(kept, len(kept) - top_k)[len(kept) - top_k]
        found = found[kept >= least]
    order = np.lexsort((found, -scores[found]))[:top_k]
    rows = found[order]
    return [
        {"corpus_id": id_, "score": score}
        for id_, score in zip(state.ids[rows].tolist(), scores[rows].tolist(), strict=True)
    ]
