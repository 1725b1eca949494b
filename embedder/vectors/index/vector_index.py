"""The public class `VectorIndex`."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_choice, check_count, check_counts
from embedder.common.files import file_to_replace
from embedder.common.read_only import ReadOnly
from embedder.errors import InputError
from embedder.vectors.index.codecs import make_codec
from embedder.vectors.index.columns import Columns, Rows, Strings
from embedder.vectors.index.entries import (
    IndexEntry,
    IndexHit,
    Items,
    Metadatas,
    Texts,
    entry_at,
    index_hits,
    make_strings,
)
from embedder.vectors.index.file_format import read_index, string_sizes, write_snapshot
from embedder.vectors.index.filters import Filter, check_filter, passing
from embedder.vectors.index.header import (
    INDEX_FORMAT_VERSION,
    INDEX_PRECISIONS,
    INDEX_SIMILARITIES,
    MAX_DIMENSION,
    Header,
    ModelDescription,
)
from embedder.vectors.index.ids import IdArray, Ids, as_array, as_id, as_ids, check_kind
from embedder.vectors.index.items import list_items, to_vectors, truncate
from embedder.vectors.index.models import common_dimension, compare_models, describe, full_dimension, similarity_of
from embedder.vectors.index.saved_files import SavedFiles
from embedder.vectors.index.storage import Storage
from embedder.vectors.similarity import normalize


class VectorIndex(ReadOnly):
    """Vectors with ids, texts and metadata: add, search, delete, save and load.

    An entry has an id and a vector. It may have a text, and metadata: a JSON object. All are in one file.

    A search compares the query with every vector. The precision decides how:

    - "float32": exact.
    - "int8": nearly exact. It takes 1/4 of the memory.
    - "binary": packed bits find candidates, and int8 codes score them. The bits take 1/32 of the memory. In a loaded
      index, only the int8 codes of the candidates are read from the file.

    An index is safe to share between threads. Several searches run at the same time. A search uses the index as it was
    when the search began, and never waits for `add`, `upsert`, `delete` or `save`. Those that change the index wait for
    each other.

    Attributes:
        dimension: the length of a vector in the index.
        precision: how vectors are kept: "float32", "int8" or "binary".
        similarity: how vectors are compared: "cosine" or "dot".
        made_by: the model that made the vectors: its `name`, `weights` and `dtype`. None if the index does not know it.
        ids: the ids, (n,), in the order in which they were added: whole numbers (int64) or strings.

    Example:
        >>> index = VectorIndex(2)
        >>> index.add([[1.0, 0.0], [0.0, 1.0]], ids=[7, 8], texts=["east", "north"])
        array([7, 8])
        >>> index.search([2.0, 0.0], top_k=1)
        [[{'corpus_id': 7, 'score': 1.0, 'text': 'east'}]]
    """

    _instead: ClassVar[Mapping[str, str]] = {
        "ids": "use add, upsert and delete",
        "model": "save the index, and load it with VectorIndex.load(path, model=...)",
    }

    def __init__(
        self,
        dimension: int | None = None,
        *,
        precision: str = "float32",
        similarity: str | None = None,
        model: Any = None,
        truncate_dim: int | None = None,
    ) -> None:
        """Make an empty index.

        Args:
            dimension: the length of the vectors to add. None takes the dimension of `model`.
            precision: how vectors are kept: "float32", "int8" or "binary".
            similarity: how vectors are compared: "cosine" or "dot". For "cosine" they are scaled to length 1. None is
                the function of `model`, or "cosine" if there is no model or the model uses a distance.
            model: an `Embedder`. With it, texts and images can be added and searched for.
            truncate_dim: how many dimensions of each vector to keep, from the first on. None keeps all.

        Raises:
            InputError: an option is unknown. Or `model` is not a model. Or neither a dimension nor a model is given. Or
                the dimension is not that of the model.
        """
        if similarity is None:
            similarity = similarity_of(model)
        check_choice("precision", precision, INDEX_PRECISIONS)
        check_choice("similarity", similarity, INDEX_SIMILARITIES)
        check_count("dimension", dimension, MAX_DIMENSION)
        self._full_dimension = common_dimension(dimension, model)
        check_count("truncate_dim", truncate_dim, self._full_dimension)
        self._dimension = self._full_dimension if truncate_dim is None else int(truncate_dim)
        self._precision, self._similarity = precision, similarity
        self._model, self._made_by = model, describe(model)
        self._codec = make_codec(precision, self._dimension, unit_norm=similarity == "cosine")
        empty = self._empty_columns()
        self._storage = Storage(Rows(empty), 0, empty)
        self._saved_files = SavedFiles()

    def __len__(self) -> int:
        return len(self._storage.snapshot)

    def __contains__(self, id_: object) -> bool:
        """Return whether an entry has this id."""
        try:
            return self._storage.find(as_id(id_))[1] is not None
        except InputError:
            return False

    def __copy__(self) -> VectorIndex:
        """Return an independent index with the same model: what one adds or deletes does not change the other."""
        copied = VectorIndex.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        copied._storage, copied._saved_files = copy.copy(self._storage), copy.copy(self._saved_files)
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
    def made_by(self) -> ModelDescription | None:
        """The model that made the vectors: its `name`, `weights` and `dtype`. None if the index does not know it."""
        return self._made_by

    @property
    def ids(self) -> IdArray:
        """A copy of the ids in the order in which they were added: int64 (n,), or strings in an object array (n,)."""
        return as_array(self._storage.snapshot.all_ids())

    def add(
        self,
        items: Items,
        ids: ArrayLike | None = None,
        *,
        texts: Texts | None = None,
        metadata: Metadatas | None = None,
        read_paths: bool = False,
    ) -> IdArray:
        """Add vectors, texts or images. The model encodes texts and images as documents.

        Args:
            items: vectors (n, dim), one vector (dim,), a column of vectors, one text or image, or several. A string is
                a text. An array of numbers contains vectors.
            ids: a whole number for each item, or a string for each. An index has ids of one kind. It must not have
                these ids yet. None takes the whole numbers that follow the largest id so far.
            texts: a string or None for each item, to keep beside its vector. None keeps the items that are strings.
            metadata: a JSON object (a mapping) or None for each item: keys are strings, and values are strings,
                numbers, booleans, None, or lists and mappings of them.
            read_paths: whether a string that names an image file is this image, for image models. Leave it False for
                strings that you do not trust, because they could make the program read any image file.

        Returns:
            The ids of the items, (n,): int64, or strings in an object array.

        Raises:
            InputError: an item, an id, a text or metadata cannot be used. Or a vector has another length, or contains
                NaN or an infinity. The message names the item. Nothing is added.

        Example:
            >>> index = VectorIndex(model=embedder.Embedder("all-MiniLM-L6-v2"))  # doctest: +SKIP
            >>> index.add(["a text", "another"], metadata=[{"page": 1}, {"page": 2}])  # doctest: +SKIP
            array([0, 1])
        """
        taken = None if ids is None else as_ids(ids)
        return as_array(self._append(items, taken, texts, metadata, read_paths, replace_rows=False))

    def upsert(
        self,
        items: Items,
        ids: ArrayLike,
        *,
        texts: Texts | None = None,
        metadata: Metadatas | None = None,
        read_paths: bool = False,
    ) -> None:
        """Replace the entries that have these ids, and add the others. A search sees all of it or nothing.

        An entry is replaced whole: without new metadata, it has none. It then counts as added last.

        Args:
            items: see `add`.
            ids: a whole number for each item, or a string for each. No id may be given twice.
            texts: see `add`.
            metadata: see `add`.
            read_paths: see `add`.

        Raises:
            InputError: see `add`. Nothing is replaced or added.

        Example:
            >>> index.upsert([[0.0, 1.0]], ids=[7], texts=["north"])
            >>> index.get(7).text
            'north'
        """
        self._append(items, as_ids(ids), texts, metadata, read_paths, replace_rows=True)

    def delete(self, ids: ArrayLike) -> None:
        """Delete the entries with these ids. Those of a loaded file stay on the disk until `save`.

        Delete many ids in one call, because each call copies one byte for every entry of the index.

        Args:
            ids: one id, or several (n,).

        Raises:
            InputError: an id is not in the index. Then nothing is deleted.

        Example:
            >>> index.delete([7, 8])
        """
        self._storage.delete(as_ids(ids))

    def get(self, id: int | str) -> IndexEntry | None:
        """Return the entry with this id, or None if there is none.

        Raises:
            InputError: `id` is neither a whole number nor a string. Or the ids of the index are of the other kind.

        Example:
            >>> index.add([[3.0, 4.0]], ids=[9], metadata=[{"page": 1}])
            array([9])
            >>> index.get(9).vector, index.get(9).metadata
            (array([0.6, 0.8], dtype=float32), {'page': 1})
        """
        wanted = as_id(id)
        snapshot, row = self._storage.find(wanted)
        if len(snapshot):
            check_kind([wanted] if isinstance(wanted, str) else np.array([wanted], object), snapshot.has_string_ids)
        if row is None:
            return None
        return entry_at(snapshot, row, wanted, self._codec.decode(snapshot, np.array([row]))[0])

    def search(
        self,
        queries: Items,
        top_k: int = 10,
        rescore_multiplier: int = 4,
        *,
        filter: Filter | None = None,
        read_paths: bool = False,
    ) -> list[list[IndexHit]]:
        """Find the `top_k` vectors that are nearest to each query.

        Args:
            queries: vectors, texts or images, as for `add`. The model encodes texts and images as queries.
            top_k: the number of vectors to return for each query. A smaller index returns all its vectors.
            rescore_multiplier: the number of candidates for each vector to return, in a "binary" index. With more
                candidates, search misses fewer of the nearest vectors.
            filter: search only the entries that pass. A mapping is passed by the entries whose metadata have all its
                keys with equal values. A function gets the metadata of an entry, {} if it has none, and returns whether
                the entry passes. It is called once for each entry. A mapping is faster.
            read_paths: see `add`.

        Returns:
            A list for each query with entries {"corpus_id": the id, "score": float}, the highest score first. If the
            entry has a text or metadata, they are there as "text" and "metadata". Among equal scores, the vector that
            was added first comes first.

        Raises:
            InputError: a query cannot be used or has another length. Or `top_k` or `rescore_multiplier` is below 1. Or
                `filter` is neither a mapping nor a function. What a function raises reaches the caller.

        Example:
            >>> index.search("a text", top_k=1)  # doctest: +SKIP
            [[{'corpus_id': 0, 'score': 1.0, 'text': 'a text', 'metadata': {'page': 1}}]]
            >>> index.search("a text", filter={"page": 2})  # doctest: +SKIP
            [[{'corpus_id': 1, 'score': 0.49, 'text': 'another', 'metadata': {'page': 2}}]]
        """
        check_counts(top_k=top_k, rescore_multiplier=rescore_multiplier)
        checked = None if filter is None else check_filter(filter)
        vectors = self._comparable(list_items(queries), "encode_query", read_paths)
        snapshot = self._storage.snapshot
        if checked is not None:
            snapshot = passing(snapshot, checked)
        return index_hits(snapshot, self._codec.search(snapshot, vectors, top_k, rescore_multiplier))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to `path`. An existing file is replaced when the new file is complete and on the disk.
        If `path` is a link, the file that it leads to is replaced.

        The file has the entries of the moment at which it is written. If several threads or processes save to one file,
        each waits for the others.

        Raises:
            ConflictError: another process, or another index, has changed the file since this index was loaded from it
                or saved to it. The file is unchanged.
            OSError: the file cannot be written, or another process has been writing it for a minute. An existing file
                is unchanged.

        Example:
            >>> index.save("texts.index")
        """
        target = file_to_replace(path)
        self._saved_files.save(target, lambda: self._write(target))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, model: Any = None) -> VectorIndex:
        """Load the index that `save` wrote to `path`.

        The file is memory-mapped. Only the parts that a search reads take memory, and all processes share them. Texts
        and metadata are read for the entries that are found. The SHA-256 of the file is checked. The user's cache
        remembers a file that passed, so the next check reads the file only if it has changed. `add`, `upsert` and
        `delete` change the index in memory, and `save` writes the changes.

        The file records the model that made its vectors. Another model is refused. The same weights in another dtype,
        such as int8 instead of fp32, are accepted, and the logger `embedder` gets a warning. The vectors of both dtypes
        are close: their cosine is about 0.998 for all-MiniLM-L6-v2. If the index has truncated vectors, the model may
        make whole ones.

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
        header, sections, digest = read_index(Path(path))
        index = cls(
            full_dimension(header, model),
            precision=header.precision,
            similarity=header.similarity,
            model=model,
            truncate_dim=header.dimension,
        )
        index._full_dimension = max(index._full_dimension, header.full_dimension)
        if header.model is not None:
            compare_models(path, header.model, index._made_by)
            index._made_by = header.model
        strings = {
            name: Strings(sections.pop(f"{name}_ends"), sections.pop(f"{name}_bytes")) for name in header.strings
        }
        index._storage = Storage(Rows(sections, strings), header.count, index._empty_columns())
        index._saved_files.record(Path(path), digest)
        return index

    def _append(
        self,
        items: Items,
        ids: Ids | None,
        texts: Texts | None,
        metadata: Metadatas | None,
        read_paths: bool,
        *,
        replace_rows: bool,
    ) -> Ids:
        """Add items and return their ids. If `replace_rows`, entries that have these ids are deleted."""
        listed = list_items(items)
        strings = make_strings(listed, texts, metadata, read_paths)
        vectors = self._comparable(listed, "encode_document", read_paths)
        rows = Rows(self._codec.encode(vectors), strings)
        return self._storage.append(rows, ids, len(vectors), replace_rows=replace_rows)

    def _write(self, path: Path) -> str:
        """Write the index to `path`, and return the digest of the file."""
        snapshot = self._storage.snapshot
        header = Header(
            format_version=INDEX_FORMAT_VERSION,
            dimension=self.dimension,
            full_dimension=self._full_dimension,
            precision=self.precision,
            similarity=self.similarity,
            count=len(snapshot),
            strings=string_sizes(snapshot),
            model=self._made_by,
        )
        return write_snapshot(path, header, snapshot)

    def _empty_columns(self) -> Columns:
        """Return the columns of arrays without rows."""
        no_vectors = np.empty((0, self.dimension), np.float32)
        return {"ids": np.empty(0, np.int64), **self._codec.encode(no_vectors)}

    def _comparable(self, listed: Any, method: str, read_paths: bool) -> NDArray[np.float32]:
        """Return items as float32 (n, dim), truncated if the index does so. For the cosine, each has the length 1."""
        encode = None if self._model is None else getattr(self._model, method)
        vectors = truncate(to_vectors(listed, encode, read_paths), self._full_dimension, self.dimension)
        return normalize(vectors) if self.similarity == "cosine" else vectors
