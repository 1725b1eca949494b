"""Texts and vectors in tables of Arrow. What reads and writes Parquet uses it, and so do the jobs on clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from embedder.common.imports import import_optional
from embedder.errors import InputError
from embedder.files.formats import Layout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REQUIREMENT = "embedder-onnx[parquet]"
_MAX_NAMES_SHOWN = 20


def import_arrow(needed_for: str) -> Any:
    """Return pyarrow.

    Raises:
        DependencyError: it is not installed. The message begins with `needed_for`.

    Example:
        >>> import_arrow("the example").list_  # doctest: +SKIP
        <cyfunction list_>
    """
    return import_optional("pyarrow", needed_for=needed_for, requirement=REQUIREMENT)


def vector_field(layout: Layout, name: str, arrow: Any) -> Any:
    """Return the pyarrow.Field of vectors: a list of a fixed size.

    Args:
        layout: the size and the dtype of the vectors.
        name: the name of the column.
        arrow: pyarrow.

    Example:
        >>> vector_field(Layout("parquet", 384, "<f4"), "embedding", pyarrow)  # doctest: +SKIP
        pyarrow.Field<embedding: fixed_size_list<item: float>[384]>
    """
    kinds = {"<f4": arrow.float32(), "<f2": arrow.float16(), "|i1": arrow.int8(), "|u1": arrow.uint8()}
    return arrow.field(name, arrow.list_(kinds[layout.dtype], layout.columns))


def vector_array(vectors: NDArray[np.generic], layout: Layout, field: Any, arrow: Any) -> Any:
    """Return vectors (n, columns) as the pyarrow.Array of a field that `vector_field` made."""
    numbers = arrow.array(vectors.astype(layout.dtype, copy=False).reshape(-1))
    return arrow.FixedSizeListArray.from_arrays(numbers, type=field.type)


def schema_with(schema: Any, field: Any) -> Any:
    """Return a pyarrow.Schema with a field at its end. An older field of this name is left out."""
    if field.name in schema.names:
        schema = schema.remove(schema.get_field_index(field.name))
    return schema.append(field)


def check_text_column(schema: Any, column: str, place: str, option: str, arrow: Any) -> None:
    """Raise InputError if a column of texts cannot be read.

    Args:
        schema: the pyarrow.Schema of the table.
        column: the name of the column.
        place: what has the table, for the message.
        option: what chooses the column, for the message, such as "--column".
        arrow: pyarrow.
    """
    names: Sequence[str] = schema.names
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise InputError(f"{place} has the column {repeated[0]!r:.60} twice. Rename one")
    if column not in names:
        shown = ", ".join(f"{name!r:.60}" for name in names[:_MAX_NAMES_SHOWN]) or "none"
        raise InputError(
            f"{place}: the column {column!r:.60} is missing. Its columns are {shown}. Choose one with {option}"
        )
    if not is_string(schema.field(column).type, arrow):
        raise InputError(
            f"{place}: the column {column!r:.60} should have strings, but its type is {schema.field(column).type}"
        )


def is_string(kind: Any, arrow: Any) -> bool:
    """Return whether a type of Arrow is one of strings, with or without a dictionary.

    Example:
        >>> is_string(pyarrow.large_string(), pyarrow)  # doctest: +SKIP
        True
    """
    types = arrow.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return any(check(kind) for check in (types.is_string, types.is_large_string, types.is_string_view))


def first_null(column: Any) -> int | None:
    """Return the index of the first null in a column. None if it has none."""
    return int(column.is_null().to_pylist().index(True)) if column.null_count else None


def strings_of(column: Any, place: str) -> list[str]:
    """Return the strings of a column.

    Raises:
        InputError: a string is not valid UTF-8. The message begins with `place`.
    """
    try:
        texts: list[str] = column.to_pylist()
    except UnicodeDecodeError as error:
        raise InputError(f"{place} has a text that is not UTF-8: {error.reason}") from error
    return texts
