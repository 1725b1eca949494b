"""Write the output of `embedder encode`: vectors in the formats .npy and JSONL, as a stream.

A file appears under its name only when it is complete. If the command ends early, the finished vectors are kept. Those
of a file are in `NAME.partial` in the same directory. Those of a pipe have been written to the pipe.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import IO, TYPE_CHECKING

from embedder.cli.console import counted, json_line
from embedder.cli.inputs import STDIO, Fields
from embedder.common.files import file_to_replace, replacing
from embedder.common.records import frozen
from embedder.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PRECISIONS = ("float32", "binary", "ubinary")
_DTYPES = {"float32": "<f4", "binary": "|i1", "ubinary": "|u1"}


@frozen
class Layout:
    """The format and the size of the vectors to write.

    Attributes:
        format: "npy" or "jsonl".
        columns: the count of numbers in a row.
        dtype: the dtype of a number, as NumPy writes it in a file, such as "<f4".
    """

    format: str
    columns: int
    dtype: str

    @classmethod
    def of(cls, format: str, dimension: int, precision: str) -> Layout:
        """Return the layout of vectors with `dimension` numbers. A byte of a binary vector has eight of them."""
        columns = dimension if precision == "float32" else -(-dimension // 8)
        return cls(format, columns, _DTYPES[precision])


@frozen
class Written:
    """The number of rows, and the number of bytes, that have reached a stream."""

    rows: int
    size_bytes: int


class Writer(ABC):
    """Writes vectors to a binary stream, block by block.

    Attributes:
        written: the size of the stream at the end of the last complete block.
    """

    def __init__(self, stream: IO[bytes], layout: Layout) -> None:
        self._stream, self._layout = stream, layout
        self.written = Written(0, 0)
        self._write(0, self.head(0))

    def add(self, records: Sequence[Fields], vectors: NDArray[np.generic]) -> None:
        """Write a block of vectors (k, columns), each with its record."""
        self._write(len(records), self._block(records, vectors))

    @abstractmethod
    def head(self, rows: int) -> bytes:
        """Return the bytes before the first row of `rows` rows. Their length does not depend on `rows`."""

    @abstractmethod
    def _block(self, records: Sequence[Fields], vectors: NDArray[np.generic]) -> bytes: ...

    def _write(self, rows: int, content: bytes) -> None:
        self._stream.write(content)
        self._stream.flush()
        self.written = Written(self.written.rows + rows, self.written.size_bytes + len(content))


class JsonlWriter(Writer):
    """Writes each record as a line of JSON. The field "embedding" has its vector.

    A number has 9 digits, which is enough to read the same float32 again.
    """

    def head(self, rows: int) -> bytes:
        """Return nothing: JSONL has no header."""
        return b""

    def _block(self, records: Sequence[Fields], vectors: NDArray[np.generic]) -> bytes:
        digits = "%.9g" if vectors.dtype.kind == "f" else "%d"
        lines = []
        for record, vector in zip(records, vectors.tolist(), strict=True):
            fields = {name: value for name, value in record.items() if name != "embedding"}
            start = json_line(fields)[:-1] + (", " if fields else "")
            numbers = ", ".join([digits % number for number in vector])
            # Python's json module writes these names.
            numbers = numbers.replace("nan", "NaN").replace("inf", "Infinity")
            lines.append(f'{start}"embedding": [{numbers}]}}\n')
        # A lone surrogate cannot be written in UTF-8. It becomes an escape again, as in the input.
        return "".join(lines).encode("utf-8", "backslashreplace")


class NpyWriter(Writer):
    """Writes an array of the shape (n, columns) in the format .npy."""

    def head(self, rows: int) -> bytes:
        """Return the header of the array. NumPy reserves space in it for any number of rows."""
        import numpy as np

        header = io.BytesIO()
        shape = (rows, self._layout.columns)
        fields = {"descr": self._layout.dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, fields)
        return header.getvalue()

    def _block(self, records: Sequence[Fields], vectors: NDArray[np.generic]) -> bytes:
        return vectors.astype(self._layout.dtype, copy=False).tobytes()


_WRITERS: dict[str, type[Writer]] = {"jsonl": JsonlWriter, "npy": NpyWriter}
OUTPUT_FORMATS = tuple(_WRITERS)


def output_format(path: str) -> str:
    """Return the format of an output file by the ending of its name. Standard output has the format "jsonl".

    Raises:
        InputError: the ending is unknown.
    """
    found = "jsonl" if path == STDIO else Path(path).suffix.lower().removeprefix(".")
    if found not in OUTPUT_FORMATS:
        raise InputError(
            f"the name {path!r} does not show the output format. Let it end in .npy or .jsonl, or add --output-format"
        )
    return found


@contextmanager
def open_output(path: str, layout: Layout) -> Iterator[Writer]:
    """Open the file `path` to write vectors. "-" is standard output.

    If the body of the `with` statement raises an error, the written vectors are kept. A note on the error says where.

    Raises:
        InputError: standard output is closed, or the file cannot be created.
        OSError: a write fails.
    """
    if path == STDIO:
        if sys.stdout is None:  # the caller has closed it
            raise InputError("stdout is closed")
        with _OPEN_STREAM[layout.format](sys.stdout.buffer, layout, "on standard output") as writer:
            yield writer
    elif os.path.exists(path) and not os.path.isfile(path):  # a pipe or a device cannot be replaced
        with _open_device(path) as stream, _OPEN_STREAM[layout.format](stream, layout, f"in {path}") as writer:
            yield writer
    else:
        with _write_file(file_to_write(path), layout) as writer:
            yield writer


def file_to_write(path: str) -> Path:
    """Return the file that `path` names or links to. Call it before long work: it finds what would stop its end.

    Raises:
        InputError: the file cannot be created or replaced.
    """
    try:
        return file_to_replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def _open_device(path: str) -> Iterator[IO[bytes]]:
    with open(path, "wb") as stream:
        try:
            yield stream
        except BaseException:
            with suppress(OSError):  # closing may fail again, but only the first error has the note
                stream.close()
            raise


@contextmanager
def _write_file(target: Path, layout: Layout) -> Iterator[Writer]:
    with _replacing(target) as partial:
        writer = None
        try:
            with partial.open("xb") as stream:
                writer = _WRITERS[layout.format](stream, layout)
                yield writer
            _finish(partial, writer)
        except BaseException as error:
            if writer is not None and writer.written.rows:
                _keep(partial, writer, target, error)
            raise


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            partial = stack.enter_context(replacing(target))
        except OSError as error:
            raise InputError(f"{target} cannot be written: {error.strerror}") from error
        yield partial


def _finish(path: Path, writer: Writer) -> None:
    """Remove the bytes after the last complete block, and write a header with the number of rows."""
    with path.open("r+b") as stream:
        stream.truncate(writer.written.size_bytes)
        stream.write(writer.head(writer.written.rows))


def _keep(partial: Path, writer: Writer, target: Path, error: BaseException) -> None:
    """Rename the temporary file to a name that says that it is partial, and add a note with this name to `error`."""
    try:
        _finish(partial, writer)
        if target.is_file():
            shutil.copymode(target, partial)
        kept = _unused_name(target)
        partial.rename(kept)
    except OSError as reason:
        error.add_note(f"the finished vectors cannot be kept: {reason}")
    else:
        _note(error, writer, f"in {kept}")


def _unused_name(target: Path) -> Path:
    """Return `NAME.partial`. If this file exists, add a number, because the file may be the result of hours of work."""
    names = (target.with_name(f"{target.name}.partial{number}") for number in chain([""], count(2)))
    return next(name for name in names if not os.path.lexists(name))


def _note(error: BaseException, writer: Writer, place: str) -> None:
    """Add a note to `error` that says where the finished vectors are, if there are any."""
    rows = writer.written.rows
    if rows:
        error.add_note(f"the finished vectors are kept: {counted(rows, 'record')} {place}")


@contextmanager
def _write_lines(stream: IO[bytes], layout: Layout, place: str) -> Iterator[Writer]:
    writer = JsonlWriter(stream, layout)
    try:
        yield writer
    except BaseException as error:
        _note(error, writer, place)
        raise


@contextmanager
def _write_array(stream: IO[bytes], layout: Layout, place: str) -> Iterator[Writer]:
    """Write an array to a stream without seeking. The header has the number of rows, so the rows wait in a file."""
    with tempfile.TemporaryFile() as file:
        writer = NpyWriter(file, layout)
        try:
            yield writer
        except BaseException as error:
            if writer.written.rows:
                _copy(writer, file, stream)
                _note(error, writer, place)
            raise
        _copy(writer, file, stream)


def _copy(writer: Writer, file: IO[bytes], stream: IO[bytes]) -> None:
    """Copy the array in `file` to `stream`. If the stream cannot be written, keep the array in a temporary file."""
    file.truncate(writer.written.size_bytes)
    file.seek(0)
    file.write(writer.head(writer.written.rows))
    file.seek(0)
    try:
        shutil.copyfileobj(file, stream)
        stream.flush()
    except BrokenPipeError:  # the reader does not want the rest
        raise
    except OSError as error:
        file.seek(0)
        with tempfile.NamedTemporaryFile(suffix=".npy", delete=False) as kept:
            shutil.copyfileobj(file, kept)
        _note(error, writer, f"in {kept.name}")
        raise


_OPEN_STREAM = {"jsonl": _write_lines, "npy": _write_array}
