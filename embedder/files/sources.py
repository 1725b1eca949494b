"""The texts of a job: of one file, of many, or of a program."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from embedder.common.records import frozen
from embedder.common.repeatable import Repeatable
from embedder.errors import InputError
from embedder.files.directories import files_below
from embedder.files.formats import JsonFields, RowFields
from embedder.files.inputs import (
    STDIO,
    Records,
    TextSource,
    input_format,
    open_parquet,
    open_records,
    read_files,
    text_of,
)
from embedder.files.journal import Coverage, Tally
from embedder.files.object_store import is_remote, list_remote
from embedder.files.outputs import PARQUET, is_directory
from embedder.files.row_stream import CountedRows, RowStream

GLOB_CHARACTERS = frozenset("*?[")
# The files of a directory. Names without an ending are left out.
_ENDINGS = (".txt", ".jsonl", ".ndjson", ".csv", ".tsv", ".tab", ".parquet", ".pq")


@frozen
class Texts:
    """The texts, or the images, of a job.

    Attributes:
        pairs: each text, with the fields of its record. A `Repeatable` can be read more than once.
        count: the number of texts. None if it is unknown before they are read.
        schema: the pyarrow.Schema of the records. None if it is unknown before they are read.
    """

    pairs: Iterable[tuple[str | Path, RowFields]]
    count: int | None
    schema: Any = None

    def rows(self) -> RowStream:
        """Return the inputs as a stream for the model."""
        return RowStream(self.pairs) if self.count is None else CountedRows(self.pairs, self.count)

    def coverage(self, done: Tally) -> Coverage:
        """Return which of these inputs a tally is of.

        Raises:
            OSError: an input cannot be read.
        """
        if not isinstance(self.pairs, Repeatable):
            return Coverage.UNKNOWN
        rows = RowStream(self.pairs)
        try:
            rows.skip(done)
        except InputError:
            return Coverage.OTHERS
        return Coverage.ALL if next(rows, None) is None and rows.error is None else Coverage.FIRST


def find_files(path: str) -> list[str]:
    """Return the files that a path names: itself; the files of a directory; or what a pattern such as *.csv finds.

    Raises:
        InputError: the directory or the pattern has no files, or files of several formats.
        OSError: a directory cannot be read.

    Example:
        >>> find_files("-")
        ['-']
    """
    if is_remote(path):
        if not (path.endswith("/") or GLOB_CHARACTERS & set(path)):
            return [path]
        found = list_remote(path, _ENDINGS)
        if not found:
            raise InputError(f"no file of texts has a name such as {path}")
    elif os.path.isdir(path):
        found = [str(file) for file in files_below(path, _ENDINGS, "files of texts")]
    elif path != STDIO and GLOB_CHARACTERS & set(path) and not os.path.lexists(path):
        found = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
        if not found:
            raise InputError(f"no file has a name such as {path}")
    else:
        return [path]
    formats = sorted({input_format(file) for file in found})
    if len(formats) > 1:
        raise InputError(
            f"{path} has files of several formats ({', '.join(formats)}). Choose by a pattern such as *.csv"
        )
    return found


def check_apart(path: str, found: list[str], output: str) -> None:
    """Raise InputError if an output would be read as an input, when the same command runs again.

    Args:
        path: what names the inputs.
        found: the files that it names.
        output: the file or the directory to write.

    Example:
        >>> check_apart("data", ["data/a.csv"], "vectors.npy")
    """
    place = _real(output)
    is_inside = is_directory(output)
    if is_inside and is_directory(path) and _is_below(place, _real(path)):
        raise InputError(f"{output} lies in the directory of the inputs. Choose another directory")
    if is_inside and any(_is_below(_real(file), place) for file in found):
        raise InputError(f"{output} has inputs of this run. Choose another directory")
    if len(found) > 1 and place in map(_real, found):
        raise InputError(f"{output} is also an input. Choose another name, or a pattern that leaves it out")


def _real(path: str) -> str:
    return path.rstrip("/") if is_remote(path) else os.path.realpath(path)


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip(os.sep) + os.sep)


@contextmanager
def open_sources(sources: list[TextSource], output_format: str) -> Iterator[Texts]:
    """Open files of texts, of one format, for one pass.

    Each regular file is checked first; see `open_records`.

    Args:
        sources: the files. Their texts follow each other.
        output_format: the format of the output. JSONL cannot hold all that Parquet can. The columns of Parquet have one
            type each, which is found before any text is encoded.

    Raises:
        InputError, OSError, DependencyError: as in `open_records`; or a column of Parquet does not fit the output.

    Example:
        >>> with open_sources([TextSource("notes.txt", "lines")], "npy") as texts:  # doctest: +SKIP
        ...     texts.count
        3
    """
    if sources[0].format == "parquet":
        yield _of_parquet(sources, output_format)
        return
    if len(sources) > 1:
        yield _of_records(read_files(sources), output_format)
        return
    with open_records(sources[0]) as records:
        yield _of_records(records, output_format)


def _of_records(records: Records, output_format: str) -> Texts:
    def pairs() -> Iterator[tuple[str | Path, RowFields]]:
        return ((record.text, JsonFields(record.fields)) for record in records.stream)

    if not isinstance(records.stream, Repeatable):
        return Texts(pairs(), records.count)
    again = Repeatable(pairs)
    return Texts(again, records.count, _schema_of(again, output_format))


def _schema_of(pairs: Iterable[tuple[str | Path, RowFields]], output_format: str) -> Any:
    """Return the types of all fields if the output is Parquet: all of its files should have the same."""
    if output_format != PARQUET:
        return None
    from embedder.files.record_tables import schema_of

    return schema_of(fields.values() for _, fields in pairs)


def _of_parquet(sources: list[TextSource], output_format: str) -> Texts:
    opened = [open_parquet(source) for source in sources]
    for each in opened:
        if output_format == "jsonl":
            each.check_json()
    schema = opened[0].schema
    if output_format == PARQUET and len(opened) > 1:
        from embedder.files.record_tables import unified_without_vectors

        schema = unified_without_vectors([each.schema for each in opened])
    text_only = output_format == "npy"
    pairs = Repeatable(lambda: chain.from_iterable(each.rows(text_only=text_only) for each in opened))
    return Texts(pairs, sum(each.count for each in opened), schema)


def texts_of_program(items: Iterable[str | Mapping[str, Any]], column: str, output_format: str) -> Texts:
    """Return the texts of a program. An item is a text, or a record with the text in the field `column`.

    Only a sequence is sure to give the same items again. What it has is checked for Parquet as a file is.

    Raises:
        InputError: a text is missing, is no string, or is not valid Unicode; or the name of a field is no string. The
            message says which one. It may come when the texts are read.

    Example:
        >>> [text for text, _ in texts_of_program(["a", {"text": "b", "id": 7}], "text", "npy").pairs]
        ['a', 'b']
    """
    count = len(items) if isinstance(items, Sized) else None
    if not isinstance(items, Sequence):
        return Texts(_texts_of(items, column), count)
    pairs = Repeatable(lambda: _texts_of(items, column))
    return Texts(pairs, count, _schema_of(pairs, output_format))


def _texts_of(items: Iterable[str | Mapping[str, Any]], column: str) -> Iterator[tuple[str, RowFields]]:
    for index, item in enumerate(items):
        fields = dict(item) if isinstance(item, Mapping) else {column: item}
        if other := [name for name in fields if not isinstance(name, str)]:
            raise InputError(f"inputs[{index}]: the name of a field should be a string, not {other[0]!r:.60}")
        yield text_of(fields, column, f"inputs[{index}]", "column="), JsonFields(fields)


def image_pairs(paths: Sequence[Path]) -> Iterable[tuple[str | Path, RowFields]]:
    """Return images with the fields of their records.

    Example:
        >>> [fields.values() for _, fields in image_pairs([Path("cat.png")])]
        [{'image': 'cat.png'}]
    """
    return Repeatable(lambda: ((path, ImageFields({"image": str(path)})) for path in paths))


class ImageFields(JsonFields):
    """The path of an image. An image that has changed is another one.

    Example:
        >>> ImageFields({"image": "cat.png"}).values()
        {'image': 'cat.png'}
    """

    __slots__ = ()

    def identity(self) -> bytes:
        """Return the path, and the size and the time of the file."""
        try:
            state = os.stat(self.values()["image"])
        except OSError:
            return super().identity()
        return super().identity() + f"{state.st_size} {state.st_mtime_ns}".encode()
