"""The formats of files of vectors. Each turns a block of rows into bytes, and makes a file of the blocks.

The blocks wait in a partial file. A block needs nothing of those before it, so a partial file may be cut after each.
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from embedder.common.files import open_regular
from embedder.common.json_lines import json_line
from embedder.common.records import frozen
from embedder.errors import InputError
from embedder.files.journal import Job, Journal, Tally

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embedder.files.targets import Target

# "float16" is no precision of `encode`: the vectors are computed as float32, and rounded when they are written.
PRECISIONS = ("float32", "float16", "int8", "uint8", "binary", "ubinary")
EMBEDDING = "embedding"
_DTYPES = {"float32": "<f4", "float16": "<f2", "int8": "|i1", "uint8": "|u1", "binary": "|i1", "ubinary": "|u1"}
# So many digits are enough to read the same number again.
_DIGITS = {"<f4": "%.9g", "<f2": "%.5g"}


class RowFields(ABC):
    """The fields of a record, with what tells it from other records.

    Example:
        >>> JsonFields({"text": "a", "id": 7}).values()
        {'text': 'a', 'id': 7}
    """

    __slots__ = ()

    @abstractmethod
    def values(self) -> Mapping[str, Any]:
        """Return the fields as values that JSON has."""

    @abstractmethod
    def identity(self) -> bytes:
        """Return bytes that differ between different records."""


class JsonFields(RowFields):
    """The fields of a line of a file, or of an image."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def values(self) -> Mapping[str, Any]:
        """Return the fields."""
        return self._values

    def identity(self) -> bytes:
        """Return the fields as JSON."""
        return json.dumps(self._values, default=repr).encode()  # a program's records may have dates


@frozen
class Layout:
    """The format and the size of the vectors to write.

    Attributes:
        format: the name of the format, such as "npy".
        columns: the count of numbers in a row.
        dtype: the dtype of a number, as NumPy writes it in a file, such as "<f4".
        is_ranged: whether the numbers are steps of ranges, which are known only when all vectors are there.
    """

    format: str
    columns: int
    dtype: str
    is_ranged: bool = False

    @classmethod
    def of(cls, format: str, dimension: int, precision: str) -> Layout:
        """Return the layout of vectors with `dimension` numbers. A byte of a binary vector has eight of them.

        Example:
            >>> Layout.of("npy", 384, "ubinary")
            Layout(format='npy', columns=48, dtype='|u1', is_ranged=False)
        """
        from embedder.options import RANGED_PRECISIONS  # here, as it imports NumPy

        columns = -(-dimension // 8) if precision in ("binary", "ubinary") else dimension
        return cls(format, columns, _DTYPES[precision], precision in RANGED_PRECISIONS)

    @property
    def of_blocks(self) -> Layout:
        """The layout of the vectors in a partial file."""
        return Layout(self.format, self.columns, _DTYPES["float32"]) if self.is_ranged else self


class Format(ABC):
    """How vectors are written to a file.

    Attributes:
        layout: the size of the vectors.
        has_metadata: whether a complete file says how it was made. Otherwise its journal stays, and says it.
    """

    has_metadata = False

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def head(self, rows: int) -> bytes:
        """Return the bytes before the first row of `rows` rows. Their length does not depend on `rows`."""
        return b""

    @abstractmethod
    def block(self, records: Sequence[RowFields], vectors: NDArray[np.generic]) -> bytes:
        """Return the bytes of a block of vectors (k, columns), each with its record."""

    def reopen(self, stream: IO[bytes], journal: Journal) -> None:  # noqa: B027
        """Learn what the blocks of an earlier run say of those to come."""

    def close(self, partial: Path, journal: Journal) -> None:
        """Make the partial file as readable as it can be: cut it after its last block, and write its head again."""
        with partial.open("r+b") as stream:
            stream.truncate(journal.end.size_bytes)
            stream.write(self.head(journal.end.rows))

    def complete(self, target: Target, journal: Journal) -> Path:
        """Make a complete file of all blocks, and return its path."""
        self.close(target.partial, journal)
        return target.partial

    def completed(self, target: Target, journal: Journal | None) -> tuple[Job, Tally] | None:
        """Return how the file in the place of `target` was made, and the inputs that are in it.

        None if that is unknown. Here the journal says it, if the file has all of its blocks and nothing more.
        """
        if journal is None or target.path is None or target.partial.exists() or not target.path.is_file():
            return None
        with open_regular(target.path) as stream:
            is_whole = journal.whole(stream) == journal and not stream.read(1)
        return (journal.job, journal.end.tally) if is_whole else None


class JsonlFormat(Format):
    """Each record is a line of JSON. The field "embedding" has its vector.

    A number has enough digits to read the same number again.
    """

    def block(self, records: Sequence[RowFields], vectors: NDArray[np.generic]) -> bytes:
        """Return a line for each record."""
        digits = _DIGITS.get(self.layout.dtype, "%d")
        lines = []
        for record, vector in zip(records, vectors.tolist(), strict=True):
            fields = {name: value for name, value in record.values().items() if name != EMBEDDING}
            start = _json_of(fields)[:-1] + (", " if fields else "")
            numbers = ", ".join([digits % number for number in vector])
            # Python's json module writes these names.
            numbers = numbers.replace("nan", "NaN").replace("inf", "Infinity")
            lines.append(f'{start}"{EMBEDDING}": [{numbers}]}}\n')
        # A lone surrogate cannot be written in UTF-8. It becomes an escape again, as in the input.
        return "".join(lines).encode("utf-8", "backslashreplace")


def _json_of(fields: Mapping[str, Any]) -> str:
    try:
        return json_line(fields)
    except TypeError as error:
        raise InputError(f"JSON cannot hold the records: {error}. Write .parquet or .npy") from error


class NpyFormat(Format):
    """An array of the shape (n, columns) in the format .npy."""

    def head(self, rows: int) -> bytes:
        """Return the header of the array. NumPy reserves space in it for any number of rows."""
        import numpy as np

        header = io.BytesIO()
        shape = (rows, self.layout.columns)
        fields = {"descr": self.layout.dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, fields)
        return header.getvalue()

    def block(self, records: Sequence[RowFields], vectors: NDArray[np.generic]) -> bytes:
        """Return the numbers of the vectors."""
        return vectors.astype(self.layout.dtype, copy=False).tobytes()
