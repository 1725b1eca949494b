"""Find the entries of an index that pass a filter."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from embedder.common.checks import shown
from embedder.errors import InputError
from embedder.vectors.index.columns import Strings
from embedder.vectors.index.metadata import Metadata, decode_metadata, encode_json, plain_json, same_value
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


def _rows_that_pass(part: Part, function: Callable[[Metadata], object]) -> Iterator[int]:
    """Yield the rows for whose metadata `function` returns a true value."""
    strings = part.strings.get("metadata")
    for row in range(part.count) if part.alive is None else np.flatnonzero(part.alive).tolist():
        text = None if strings is None else strings.get(row)
        if function({} if text is None else decode_metadata(text)):
            yield row


def _rows_with_values(part: Part, wanted: Metadata) -> Iterator[int]:
    """Yield the rows whose metadata have all the keys and values of `wanted`. Some of the rows may be deleted."""
    strings = part.strings.get("metadata")
    if not wanted:
        yield from range(part.count)
    elif strings is not None:
        forms = [_encoded_forms(key, value) for key, value in wanted.items()]
        for rows, _ in part.chunks():
            for row in sorted(_rows_that_contain(strings, rows, forms)):
                metadata = decode_metadata(strings.encoded(row).decode())
                if all(same_value(metadata.get(key, _MISSING), value) for key, value in wanted.items()):
                    yield row


def _encoded_forms(key: str, value: Any) -> list[bytes]:
    """Return bytes of which the metadata contain one if they have this value. Others may contain one too."""
    if isinstance(value, dict | list):  # the keys of a dict may come in another order
        values = [""]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        values = sorted({encode_json(number) for number in _equal_numbers(value)})
    else:
        values = [encode_json(value)]
    return [f"{encode_json(key)}:{text}".encode() for text in values]


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


def _rows_that_contain(strings: Strings, rows: slice, forms: list[list[bytes]]) -> set[int]:
    """Return those of `rows` that contain one of each list of `forms`."""
    encoded = strings.bytes_of(rows).tobytes()
    ends = (strings.ends[rows] - strings.start(rows.start)).tolist()
    found = [{row for form in some for row in _rows_that_contain_form(encoded, ends, form)} for some in forms]
    return {rows.start + row for row in set.intersection(*found)}


def _rows_that_contain_form(encoded: bytes, ends: list[int], form: bytes) -> Iterator[int]:
    """Yield the rows that contain `form`. `ends` (n,) are the offsets at which the rows end in `encoded`."""
    at = encoded.find(form)
    while at >= 0:
        row = bisect_right(ends, at)
        yield row
        at = encoded.find(form, ends[row])
