"""faiss and usearch with the calls of `VectorIndex`, for more vectors than it is for: thin, and imported when made.

What they find by default is exact (faiss) or nearly so (usearch); what else they can do is there in `index`, their own
object. Ids are theirs to keep: neither says so if one is added twice to faiss.
"""

import os
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_choice, check_counts
from embedder.errors import DependencyError, InputError
from embedder.vectors.index import whole_numbers
from embedder.vectors.index_file import SIMILARITIES
from embedder.vectors.search import Hit, as_hits
from embedder.vectors.similarity import as_embeddings, as_float32, normalize


class FaissIndex:
    """Vectors with ids in an index of faiss, by its factory's names: "Flat", "IVF4096,Flat", "HNSW32", "OPQ64,PQ64" ...

    Attributes:
        index: faiss' own object, for everything else.
    """

    def __init__(self, dimension: int, *, factory: str = "Flat", similarity: str = "cosine") -> None:
        """Make an empty index; what has to be trained is trained on what is added first.

        Raises:
            DependencyError: faiss is not installed.
            InputError: the similarity is neither "cosine" nor "dot", or faiss knows no such factory.
        """
        self._faiss = _imported("faiss", "faiss")
        self._rows = _Rows(dimension, similarity)
        try:
            self.index = self._faiss.index_factory(dimension, f"IDMap,{factory}", self._faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise InputError(f"faiss has no factory {factory!r}: {error}") from error

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def add(self, vectors: ArrayLike, ids: ArrayLike) -> None:
        """Add `vectors` (n, dim) under `ids` (n,), whole numbers; InputError where they do not fit."""
        rows, numbers = self._rows.checked(vectors, ids)
        if not self.index.is_trained:
            self.index.train(rows)
        self.index.add_with_ids(rows, numbers)

    def search(self, queries: ArrayLike, top_k: int = 10) -> list[list[Hit]]:
        """As `VectorIndex.search`, as exact as the factory's kind of index is."""
        check_counts(top_k=top_k)
        scores, ids = self.index.search(self._rows.compared(queries), top_k)
        counts = (ids >= 0).sum(axis=1)  # where there are fewer, faiss fills up with -1
        return [_hits(scores[row, :count], ids[row, :count]) for row, count in enumerate(counts)]

    def delete(self, ids: ArrayLike) -> None:
        """Delete `ids`.

        Raises:
            InputError: the index has not all of them (those that it has are gone), or its kind, such as HNSW, cannot.
        """
        numbers = np.unique(whole_numbers(ids))
        try:
            removed = self.index.remove_ids(numbers)
        except RuntimeError as error:
            raise InputError("faiss cannot delete from an index of this kind: make another without them") from error
        if removed != len(numbers):
            raise InputError(f"{len(numbers) - removed} of {len(numbers)} ids were not in the index")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index as faiss does."""
        self._faiss.write_index(self.index, os.fspath(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, similarity: str = "cosine") -> "FaissIndex":
        """What `save` wrote. faiss checks little of it, and the similarity is not in it: load only what is yours."""
        read = _imported("faiss", "faiss").read_index(os.fspath(path))
        index = cls(read.d, similarity=similarity)
        index.index = read
        return index


class UsearchIndex:
    """Vectors with ids in a graph of usearch (HNSW): approximate, fast at any size.

    Attributes:
        index: usearch's own object, for everything else.
    """

    def __init__(self, dimension: int, *, dtype: str = "f32", similarity: str = "cosine", **options: Any) -> None:
        """Make an empty index of numbers of `dtype`, "f32", "f16", "bf16" or "i8"; `options` are usearch's.

        Raises:
            DependencyError: usearch is not installed.
            InputError: the similarity is neither "cosine" nor "dot".
        """
        self._rows = _Rows(dimension, similarity)
        metric = "cos" if similarity == "cosine" else "ip"
        self.index = _imported("usearch.index", "usearch").Index(ndim=dimension, metric=metric, dtype=dtype, **options)

    def __len__(self) -> int:
        return len(self.index)

    def add(self, vectors: ArrayLike, ids: ArrayLike) -> None:
        """Add `vectors` (n, dim) under `ids` (n,), whole numbers from 0 on.

        Raises:
            InputError: they do not fit, or an id is below 0, or in the index already.
        """
        rows, numbers = self._rows.checked(vectors, ids)
        if numbers.min(initial=0) < 0:
            raise InputError(f"usearch has ids from 0 on, not {numbers.min()}")
        unique, counts = np.unique(numbers, return_counts=True)
        known = np.concatenate([unique[counts > 1], numbers[np.atleast_1d(self.index.contains(numbers))]])
        if len(known):
            raise InputError(f"id {known[0]} is in the index already, or twice among the ids: delete it first")
        self.index.add(numbers, rows)

    def search(self, queries: ArrayLike, top_k: int = 10) -> list[list[Hit]]:
        """As `VectorIndex.search`, but approximate."""
        check_counts(top_k=top_k)
        rows = self._rows.compared(queries)
        if not len(self):
            return [[] for _ in rows]
        found = self.index.search(rows, top_k)
        distances, keys = np.atleast_2d(found.distances), np.atleast_2d(found.keys)
        counts = np.atleast_1d(getattr(found, "counts", np.array(keys.shape[1])))
        return [_hits(1 - distances[row, :count], keys[row, :count]) for row, count in enumerate(counts)]

    def delete(self, ids: ArrayLike) -> None:
        """Delete `ids`; InputError where the index has not all of them, and then nothing has been deleted."""
        numbers = np.unique(whole_numbers(ids))
        missing = numbers[~np.atleast_1d(self.index.contains(numbers))]
        if len(missing):
            raise InputError(f"id {missing[0]} is not in the index")
        self.index.remove(numbers)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index as usearch does."""
        self.index.save(os.fspath(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, similarity: str = "cosine") -> "UsearchIndex":
        """What `save` wrote; as with faiss, load only what is yours."""
        read = _imported("usearch.index", "usearch").Index.restore(os.fspath(path))
        index = cls(read.ndim, similarity=similarity)
        index.index = read
        return index


class _Rows:
    """What goes into an index, checked; at length 1 for the cosine."""

    def __init__(self, dimension: int, similarity: str) -> None:
        check_counts(dimension=dimension)
        check_choice("similarity", similarity, SIMILARITIES)
        self._dimension, self._cosine = dimension, similarity == "cosine"

    def compared(self, vectors: ArrayLike) -> NDArray[np.float32]:
        rows = as_float32(as_embeddings(vectors, "vectors"))
        if rows.shape[1] != self._dimension:
            raise InputError(f"vectors should be (n, {self._dimension}), not {np.shape(vectors)}")
        return normalize(rows) if self._cosine else rows

    def checked(self, vectors: ArrayLike, ids: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        rows, numbers = self.compared(vectors), whole_numbers(ids)
        if len(rows) != len(numbers):
            raise InputError(f"there are {len(numbers)} ids for {len(rows)} vectors")
        return rows, numbers


def _hits(scores: NDArray[np.float32], ids: NDArray[np.int64]) -> list[Hit]:
    return as_hits(scores[None], ids[None])[0]


def _imported(module: str, extra: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(f"{extra} is not installed: pip install 'embedder[{extra}]'") from error
