"""Read texts from Parquet, and write vectors to it.

The blocks of a partial file are streams of Arrow, one after the other: a Parquet file cannot be read before its end is
written. They become the row groups of the Parquet file when all are there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from embedder.common.digests import sha256_of
from embedder.common.files import open_regular
from embedder.common.imports import import_optional
from embedder.errors import InputError
from embedder.files.arrow import (
    REQUIREMENT,
    check_text_column,
    first_null,
    import_arrow,
    is_string,
    schema_with,
    strings_of,
    vector_array,
    vector_field,
)
from embedder.files.formats import EMBEDDING, Format, Layout, RowFields
from embedder.files.journal import Job, Journal, Tally
from embedder.files.object_store import file_exists, is_remote, open_remote
from embedder.files.ranges import quantized, ranges_of
from embedder.files.record_tables import agreeing, fitted, holding, table_of, unified

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embedder.files.targets import Target

ENDINGS = (".parquet", ".pq")
# The key of the file's metadata that says how its vectors were made.
METADATA_KEY = b"embedder"
_BATCH_ROWS = 1024
# About the size of a row group that is written. Several copies of it are in memory at once.
_ROW_GROUP_BYTES = 32 << 20
# A file ends with the size of its footer, in four bytes, and "PAR1".
_TAIL_BYTES = 8
_TEXT = "text"
_NAME = "Parquet"


class ArrowFields(RowFields):
    """A row of a table of Arrow.

    Example:
        >>> ArrowFields(batch, 0, "a text", b"a.parquet").values()  # doctest: +SKIP
        {'id': 7, 'text': 'a text'}
    """

    __slots__ = ("_origin", "_text", "batch", "index")

    def __init__(self, batch: Any, index: int, text: str, origin: bytes) -> None:
        """Keep a row.

        Args:
            batch: the pyarrow.RecordBatch that has it.
            index: its place there.
            text: its text.
            origin: what identifies the file. It stands for the other columns.
        """
        self.batch, self.index, self._text, self._origin = batch, index, text, origin

    def values(self) -> Mapping[str, Any]:
        """Return the fields as Python's values."""
        return {name: column[self.index].as_py() for name, column in zip(self._names, self.batch.columns, strict=True)}

    @property
    def _names(self) -> list[str]:
        names: list[str] = self.batch.schema.names
        return names

    def identity(self) -> bytes:
        """Return the text, with what identifies the file."""
        return self._origin + self._text.encode()


class ParquetSource:
    """The rows of a Parquet file.

    Attributes:
        path: the file.
        count: the number of its rows.
        schema: the pyarrow.Schema of its columns.
        column: the name of the column with the texts.
    """

    def __init__(self, path: str, column: str | None) -> None:
        """Open a file, and check its column of texts to its end.

        Args:
            path: the file.
            column: the name of the column with the texts. None is "text", or the only column of strings.

        Raises:
            InputError: the file is no Parquet file, or has no such column, or a text is missing.
            OSError: the file cannot be read.
            DependencyError: pyarrow is not installed.
        """
        self.path = path
        with self._opened() as file:
            self.count: int = file.metadata.num_rows
            self.schema = file.schema_arrow
            self._origin = _digest_of_file(path)
            self.column = _text_column(self.schema, column, path)
            for _ in self._texts(file):
                pass

    def check_json(self) -> None:
        """Raise InputError if a column has values that JSON does not have."""
        for field in self.schema:
            if field.name != EMBEDDING and not _fits_json(field.type):
                raise InputError(
                    f"{self.path}: the column {field.name!r:.60} is of type {field.type}, which JSON does not have. "
                    "Write .parquet or .npy"
                )

    def rows(self, *, text_only: bool = False) -> Iterator[tuple[str, RowFields]]:
        """Yield the text and the fields of each row. With `text_only`, the other columns are not read."""
        with self._opened() as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[self.column] if text_only else None):
                texts = strings_of(batch.column(self.column), self.path)
                for index, text in enumerate(texts):
                    yield text, ArrowFields(batch, index, text, self._origin)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        parquet, invalid = _parquet(), _arrow().ArrowInvalid
        stream = _open_file(self.path)
        try:
            yield parquet.ParquetFile(stream)
        except invalid as error:
            raise InputError(f"{self.path} is not a Parquet file: {error}") from error
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise InputError(f"{self.path} cannot be read: {error}") from error  # pyarrow does not name the file
        finally:
            stream.close()

    def _texts(self, file: Any) -> Iterator[list[str]]:
        row = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[self.column]):
            column = batch.column(0)
            if (null := first_null(column)) is not None:
                raise InputError(f"{self.path}, row {row + null + 1}: the column {self.column!r:.60} is null")
            yield strings_of(column, self.path)
            row += len(column)


class ParquetFormat(Format):
    """A Parquet file: the columns of the input, and the vectors in the column "embedding", a list of a fixed size."""

    has_metadata = True

    def __init__(self, layout: Layout, schema: Any = None) -> None:
        """Describe a file.

        Args:
            layout: the size of the vectors.
            schema: the pyarrow.Schema of the input. None if its columns are known only from its records.

        Raises:
            DependencyError: pyarrow is not installed.
        """
        super().__init__(layout)
        self._arrow = _arrow()
        self._schema = None if schema is None else self._with_vectors(schema)
        if schema is not None:
            self._check_writable()

    def block(self, records: Sequence[RowFields], vectors: NDArray[np.generic]) -> bytes:
        """Return a stream of Arrow with the records and their vectors.

        Raises:
            InputError: a column has values of another type than before.
        """
        table = self._table(records)
        if EMBEDDING in table.schema.names:
            table = table.drop_columns([EMBEDDING])
        field = self._vector_field()
        table = table.append_column(field, vector_array(vectors, self.layout.of_blocks, field, self._arrow))
        self._unify(table.schema)
        stream = io.BytesIO()
        with holding(self._arrow), self._arrow.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
        return stream.getvalue()

    def reopen(self, stream: IO[bytes], journal: Journal) -> None:
        """Take the types of the columns from the blocks."""
        for _, schema in self._blocks(stream, journal, read=False):
            self._unify(schema)

    def close(self, partial: Path, journal: Journal) -> None:
        """Cut the partial file after its last block. It is no Parquet file yet."""
        with partial.open("r+b") as stream:
            stream.truncate(journal.end.size_bytes)

    def complete(self, target: Target, journal: Journal) -> Path:
        """Write the blocks as row groups of a Parquet file."""
        schema = self._schema or self._with_vectors(self._arrow.schema([(_TEXT, self._arrow.string())]))
        if self.layout.is_ranged and journal.end.rows == 1:
            raise InputError("int8 and uint8 need the ranges of several vectors, and there is one. Choose float32")
        with target.partial.open("rb") as stream:
            ranges = (
                ranges_of(table for table, _ in self._blocks(stream, journal, read=True))
                if self.layout.is_ranged
                else None
            )
            final = schema_with(schema, vector_field(self.layout, EMBEDDING, self._arrow))
            final = final.with_metadata({**(schema.metadata or {}), METADATA_KEY: _metadata(journal, ranges)})
            dictionary = [name for name in final.names if name != EMBEDDING]
            target.complete.unlink(missing_ok=True)  # a link in its place may lead to any file
            with (
                target.complete.open("xb") as whole,  # pyarrow takes no name that is not UTF-8
                _parquet().ParquetWriter(whole, final, use_dictionary=dictionary) as writer,
            ):
                for table in self._row_groups(stream, journal, schema):
                    group = quantized(table, self.layout, ranges, self._arrow) if self.layout.is_ranged else table
                    writer.write_table(group, row_group_size=max(1, len(group)))
        return target.complete

    def completed(self, target: Target, journal: Journal | None) -> tuple[Job, Tally] | None:
        """Return what the metadata of the file say. None if embedder has not written it, or it is a later shard."""
        if not file_exists(target.name):
            return None
        try:
            job, start, tally = read_tallies(target.name)
        except InputError:
            return None
        return (job, tally) if start == Tally() else None

    def _row_groups(self, stream: IO[bytes], journal: Journal, schema: Any) -> Iterator[Any]:
        waiting: list[Any] = []
        for table, _ in self._blocks(stream, journal, read=True):
            waiting.append(fitted(table, schema, self._arrow))
            if sum(each.nbytes for each in waiting) >= _ROW_GROUP_BYTES:
                yield self._arrow.concat_tables(waiting)
                waiting = []
        if waiting:
            yield self._arrow.concat_tables(waiting)

    def _blocks(self, stream: IO[bytes], journal: Journal, *, read: bool) -> Iterator[tuple[Any, Any]]:
        end = journal.start.size_bytes
        for block in journal.blocks:
            if block.size_bytes > end:  # all inputs of an empty block were unreadable
                stream.seek(end)
                with self._arrow.ipc.open_stream(stream.read(block.size_bytes - end)) as reader:
                    yield reader.read_all() if read else None, reader.schema
            end = block.size_bytes

    def _table(self, records: Sequence[RowFields]) -> Any:
        """Return the records as a table, without the vectors."""
        if not isinstance(records[0], ArrowFields):
            return table_of([record.values() for record in records], self._arrow)
        slices: list[Any] = []
        start = 0
        for row in range(1, len(records) + 1):
            first, last = records[start], records[row - 1]
            assert isinstance(first, ArrowFields)
            assert isinstance(last, ArrowFields)
            following = records[row] if row < len(records) else None
            if not isinstance(following, ArrowFields) or following.batch is not last.batch:
                slices.append(first.batch.slice(first.index, row - start))
                start = row
        tables = [self._arrow.Table.from_batches([each]) for each in slices]
        with agreeing(self._arrow):
            return self._arrow.concat_tables(tables, promote_options="permissive")

    def _vector_field(self) -> Any:
        return vector_field(self.layout.of_blocks, EMBEDDING, self._arrow)

    def _with_vectors(self, schema: Any) -> Any:
        return schema_with(schema, self._vector_field())

    def _unify(self, schema: Any) -> None:
        if self._schema is None:
            self._schema = schema
        elif not self._schema.equals(schema):
            self._schema = unified([self._schema, schema], self._arrow)
        else:
            return
        self._check_writable()

    def _check_writable(self) -> None:
        """Raise InputError if Parquet does not have the types of the columns: before the end of a long run."""
        with holding(self._arrow):
            _parquet().ParquetWriter(io.BytesIO(), self._schema).close()


def read_tallies(path: str) -> tuple[Job, Tally, Tally]:
    """Return how the vectors of a Parquet file were made, the inputs before it, and the inputs up to its end.

    Raises:
        InputError: it is no Parquet file that embedder wrote to its end.
        OSError: the file cannot be read.

    Example:
        >>> read_tallies("vectors/part-00000.parquet")[2].inputs  # doctest: +SKIP
        100352
    """
    try:
        with _open_file(path) as stream:
            metadata = _parquet().read_schema(stream).metadata or {}
        fields = json.loads(metadata[METADATA_KEY])
        return fields["job"], Tally(**fields["start"]), Tally(**fields["tally"])
    except (_arrow().ArrowInvalid, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} was not written by embedder. Choose another directory") from error


def _metadata(journal: Journal, ranges: NDArray[np.float32] | None) -> bytes:
    fields = {"job": journal.job, "start": asdict(journal.start.tally), "tally": asdict(journal.end.tally)}
    return json.dumps(fields if ranges is None else {**fields, "ranges": ranges.tolist()}).encode()


def _arrow() -> Any:
    return import_arrow(_NAME)


def _parquet() -> Any:
    return import_optional("pyarrow.parquet", needed_for=_NAME, requirement=REQUIREMENT)


def _open_file(path: str) -> BinaryIO:
    return open_remote(path) if is_remote(path) else open_regular(path)


def _digest_of_file(path: str) -> bytes:
    """Return a digest of a file. Of one in an object store, only its end is read.

    The end has the types, sizes, places and statistics of the columns. They may be the same though values differ.
    """
    if not is_remote(path):
        return bytes.fromhex(sha256_of(Path(path)))
    with _open_file(path) as stream:
        stream.seek(-_TAIL_BYTES, os.SEEK_END)
        size_bytes = int.from_bytes(stream.read(4), "little")
        stream.seek(-_TAIL_BYTES - size_bytes, os.SEEK_END)
        return hashlib.blake2b(stream.read(size_bytes), digest_size=16).digest()


def _text_column(schema: Any, wanted: str | None, path: str) -> str:
    """Return the name of the column with the texts.

    Raises:
        InputError: there is no such column, or two columns have the same name.
    """
    strings = [field.name for field in schema if is_string(field.type, _arrow())]
    column = wanted or (strings[0] if len(strings) == 1 and _TEXT not in schema.names else _TEXT)
    check_text_column(schema, column, path, "--column", _arrow())
    return column


def _fits_json(kind: Any) -> bool:
    types = _arrow().types
    if types.is_dictionary(kind):
        return _fits_json(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _fits_json(kind.value_type)
    if types.is_struct(kind):
        return all(_fits_json(field.type) for field in kind)
    plain = (types.is_boolean, types.is_integer, types.is_floating, types.is_null)
    return is_string(kind, _arrow()) or any(check(kind) for check in plain)
