"""Which objects are containers that cannot be meant as a list of texts or vectors, although Python can iterate them."""

from __future__ import annotations

from collections.abc import Mapping

# Attributes that tables have and lists have not: pandas, polars, pyarrow, datasets.
_TABLE_ATTRIBUTES = ("columns", "column_names")


def is_table(items: object) -> bool:
    """Return whether `items` is a table: to iterate it gives the names of its columns.

    Example:
        >>> is_table(["a text"])
        False
    """
    # The type is asked, as a Series of pandas has its labels as attributes.
    return any(hasattr(type(items), name) for name in _TABLE_ATTRIBUTES)


def is_mapping(items: object) -> bool:
    """Return whether `items` is a mapping: to iterate it gives its keys.

    As for `dict(...)`, an object with the method `keys` is one, such as the headers of an e-mail. A Series of pandas
    has the method too, but is an array.

    Example:
        >>> is_mapping({"a": "text"})
        True
    """
    kind = type(items)
    return isinstance(items, Mapping) or (hasattr(kind, "keys") and not hasattr(kind, "__array__"))


def is_file(items: object) -> bool:
    """Return whether `items` is an open file: to iterate it gives lines with their ends.

    Example:
        >>> is_file("a text")
        False
    """
    return any(callable(getattr(items, name, None)) for name in ("read", "readline"))
