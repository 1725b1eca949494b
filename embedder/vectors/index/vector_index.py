"""The public class `VectorIndex`."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_choice, check_count, check_counts, shown
from embedder.common.read_only import ReadOnly
from embedder.errors import InputError
from embedder.vectors.arrays import as_float32, check_finite
from embedder.vectors.index.codecs import make_codec
from embedder.vectors.index.file_format import (
    INDEX_FORMAT_VERSION,
    INDEX_PRECISIONS,
    INDEX_SIMILARITIES,
    MAX_DIMENSION,
    Header,
    ModelDescription,
    read_index,
    sections_of,
    write_index,
)
from embedder.vectors.index.items import to_vectors
from embedder.vectors.index.storage import Columns, Storage, as_ids
from embedder.vectors.search import Hit, as_hits
from embedder.vectors.similarity import normalize

_logger = logging.getLogger(__name__)

# One or several vectors, texts or images.
Items = str | Iterable[Any] | ArrayLike


class VectorIndex(ReadOnly):
    """Vectors with ids: add, search, delete, save and load.

    A search compares the query with every vector. The precision decides how:

    - "float32": exact.
    - "int8": nearly exact. It takes 1/4 of the memory.
    - "binary": packed bits find candidates, and int8 codes score them. The bits take 1/32 of the memory. In a loaded
      index, only the int8 codes of the candidates are read from the file.

    An index is safe to share between threads. Several searches run at the same time. A search uses the index as it was
    when the search began, and never waits for `add`, `delete` or `save`. `add` and `delete` wait for each other.

    Attributes:
        dimension: the length of a vector.
        precision: how vectors are kept: "float32", "int8" or "binary".
        similarity: how vectors are compared: "cosine" or "dot".
        ids: the ids, int64 (n,), in the order in which they were added.

    Example:
        >>> index = VectorIndex(2)
        >>> index.add([[1.0, 0.0], [0.0, 1.0]], ids=[7, 8])
        array([7, 8])
        >>> index.search([2.0, 0.0], top_k=1)
        [[{'corpus_id': 7, 'score': 1.0}]]
    """

    _instead: ClassVar[Mapping[str, str]] = {
        "ids": "use add and delete",
        "model": "save the index, and load it with VectorIndex.load(path, model=...)",
    }

    def __init__(
        self,
        dimension: int | None = None,
        *,
        precision: str = "float32",
        similarity: str | None = None,
        model: Any = None,
    ) -> None:
        """Make an empty index.

        Args:
            dimension: the length of a vector. None takes the dimension of `model`.
            precision: how vectors are kept: "float32", "int8" or "binary".
            similarity: how vectors are compared: "cosine" or "dot". For "cosine" they are scaled to length 1. None is
                the function of `model`, or "cosine" if there is no model or the model uses a distance.
            model: an `Embedder`. With it, texts and images can be added and searched for.

        Raises:
            InputError: an option is unknown. Or `model` is not a model. Or neither a dimension nor a model is given. Or
                the dimension is not that of the model.
        """
        if similarity is None:
            similarity = _similarity_of(model)
        check_choice("precision", precision, INDEX_PRECISIONS)
        check_choice("similarity", similarity, INDEX_SIMILARITIES)
        check_count("dimension", dimension, MAX_DIMENSION)
        if dimension is None and model is None:
            raise InputError("an index needs a dimension, or a model that has one")
        if model is not None and not hasattr(model, "dimension"):
            raise InputError(f"model should be an Embedder, not {shown(model)}")
        if model is not None and dimension not in (None, model.dimension):
            raise InputError(f"the model's vectors have length {model.dimension}, but those of the index {dimension}")
        self._dimension: int = model.dimension if dimension is None else int(dimension)
        self._precision, self._similarity = precision, similarity
        self._model, self._made_by = model, _describe(model)
        self._codec = make_codec(precision, self._dimension, unit_norm=similarity == "cosine")
        empty = self._empty_columns()
        self._storage = Storage(np.empty(0, np.int64), empty, empty)

    def __len__(self) -> int:
        return len(self._storage.snapshot)

    def __copy__(self) -> VectorIndex:
        """Return an independent index with the same model: what one adds or deletes does not change the other."""
        copied = VectorIndex.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        copied._storage = copy.copy(self._storage)
        return copied

    def __repr__(self) -> str:
        return (
            f"VectorIndex({len(self)} vectors, dimension={self.dimension}, precision={self.precision!r}, "
            f"similarity={self.similarity!r})"
        )

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return self._dimension

    @property
    def precision(self) -> str:
        """How vectors are kept: "float32", "int8" or "binary"."""
        return self._precision

    @property
    def similarity(self) -> str:
        """How vectors are compared: "cosine" or "dot"."""
        return self._similarity

    @property
    def ids(self) -> NDArray[np.int64]:
        """A copy of the ids, int64 (n,), in the order in which they were added."""
        snapshot = self._storage.snapshot
        return snapshot.ids[snapshot.alive]

    def add(self, items: Items, ids: ArrayLike | None = None, *, read_paths: bool = False) -> NDArray[np.int64]:
        """Add vectors, texts or images. The model encodes texts and images as documents.

        Args:
            items: vectors (n, dim), one vector (dim,), a column of vectors, one text or image, or several. A string is
                a text. An array of numbers contains vectors.
            ids: a whole number for each item. The index must not have these ids yet. None takes the numbers that follow
                the largest id so far.
            read_paths: whether a string that names an image file is this image, for image models. Leave it False for
                strings that you do not trust, because they could make the program read any image file.

        Returns:
            The ids of the items, int64 (n,).

        Raises:
            InputError: an item or an id cannot be used. Or a vector has another length, or contains NaN or an infinity.
                The message names the item. Nothing is added.

        Example:
            >>> index = VectorIndex(model=embedder.Embedder("all-MiniLM-L6-v2"))  # doctest: +SKIP
            >>> index.add(["a text", "another"])  # doctest: +SKIP
            array([0, 1])
        """
        taken = None if ids is None else as_ids(ids)
        vectors = self._comparable(items, "encode_document", read_paths)
        return self._storage.append(self._codec.encode(vectors), taken, len(vectors))

    def delete(self, ids: ArrayLike) -> None:
        """Delete the vectors with these ids. To free their memory, save the index and load it again.

        Delete many ids in one call, because each call copies one byte for every vector of the index.

        Args:
            ids: one whole number, or several (n,).

        Raises:
            InputError: an id is not in the index. Then nothing is deleted.

        Example:
            >>> index.delete([7, 8])
        """
        self._storage.delete(as_ids(ids))

    def search(
        self, queries: Items, top_k: int = 10, rescore_multiplier: int = 4, *, read_paths: bool = False
    ) -> list[list[Hit]]:
        """Find the `top_k` vectors that are nearest to each query.

        Args:
            queries: vectors, texts or images, as for `add`. The model encodes texts and images as queries.
            top_k: the number of vectors to return for each query. A smaller index returns all its vectors.
            rescore_multiplier: the number of candidates for each vector to return, in a "binary" index. With more
                candidates, search misses fewer of the nearest vectors.
            read_paths: see `add`.

        Returns:
            A list for each query with entries {"corpus_id": the id, "score": float}, the highest score first. Among
            equal scores, the vector that was added first comes first.

        Raises:
            InputError: a query cannot be used or has another length. Or `top_k` or `rescore_multiplier` is below 1.

        Example:
            >>> index.search("a text", top_k=1)  # doctest: +SKIP
            [[{'corpus_id': 0, 'score': 1.0}]]
        """
        check_counts(top_k=top_k, rescore_multiplier=rescore_multiplier)
        vectors = self._comparable(queries, "encode_query", read_paths)
        snapshot = self._storage.snapshot
        scores, rows = self._codec.search(snapshot, vectors, top_k, rescore_multiplier)
        return as_hits((scores, snapshot.ids[rows]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to `path`. An existing file is replaced when the new file is complete and on the disk.

        The file has the vectors of the moment at which `save` began.

        Raises:
            OSError: the file cannot be written. An existing file is unchanged.

        Example:
            >>> index.save("texts.index")
        """
        snapshot = self._storage.snapshot
        header = self._header(len(snapshot), self._made_by)
        write_index(Path(path), header, {name: snapshot.kept_rows(name) for name in sections_of(header)})

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, model: Any = None) -> VectorIndex:
        """Load the index that `save` wrote to `path`.

        The file is memory-mapped. Only the parts that a search reads take memory, and all processes share them. The
        SHA-256 of the file is checked. The user's cache remembers a file that passed, so the next check reads the file
        only if it has changed. `add` and `delete` change the index in memory, and `save` writes the changes.

        The file records the model that made its vectors. Another model is refused. The same weights in another dtype,
        such as int8 instead of fp32, are accepted, and the logger `embedder` gets a warning. The vectors of both dtypes
        are close: their cosine is about 0.998 for all-MiniLM-L6-v2.

        Args:
            path: the file.
            model: the `Embedder` that made the vectors. With it, texts and images can be added and searched for.

        Raises:
            FormatError: a newer version of embedder wrote the file in a format that this version cannot read.
            ArtifactError: the file cannot be read, is not an index, or is damaged.
            InputError: another model made the vectors.

        Example:
            >>> index.save("vectors.index")
            >>> len(VectorIndex.load("vectors.index"))
            2
        """
        header, sections = read_index(Path(path))
        index = cls(header.dimension, precision=header.precision, similarity=header.similarity, model=model)
        if header.model is not None:
            _compare_models(path, header.model, index._made_by)
            index._made_by = header.model
        ids = sections.pop("ids")
        index._storage = Storage(ids, sections, index._empty_columns())
        return index

    def _header(self, count: int, model: ModelDescription | None) -> Header:
        """Return the header of a file with `count` vectors."""
        return Header(
            format_version=INDEX_FORMAT_VERSION,
            dimension=self.dimension,
            precision=self.precision,
            similarity=self.similarity,
            count=count,
            model=model,
        )

    def _empty_columns(self) -> Columns:
        """Return the columns of this precision without rows."""
        sections = sections_of(self._header(0, None))
        return {name: np.empty(shape, dtype) for name, (dtype, shape) in sections.items() if name != "ids"}

    def _comparable(self, items: Items, method: str, read_paths: bool) -> NDArray[np.float32]:
        """Return `items` as float32 (n, dim). For the cosine, each vector is scaled to length 1."""
        encode = None if self._model is None else getattr(self._model, method)
        vectors = as_float32(to_vectors(items, encode, read_paths))
        if not len(vectors):
            vectors = vectors.reshape(0, self.dimension)
        if vectors.shape[1] != self.dimension:
            raise InputError(f"vectors should be (n, {self.dimension}), not {vectors.shape}")
        check_finite(vectors, "vectors")
        return normalize(vectors) if self.similarity == "cosine" else vectors


def _describe(model: Any) -> ModelDescription | None:
    """Return the description of `model`, or None if it has no manifest."""
    manifest = getattr(model, "manifest", None)
    if manifest is None:
        return None
    dtype = getattr(model, "dtype", None)
    source = manifest.source
    return ModelDescription(source.model, source.weights_sha256[:16], dtype if isinstance(dtype, str) else None)


def _compare_models(path: str | os.PathLike[str], made_by: ModelDescription, given: ModelDescription | None) -> None:
    """Compare the given model with the model that made the vectors of `path`. Log a warning if the dtypes differ.

    Raises:
        InputError: the models differ in their names or their weights.
    """
    if given is None:
        return
    if not made_by.same_weights(given):
        raise InputError(f"the vectors of {path} were made by {made_by}. They cannot be compared with those of {given}")
    if None not in (made_by.dtype, given.dtype) and made_by.dtype != given.dtype:
        _logger.warning(
            "The vectors of %s were made with dtype %s, but this model runs in %s. Their cosines differ slightly. To "
            "get the same vectors, use Embedder(..., dtype=%r)",
            path,
            made_by.dtype,
            given.dtype,
            made_by.dtype,
        )


def _similarity_of(model: Any) -> str:
    """Return the function that `model` compares its vectors by, if an index has it, or "cosine"."""
    name = getattr(model, "similarity_fn_name", None)
    return name if name in INDEX_SIMILARITIES else "cosine"
