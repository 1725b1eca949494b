"""Read a collection of texts, each with the place where it stands: a file of records, or the text files of a directory.

A record of a file is one text. A file of a directory is cut into pieces that the model can read.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from embedder.cli.console import say
from embedder.common.counted import counted
from embedder.common.files import open_regular
from embedder.common.progress import is_watched, progress_bar
from embedder.common.records import frozen
from embedder.errors import InputError
from embedder.files.directories import files_below
from embedder.files.inputs import (
    INPUT_FORMATS,
    STDIO,
    TextSource,
    input_format,
    open_records,
    parse_delimiter,
)

if TYPE_CHECKING:
    from embedder import Embedder

TEXT_ENDINGS = (".adoc", ".markdown", ".md", ".org", ".rst", ".tex", ".text", ".txt")


class Entry(NamedTuple):
    """A text of a collection.

    Attributes:
        id: where the text begins: "FILE:LINE" for a record, "FILE:LINE:COLUMN" for a piece of a file. In an index that
            a program has made, it is the program's own id.
        text: the text.
        metadata: the other fields of a record. Of a piece, its file, and the offsets where it starts and ends.
    """

    id: str | int
    text: str
    metadata: dict[str, Any]


@frozen
class Entries:
    """The texts of a collection.

    Attributes:
        entries: the texts that are not blank.
        unreadable_count: the number of files that could not be read. A warning was printed for each.
    """

    entries: list[Entry]
    unreadable_count: int = 0

    def check_complete(self) -> None:
        """Raise InputError if a file could not be read. Call it at the end of a command."""
        if self.unreadable_count:
            files = counted(self.unreadable_count, "file")
            raise InputError(f"{files} cannot be read, see the warnings. The result is of the others")


def add_format_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup, column: str) -> None:
    """Add the options that describe a file of texts. `column` says in the help which field has the text by default."""
    parser.add_argument("--input-format", choices=INPUT_FORMATS, help="default: by the file name")
    parser.add_argument("--column", metavar="NAME", help=f"the field of a record with the text; default: {column}")
    parser.add_argument("--delimiter", metavar="CHAR", help="the delimiter of CSV fields; default: found in the header")


def text_source(
    options: argparse.Namespace, path: str, column: str | None, *, stdin_format: str = "lines"
) -> TextSource:
    """Return the file of texts `path`, with the options of `add_format_options`.

    Raises:
        InputError: the name does not show the format, or an option does not fit the format.
    """
    format = options.input_format or (stdin_format if path == STDIO else input_format(path))
    if options.delimiter is None:
        return TextSource(path, format, column)
    if format not in ("csv", "tsv"):
        raise InputError(f"--delimiter is for csv and tsv, but the input format is {format}")
    return TextSource(path, format, column, parse_delimiter(options.delimiter))


def read_collection(options: argparse.Namespace, path: str, load: Callable[[], Embedder]) -> tuple[Embedder, Entries]:
    """Read the texts of a file or of a directory, and load the model by `load`.

    A file is checked to its end before the model is loaded.

    Raises:
        InputError: there are no texts, a record is wrong, or an option does not fit.
        OSError: a file or a directory cannot be read.
    """
    if os.path.isdir(path):
        refuse_options(options, ("input_format", "column", "delimiter"), "a directory")
        files = files_below(path, TEXT_ENDINGS, "text files")
        model = load()
        found = _pieces_of_files([_as_text(str(file)) for file in files], model)
    else:
        if path != STDIO:
            os.stat(path)  # a file that is not there has no format either
        entries = list(_records_of_file(text_source(options, path, options.column)))
        found, model = Entries(entries), load()
    return model, _without_blank(found, path)


def refuse_options(options: argparse.Namespace, names: tuple[str, ...], collection: str) -> None:
    """Raise InputError if one of the options is set: it has no effect on a collection of this kind."""
    for name in names:
        if getattr(options, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} cannot be used with {collection}")


def _without_blank(found: Entries, path: str) -> Entries:
    """Leave out texts of white space. A note says how many there are."""
    entries = [entry for entry in found.entries if entry.text.strip()]
    blank_count = len(found.entries) - len(entries)
    if blank_count:
        say(f"note: {counted(blank_count, 'empty text')} left out")
    if not entries and not found.unreadable_count:
        raise InputError(f"there are no texts in {path}")
    return Entries(entries, found.unreadable_count)


def _records_of_file(source: TextSource) -> Iterator[Entry]:
    with open_records(source) as records:
        for record in records.stream:
            others = {name: value for name, value in record.fields.items() if name != record.column}
            yield Entry(place_of(source, record.line), record.text, others)


def place_of(source: TextSource, line: int) -> str:
    """Return the id of a record: the file, and the line where the record begins.

    Example:
        >>> place_of(TextSource("notes.txt", "lines"), 7)
        'notes.txt:7'
    """
    return f"{_as_text(source.name)}:{line}"


def _as_text(path: str) -> str:
    """Return a path as valid Unicode. Bytes of a name that are not UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _pieces_of_files(paths: list[str], model: Embedder) -> Entries:
    """Cut the files into pieces that the model can read. A file that cannot be read is reported and left out."""
    entries: list[Entry] = []
    unreadable_count = 0
    with progress_bar(len(paths), "file", "Reading", shown=is_watched()) as bar:
        for path in paths:
            try:
                entries += list(_pieces(path, _read_text(path), model))
            except (InputError, OSError) as error:
                say(f"warning: {path}: {getattr(error, 'strerror', None) or error}")
                unreadable_count += 1
            bar.update(1)
    return Entries(entries, unreadable_count)


def _read_text(path: str) -> str:
    with open_regular(path) as stream:
        content = stream.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"it is not UTF-8: {error.reason} at byte {error.start:,}. Save it as UTF-8") from error


def _pieces(path: str, text: str, model: Embedder) -> Iterator[Entry]:
    """Yield the pieces of the text of a file. A column counts from 1, in characters."""
    line, line_start, seen = 1, 0, 0
    for chunk in model.chunks(text):
        line += text.count("\n", seen, chunk.start)
        line_start = text.rfind("\n", seen, chunk.start) + 1 or line_start
        seen = chunk.start
        column = chunk.start - line_start + 1
        metadata = {"file": path, "start": chunk.start, "end": chunk.end}
        yield Entry(f"{path}:{line}:{column}", chunk.text, metadata)
