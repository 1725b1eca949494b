"""Records as tables of Arrow, and one type for each of their columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from embedder.errors import InputError
from embedder.files.arrow import import_arrow
from embedder.files.formats import EMBEDDING

_BLOCK_RECORDS = 1024


def table_of(records: Sequence[Mapping[str, Any]], arrow: Any) -> Any:
    """Return records as a pyarrow.Table. A field that a record does not have is null.

    Raises:
        InputError: a field has values that one column cannot hold. The message names it.

    Example:
        >>> table_of([{"n": 1}, {"n": 2.5}], pyarrow)["n"].to_pylist()  # doctest: +SKIP
        [1.0, 2.5]
    """
    names = list(dict.fromkeys(name for record in records for name in record))
    with holding(arrow):
        return arrow.table([_array([record.get(name) for record in records], name, arrow) for name in names], names)


def schema_of(records: Iterable[Mapping[str, Any]]) -> Any:
    """Return the pyarrow.Schema of all records, without old vectors. None if there are no records.

    Raises:
        InputError: the types of two records do not go together, or Arrow does not have them.
        DependencyError: pyarrow is not installed.

    Example:
        >>> schema_of([{"n": 1}, {"n": None}])  # doctest: +SKIP
        n: int64
    """
    arrow = import_arrow("Parquet")
    schema, stream = None, iter(records)
    while block := list(islice(stream, _BLOCK_RECORDS)):
        fields = [{name: value for name, value in record.items() if name != EMBEDDING} for record in block]
        found = table_of(fields, arrow).schema
        schema = found if schema is None else unified([schema, found], arrow)
    return schema


def unified_without_vectors(schemas: Sequence[Any]) -> Any:
    """Return one pyarrow.Schema for the files of all `schemas`, without their old vectors.

    Raises:
        InputError: two types of a column do not go together.
        DependencyError: pyarrow is not installed.

    Example:
        >>> unified_without_vectors([pyarrow.schema([("n", pyarrow.int32())])])  # doctest: +SKIP
        n: int32
    """
    arrow = import_arrow("Parquet")
    return unified([_without_vectors(schema) for schema in schemas], arrow)


def _without_vectors(schema: Any) -> Any:
    return schema.remove(schema.get_field_index(EMBEDDING)) if EMBEDDING in schema.names else schema


def unified(schemas: Sequence[Any], arrow: Any) -> Any:
    """Return one pyarrow.Schema for the tables of all `schemas`. A type may become wider.

    Raises:
        InputError: two types of a column do not go together.
    """
    with agreeing(arrow):
        return arrow.unify_schemas(schemas, promote_options="permissive")


@contextmanager
def agreeing(arrow: Any) -> Iterator[None]:
    """Turn an error about types that do not go together into an InputError."""
    try:
        yield
    except (arrow.ArrowInvalid, arrow.ArrowTypeError) as error:
        raise InputError(
            f"a column of Parquet has values of one type, and the records differ: {error}. Write .npy"
        ) from error


@contextmanager
def holding(arrow: Any, where: str = "") -> Iterator[None]:
    """Turn an error about values that Arrow or Parquet does not have into an InputError. It begins with `where`."""
    try:
        yield
    except (arrow.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise InputError(f"Parquet cannot hold the records: {where}{error}. Write .jsonl or .npy") from error


def fitted(table: Any, schema: Any, arrow: Any) -> Any:
    """Return a table with the columns of `schema`, in their order and of their types."""
    columns = [
        _cast(table.column(field.name), field.type, arrow)
        if field.name in table.schema.names
        else arrow.nulls(len(table), field.type)
        for field in schema
    ]
    return arrow.table(columns, schema=schema)


def _cast(column: Any, kind: Any, arrow: Any) -> Any:
    if column.type == kind:
        return column
    import pyarrow.compute

    # As in `_array`, whole numbers are rounded that float64 does not have.
    return column.cast(options=pyarrow.compute.CastOptions(kind, allow_float_truncate=True))


def _array(values: list[Any], name: str, arrow: Any) -> Any:
    with holding(arrow, f"the column {name!r:.60}: "):
        # pyarrow refuses whole numbers beyond 2**53 beside a fraction. JSON knows no such difference.
        numbers = [value for value in values if value is not None]
        if any(type(value) is float for value in numbers) and all(type(value) in (int, float) for value in numbers):
            return arrow.array([None if value is None else float(value) for value in values], arrow.float64())
        return arrow.array(values)
