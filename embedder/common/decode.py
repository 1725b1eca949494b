"""Decode JSON to frozen dataclasses. The error for an unknown, missing or mistyped field names its place."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from embedder.common.read_only import ReadOnlyDict


def decode(kind: Any, value: Any, where: str = "") -> Any:
    """Return parsed JSON as `kind`: a dataclass, or the type of one of its fields.

    `kind` may be a dataclass, `X | None`, `tuple[X, ...]`, `dict[str, X]`, `Any`, or one of JSON's own types. An
    integer is accepted as a float. A dict becomes a `ReadOnlyDict`.

    Raises:
        ValueError: a field is unknown, missing or has another type. The message begins with its place, as in
            `graphs[0].file.size should be an int, not 'x'`.

    Example:
        >>> decode(tuple[int, ...], [1, 2])
        (1, 2)
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is UnionType:
        return None if value is None else decode(arguments[0], value, where)
    if is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    if origin is tuple:
        items = _expect(list, value, where)
        return tuple(decode(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(items))
    if origin is dict:
        pairs = _expect(dict, value, where)
        return ReadOnlyDict({key: decode(arguments[1], item, f"{where}[{key!r}]") for key, item in pairs.items()})
    if kind is float and type(value) is int:
        return _to_float(value, where)
    return _expect(kind, value, where)


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    given = _expect(dict, value, where)
    known = {field.name: field for field in fields(kind)}
    types = _types_of(kind)
    prefix = f"{where}." if where else ""
    for name, field in known.items():
        if name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{prefix}{name} is missing")
    for name in given.keys() - known.keys():
        raise ValueError(f"{prefix}{name} is unknown")
    decoded = {name: decode(types[name], item, prefix + name) for name, item in given.items()}
    try:
        return kind(**decoded)
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from error


@cache  # a manifest has many files and graphs, and the types are texts that Python compiles
def _types_of(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _to_float(value: int, where: str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(
            f"{where or 'the content'} should be a float, not an integer of {value.bit_length()} bits"
        ) from error


def _expect(kind: type, value: Any, where: str) -> Any:
    if type(value) is not kind:
        article = "an" if kind is int else "a"
        raise ValueError(f"{where or 'the content'} should be {article} {kind.__name__}, not {value!r:.80}")
    return value
