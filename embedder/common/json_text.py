"""Parse JSON that may come from a stranger. Every fault of the text is a ValueError."""

from __future__ import annotations

import json
import math
import re
from itertools import islice
from typing import Any, NoReturn

# The limit of the levels of JSON. The files that are read here nest about five levels deep. Python's own functions fail
# at about a thousand.
MAX_DEPTH = 100
_MAX_DIGITS = 1000
_SEPARATORS = b"[{,"


def parse_json(content: bytes, *, allow_nan: bool = False) -> Any:
    """Return the value of a JSON text in UTF-8.

    Args:
        content: the text.
        allow_nan: accept NaN and infinities, as Python's own functions do. They are not part of JSON.

    Raises:
        ValueError: the text is not JSON, nests more than 100 levels deep, has a number that is too large, or has a
            string that is not valid Unicode.

    Example:
        >>> parse_json(b'{"tokens": [1, 2]}')
        {'tokens': [1, 2]}
    """
    text = content.decode("utf-8")
    try:
        constant, number = (None, None) if allow_nan else (refuse_constant, _finite)
        value = json.loads(text, parse_constant=constant, parse_float=number, parse_int=_whole)
    except RecursionError as error:
        raise _too_deep() from error
    _check_depth(value)
    if b"\\ud" in content or b"\\uD" in content:  # otherwise no string can have a half of a surrogate pair
        _check_unicode(value)
    return value


def has_more_values(content: bytes, limit: int) -> bool:
    """Return whether a JSON text has more than `limit` values, at least 1. An empty list or object counts as two.

    `parse_json` needs up to a hundred bytes of memory for a value of two bytes. This needs none.

    Example:
        >>> has_more_values(b'{"texts": ["[a, b]", "[c, d]"]}', 4)
        False
    """
    # There is a comma or an open bracket before each value but the first.
    if sum(map(content.count, _SEPARATORS)) < limit:
        return False
    # A string, up to its end or to that of the text; or a separator.
    tokens = re.finditer(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{,]', content, re.DOTALL)
    separators = (token for token in tokens if content[token.start()] in _SEPARATORS)
    return next(islice(separators, limit - 1, None), None) is not None


def refuse_constant(name: str) -> NoReturn:
    """Raise ValueError for NaN or an infinity, as `parse_constant` of Python's own functions.

    Example:
        >>> json.loads("NaN", parse_constant=refuse_constant)
        Traceback (most recent call last):
        ...
        ValueError: NaN is not a number of JSON
    """
    raise ValueError(f"{name} is not a number of JSON")


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:  # Python itself refuses more than 4,300, in words that only its users understand
        raise ValueError(f"{digits:.20}... has more than {_MAX_DIGITS:,} digits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits:.80} is too large for a float")
    return number


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        parents = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        if not parents:
            return
        level = [item for parent in parents for item in parent]
    raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(f"it nests more than {MAX_DEPTH} levels deep")


def _check_unicode(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise ValueError(f"a string has {half}, a half of a surrogate pair") from error
