"""Write records as lines of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from embedder.common.escapes import escape_json


def json_line(fields: Mapping[str, Any]) -> str:
    r"""Return `fields` as one line of JSON. Control characters are escapes such as \u009b, which drive no terminal.

    Example:
        >>> json_line({"text": "a", "score": float("nan")})
        '{"text": "a", "score": null}'
    """
    try:
        line = json.dumps(fields, ensure_ascii=False, allow_nan=False)
    except ValueError:
        line = json.dumps(_without_nan(fields), ensure_ascii=False, allow_nan=False)
    return escape_json(line)


def _without_nan(value: Any) -> Any:
    """Return a value with null for NaN and infinities: Python reads them in a record, but JSON does not have them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _without_nan(member) for name, member in value.items()}
    return [_without_nan(member) for member in value] if isinstance(value, list) else value
