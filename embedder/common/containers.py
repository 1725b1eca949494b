"""Recognise containers that are not lists of texts or vectors, although Python can iterate over them."""

from __future__ import annotations

from collections.abc import Mapping

# Tables of pandas, polars, pyarrow and datasets have one of these attributes. Lists have none.
_TABLE_ATTRIBUTES = ("columns", "column_names")


def is_table(items: object) -> bool:
    """Return whether `items` is a table. Iteration over a table gives the names of its columns.

    Example:
        >>> is_table(["a text"])
        False
    """
    # Ask the type, not the object: a Series of pandas has its labels as attributes.
    return any(hasattr(type(items), name) for name in _TABLE_ATTRIBUTES)


def is_mapping(items: object) -> bool:
    """Return whether `items` is a mapping. Iteration over a mapping gives its keys.

    An object with the method `keys` is a mapping, as it is for `dict(...)`. The headers of an e-mail are an example. A
    Series of pandas has this method too, but it is an array.

    Example:
        >>> is_mapping({"a": "text"})
        True
    """
    kind = type(items)
    return isinstance(items, Mapping) or (hasattr(kind, "keys") and not hasattr(kind, "__array__"))


def is_file(items: object) -> bool:
    """Return whether `items` is an open file. Iteration over a file gives its lines with their line ends.

    Example:
        >>> is_file("a text")
        False
    """
    return any(callable(getattr(items, name, None)) for name in ("read", "readline"))
