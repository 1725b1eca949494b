"""Vectors in an index of faiss."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_choice, check_counts
from embedder.common.cpp_runtime import check_cpp_runtime
from embedder.common.files import file_to_replace, open_regular, replacing
from embedder.common.imports import import_optional
from embedder.common.json_text import parse_json
from embedder.errors import ArtifactError, InputError
from embedder.vectors.adapters.library_index import LibraryIndex, check_saved_similarity, hits_of_query
from embedder.vectors.index.header import INDEX_SIMILARITIES
from embedder.vectors.index.ids import as_whole_numbers
from embedder.vectors.search import Hit

# faiss does not record the similarity. So `save` appends three parts to the file, and faiss ignores them: the
# similarity as JSON, the length of this JSON in 8 bytes, and these magic bytes.
_MAGIC = b"\x89EMBFAISS\n"
_LENGTH_BYTES = 8
_MAX_JSON_BYTES = 4096


class FaissIndex(LibraryIndex):
    """Vectors with ids in an index of faiss. The default kind of index searches exactly.

    Attributes:
        index: the object of faiss, for what this class does not offer.
        dimension: the length of a vector.
        similarity: how vectors are compared: "cosine" or "dot".

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
            factory: the kind of index, as faiss' index_factory names it, such as "Flat", "IVF4096,Flat", "HNSW32" or
                "OPQ64,PQ64". A kind that needs training is trained on the vectors of the first `add`.
            similarity: how vectors are compared: "cosine" or "dot".

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
        """Add vectors with their ids. faiss does not check the ids: an id that is added twice has two vectors.

        Args:
            vectors: (n, dim), or one vector (dim,).
            ids: (n,), whole numbers.

        Raises:
            InputError: vectors or ids have another shape or dtype. Or a vector contains NaN or an infinity. Or there
                are too few vectors to train the index. Then nothing has been added.

        Example:
            >>> index.add([[1.0, 0.0]], ids=[9])
        """
        rows, numbers = self._rows_and_ids(vectors, ids)
        with self._lock.write():
            if not self._index.is_trained:
                self._train(rows)
            self._index.add_with_ids(rows, numbers)

    def _train(self, rows: NDArray[np.float32]) -> None:
        try:
            self._index.train(rows)
        except RuntimeError as error:
            raise InputError(f"faiss cannot train the index on {len(rows)} vectors: {error}") from error

    def search(self, queries: ArrayLike, top_k: int = 10) -> list[list[Hit]]:
        """Find the `top_k` vectors that are nearest to each query. The kind of index decides whether this is exact.

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
            scores, ids = self._index.search(rows, top_k)
        counts = (ids >= 0).sum(axis=1)  # faiss returns the id -1 in places without a vector
        return [hits_of_query(scores[row, :count], ids[row, :count]) for row, count in enumerate(counts)]

    def delete(self, ids: ArrayLike) -> None:
        """Delete the vectors with these ids.

        Args:
            ids: one whole number, or several (n,).

        Raises:
            InputError: some ids are not in the index; the others are deleted. Or this kind of index, such as HNSW,
                cannot delete.

        Example:
            >>> index.delete([8])
        """
        numbers = np.unique(as_whole_numbers(ids))
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
        """Write the index to `path` in the format of faiss, followed by the similarity. faiss can read the file too.

        Raises:
            OSError: the file cannot be written. An existing file is unchanged.

        Example:
            >>> index.save("vectors.faiss")
        """
        text = json.dumps({"similarity": self._similarity}).encode()
        with replacing(file_to_replace(path)) as partial:
            try:
                with self._lock.read():
                    _import_faiss().write_index(self._index, os.fspath(partial))
            except RuntimeError as error:
                raise OSError(f"faiss cannot write {path}: {error}") from error
            with partial.open("ab") as stream:
                stream.write(text + len(text).to_bytes(_LENGTH_BYTES, "little") + _MAGIC)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, similarity: str | None = None) -> FaissIndex:
        """Load a file of `save` or of faiss. faiss hardly checks a file, so load only files that you trust.

        Args:
            path: the file.
            similarity: "cosine" or "dot". It is required for a file of faiss, because such a file does not record the
                similarity.

        Raises:
            DependencyError: see the constructor.
            ArtifactError: the file cannot be read.
            InputError: the similarity is missing, or the file records another one.

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
        check_saved_similarity(path, saved, similarity)
        try:
            read = faiss.read_index(os.fspath(path))
        except RuntimeError as error:
            raise ArtifactError(f"faiss cannot read {path}: {error}") from error
        LibraryIndex.__init__(index, read.d, saved or similarity or "")
        index._index = read
        return index


def _saved_similarity(path: Path) -> str | None:
    """Return the similarity that `FaissIndex.save` recorded in `path`, or None if faiss itself wrote the file."""
    tail_bytes = _LENGTH_BYTES + len(_MAGIC)
    try:
        with open_regular(path) as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - tail_bytes))
            tail = stream.read()
            if tail[_LENGTH_BYTES:] != _MAGIC:
                return None
            length = min(int.from_bytes(tail[:_LENGTH_BYTES], "little"), _MAX_JSON_BYTES)
            stream.seek(max(0, size - tail_bytes - length))
            similarity = parse_json(stream.read(length))["similarity"]
            check_choice("similarity", similarity, INDEX_SIMILARITIES)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{path} is damaged: its similarity cannot be read ({error})") from error
    return str(similarity)


def _import_faiss() -> Any:
    check_cpp_runtime("faiss")
    return import_optional("faiss", needed_for="FaissIndex", requirement="embedder-onnx[faiss]")
