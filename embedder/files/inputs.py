"""Read texts as lines, JSONL, CSV, TSV or Parquet.

Texts are read as a stream. A regular file is read twice. The first pass checks every record, so that a bad one is found
before hours of work. The second pass gives the records to encode.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, zip_longest
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from embedder.common.records import frozen
from embedder.common.repeatable import Repeatable
from embedder.errors import InputError
from embedder.files.object_store import is_remote, open_remote

if TYPE_CHECKING:
    from embedder.files.parquet import ParquetSource

Fields = dict[str, Any]

STDIO = "-"
DEFAULT_COLUMN = "text"
INPUT_FORMATS = ("lines", "jsonl", "csv", "tsv", "parquet")
_FORMATS_BY_ENDING = {
    "": "lines",
    ".txt": "lines",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_DELIMITERS = (",", ";", "\t", "|")
_DELIMITERS_BY_WORD = {"tab": "\t", "\\t": "\t"}
_MAX_FIELD_CHARACTERS = 2**31 - 1  # by default, Python refuses a field of more than 131,072 characters
_MAX_NAMES_SHOWN = 20
_JSON_SPACE = " \t\r\n"


class NotJsonError(InputError):
    """A line of a JSONL file is not JSON.

    Example:
        >>> str(NotJsonError("stdin, line 1 is not JSON"))
        'stdin, line 1 is not JSON'
    """


@frozen
class TextSource:
    """A file of texts.

    Attributes:
        path: the file; "-" is standard input.
        format: one of `INPUT_FORMATS`.
        column: the field of a record with its text. None is "text", or the only field that can be one. A file of lines
            has no fields, so there it is the name of the field that is made.
        delimiter: the character between the fields of a CSV or TSV file. None finds it in the header.
    """

    path: str
    format: str
    column: str | None = None
    delimiter: str | None = None

    @property
    def name(self) -> str:
        """The name of the source in messages."""
        return "stdin" if self.path == STDIO else self.path


class Record(NamedTuple):
    """A text of a file.

    Attributes:
        line: the number of the line where the record begins. The first is 1.
        text: the text.
        fields: all fields of the record, with the text.
        column: the name of the field with the text.
    """

    line: int
    text: str
    fields: Fields
    column: str


@frozen
class Records:
    """A stream of records.

    Attributes:
        stream: the records. Those of regular files and of Parquet are a `Repeatable`.
        count: the number of records. None if it is unknown before the stream is read.
    """

    stream: Iterable[Record]
    count: int | None


@contextmanager
def open_records(source: TextSource) -> Iterator[Records]:
    """Open `source` for one pass over its records.

    A regular file is checked first, so that this function raises the error of a bad record. A pipe can be read only
    once, so the error comes from the stream, after the records before it.

    Raises:
        InputError: a line is not UTF-8, does not have the format, or has no text. The message names the line.
        OSError: the file cannot be read.
    """
    if source.format == "parquet":
        opened = open_parquet(source)
        opened.check_json()
        yield Records(Repeatable(lambda: _records_of_parquet(opened)), opened.count)
        return
    with _open_input(source.path) as stream:
        if is_remote(source.path) or _is_regular(stream):
            start = stream.tell()
            again = Repeatable(lambda: _records_from(stream, start, source))
            yield Records(again, sum(1 for _ in again))
        else:
            yield Records(_records(stream, source), None)


def _records_of_parquet(opened: ParquetSource) -> Iterator[Record]:
    for number, (text, fields) in enumerate(opened.rows(), 1):
        yield Record(number, text, dict(fields.values()), opened.column)


def _records_from(stream: IO[bytes], start: int, source: TextSource) -> Iterator[Record]:
    stream.seek(start)
    yield from _records(stream, source)


def read_files(sources: list[TextSource]) -> Records:
    """Return the records of regular files, one file after the other. All are checked first, and one is open at a time.

    Raises:
        InputError, OSError: as in `open_records`.
    """
    again = Repeatable(lambda: _records_of_files(sources))
    return Records(again, sum(1 for _ in again))


def _records_of_files(sources: list[TextSource]) -> Iterator[Record]:
    for source in sources:
        with _open_input(source.path) as stream:
            yield from _records(stream, source)


def open_parquet(source: TextSource) -> ParquetSource:
    """Open a Parquet file, and check its texts to its end.

    Raises:
        InputError, OSError, DependencyError: as in `ParquetSource`; or the source is standard input.
    """
    from embedder.files.parquet import ParquetSource

    if source.path == STDIO:
        raise InputError("Parquet cannot be read from stdin, because its end is read first. Name the file")
    return ParquetSource(source.path, source.column)


def input_format(path: str) -> str:
    """Return the format of a file by the ending of its name. A name without an ending has the format "lines".

    Raises:
        InputError: the ending is unknown.
    """
    ending = Path(path).suffix.lower()
    if ending not in _FORMATS_BY_ENDING:
        choices = f"{', '.join(INPUT_FORMATS[:-1])} or {INPUT_FORMATS[-1]}"
        raise InputError(f"the name {path!r} does not show the input format. Add --input-format {choices}")
    return _FORMATS_BY_ENDING[ending]


def parse_delimiter(text: str) -> str:
    r"""Return the delimiter that the user gives: one character. "tab" and "\t" mean a tab.

    Raises:
        InputError: the text is longer, or the character has another meaning in CSV.
    """
    delimiter = _DELIMITERS_BY_WORD.get(text, text)
    if len(delimiter) != 1 or delimiter in '"\r\n \ufeff':
        raise InputError(f"--delimiter should be one character such as ; or the word tab, not {text!r:.60}")
    return delimiter


@contextmanager
def _open_input(path: str) -> Iterator[IO[bytes]]:
    if is_remote(path):
        with open_remote(path) as stream:
            yield stream
    elif path != STDIO:
        with open(path, "rb") as stream:
            yield stream
    elif sys.stdin is None:  # the caller has closed it
        raise InputError("stdin is closed")
    else:
        yield sys.stdin.buffer


def _is_regular(stream: IO[bytes]) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except OSError:  # the stream has no file descriptor
        return False


def _records(stream: IO[bytes], source: TextSource) -> Iterator[Record]:
    """Yield the records of `stream`, and raise InputError at the first bad one."""
    column = None
    for number, fields in _READERS[source.format](_decoded_lines(stream, source.name), source):
        column = column or source.column or _text_field(fields)
        yield Record(number, text_of(fields, column, f"{source.name}, line {number}"), fields, column)


def _text_field(fields: Fields) -> str:
    """Return the name of the field with the text: "text", or the only field with a string."""
    strings = [name for name, value in fields.items() if isinstance(value, str)]
    return strings[0] if len(strings) == 1 and DEFAULT_COLUMN not in fields else DEFAULT_COLUMN


def text_of(fields: Fields, column: str, line: str, option: str = "--column") -> str:
    """Return a text of a record. Raise InputError unless a model accepts it.

    In messages, `line` is the line of the record, and `option` is what chooses the column.
    """
    where = f"{line}: the column {column!r} is"
    if column not in fields:
        raise InputError(f"{where} missing. The line has {_listed(fields)}. Choose one with {option}")
    text = fields[column]
    if not isinstance(text, str):
        raise InputError(f"{where} not a string but {text!r:.60}")
    check_unicode(text, where)
    return text


def check_unicode(text: str, where: str) -> None:
    """Raise InputError if a text is not valid Unicode. The message begins with `where`, such as "the QUERY is"."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        surrogate = f"U+{ord(text[error.start]):04X} at character {error.start}"
        raise InputError(f"{where} not valid Unicode: it contains the lone surrogate {surrogate}") from error


def _listed(names: Iterable[str]) -> str:
    """Return a list of column names for a message. A long list is cut."""
    shown = [f"{name!r:.60}" for name in names]
    if not shown:
        return "no columns"
    more = len(shown) - _MAX_NAMES_SHOWN
    label = "the column" if len(shown) == 1 else "the columns"
    return f"{label} {', '.join(shown[:_MAX_NAMES_SHOWN])}" + (f" and {more} more" if more > 0 else "")


def _decoded_lines(stream: IO[bytes], name: str) -> Iterator[str]:
    """Yield the lines as text. Only a line feed ends a line, because a text may contain Python's other line breaks."""
    for number, line in enumerate(stream, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            reason = f"{error.reason} at byte {error.start}"
            if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                reason = "it looks like UTF-16"
            raise InputError(f"{name}, line {number} is not UTF-8: {reason}. Save the file as UTF-8") from error
        if text:  # a file with only a byte order mark has no line
            yield text


def _read_lines(lines: Iterator[str], source: TextSource) -> Iterator[tuple[int, Fields]]:
    for number, line in enumerate(lines, 1):
        yield number, {source.column or DEFAULT_COLUMN: line.removesuffix("\n").removesuffix("\r")}


def _read_jsonl(lines: Iterator[str], source: TextSource) -> Iterator[tuple[int, Fields]]:
    blank = None
    for number, line in enumerate(lines, 1):
        if not line.strip(_JSON_SPACE):
            blank = blank or number
            continue
        _check_no_blank(blank, source)
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            # The error's own text counts lines, too, and calls each line 1.
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise NotJsonError(f"{source.name}, line {number} is not JSON: {reason}") from error
        if not isinstance(record, dict):
            raise InputError(f"{source.name}, line {number} should be a JSON object, not {record!r:.60}")
        yield number, record


def _check_no_blank(blank: int | None, source: TextSource) -> None:
    """Raise InputError if `blank` is the number of a blank line. A record follows it, so a record may be missing."""
    if blank is not None:
        raise InputError(f"{source.name}, line {blank} is blank, and records follow. Remove the line")


def _read_csv(lines: Iterator[str], source: TextSource) -> Iterator[tuple[int, Fields]]:
    first = next(lines, None)
    if first is None:
        return
    delimiter = source.delimiter or _find_delimiter(first, source)
    rows = _csv_rows(chain([first], lines), delimiter, source.name)
    names, column = _column_names(next(rows)[1], delimiter, source)
    text_index = names.index(column)
    blank = None
    for number, row in rows:
        if not row and len(names) > 1:
            blank = blank or number
            continue
        _check_no_blank(blank, source)
        row = row or [""]  # with one column, a blank line is an empty text
        where = f"{source.name}, line {number} has {len(row)} field{'s' if len(row) > 1 else ''}"
        if len(row) > len(names):
            raise InputError(f"{where}, but the header has {len(names)}. Quote a field that contains {delimiter!r}")
        if len(row) <= text_index:
            raise InputError(f"{where}, but the header has {len(names)}. The column {column!r} is missing")
        yield number, dict(zip_longest(names, row))


def _csv_rows(lines: Iterable[str], delimiter: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the number of its first line. A row has several lines if a quoted field has line breaks."""
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    number = 1
    try:
        for row in reader:
            yield number, row
            number = reader.line_num + 1
    except csv.Error as error:
        reason = "a quoted field begins in it and never ends" if "unexpected end" in str(error) else error
        raise InputError(f"{name}, line {number} is not CSV: {reason}") from error


def _find_delimiter(header: str, source: TextSource) -> str:
    """Return the delimiter that gives the header the wanted column. The delimiter of the format is tried first.

    If no delimiter gives the column, the one that gives the most columns is returned. The error message then lists
    these columns.
    """
    own = "\t" if source.format == "tsv" else ","
    if header.count('"') % 2:  # a quoted name continues in the next line
        return own
    columns = {delimiter: _split_line(header, delimiter) for delimiter in (own, *_DELIMITERS)}
    wanted = source.column or DEFAULT_COLUMN
    found = [delimiter for delimiter, names in columns.items() if wanted in names]
    return found[0] if found else max(columns, key=lambda delimiter: len(columns[delimiter]))


def _split_line(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []


def _column_names(header: list[str], delimiter: str, source: TextSource) -> tuple[list[str], str]:
    """Return the names of the columns, and the one with the text. A column without a name is named by its number."""
    if not header:
        raise InputError(f"{source.name}, line 1 is blank. It should name the columns")
    names = [name or f"column {number}" for number, name in enumerate(header, 1)]
    repeated = [name for index, name in enumerate(names) if name in names[:index]]
    if repeated:
        raise InputError(f"{source.name}, line 1 names the column {repeated[0]!r:.60} twice. Rename one")
    column = source.column or (names[0] if len(names) == 1 else DEFAULT_COLUMN)
    if column not in names:
        raise InputError(
            f"{source.name}, line 1: the column {column!r} is missing. Split at {delimiter!r}, the header has "
            f"{_listed(names)}. Choose one with --column, or set --delimiter"
        )
    return names, column


_READERS: dict[str, Callable[[Iterator[str], TextSource], Iterator[tuple[int, Fields]]]] = {
    "lines": _read_lines,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "tsv": _read_csv,
}
