"""The ids of an index: whole numbers or strings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_text, shown
from embedder.errors import InputError
from embedder.vectors.arrays import refuse_container, to_array

# Every whole number is below this, so that it fits in an int64.
ID_LIMIT = 1 << 63

Id = int | str
# Ids, all of one kind.
Ids = NDArray[np.int64] | list[str]
# The same as callers get them.
IdArray = NDArray[np.int64] | NDArray[np.object_]


def as_id(value: object) -> Id:
    """Return one id as `int` or `str`.

    Raises:
        InputError: it is neither a whole number nor a string.
    """
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    raise InputError(f"an id should be a whole number or a string, not {shown(value)}")


def as_ids(ids: ArrayLike | Iterable[Any]) -> Ids:
    """Return one or several ids as int64 (n,), or as a list of n strings.

    Raises:
        InputError: the ids are neither whole numbers below 2**63 nor strings. Or some are strings and others are not.
    """
    if isinstance(ids, str):
        ids = [ids]
    refuse_container(ids, "ids", "whole numbers or strings", "id")
    if not hasattr(ids, "__array__") and isinstance(ids, Iterable):
        ids = list(ids)
    listed: Any = ids if isinstance(ids, list) else np.atleast_1d(to_array(ids, "ids"))
    # NumPy would turn the numbers among strings into strings.
    if isinstance(listed, list) or listed.dtype.kind not in "iufb":
        for index, item in enumerate(listed):
            if isinstance(item, bool | np.bool_):
                raise InputError(f"ids[{index}] should be a whole number or a string, not {shown(item)}")
        strings = [item for item in listed if isinstance(item, str)]
        if strings and len(strings) == len(listed):
            return _check_strings([str.__str__(item) for item in strings])
        if strings:
            raise InputError("ids should be whole numbers or strings, and not both")
    return as_whole_numbers(listed, "whole numbers or strings")


def as_whole_numbers(ids: ArrayLike, expected: str = "whole numbers") -> NDArray[np.int64]:
    """Return one or several ids as int64 (n,).

    Raises:
        InputError: the ids are not whole numbers below 2**63. The message says that they should be `expected`.
    """
    try:
        numbers = np.atleast_1d(np.asarray(ids))
    except ValueError as error:
        raise InputError(f"ids should be {expected}: {error}") from error
    if numbers.size == 0:
        return np.empty(0, np.int64)
    if numbers.dtype.kind == "O" and numbers.ndim == 1 and all(type(number) is int for number in numbers):
        numbers = _as_integers(numbers)  # a column of Python's numbers
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise InputError(f"ids should be {expected}, not {numbers.dtype} of shape {numbers.shape}")
    if numbers.dtype == np.uint64 and numbers.max() >= ID_LIMIT:
        raise InputError(f"ids should be below 2**63, not {numbers.max()}")
    return numbers.astype(np.int64)


def _check_strings(ids: list[str]) -> list[str]:
    for index, item in enumerate(ids):
        check_text(item, f"ids[{index}]")
    return ids


def _as_integers(numbers: NDArray[np.object_]) -> NDArray[np.int64]:
    try:
        return numbers.astype(np.int64)
    except OverflowError as error:
        raise InputError(f"ids should be from -2**63 to below 2**63: {error}") from error


def next_ids(first: int, count: int) -> NDArray[np.int64]:
    """Return `count` ids from `first` on.

    Raises:
        InputError: there are fewer whole numbers below 2**63.
    """
    if first + count > ID_LIMIT:
        raise InputError(f"there are no ids left after {first - 1}: give ids that are free")
    return np.arange(first, first + count)


def check_kind(ids: Ids, has_strings: bool) -> None:
    """Raise InputError unless `ids` are of the kind of an index, whose ids are strings or whole numbers."""
    if not len(ids) or isinstance(ids, list) == has_strings:
        return
    kinds = ("strings", "whole numbers") if has_strings else ("whole numbers", "strings")
    raise InputError(f"the ids of this index are {kinds[0]}, not {kinds[1]}")


def check_unique(ids: Ids) -> None:
    """Raise InputError if an id is given twice."""
    seen: set[Id] = set()
    for item in listed_ids(ids):
        if item in seen:
            raise InputError(f"id {item!r} is given twice")
        seen.add(item)


def listed_ids(ids: Ids) -> list[Any]:
    """Return `ids` as a list of `int` or `str`."""
    return ids if isinstance(ids, list) else ids.tolist()


def as_array(ids: Ids) -> IdArray:
    """Return `ids` as callers get them: int64 (n,), or strings in an object array (n,)."""
    if not isinstance(ids, list):
        return ids
    array = np.empty(len(ids), object)
    array[:] = ids
    return array
