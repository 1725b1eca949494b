"""What callers give beside the vectors of an index, and what they get back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_text, find_surrogate, shown
from embedder.common.records import frozen
from embedder.errors import InputError
from embedder.vectors.arrays import refuse_container
from embedder.vectors.index.columns import Strings, encode_strings
from embedder.vectors.index.ids import Id
from embedder.vectors.index.items import count_items
from embedder.vectors.index.metadata import Metadata, decode_metadata, encode_metadata
from embedder.vectors.index.storage import Snapshot
from embedder.vectors.search import Found

# One or several vectors, texts or images.
Items = str | Iterable[Any] | ArrayLike
# What callers give beside the items to add: one for each item, or a single one for a single item.
Texts = str | Iterable[str | None]
Metadatas = Mapping[str, Any] | Iterable[Mapping[str, Any] | None]
# An entry that was found: {"corpus_id": its id, "score": float}, and "text" and "metadata" if it has them.
IndexHit = dict[str, Any]


@frozen
class IndexEntry:
    """An entry of an index.

    Attributes:
        id: the id, a whole number or a string.
        vector: float32 (dim,), the vector as the index keeps it: of length 1 if it compares by cosine, and rounded if
            its precision is "int8" or "binary".
        text: the text, or None.
        metadata: the JSON object, or None.

    Example:
        >>> index.get("readme").text  # doctest: +SKIP
        'The cat sits outside.'
    """

    id: Id
    vector: NDArray[np.float32]
    text: str | None
    metadata: Metadata | None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IndexEntry):
            return NotImplemented
        same = (self.id, self.text, self.metadata) == (other.id, other.text, other.metadata)
        return same and np.array_equal(self.vector, other.vector)


def make_strings(listed: Any, texts: object, metadata: object, read_paths: bool) -> dict[str, Strings]:
    """Return the columns of strings for the items to add.

    Args:
        listed: the items, as `list_items` returns them.
        texts: a string or None for each item. If it is None, items that are strings are their own texts.
        metadata: a mapping or None for each item, or one mapping for a single item.
        read_paths: whether strings may be paths, which need not be valid Unicode. Such a path is not kept.

    Raises:
        InputError: a text or the metadata of an item cannot be kept. Or there are not as many as items.
    """
    columns, count = {}, count_items(listed)
    if texts is None:
        kept = _strings_among(listed, read_paths)
    else:
        kept = [_check_text(text, index) for index, text in enumerate(_as_list(texts, str, "texts", count))]
    if any(text is not None for text in kept):
        columns["texts"] = encode_strings(kept)
    if metadata is not None:
        given = _as_list(metadata, Mapping, "metadata", count)
        encoded = [None if item is None else encode_metadata(item, f"metadata[{i}]") for i, item in enumerate(given)]
        columns["metadata"] = encode_strings(encoded)
    return columns


def _strings_among(listed: Any, read_paths: bool) -> list[str | None]:
    """Return each item that is a string, and None for each other item."""
    if isinstance(listed, np.ndarray) and listed.dtype.kind in "biuf":
        return []
    texts = [item if isinstance(item, str) else None for item in listed]
    if read_paths:
        return [None if text is None or find_surrogate(text) else text for text in texts]
    return [_check_text(text, index) for index, text in enumerate(texts)]


def _check_text(text: object, index: int) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise InputError(f"texts[{index}] should be a string or None, not {shown(text)}")
    check_text(text, f"texts[{index}]")
    return str.__str__(text)


def _as_list(values: Any, single: type, name: str, count: int) -> list[Any]:
    """Return what the caller gave for each item as a list. One `single` becomes a list of one."""
    if isinstance(values, single):
        values = [values]
    refuse_container(values, name, "a list", name)
    if not isinstance(values, Iterable):
        raise InputError(f"{name} should be a list, not {shown(values)}")
    listed = list(values)
    if len(listed) != count:
        raise InputError(f"there are {len(listed)} {name} for {count} items")
    return listed


def entry_at(snapshot: Snapshot, row: int, id_: Id, vector: NDArray[np.float32]) -> IndexEntry:
    """Return the entry in `row`, which has this id and vector."""
    text, metadata = snapshot.string("texts", row), snapshot.string("metadata", row)
    return IndexEntry(id_, vector, text, None if metadata is None else decode_metadata(metadata))


def index_hits(snapshot: Snapshot, found: Found) -> list[list[IndexHit]]:
    """Return the scores (n, k) and the rows (n, k) that were found as hits. Their strings are read from the file."""
    scores, rows = found
    return [
        [_hit(snapshot, *hit) for hit in zip(row_scores, hit_rows.tolist(), snapshot.ids_of(hit_rows), strict=True)]
        for row_scores, hit_rows in zip(scores.tolist(), rows, strict=True)
    ]


def _hit(snapshot: Snapshot, score: float, row: int, id_: Id) -> IndexHit:
    hit: IndexHit = {"corpus_id": id_, "score": score}
    text, metadata = snapshot.string("texts", row), snapshot.string("metadata", row)
    if text is not None:
        hit["text"] = text
    if metadata is not None:
        hit["metadata"] = decode_metadata(metadata)
    return hit
