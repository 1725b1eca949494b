"""Turn what callers pass as embeddings into NumPy arrays, or refuse it with a message that says what to pass."""

from __future__ import annotations

from array import array as number_array
from collections.abc import Set
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.containers import is_mapping, is_table
from embedder.errors import InputError

# This many float32 numbers (512 kB) fit in the cache of one core, so that several passes over them are fast.
_CACHED_NUMBERS = 1 << 17


def as_embeddings(embeddings: ArrayLike, name: str = "embeddings") -> NDArray[np.generic]:
    """Return `embeddings` as an array of shape (n, dim). One vector of shape (dim,) becomes one row.

    Arrays keep their dtype, lists become float32. A column of vectors (a Series of pandas or polars, an array of
    pyarrow, an object array) is stacked.

    Raises:
        InputError: they have another shape, or are not real numbers. The message calls them `name`.

    Example:
        >>> as_embeddings([1.0, 2.0]).shape
        (1, 2)
    """
    return np.atleast_2d(as_vectors(embeddings, name))


def as_vectors(embeddings: ArrayLike, name: str = "embeddings") -> NDArray[np.generic]:
    """Return `embeddings` as `as_embeddings` does, but keep one vector in the shape (dim,).

    Raises:
        InputError: see `as_embeddings`.

    Example:
        >>> as_vectors([1.0, 2.0]).shape
        (2,)
    """
    array = as_numbers(embeddings, name)
    if isinstance(embeddings, list | tuple):
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
        if array.shape == (0,):  # an empty list holds no vectors
            return array.reshape(0, 0)
    if array.ndim not in (1, 2):
        raise InputError(f"{name} should be (n, dim) or (dim,), not {array.shape}")
    return array


def as_numbers(embeddings: ArrayLike, name: str) -> NDArray[np.generic]:
    """Return `embeddings` as an array of real numbers, in the dtype that NumPy gives them.

    Raises:
        InputError: they are not real numbers.
    """
    refuse_container(embeddings, name, "an array of numbers")
    array = to_array(embeddings, name)
    if array.dtype.kind == "O" and array.ndim == 1:
        array = _stack(array, name)
    if array.dtype.kind not in "fiub":
        # NumPy makes an array without a dimension of what it does not know.
        found = type(embeddings).__name__ if array.dtype.kind == "O" and not array.ndim else array.dtype
        raise InputError(f"{name} should be numbers, not {found}")
    return array


def to_array(items: Any, name: str) -> NDArray[Any]:
    """Return `items` as NumPy reads them.

    Raises:
        InputError: NumPy cannot read them, for example lists of different lengths, or a tensor on a GPU.
    """
    try:
        return np.asarray(items)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name} should be numbers: {error}") from error


def _stack(column: NDArray[np.object_], name: str) -> NDArray[np.generic]:
    """Return an object array of vectors as one array of shape (n, dim)."""
    rows: list[NDArray[np.generic]] = []
    for index, item in enumerate(column):
        try:
            row = np.asarray(item)
        except ValueError:
            row = np.empty((0, 0))
        if row.ndim != 1 or row.dtype.kind not in "fiub":
            raise InputError(f"{name}[{index}] should be a vector of numbers, not {item!r:.80}")
        if rows and len(row) != len(rows[0]):
            raise InputError(f"{name}[{index}] has {len(row)} numbers, but {name}[0] has {len(rows[0])}")
        rows.append(row)
    return np.stack(rows) if rows else np.empty((0, 0), np.float32)


def refuse_container(items: object, name: str, expected: str, column: str = "vector") -> None:
    """Refuse a table, a mapping, a set and bytes. NumPy would read their keys, column names or bytes as the items.

    Args:
        items: what the caller gave.
        name: what the message calls them.
        expected: what the message says that they should be.
        column: the name of the column in the message for a table.

    Raises:
        InputError: `items` is such a container. The message has a hint.
    """
    if isinstance(items, np.ndarray | list):  # the usual case comes before the slower checks
        return
    if is_table(items):
        hint = f'pass one column, such as table["{column}"]'
    elif is_mapping(items):
        hint = "pass its values, as in list(mapping.values())"
    elif isinstance(items, Set):
        hint = "a set has no order; pass a list"
    elif isinstance(items, bytes | bytearray | memoryview):
        hint = "decode it, as in data.decode() for a text, or np.frombuffer(data, np.float32) for vectors"
    elif isinstance(items, number_array) and items.typecode in ("u", "w"):
        hint = "pass a string, as in items.tounicode()"
    else:
        return
    raise InputError(f"{name} should be {expected}, not a {type(items).__name__}: {hint}")


def matching_embeddings(
    a: ArrayLike, b: ArrayLike, names: tuple[str, str] = ("embeddings", "embeddings")
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Return `a` and `b` as `as_embeddings` does. If one of them is empty, it gets the dimension of the other.

    Raises:
        InputError: see `as_embeddings`. Also if the dimensions differ.
    """
    rows_a, rows_b = as_embeddings(a, names[0]), as_embeddings(b, names[1])
    if not len(rows_a):
        rows_a = np.zeros((0, rows_b.shape[1]), np.float32)
    if not len(rows_b):
        rows_b = np.zeros((0, rows_a.shape[1]), np.float32)
    if rows_a.shape[1] != rows_b.shape[1]:
        raise InputError(f"embeddings should be (n, dim) and (m, dim), not {rows_a.shape} and {rows_b.shape}")
    return rows_a, rows_b


def check_finite(rows: NDArray[np.float32], name: str) -> None:
    """Raise InputError if one of `rows` (n, dim) contains NaN or an infinity. The message calls them `name`."""
    finite = np.isfinite(rows)
    if not finite.all():
        raise InputError(f"{name}[{int(np.argmin(finite.all(axis=1)))}] contains NaN or an infinity")


def as_float32(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Return `rows` as a contiguous float32 array. It is a copy only if needed. Too large numbers become infinite."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(rows, np.float32)


def rows_per_block(rows: NDArray[Any]) -> int:
    """Return how many of `rows` (n, dim) fit in the cache of one core. It is at least 1."""
    return int(max(1, _CACHED_NUMBERS // max(1, rows.shape[1])))
