"""Indexes of faiss and usearch with the methods of `VectorIndex`, for more vectors than it is made for.

Both are thin. The packages are imported when an index is made, and their own objects are in the attribute `index`.
Search is exact (faiss, by default) or approximate (usearch).

Both are safe to share between threads: several searches run at the same time, and `add` and `delete` wait until they
are alone. What is called on `index` itself is not guarded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_choice, check_counts
from embedder.common.cpp_runtime import check_cpp_runtime, initialise_cpp_runtime
from embedder.common.files import replacing
from embedder.common.imports import import_optional
from embedder.common.read_only import ReadOnly
from embedder.common.read_write_lock import ReadWriteLock
from embedder.errors import ArtifactError, InputError
from embedder.vectors.arrays import as_embeddings, as_float32, check_finite
from embedder.vectors.index.file_format import INDEX_SIMILARITIES
from embedder.vectors.index.storage import as_ids
from embedder.vectors.search import Hit, as_hits
from embedder.vectors.similarity import normalize

# The end of a file of `FaissIndex`: the similarity as JSON, its length in 8 bytes, and this. faiss ignores it.
_FAISS_MAGIC = b"\x89EMBFAISS\n"
_LENGTH_BYTES = 8
_MAX_NOTE_BYTES = 4096


class _LibraryIndex(ReadOnly):
    """What both indexes share: checked vectors and ids.

    Attributes:
        index: the object of the library.
        dimension: the length of a vector.
        similarity: "cosine" or "dot".
    """

    _instead: ClassVar[Mapping[str, str]] = {"index": "call the methods of the object that it has"}

    def __init__(self, dimension: int, similarity: str) -> None:
        check_counts(dimension=dimension)
        check_choice("similarity", similarity, INDEX_SIMILARITIES)
        self._dimension, self._similarity = int(dimension), similarity
        self._index: Any = None
        self._lock = ReadWriteLock()

    def __reduce__(self) -> tuple[Any, ...]:
        with self._lock.read():
            return _unpickle, (type(self), self._to_bytes(), self._dimension, self._similarity)

    def _to_bytes(self) -> bytes:
        """Return the object of the library as it writes itself. The caller holds the lock."""
        raise NotImplementedError

    @staticmethod
    def _from_bytes(content: bytes) -> Any:
        """Return the object of the library that `_to_bytes` wrote."""
        raise NotImplementedError

    @property
    def index(self) -> Any:
        """The object of the library, for everything else that it can do."""
        return self._index

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return self._dimension

    @property
    def similarity(self) -> str:
        """What vectors are compared by: "cosine" or "dot"."""
        return self._similarity

    def _comparable(self, vectors: ArrayLike) -> NDArray[np.float32]:
        """Return `vectors` as float32 (n, dim), of length 1 for the cosine."""
        rows = as_float32(as_embeddings(vectors, "vectors"))
        if rows.shape[1] != self._dimension:
            raise InputError(f"vectors should be (n, {self._dimension}), not {rows.shape}")
        check_finite(rows, "vectors")
        return normalize(rows) if self._similarity == "cosine" else rows

    def _rows_and_ids(self, vectors: ArrayLike, ids: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        rows, numbers = self._comparable(vectors), as_ids(ids)
        if len(rows) != len(numbers):
            raise InputError(f"there are {len(numbers)} ids for {len(rows)} vectors")
        return rows, numbers


class FaissIndex(_LibraryIndex):
    """Vectors with ids in an index of faiss.

    Attributes:
        index: the object of faiss, for everything else that it can do.
        dimension: the length of a vector.
        similarity: "cosine" or "dot".

    Example:
        >>> index = FaissIndex(2)
        >>> index.add([[1.0, 0.0], [0.0, 1.0]], ids=[7, 8])
        >>> index.search([2.0, 0.0], top_k=1)
        [[{'corpus_id': 7, 'score': 1.0}]]
    """

    def __init__(self, dimension: int, *, factory: str = "Flat", similarity: str = "cosine") -> None:
        """Make an empty index.

        Args:
            dimension: the length of a vector.
            factory: the kind of index by the names of faiss' index_factory: "Flat", "IVF4096,Flat", "HNSW32",
                "OPQ64,PQ64" and so on. A kind that needs training is trained on the first vectors that are added.
            similarity: what vectors are compared by: "cosine" or "dot".

        Raises:
            DependencyError: faiss is not installed, or would crash because usearch was imported before it.
            InputError: an option is unknown, or faiss knows no such factory.
        """
        super().__init__(dimension, similarity)
        faiss = _import_faiss()
        try:
            self._index = faiss.index_factory(self._dimension, f"IDMap,{factory}", faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise InputError(f"faiss has no factory {factory!r}: {error}") from error

    def _to_bytes(self) -> bytes:
        return bytes(_import_faiss().serialize_index(self._index))

    @staticmethod
    def _from_bytes(content: bytes) -> Any:
        return _import_faiss().deserialize_index(np.frombuffer(content, np.uint8))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, vectors: ArrayLike, ids: ArrayLike) -> None:
        """Add `vectors` (n, dim) under `ids` (n,), whole numbers. faiss keeps an id twice if it is added twice.

        Raises:
            InputError: vectors or ids have another shape or dtype.

        Example:
            >>> index.add([[1.0, 0.0]], ids=[9])
        """
        rows, numbers = self._rows_and_ids(vectors, ids)
        with self._lock.write():
            if not self._index.is_trained:
                self._index.train(rows)
            self._index.add_with_ids(rows, numbers)

    def search(self, queries: ArrayLike, top_k: int = 10) -> list[list[Hit]]:
        """Search as `VectorIndex.search` does. How exact it is depends on the kind of index.

        Raises:
            InputError: the queries have another shape, or `top_k` is below 1.

        Example:
            >>> index.search([1.0, 0.0], top_k=1)
            [[{'corpus_id': 7, 'score': 1.0}]]
        """
        check_counts(top_k=top_k)
        rows = self._comparable(queries)
        with self._lock.read():
            scores, ids = self._index.search(rows, top_k)
        counts = (ids >= 0).sum(axis=1)  # faiss fills up with -1
        return [_hits(scores[row, :count], ids[row, :count]) for row, count in enumerate(counts)]

    def delete(self, ids: ArrayLike) -> None:
        """Delete the vectors of `ids`.

        Raises:
            InputError: an id is not in the index (the others are deleted), or the kind of index cannot delete, as
                HNSW.

        Example:
            >>> index.delete([8])
        """
        numbers = np.unique(as_ids(ids))
        try:
            with self._lock.write():
                removed = self._index.remove_ids(numbers)
        except RuntimeError as error:
            raise InputError(
                "faiss cannot delete from an index of this kind. Make another index without these ids"
            ) from error
        if removed != len(numbers):
            raise InputError(f"{len(numbers) - removed} of {len(numbers)} ids are not in the index")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to `path`, as faiss does, and the similarity behind it. faiss can read the file too.

        Raises:
            OSError: the file system refused. An existing file is as it was.

        Example:
            >>> index.save("vectors.faiss")
        """
        note = json.dumps({"similarity": self._similarity}).encode()
        with replacing(Path(path)) as partial:
            try:
                with self._lock.read():
                    _import_faiss().write_index(self._index, os.fspath(partial))
            except RuntimeError as error:
                raise OSError(f"faiss cannot write {path}: {error}") from error
            with partial.open("ab") as stream:
                stream.write(note + len(note).to_bytes(_LENGTH_BYTES, "little") + _FAISS_MAGIC)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, similarity: str | None = None) -> FaissIndex:
        """Load what `save` wrote. faiss checks little of a file, so load only files that you trust.

        Args:
            path: the file.
            similarity: needed for a file that faiss itself wrote, because it does not record the similarity.

        Raises:
            DependencyError: see the constructor.
            ArtifactError: the file cannot be read.
            InputError: the similarity is missing, or is not the one that was saved.

        Example:
            >>> index.save("vectors.faiss")
            >>> len(FaissIndex.load("vectors.faiss"))
            2
        """
        faiss = _import_faiss()
        index = cls.__new__(cls)
        saved = _saved_similarity(Path(path))
        if saved is None and similarity is None:
            raise InputError(f'{path} does not record its similarity: give similarity="cosine" or similarity="dot"')
        _check_saved_similarity(path, saved, similarity)
        try:
            read = faiss.read_index(os.fspath(path))
        except RuntimeError as error:
            raise ArtifactError(f"faiss cannot read {path}: {error}") from error
        _LibraryIndex.__init__(index, read.d, saved or similarity or "")
        index._index = read
        return index


class UsearchIndex(_LibraryIndex):
    """Vectors with ids in a graph of usearch (HNSW). Search is approximate, and fast at any size.

    Attributes:
        index: the object of usearch, for everything else that it can do.
        dimension: the length of a vector.
        similarity: "cosine" or "dot".

    Example:
        >>> index = UsearchIndex(2)
        >>> index.add([[1.0, 0.0], [0.0, 1.0]], ids=[7, 8])
        >>> index.search([2.0, 0.0], top_k=1)
        [[{'corpus_id': 7, 'score': 1.0}]]
    """

    def __init__(self, dimension: int, *, dtype: str = "f32", similarity: str = "cosine", **options: Any) -> None:
        """Make an empty index.

        Args:
            dimension: the length of a vector.
            dtype: how numbers are kept: "f32", "f16", "bf16" or "i8".
            similarity: what vectors are compared by: "cosine" or "dot".
            **options: other options of `usearch.index.Index`, such as `connectivity`.

        Raises:
            DependencyError: usearch is not installed.
            InputError: the dimension or the similarity cannot be used.
        """
        super().__init__(dimension, similarity)
        metric = "cos" if similarity == "cosine" else "ip"
        self._index = _import_usearch().Index(ndim=self._dimension, metric=metric, dtype=dtype, **options)

    def _to_bytes(self) -> bytes:
        return bytes(self._index.save())

    @staticmethod
    def _from_bytes(content: bytes) -> Any:
        return _import_usearch().Index.restore(content)

    def __len__(self) -> int:
        return len(self._index)

    def add(self, vectors: ArrayLike, ids: ArrayLike) -> None:
        """Add `vectors` (n, dim) under `ids` (n,), whole numbers that are not negative.

        Raises:
            InputError: vectors or ids have another shape or dtype, or an id is negative, in use, or given twice.

        Example:
            >>> index.add([[1.0, 0.0]], ids=[9])
        """
        rows, numbers = self._rows_and_ids(vectors, ids)
        if numbers.min(initial=0) < 0:
            raise InputError(f"usearch takes no negative ids, but got {numbers.min()}")
        unique, counts = np.unique(numbers, return_counts=True)
        if (counts > 1).any():
            raise InputError(f"id {unique[counts > 1][0]} is given twice")
        with self._lock.write():
            known = numbers[np.atleast_1d(self._index.contains(numbers))]
            if len(known):
                raise InputError(f"id {known[0]} is in the index already: delete it first, or give another id")
            self._index.add(numbers, rows)

    def search(self, queries: ArrayLike, top_k: int = 10) -> list[list[Hit]]:
        """Search as `VectorIndex.search` does, but approximately.

        Raises:
            InputError: the queries have another shape, or `top_k` is below 1.

        Example:
            >>> index.search([1.0, 0.0], top_k=1)
            [[{'corpus_id': 7, 'score': 1.0}]]
        """
        check_counts(top_k=top_k)
        rows = self._comparable(queries)
        with self._lock.read():
            if not len(self):
                return [[] for _ in rows]
            found = self._index.search(rows, top_k)
        distances, keys = np.atleast_2d(found.distances), np.atleast_2d(found.keys)
        counts = np.atleast_1d(getattr(found, "counts", np.array(keys.shape[1])))
        return [_hits(1 - distances[row, :count], keys[row, :count]) for row, count in enumerate(counts)]

    def delete(self, ids: ArrayLike) -> None:
        """Delete the vectors of `ids`.

        Raises:
            InputError: an id is not in the index. Then nothing has been deleted.

        Example:
            >>> index.delete([8])
        """
        numbers = np.unique(as_ids(ids))
        with self._lock.write():
            missing = numbers[~np.atleast_1d(self._index.contains(numbers))]
            if len(missing):
                raise InputError(f"id {missing[0]} is not in the index")
            self._index.remove(numbers)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to `path`, as usearch does. The file records the similarity.

        Raises:
            OSError: the file system refused. An existing file is as it was.

        Example:
            >>> index.save("vectors.usearch")
        """
        with replacing(Path(path)) as partial:
            try:
                with self._lock.read():
                    self._index.save(os.fspath(partial))
            except RuntimeError as error:
                raise OSError(f"usearch cannot write {path}: {error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, similarity: str | None = None) -> UsearchIndex:
        """Load what `save` or usearch wrote. usearch checks little of a file, so load only files that you trust.

        Args:
            path: the file.
            similarity: refuse the file if it has another similarity than this. None takes the one that it has.

        Raises:
            DependencyError: usearch is not installed.
            ArtifactError: the file cannot be read, or has another metric than "cos" and "ip".
            InputError: the similarity is not the one that was saved.

        Example:
            >>> index.save("vectors.usearch")
            >>> len(UsearchIndex.load("vectors.usearch"))
            2
        """
        usearch = _import_usearch()
        try:
            read = usearch.Index.restore(os.fspath(path))
        except (RuntimeError, ValueError) as error:
            raise ArtifactError(f"usearch cannot read {path}: {error}") from error
        if read is None:
            raise ArtifactError(f"usearch cannot read {path}")
        saved = {usearch.MetricKind.Cos: "cosine", usearch.MetricKind.IP: "dot"}.get(read.metric_kind)
        if saved is None:
            raise ArtifactError(f"{path} has the metric {read.metric_kind}, and UsearchIndex takes only cos and ip")
        _check_saved_similarity(path, saved, similarity)
        index = cls.__new__(cls)
        _LibraryIndex.__init__(index, read.ndim, saved)
        index._index = read
        return index


def _unpickle(kind: type[_LibraryIndex], content: bytes, dimension: int, similarity: str) -> _LibraryIndex:
    index = kind.__new__(kind)
    _LibraryIndex.__init__(index, dimension, similarity)
    index._index = index._from_bytes(content)
    return index


def _saved_similarity(path: Path) -> str | None:
    """Return the similarity that `FaissIndex.save` recorded in `path`. None if faiss itself wrote the file."""
    tail_bytes = _LENGTH_BYTES + len(_FAISS_MAGIC)
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - tail_bytes))
            tail = stream.read()
            if tail[_LENGTH_BYTES:] != _FAISS_MAGIC:
                return None
            length = min(int.from_bytes(tail[:_LENGTH_BYTES], "little"), _MAX_NOTE_BYTES)
            stream.seek(max(0, size - tail_bytes - length))
            similarity = json.loads(stream.read(length))["similarity"]
            check_choice("similarity", similarity, INDEX_SIMILARITIES)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{path} is damaged: its similarity cannot be read ({error})") from error
    return str(similarity)


def _check_saved_similarity(path: str | os.PathLike[str], saved: str | None, given: str | None) -> None:
    if given is None:
        return
    check_choice("similarity", given, INDEX_SIMILARITIES)
    if saved not in (None, given):
        raise InputError(f"{path} was saved with similarity {saved!r}, not {given!r}")


def _hits(scores: NDArray[np.float32], ids: NDArray[np.int64]) -> list[Hit]:
    return as_hits((scores[None], ids[None]))[0]


def _import_faiss() -> Any:
    check_cpp_runtime("faiss")
    return import_optional("faiss", needed_for="FaissIndex", install="'embedder[faiss]'")


def _import_usearch() -> Any:
    initialise_cpp_runtime()
    return import_optional("usearch.index", needed_for="UsearchIndex", install="'embedder[usearch]'")
