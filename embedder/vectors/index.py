"""An index that lasts: vectors with ids, in memory or mapped from a file."""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_choice, check_count, check_counts
from embedder.errors import InputError
from embedder.vectors.hamming import nearest_bits
from embedder.vectors.index_file import (
    FORMAT_VERSION,
    PRECISIONS,
    SIMILARITIES,
    Header,
    read_index,
    sections_of,
    write_index,
)
from embedder.vectors.search import Hit, as_hits, nearest, rescored
from embedder.vectors.similarity import as_embeddings, as_float32, dot_score, normalize

# Rows that are written at once, and the least that room is made for.
_ROWS = 1 << 14
_LEAST_ROOM = 64
# The largest code of int8.
_LARGEST = 127
# One more than the largest id.
_IDS = 1 << 63
# What a vector of length 1 may be long, by rounding.
_LENGTH_ONE = 1.0001

Found = tuple[NDArray[np.float32], NDArray[np.int64]]


class VectorIndex:
    """Vectors with ids: add, search, delete; save, and load again.

    Searches look at every vector, so they are exact for "float32", and nearly so for the others: "int8" takes a quarter
    of the memory; "binary" compares packed bits, a thirty-second of it, and scores what it finds again by int8 codes,
    which stay on the disk but for those. Of equal scores, what was added first comes first. Many threads may search at
    once, but not while one adds or deletes.

    Attributes:
        dimension: length of a vector.
        precision: "float32", "int8" or "binary".
        similarity: "cosine" or "dot".
    """

    def __init__(
        self,
        dimension: int | None = None,
        *,
        precision: str = "float32",
        similarity: str = "cosine",
        model: Any = None,
    ) -> None:
        """Make an empty index.

        Args:
            dimension: length of a vector; None takes that of `model`.
            precision: how vectors are kept.
            similarity: what they are compared by. For "cosine" they are kept at length 1.
            model: an `Embedder`, for an index that texts are added to and searched for; else None.

        Raises:
            InputError: an option is not one of those, or there is neither a dimension nor a model, or they differ.
        """
        check_choice("precision", precision, PRECISIONS)
        check_choice("similarity", similarity, SIMILARITIES)
        check_count("dimension", dimension)
        if dimension is None and model is None:
            raise InputError("an index needs a dimension, or a model that has one")
        if model is not None and dimension not in (None, model.dimension):
            raise InputError(f"the model's vectors have length {model.dimension}, those of the index {dimension}")
        self.dimension: int = model.dimension if dimension is None else int(dimension)
        self.precision, self.similarity = precision, similarity
        self._model, self._made_by = model, _name_of(model)
        self._ids, self._alive = np.empty(0, np.int64), np.empty(0, bool)
        # What a file holds, and what has been added since, of which there is room for more.
        self._parts = [self._room(0), self._room(0)]
        self._sizes = [0, 0]
        self._rows: dict[int, int] | None = None

    def __len__(self) -> int:
        return int(np.count_nonzero(self._alive[: self._used]))

    def __repr__(self) -> str:
        return (
            f"VectorIndex({len(self)} vectors, dimension={self.dimension}, precision={self.precision!r}, "
            f"similarity={self.similarity!r})"
        )

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids, int64 (n,), in the order in which they were added."""
        return self._ids[: self._used][self._alive[: self._used]]

    @property
    def _used(self) -> int:
        return sum(self._sizes)

    def add(self, items: str | Iterable[str] | ArrayLike, ids: ArrayLike | None = None) -> NDArray[np.int64]:
        """Add vectors (n, dim), one (dim,), or texts, which the model encodes as documents.

        Args:
            items: the vectors or texts.
            ids: a whole number for each, that the index does not have; None takes those after the largest so far.

        Returns:
            The ids, int64 (n,).

        Raises:
            InputError: items are neither, a vector has another length or holds a NaN or an infinity, or an id cannot
                be taken; the message says which one. Nothing has been added then.
        """
        vectors = self._vectors(items, "encode_document")
        rows = self._positions()
        taken = self._checked_ids(ids, len(vectors), rows)
        encoded = self._encoded(vectors)
        used, added = self._used, self._sizes[1]
        self._parts[1] = {name: _grown(old, added, encoded[name]) for name, old in self._parts[1].items()}
        self._ids = _grown(self._ids, used, taken)
        self._alive = _grown(self._alive, used, np.ones(len(taken), bool))
        self._sizes[1] += len(taken)
        rows.update(zip(taken.tolist(), range(used, used + len(taken)), strict=True))
        return taken

    def delete(self, ids: ArrayLike) -> None:
        """Delete the vectors of `ids`, a whole number or several. The memory is free once the index has been saved.

        Raises:
            InputError: an id is not in the index; then nothing has been deleted.
        """
        rows = self._positions()
        gone = whole_numbers(ids).tolist()
        for number in gone:
            if number not in rows:
                raise InputError(f"id {number} is not in the index")
        for number in set(gone):
            self._alive[rows.pop(number)] = False

    def search(
        self, queries: str | Iterable[str] | ArrayLike, top_k: int = 10, rescore_multiplier: int = 4
    ) -> list[list[Hit]]:
        """The `top_k` vectors that are nearest to each of `queries`.

        Args:
            queries: vectors (n, dim), one (dim,), or texts, which the model encodes as queries.
            top_k: how many are wanted; all are given where there are fewer.
            rescore_multiplier: of a "binary" index, how many times as many are scored again. More find more.

        Returns:
            For each query a list of {"corpus_id": the id, "score": a float}, the highest first.

        Raises:
            InputError: queries are neither vectors nor texts, or not of the index's length; or a number is below 1.
        """
        check_counts(top_k=top_k, rescore_multiplier=rescore_multiplier)
        vectors = self._vectors(queries, "encode_query")
        if self.precision == "binary":
            scores, rows = self._nearest_rescored(vectors, top_k, rescore_multiplier)
        else:
            scores, rows = self._in_parts(top_k, lambda part, alive: self._nearest(vectors, part, top_k, alive))
        return as_hits(scores, self._ids[rows])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to `path`; the old file stays until the new one is whole, even if the process is killed.

        Raises:
            OSError: it cannot be written. Then the old file is still there.
        """
        header = Header(FORMAT_VERSION, self.dimension, self.precision, self.similarity, len(self), self._made_by)
        write_index(Path(path), header, {name: self._kept(name) for name in sections_of(header)})

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, model: Any = None) -> "VectorIndex":
        """The index that `save` wrote to `path`, mapped: what is searched takes memory, once for all processes.

        The whole file is checked by its SHA-256; one that was found whole is remembered, and read again only when it
        has changed. What is added or deleted stays in memory until the index is saved.

        Args:
            path: the file.
            model: the `Embedder` that its vectors were made by, for texts.

        Raises:
            FormatError: it is of a format version that this version does not read.
            ArtifactError: it cannot be read, is no index, or is damaged.
            InputError: the vectors were made by another model.
        """
        header, sections = read_index(Path(path))
        index = cls(header.dimension, precision=header.precision, similarity=header.similarity, model=model)
        if model is not None and header.model not in (None, index._made_by):
            raise InputError(f"{path} was made by the model {header.model}, not by {index._made_by}")
        index._made_by = header.model or index._made_by
        index._ids, index._alive = np.array(sections.pop("ids")), np.ones(header.count, bool)
        index._parts[0], index._sizes[0] = sections, header.count
        return index

    def _room(self, rows: int) -> dict[str, NDArray[Any]]:
        header = Header(FORMAT_VERSION, self.dimension, self.precision, self.similarity, rows, None)
        return {name: np.empty(shape, dtype) for name, (dtype, shape) in sections_of(header).items() if name != "ids"}

    def _vectors(self, items: str | Iterable[str] | ArrayLike, encode: str) -> NDArray[np.float32]:
        """`items` as the index compares them: vectors (n, dim) float32, for the cosine of length 1."""
        listed: Any = items
        if isinstance(items, str):
            listed = [items]
        elif not hasattr(items, "__array__"):
            listed = list(items)  # type: ignore[arg-type]
        elif np.asarray(items).dtype.kind in "UT":
            listed = np.asarray(items).tolist()
        if isinstance(listed, list) and listed and isinstance(listed[0], str):
            if self._model is None:
                raise InputError("texts need a model: VectorIndex(model=...), or VectorIndex.load(path, model=...)")
            listed = getattr(self._model, encode)(listed)
        vectors = as_float32(as_embeddings(listed, "vectors"))
        if not len(vectors):
            vectors = vectors.reshape(0, self.dimension)
        if vectors.shape[1] != self.dimension:
            raise InputError(f"vectors should be (n, {self.dimension}), not {np.shape(listed)}")
        good = np.isfinite(vectors).all(axis=1)
        if not good.all():
            raise InputError(f"vectors[{int(np.argmin(good))}] holds a NaN or an infinity")
        return normalize(vectors) if self.similarity == "cosine" else vectors

    def _checked_ids(self, ids: ArrayLike | None, count: int, rows: dict[int, int]) -> NDArray[np.int64]:
        if ids is None:
            first = int(self._ids[: self._used].max(initial=-1)) + 1
            if first + count > _IDS:
                raise InputError(f"there are no ids left after {first - 1}: give some")
            return np.arange(first, first + count)
        taken = whole_numbers(ids)
        if len(taken) != count:
            raise InputError(f"there are {len(taken)} ids for {count} vectors")
        seen: set[int] = set()
        for number in taken.tolist():
            if number in rows or number in seen:
                raise InputError(f"id {number} is in the index already, or twice among the ids: delete it first")
            seen.add(number)
        return taken

    def _positions(self) -> dict[int, int]:
        """In which row each id is; made when something is first added or deleted."""
        if self._rows is None:
            rows = np.flatnonzero(self._alive[: self._used])
            self._rows = dict(zip(self._ids[rows].tolist(), rows.tolist(), strict=True))
        return self._rows

    def _encoded(self, vectors: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        if self.precision == "float32":
            return {"vectors": vectors}
        scales = np.abs(vectors).max(axis=1, initial=0) / np.float32(_LARGEST)
        codes = np.rint(vectors / np.where(scales > 0, scales, 1)[:, None]).astype(np.int8)
        bits = {"bits": np.packbits(vectors > 0, axis=1)} if self.precision == "binary" else {}
        return {"codes": codes, "scales": scales.astype(np.float32)} | bits

    def _nearest(
        self, queries: NDArray[np.float32], part: dict[str, NDArray[Any]], top_k: int, alive: NDArray[np.bool_] | None
    ) -> Found:
        if self.precision == "float32":
            longest = _LENGTH_ONE if self.similarity == "cosine" else None
            return nearest(queries, part["vectors"], top_k, dot_score, alive=alive, longest=longest)
        longest = float(part["scales"].max(initial=0)) * _LARGEST * math.sqrt(self.dimension) * _LENGTH_ONE
        return nearest(queries, part["codes"], top_k, dot_score, alive=alive, scales=part["scales"], longest=longest)

    def _nearest_rescored(self, queries: NDArray[np.float32], top_k: int, multiplier: int) -> Found:
        bits, wanted = np.packbits(queries > 0, axis=1), top_k * multiplier
        _, rows = self._in_parts(wanted, lambda part, alive: nearest_bits(bits, part["bits"], wanted, alive))
        exact = queries.astype(np.float64)

        def score(query: int, found: NDArray[np.int64]) -> NDArray[np.float64]:
            scores: NDArray[np.float64] = (self._take("codes", found) @ exact[query]) * self._take("scales", found)
            return scores

        return rescored(rows, top_k, score)

    def _in_parts(self, k: int, find: Callable[[dict[str, NDArray[Any]], NDArray[np.bool_] | None], Found]) -> Found:
        """The `k` best of what `find` finds in each part: scores and rows."""
        scores, rows = [], []
        start = 0
        for part, size in zip(self._parts, self._sizes, strict=True):
            alive = self._alive[start : start + size]
            found = find({name: room[:size] for name, room in part.items()}, None if alive.all() else alive)
            scores.append(found[0])
            rows.append(found[1] + start)
            start += size
        all_scores, all_rows = np.concatenate(scores, axis=1), np.concatenate(rows, axis=1)
        order = np.lexsort((all_rows, -all_scores), axis=1)[:, :k]
        return np.take_along_axis(all_scores, order, 1), np.take_along_axis(all_rows, order, 1)

    def _take(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Rows of a section, whichever part they are in, as float64."""
        first, second = (part[name] for part in self._parts)
        split = self._sizes[0]
        taken = np.empty((len(rows), *second.shape[1:]))
        taken[rows < split], taken[rows >= split] = first[rows[rows < split]], second[rows[rows >= split] - split]
        return taken

    def _kept(self, name: str) -> Iterator[NDArray[Any]]:
        """The rows of a section that have not been deleted, some thousands at a time."""
        start = 0
        for part, size in zip(self._parts, self._sizes, strict=True):
            section = self._ids[start : start + size] if name == "ids" else part[name][:size]
            alive = self._alive[start : start + size]
            for at in range(0, size, _ROWS):
                yield section[at : at + _ROWS][alive[at : at + _ROWS]]
            start += size


def _grown(room: NDArray[Any], used: int, added: NDArray[Any]) -> NDArray[Any]:
    """`room` with `added` after its first `used` rows; where it is too small another of at least twice its size."""
    needed = used + len(added)
    if needed > len(room):
        larger = np.empty((max(needed, 2 * len(room), _LEAST_ROOM), *room.shape[1:]), room.dtype)
        larger[:used] = room[:used]
        room = larger
    room[used:needed] = added
    return room


def whole_numbers(ids: ArrayLike) -> NDArray[np.int64]:
    """`ids`, one or several, as int64 (n,); InputError where they are none."""
    try:
        numbers = np.atleast_1d(np.asarray(ids))
    except ValueError as error:
        raise InputError(f"ids should be whole numbers: {error}") from error
    if numbers.size == 0:
        return np.empty(0, np.int64)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise InputError(f"ids should be whole numbers, not {numbers.dtype} of shape {numbers.shape}")
    if numbers.dtype == np.uint64 and numbers.max() >= _IDS:
        raise InputError(f"ids should be below 2**63, not {numbers.max()}")
    return numbers.astype(np.int64)


def _name_of(model: Any) -> str | None:
    """What tells one model from another: where it came from, and the digest of its weights."""
    manifest = getattr(model, "manifest", None)
    return f"{manifest.source.model}, weights {manifest.source.weights_sha256[:16]}" if manifest is not None else None
