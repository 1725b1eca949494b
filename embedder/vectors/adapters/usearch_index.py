"""Vectors in an index of usearch."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from embedder.common.checks import check_choice, check_counts, shown
from embedder.common.cpp_runtime import initialise_cpp_runtime
from embedder.common.files import check_regular, file_to_replace, replacing
from embedder.common.imports import import_optional
from embedder.errors import ArtifactError, InputError
from embedder.vectors.adapters.library_index import LibraryIndex, check_saved_similarity, hits_of_query
from embedder.vectors.index.ids import as_whole_numbers
from embedder.vectors.search import Hit

_DTYPES = ("f32", "f16", "bf16", "i8")


class UsearchIndex(LibraryIndex):
    """Vectors with ids in an HNSW index of usearch. Search is approximate, and stays fast in large indexes.

    Attributes:
        index: the object of usearch, for what this class does not offer.
        dimension: the length of a vector.
        similarity: how vectors are compared: "cosine" or "dot".

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
            dtype: the type in which usearch stores numbers: "f32", "f16", "bf16" or "i8".
            similarity: how vectors are compared: "cosine" or "dot".
            **options: other options of `usearch.index.Index`, such as `connectivity`.

        Raises:
            DependencyError: usearch is not installed.
            InputError: `dimension` is not a whole number of at least 1, or `similarity` or `dtype` is unknown. Or
                usearch refuses an option.
        """
        super().__init__(dimension, similarity)
        check_choice("dtype", dtype, _DTYPES)
        metric = "cos" if similarity == "cosine" else "ip"
        usearch = _import_usearch()
        try:
            self._index = usearch.Index(ndim=self._dimension, metric=metric, dtype=dtype, **options)
        except (TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"usearch refuses the options {shown(options)}: {reason}") from error

    def _to_bytes(self) -> bytes:
        return bytes(self._index.save())

    @staticmethod
    def _from_bytes(content: bytes) -> Any:
        return _import_usearch().Index.restore(content)

    def __len__(self) -> int:
        return len(self._index)

    def add(self, vectors: ArrayLike, ids: ArrayLike) -> None:
        """Add vectors with their ids.

        Args:
            vectors: (n, dim), or one vector (dim,).
            ids: (n,), whole numbers of at least 0 that are not in the index.

        Raises:
            InputError: vectors or ids have another shape or dtype. Or a vector contains NaN or an infinity. Or an id is
                negative, in the index, or given twice. Then nothing has been added.

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
        """Find about the `top_k` vectors that are nearest to each query. The search may miss some of them.

        Args:
            queries: (n, dim), or one vector (dim,).
            top_k: the number of vectors to return for each query. A smaller index returns all its vectors.

        Returns:
            A list for each query with entries {"corpus_id": the id, "score": float}, the highest score first.

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
        return [hits_of_query(1 - distances[row, :count], keys[row, :count]) for row, count in enumerate(counts)]

    def delete(self, ids: ArrayLike) -> None:
        """Delete the vectors with these ids.

        Args:
            ids: one whole number, or several (n,).

        Raises:
            InputError: an id is not in the index. Then nothing is deleted.

        Example:
            >>> index.delete([8])
        """
        numbers = np.unique(as_whole_numbers(ids))
        with self._lock.write():
            missing = numbers[~np.atleast_1d(self._index.contains(numbers))]
            if len(missing):
                raise InputError(f"id {missing[0]} is not in the index")
            self._index.remove(numbers)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to `path` in the format of usearch, which records the similarity.

        Raises:
            OSError: the file cannot be written. An existing file is unchanged.

        Example:
            >>> index.save("vectors.usearch")
        """
        with replacing(file_to_replace(path)) as partial:
            try:
                with self._lock.read():
                    self._index.save(os.fspath(partial))
            except RuntimeError as error:
                raise OSError(f"usearch cannot write {path}: {error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, similarity: str | None = None) -> UsearchIndex:
        """Load a file of `save` or of usearch. usearch hardly checks a file, so load only files that you trust.

        Args:
            path: the file.
            similarity: the similarity that the file should record: "cosine" or "dot". None accepts both.

        Raises:
            DependencyError: usearch is not installed.
            ArtifactError: the file cannot be read, or its metric is neither "cos" nor "ip".
            InputError: the file records another similarity.

        Example:
            >>> index.save("vectors.usearch")
            >>> len(UsearchIndex.load("vectors.usearch"))
            2
        """
        usearch = _import_usearch()
        try:
            check_regular(path)
            read = usearch.Index.restore(os.fspath(path))
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
        except (RuntimeError, ValueError) as error:
            raise ArtifactError(f"usearch cannot read {path}: {error}") from error
        if read is None:
            raise ArtifactError(f"usearch cannot read {path}")
        saved = {usearch.MetricKind.Cos: "cosine", usearch.MetricKind.IP: "dot"}.get(read.metric_kind)
        if saved is None:
            raise ArtifactError(f"{path} has the metric {read.metric_kind}, and UsearchIndex takes only cos and ip")
        check_saved_similarity(path, saved, similarity)
        index = cls.__new__(cls)
        LibraryIndex.__init__(index, read.ndim, saved)
        index._index = read
        return index


def _import_usearch() -> Any:
    initialise_cpp_runtime()
    return import_optional("usearch.index", needed_for="UsearchIndex", requirement="embedder-onnx[usearch]")
