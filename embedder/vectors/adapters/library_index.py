"""The base class of the indexes of other libraries. It checks vectors, ids and options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_choice, check_counts
from embedder.common.read_only import ReadOnly
from embedder.common.read_write_lock import ReadWriteLock
from embedder.errors import InputError
from embedder.vectors.arrays import as_embeddings, as_float32, check_finite
from embedder.vectors.index.header import INDEX_SIMILARITIES
from embedder.vectors.index.ids import as_whole_numbers
from embedder.vectors.search import Hit, as_hits
from embedder.vectors.similarity import normalize


class LibraryIndex(ReadOnly):
    """The attributes and the input checks of `FaissIndex` and `UsearchIndex`.

    Attributes:
        index: the library's own object.
        dimension: the length of a vector.
        similarity: how vectors are compared: "cosine" or "dot".
    """

    _instead: ClassVar[Mapping[str, str]] = {"index": "call the methods of the object that it has"}

    def __init__(self, dimension: int, similarity: str) -> None:
        """Check and keep the options. A subclass then sets `_index`.

        Raises:
            InputError: `dimension` is not a whole number of at least 1, or `similarity` is unknown.
        """
        check_counts(dimension=dimension)
        check_choice("similarity", similarity, INDEX_SIMILARITIES)
        self._dimension, self._similarity = int(dimension), similarity
        self._index: Any = None
        self._lock = ReadWriteLock()

    def __reduce__(self) -> tuple[Any, ...]:
        with self._lock.read():
            return _unpickle, (type(self), self._to_bytes(), self._dimension, self._similarity)

    def _to_bytes(self) -> bytes:
        """Return the library's object in the library's own format. The caller holds the lock."""
        raise NotImplementedError

    @staticmethod
    def _from_bytes(content: bytes) -> Any:
        """Return the library's object that `_to_bytes` wrote."""
        raise NotImplementedError

    @property
    def index(self) -> Any:
        """The library's own object, for what this class does not offer."""
        return self._index

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return self._dimension

    @property
    def similarity(self) -> str:
        """How vectors are compared: "cosine" or "dot"."""
        return self._similarity

    def _comparable(self, vectors: ArrayLike) -> NDArray[np.float32]:
        """Return `vectors` as float32 (n, dim). For the cosine, each is scaled to length 1."""
        rows = as_float32(as_embeddings(vectors, "vectors"))
        if rows.shape[1] != self._dimension:
            raise InputError(f"vectors should be (n, {self._dimension}), not {rows.shape}")
        check_finite(rows, "vectors")
        return normalize(rows) if self._similarity == "cosine" else rows

    def _rows_and_ids(self, vectors: ArrayLike, ids: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return vectors (n, dim) as `_comparable` does, and their ids as int64 (n,)."""
        rows, numbers = self._comparable(vectors), as_whole_numbers(ids)
        if len(rows) != len(numbers):
            raise InputError(f"there are {len(numbers)} ids for {len(rows)} vectors")
        return rows, numbers


def _unpickle(kind: type[LibraryIndex], content: bytes, dimension: int, similarity: str) -> LibraryIndex:
    index = kind.__new__(kind)
    LibraryIndex.__init__(index, dimension, similarity)
    index._index = index._from_bytes(content)
    return index


def check_saved_similarity(path: str | os.PathLike[str], saved: str | None, given: str | None) -> None:
    """Compare the similarity that the caller gives with the one that `path` records. None matches everything.

    Raises:
        InputError: `given` is unknown, or differs from `saved`.
    """
    if given is None:
        return
    check_choice("similarity", given, INDEX_SIMILARITIES)
    if saved not in (None, given):
        raise InputError(f"{path} was saved with similarity {saved!r}, not {given!r}")


def hits_of_query(scores: NDArray[np.float32], ids: NDArray[np.int64]) -> list[Hit]:
    """Return the scores (k,) and ids (k,) of one query as `VectorIndex.search` returns them."""
    return as_hits((scores[None], ids[None]))[0]
