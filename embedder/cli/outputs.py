"""Write vectors to standard output, to a pipe or to a device. `embedder.files` writes files."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from embedder.common.counted import counted
from embedder.errors import InputError
from embedder.files.formats import Format, Layout, RowFields
from embedder.files.inputs import STDIO
from embedder.files.journal import Tally
from embedder.files.outputs import PARQUET, make_format

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Writer:
    """Writes vectors to a binary stream, block by block.

    Attributes:
        start: the inputs that are done when the writer is made: none.
        rows: the number of vectors in the stream at the end of the last complete block.
        size_bytes: the size of the stream there.
    """

    def __init__(self, stream: IO[bytes], format: Format) -> None:
        self._stream, self._format = stream, format
        self.start = Tally()
        self.rows = self.size_bytes = 0
        self._write(0, format.head(0))

    def add(self, records: Sequence[RowFields], vectors: NDArray[np.generic], tally: Tally) -> None:
        """Write a block of vectors (k, columns), each with its record."""
        self._write(len(records), self._format.block(records, vectors))

    def _write(self, rows: int, content: bytes) -> None:
        self._stream.write(content)
        self._stream.flush()
        self.rows += rows
        self.size_bytes += len(content)


def is_stream(path: str) -> bool:
    """Return whether an output is standard output, a pipe or a device. It cannot be replaced as a file can."""
    return path == STDIO or (os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path))


@contextmanager
def open_stream(path: str, layout: Layout) -> Iterator[Writer]:
    """Open a pipe or a device to write vectors. "-" is standard output.

    If the body of the `with` statement raises an error, the vectors before it are written. A note on the error says so.

    Raises:
        InputError: standard output is closed, or the format needs a file.
        OSError: a write fails.
    """
    if layout.format == PARQUET:
        raise InputError("Parquet is written to files only. Name one with --output")
    open_writer = _write_array if layout.format == "npy" else _write_lines
    if path != STDIO:
        with _open_device(path) as stream, open_writer(stream, layout, f"in {path}") as writer:
            yield writer
    elif sys.stdout is None:  # the caller has closed it
        raise InputError("stdout is closed")
    else:
        with open_writer(sys.stdout.buffer, layout, "on standard output") as writer:
            yield writer


@contextmanager
def _open_device(path: str) -> Iterator[IO[bytes]]:
    with open(path, "wb") as stream:
        try:
            yield stream
        except BaseException:
            with suppress(OSError):  # closing may fail again, but only the first error has the note
                stream.close()
            raise


def _note(error: BaseException, writer: Writer, place: str) -> None:
    """Add a note to `error` that says where the finished vectors are, if there are any."""
    if writer.rows:
        error.add_note(f"the finished vectors are kept: {counted(writer.rows, 'record')} {place}")


@contextmanager
def _write_lines(stream: IO[bytes], layout: Layout, place: str) -> Iterator[Writer]:
    writer = Writer(stream, make_format(layout))
    try:
        yield writer
    except BaseException as error:
        _note(error, writer, place)
        raise


@contextmanager
def _write_array(stream: IO[bytes], layout: Layout, place: str) -> Iterator[Writer]:
    """Write an array to a stream without seeking. The header has the number of rows, so the rows wait in a file."""
    with tempfile.TemporaryFile() as file:
        format = make_format(layout)
        writer = Writer(file, format)
        try:
            yield writer
        except BaseException as error:
            if writer.rows:
                _copy(writer, format, file, stream)
                _note(error, writer, place)
            raise
        _copy(writer, format, file, stream)


def _copy(writer: Writer, format: Format, file: IO[bytes], stream: IO[bytes]) -> None:
    """Copy the array in `file` to `stream`. If the stream cannot be written, keep the array in a temporary file."""
    file.truncate(writer.size_bytes)
    file.seek(0)
    file.write(format.head(writer.rows))
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
