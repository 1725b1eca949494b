"""Answers of a function: JSON with a status of HTTP."""

from __future__ import annotations

import json
from typing import Any

from embedder.common.records import frozen
from embedder.functions.requests import METHOD_NOT_ALLOWED, TOO_LARGE, Limits, RequestError

OK = 200
_METHOD = "POST"
# The text of a float32 has at most 14 characters, such as "-1.2345679e-38". Two more separate it from the next one.
_MAX_NUMBER_BYTES = 16
_MAX_FRAME_BYTES = 64


@frozen
class Answer:
    """An answer for HTTP.

    Attributes:
        status: the status of HTTP.
        headers: the content type; with status 405, also the allowed method.
        body: JSON in ASCII.

    Example:
        >>> Answer.of(200, {"embeddings": [], "dimension": 384}).body
        b'{"embeddings":[],"dimension":384}'
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @classmethod
    def of(cls, status: int, value: dict[str, Any]) -> Answer:
        """Return the answer with `value` as its body."""
        headers = {"Content-Type": "application/json"}
        if status == METHOD_NOT_ALLOWED:
            headers["Allow"] = _METHOD
        return cls(status, headers, json.dumps(value, separators=(",", ":")).encode("ascii"))


def error_value(status: int, message: str) -> dict[str, Any]:
    """Return the JSON object of an error.

    Example:
        >>> error_value(400, "there is no body")
        {'error': {'status': 400, 'message': 'there is no body'}}
    """
    return {"error": {"status": status, "message": message}}


def check_method(method: object) -> None:
    """Raise RequestError, 405, unless `method` is POST.

    Example:
        >>> check_method("POST")
    """
    if method != _METHOD:
        raise RequestError(METHOD_NOT_ALLOWED, f"the method should be {_METHOD}, with a JSON object as the body")


def check_base64_size(count: int, dimension: int, limits: Limits) -> None:
    """Raise RequestError, 413, if `count` vectors as base64 would exceed the limit. This is known before they are made.

    Example:
        >>> check_base64_size(1000, 384, Limits())
    """
    text_bytes = -(-4 * dimension // 3) * 4 + len('"", ')
    _check_size(_MAX_FRAME_BYTES + count * text_bytes, limits)


def check_size(value: dict[str, Any], numbers: int, limits: Limits) -> None:
    """Raise RequestError, 413, if the JSON text of an answer exceeds the limit.

    Args:
        value: the answer.
        numbers: the count of numbers in it. If this says that it is small enough, no text is made.
        limits: what the function accepts.

    Example:
        >>> check_size({"embeddings": [[0.5]], "dimension": 1}, 1, Limits())
    """
    rows = len(value["embeddings"])
    if _MAX_FRAME_BYTES + 4 * rows + _MAX_NUMBER_BYTES * numbers > limits.max_body_bytes:
        _check_size(len(json.dumps(value)), limits)


def _check_size(size_bytes: int, limits: Limits) -> None:
    if size_bytes > limits.max_body_bytes:
        raise RequestError(
            TOO_LARGE,
            f"the answer would have {size_bytes:,} bytes, and the limit is {limits.max_body_bytes:,}. Send fewer "
            'texts, a smaller truncate_dim, or "encoding_format": "base64"',
        )
