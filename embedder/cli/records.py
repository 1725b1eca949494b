"""The command line's files: texts in as lines, JSONL or CSV; vectors out as .npy or JSONL. All of it streams."""

import csv
import io
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from embedder.errors import InputError
from embedder.images.sources import IMAGE_ENDINGS

Record = dict[str, Any]
Embedded = Iterable[tuple[list[Record], NDArray[np.float32]]]

STDIO = "-"

_KINDS_BY_ENDING = {"": "lines", ".txt": "lines", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}


def read_records(path: str, kind: str, column: str) -> Iterator[Record]:
    """The records of `path` ("-": standard input), each with a string under `column`.

    Raises:
        InputError: a line is not UTF-8, not of `kind`, or without that string; the message names it.
        OSError: the file cannot be read.
    """
    name = "stdin" if path == STDIO else path
    with _open_input(path) as stream:
        for number, record in _READERS[kind](_decoded_lines(stream, name), name, column):
            if not isinstance(record.get(column), str):
                found = f"not a string but {record[column]!r:.60}" if column in record else "missing"
                raise InputError(f"{name}, line {number}: the column {column!r} is {found}")
            yield record


def image_files(directory: str) -> list[Path]:
    """The images in `directory` and below, by the endings of their names, in the order of their paths.

    Links to directories are not followed. A link that leads nowhere counts, so that it is not passed over in silence.

    Raises:
        InputError: it is no directory, or there are none in it.
    """
    if not os.path.isdir(directory):
        raise InputError(f"{directory} is not a directory")
    named = (path for path in Path(directory).rglob("*") if path.suffix.lower() in IMAGE_ENDINGS)
    files = sorted(path for path in named if path.is_file() or not path.exists())
    if not files:
        raise InputError(f"there are no images in {directory}: their names would end in {', '.join(IMAGE_ENDINGS)}")
    return files


def input_kind(path: str) -> str:
    """The kind of an input file by the ending of its name; lines where it has none."""
    ending = Path(path).suffix.lower()
    if ending not in _KINDS_BY_ENDING:
        raise InputError(f"what is in {path!r}? Say --input-format {', '.join(INPUT_KINDS[:-1])} or {INPUT_KINDS[-1]}")
    return _KINDS_BY_ENDING[ending]


def output_kind(path: str) -> str:
    """The kind of an output file by the ending of its name; JSONL for standard output."""
    kind = "jsonl" if path == STDIO else Path(path).suffix.lower().removeprefix(".")
    if kind not in WRITERS:
        raise InputError(f"what to write to {path!r}? End its name in .npy or .jsonl, or give --output-format")
    return kind


@contextmanager
def open_output(path: str) -> Iterator[IO[bytes]]:
    """A file, or standard output, to write to; a file appears under its name only once it is whole."""
    if path == STDIO:
        stdout = _opened(sys.stdout, "stdout")
        yield stdout
        stdout.flush()
    elif os.path.exists(path) and not os.path.isfile(path):  # a pipe or a device cannot be replaced
        with open(path, "wb") as stream:
            yield stream
    else:
        target = os.path.realpath(path)
        if not os.path.isdir(os.path.dirname(target)):
            raise InputError(f"{path} cannot be written: {os.path.dirname(target)} is not a directory")
        with _replacing(target) as stream:
            yield stream


@contextmanager
def _replacing(target: str) -> Iterator[IO[bytes]]:
    # A name of its own, as two processes may write to one target; the last to finish wins, with a whole file.
    directory, name = os.path.split(target)
    partial = os.path.join(directory, f".{name}.{secrets.token_hex(4)}")
    with open(partial, "xb") as stream:
        try:
            yield stream
            stream.flush()
            if os.path.exists(target):
                shutil.copymode(target, partial)
            os.replace(partial, target)
        except BaseException:
            os.unlink(partial)
            raise


def _opened(stream: Any, name: str) -> Any:
    """The bytes of a standard stream, which Python leaves out where the caller has closed it."""
    if stream is None:
        raise InputError(f"{name} is closed")
    return stream.buffer


def write_jsonl(stream: IO[bytes], embedded: Embedded, dimension: int) -> None:
    """Each record on a line, with its vector under `embedding`, in 9 digits: as many as float32 needs."""
    for records, vectors in embedded:
        for record, vector in zip(records, vectors.tolist(), strict=True):
            fields = {name: value for name, value in record.items() if name != "embedding"}
            head = json.dumps(fields, ensure_ascii=False)[:-1] + (", " if fields else "")
            line = f'{head}"embedding": [{", ".join(["%.9g" % number for number in vector])}]}}\n'
            # Lone surrogates, which JSON can hold and UTF-8 cannot, become the escapes that they were.
            stream.write(line.encode("utf-8", "backslashreplace"))
        stream.flush()


def write_npy(stream: IO[bytes], embedded: Embedded, dimension: int) -> None:
    """One float32 array of shape (n, dimension) in NumPy's format."""
    # Standard output may be shared, or appended to by `>>`: going back in it is unsafe though it may say that it can.
    if stream is getattr(sys.stdout, "buffer", None) or not stream.seekable():
        with tempfile.TemporaryFile() as file:
            write_npy(file, embedded, dimension)
            file.seek(0)
            shutil.copyfileobj(file, stream)
        return
    start = stream.tell()
    _write_npy_header(stream, 0, dimension)
    count = 0
    for _, vectors in embedded:
        stream.write(np.ascontiguousarray(vectors, "<f4").data)
        count += len(vectors)
    # The header has room for any number of rows, so that its length does not depend on it.
    stream.seek(start)
    _write_npy_header(stream, count, dimension)
    stream.seek(0, io.SEEK_END)


def _write_npy_header(stream: IO[bytes], rows: int, dimension: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dimension)}
    np.lib.format.write_array_header_1_0(stream, header)


WRITERS: dict[str, Callable[[IO[bytes], Embedded, int], None]] = {"jsonl": write_jsonl, "npy": write_npy}


@contextmanager
def _open_input(path: str) -> Iterator[IO[bytes]]:
    if path == STDIO:
        yield _opened(sys.stdin, "stdin")
        return
    with open(path, "rb") as stream:
        yield stream


def _decoded_lines(stream: IO[bytes], name: str) -> Iterator[str]:
    """Lines end at a line feed alone, as text may hold the other characters that Python would split at."""
    for number, line in enumerate(stream, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{name}, line {number} is not UTF-8: {error.reason} at byte {error.start}") from error


def _read_lines(lines: Iterator[str], name: str, column: str) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(lines, 1):
        yield number, {column: line.removesuffix("\n").removesuffix("\r")}


def _read_jsonl(lines: Iterator[str], name: str, column: str) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}, line {number} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise InputError(f"{name}, line {number} should be a JSON object, not {record!r:.60}")
        yield number, record


def _read_csv(lines: Iterator[str], name: str, column: str) -> Iterator[tuple[int, Record]]:
    csv.field_size_limit(2**31 - 1)  # the default refuses texts past 128 kB
    reader = csv.DictReader(lines, strict=True)
    try:
        for record in reader:
            if None in record:
                raise InputError(f"{name}, line {reader.line_num} has more fields than the header")
            yield reader.line_num, record
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num + 1} is not CSV: {error}") from error


_READERS: dict[str, Callable[[Iterator[str], str, str], Iterator[tuple[int, Record]]]] = {
    "lines": _read_lines,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
}
INPUT_KINDS = tuple(_READERS)
