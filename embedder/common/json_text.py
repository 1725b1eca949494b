"""Parse JSON that may come from a stranger. Every fault of the text is a ValueError."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

# The files that are read here nest about five levels deep. Python's own functions fail at about a thousand.
_MAX_DEPTH = 100


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
        value = json.loads(text) if allow_nan else json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError as error:
        raise _too_deep() from error
    _check_depth(value)
    if "\\ud" in text.lower():  # otherwise no string can have a half of a surrogate pair
        _check_unicode(value)
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits:.80} is too large for a float")
    return number


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH):
        parents = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        if not parents:
            return
        level = [item for parent in parents for item in parent]
    raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(f"it nests more than {_MAX_DEPTH} levels deep")


def _check_unicode(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise ValueError(f"a string has {half}, a half of a surrogate pair") from error
