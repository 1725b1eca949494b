"""Metadata of entries: a JSON object each. It is kept as its JSON, so nobody changes it by changing what they got."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from embedder.common.checks import check_text, shown
from embedder.common.json_text import MAX_DEPTH, refuse_constant
from embedder.errors import InputError

Metadata = dict[str, Any]

# A whole number below 2**1024. JSON readers of other languages read larger ones as infinity.
_MAX_BITS = 1024
_encoder = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))
_decoder = json.JSONDecoder(parse_constant=refuse_constant)


def encode_json(value: Any) -> str:
    """Return a value of `plain_json` as JSON without spaces."""
    return _encoder.encode(value)


def encode_metadata(metadata: object, name: str) -> str:
    """Return a JSON object as JSON.

    Raises:
        InputError: it is not a mapping, or has a value that JSON does not have. The message calls it `name`.
    """
    if not isinstance(metadata, Mapping):
        raise InputError(f"{name} should be a mapping such as a dict, not {shown(metadata)}")
    return encode_json(plain_json(metadata, name))


def decode_metadata(text: str) -> Metadata:
    """Return the object that `encode_metadata` has encoded, a new one at each call."""
    found: Metadata = _decoder.raw_decode(text)[0]  # `decode` would first look for spaces, which takes longer
    return found


def decode_all(texts: list[bytes]) -> list[Metadata]:
    """Return the objects that `encode_metadata` has encoded to `texts` in UTF-8. One call is faster than many."""
    found: list[Metadata] = _decoder.decode((b"[" + b",".join(texts) + b"]").decode())
    return found


def is_encoded(text: str) -> bool:
    """Return whether `encode_metadata` could have returned `text`."""
    try:
        found = decode_metadata(text)
        if text.count("{") + text.count("[") > MAX_DEPTH:  # otherwise it cannot nest too deep
            plain_json(found, "")
        return isinstance(found, dict) and encode_json(found) == text
    except (ValueError, RecursionError):
        return False


def plain_json(value: Any, name: str, depth: int = 1) -> Any:
    """Return a copy of `value` that consists of dicts, lists, strings, numbers, booleans and None.

    Tuples become lists, and NumPy's numbers become Python's.

    Raises:
        InputError: a value is not one of JSON. Or a key is not a string. Or it nests too deep. The message has the
            place, which begins with `name`.
    """
    if depth > MAX_DEPTH and isinstance(value, Mapping | list | tuple):
        raise InputError(f"{name:.80} nests more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        return {_key(key, name): plain_json(item, f"{name}[{key!r:.80}]", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item, f"{name}[{index}]", depth + 1) for index, item in enumerate(value)]
    return _plain_scalar(value.item() if isinstance(value, np.generic) else value, name)


def _key(key: object, name: str) -> str:
    if not isinstance(key, str):
        raise InputError(f"the keys of {name} should be strings, not {shown(key)}")
    check_text(key, f"a key of {name}")
    return str.__str__(key)


def _plain_scalar(value: Any, name: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        check_text(value, name)
        return str.__str__(value)
    if isinstance(value, int):
        if value.bit_length() > _MAX_BITS:
            raise InputError(f"{name} is a number of more than {_MAX_BITS} bits")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{name} is {value}, which JSON does not have: leave it out, or give None")
        return float(value)
    raise InputError(f"{name} should be a value of JSON, not {type(value).__name__}: {shown(value)}")


def same_value(one: Any, other: Any) -> bool:
    """Return whether two values of JSON are equal. 1 equals 1.0, but not true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_value(item, other[key]) for key, item in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_value, one, other))
    return bool(one == other)
