"""The columns of an index: arrays with a row for each entry, and strings of any length.

A buffer has room for more rows. New rows are written after its last row, so arrays that end there do not change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.common.records import frozen

# The smallest number of rows to reserve memory for.
_MIN_CAPACITY = 64
# The byte after each string. So every row ends at the end of a character, whatever the strings are.
_END = b"\0"

Columns = dict[str, NDArray[Any]]


@frozen
class Strings:
    """A column of strings. A row without a string has no bytes.

    Attributes:
        ends: int64 (n,), the offset in `content` at which each row ends. The next row begins there.
        content: uint8 (bytes,), the strings in UTF-8. A zero byte follows each.
    """

    ends: NDArray[np.int64]
    content: NDArray[np.uint8]

    def start(self, row: int) -> int:
        """Return the offset at which `row` begins."""
        return int(self.ends[row - 1]) if row else 0

    def get(self, row: int) -> str | None:
        """Return the string in `row`, or None."""
        start, end = self.start(row), int(self.ends[row])
        return None if start == end else self.content[start : end - 1].tobytes().decode()

    def lengths(self, rows: slice) -> NDArray[np.int64]:
        """Return the number of bytes of each of `rows`, with the zero byte."""
        ends = self.ends[rows]
        return np.diff(ends, prepend=self.start(rows.start)) if len(ends) else ends

    def bytes_of(self, rows: slice) -> NDArray[np.uint8]:
        """Return the bytes of `rows`, one after the other."""
        return self.content[self.start(rows.start) : self.start(rows.stop)]

    def all(self) -> Iterator[str | None]:
        """Yield the string of each row, or None."""
        start = 0
        for end in self.ends.tolist():
            yield None if start == end else self.content[start : end - 1].tobytes().decode()
            start = end


@frozen
class Rows:
    """Rows that are all in memory, or all in a file. In memory there may be room for more.

    Attributes:
        columns: arrays of the shape (n, ...) by name.
        strings: columns of strings by name. A name that is missing has no string in any row.
    """

    columns: Columns
    strings: Mapping[str, Strings] = field(default_factory=dict)

    def copy(self) -> Rows:
        """Return a copy that shares no memory."""
        strings = {name: Strings(column.ends.copy(), column.content.copy()) for name, column in self.strings.items()}
        return Rows({name: column.copy() for name, column in self.columns.items()}, strings)

    def first(self, count: int) -> Rows:
        """Return the first `count` rows. They share the memory of these rows."""
        strings = {name: Strings(column.ends[:count], column.content) for name, column in self.strings.items()}
        return Rows({name: column[:count] for name, column in self.columns.items()}, strings)

    def only(self, alive: NDArray[np.bool_]) -> Rows:
        """Return a copy of the rows that are `alive` (n,), of all n rows."""
        rows = slice(0, len(alive))
        strings = {}
        for name, column in self.strings.items():
            lengths = column.lengths(rows)
            strings[name] = Strings(np.cumsum(lengths[alive]), column.bytes_of(rows)[np.repeat(alive, lengths)])
        return Rows({name: column[alive] for name, column in self.columns.items()}, strings)


def encode_strings(strings: Sequence[str | None]) -> Strings:
    """Return `strings` as a column."""
    encoded = [b"" if text is None else text.encode() + _END for text in strings]
    ends = np.cumsum([len(item) for item in encoded], dtype=np.int64)
    return Strings(ends, np.frombuffer(b"".join(encoded), np.uint8))


def extend(rows: Rows, used: int, new: Rows, count: int) -> Rows:
    """Write the `count` rows of `new` after the first `used` of `rows`. The result has the columns of `new`.

    Buffers that are full are copied to larger ones.
    """
    columns = {name: append_rows(rows.columns[name], used, column) for name, column in new.columns.items()}
    missing = Strings(np.zeros(used, np.int64), np.empty(0, np.uint8))
    added = Strings(np.zeros(count, np.int64), np.empty(0, np.uint8))
    strings = {
        name: _extend_strings(rows.strings.get(name, missing), used, new.strings.get(name, added))
        for name in {**rows.strings, **new.strings}
    }
    return Rows(columns, strings)


def _extend_strings(strings: Strings, used: int, new: Strings) -> Strings:
    used_bytes = strings.start(used)
    content = append_rows(strings.content, used_bytes, new.content)
    return Strings(append_rows(strings.ends, used, new.ends + used_bytes), content)


def append_rows(buffer: NDArray[Any], used: int, rows: NDArray[Any]) -> NDArray[Any]:
    """Write `rows` after the first `used` rows of a buffer. A full buffer is copied to one at least twice as large."""
    needed = used + len(rows)
    if needed > len(buffer):
        larger = np.empty((max(needed, 2 * len(buffer), _MIN_CAPACITY), *buffer.shape[1:]), buffer.dtype)
        larger[:used] = buffer[:used]
        buffer = larger
    buffer[used:needed] = rows
    return buffer
