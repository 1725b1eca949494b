"""Find the entries of an index that pass a filter."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from embedder.common.checks import shown
from embedder.common.records import frozen
from embedder.errors import InputError
from embedder.vectors.index.metadata import Metadata, decode_all, encode_json, plain_json, same_value
from embedder.vectors.index.storage import Part, Snapshot

# What the metadata of an entry must have, or a function that says whether its metadata pass.
Filter = Mapping[str, Any] | Callable[[Metadata], object]

_MISSING = object()


def check_filter(filter: object) -> Metadata | Callable[[Metadata], object]:
    """Return a filter that can be used, with plain values of JSON.

    Raises:
        InputError: it is neither a mapping with values of JSON nor a function.
    """
    if isinstance(filter, Mapping):
        checked: Metadata = plain_json(filter, "filter")
        return checked
    if callable(filter):
        return filter
    raise InputError(f"filter should be a mapping or a function, not {shown(filter)}")


def passing(snapshot: Snapshot, filter: Metadata | Callable[[Metadata], object]) -> Snapshot:
    """Return the rows of `snapshot` that pass a checked filter. What the filter raises reaches the caller."""
    alive = np.zeros(snapshot.count, bool)
    for part in snapshot.parts:
        rows = _rows_with_values(part, filter) if isinstance(filter, dict) else _rows_that_pass(part, filter)
        alive[part.start + np.fromiter(rows, np.int64)] = True
    return snapshot.only(alive & snapshot.alive)


@frozen
class _Chunk:
    """The metadata of some rows as JSON.

    Attributes:
        start: the number of the first row.
        encoded: the JSON of all rows in UTF-8, each with a zero byte at its end.
        ends: the offset in `encoded` at which each row ends.
    """

    start: int
    encoded: bytes
    ends: list[int]

    def metadata(self, places: list[int]) -> list[Metadata]:
        """Return the metadata of the rows `start + place`, {} for a row that has none."""
        starts = [0, *self.ends]
        texts = (self.encoded[starts[place] : self.ends[place]] for place in places)
        return decode_all([text[:-1] if text else b"{}" for text in texts])

    def places_of(self, form: bytes) -> Iterator[int]:
        """Yield the places of the rows that contain `form`."""
        at = self.encoded.find(form)
        while at >= 0:
            place = bisect_right(self.ends, at)
            yield place
            at = self.encoded.find(form, self.ends[place])


def _chunks(part: Part) -> Iterator[_Chunk]:
    """Yield all rows of `part`, if it has metadata."""
    if "metadata" in part.strings:
        strings = part.strings["metadata"]
        for rows, _ in part.chunks():
            start = strings.start(rows.start)
            yield _Chunk(rows.start, strings.bytes_of(rows).tobytes(), (strings.ends[rows] - start).tolist())


def _rows_that_pass(part: Part, function: Callable[[Metadata], object]) -> Iterator[int]:
    """Yield the rows for whose metadata `function` returns a true value."""
    alive = np.ones(part.count, bool) if part.alive is None else part.alive
    if "metadata" not in part.strings:
        yield from (row for row in np.flatnonzero(alive).tolist() if function({}))
    for chunk in _chunks(part):
        places = np.flatnonzero(alive[chunk.start : chunk.start + len(chunk.ends)]).tolist()
        for place, metadata in zip(places, chunk.metadata(places), strict=True):
            if function(metadata):
                yield chunk.start + place


def _rows_with_values(part: Part, wanted: Metadata) -> Iterator[int]:
    """Yield the rows whose metadata have all the keys and values of `wanted`. Some of the rows may be deleted."""
    if not wanted:
        yield from range(part.count)
        return
    forms = [_encoded_forms(key, value) for key, value in wanted.items()]
    for chunk in _chunks(part):
        # Decoding takes far longer than looking for bytes. So only the rows that contain the bytes are decoded.
        found = [{place for form in some for place in chunk.places_of(form)} for some in forms]
        places = sorted(set.intersection(*found))
        for place, metadata in zip(places, chunk.metadata(places), strict=True):
            if all(same_value(metadata.get(key, _MISSING), value) for key, value in wanted.items()):
                yield chunk.start + place


def _encoded_forms(key: str, value: Any) -> list[bytes]:
    """Return byte strings. Metadata with this value contain one of them. Other metadata may contain one too."""
    if isinstance(value, dict | list):  # the keys of a dict may come in another order
        return [f"{encode_json(key)}:".encode()]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    values = sorted({encode_json(number) for number in _equal_numbers(value)}) if is_number else [encode_json(value)]
    # A comma or a brace follows each value, so that 1 is not found in 12.
    return [f"{encode_json(key)}:{text}{after}".encode() for text in values for after in ",}"]


def _equal_numbers(number: float) -> Iterator[float]:
    """Yield the numbers of Python that equal `number` and have other JSON."""
    if number == 0:
        yield from (0, 0.0, -0.0)
        return
    yield number
    if isinstance(number, float) and number.is_integer():
        yield int(number)
    elif isinstance(number, int) and abs(number) < 2**1023 and float(number) == number:
        yield float(number)
