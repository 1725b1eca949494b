"""WSGI: an application for servers such as gunicorn, waitress and mod_wsgi."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from embedder.common.content_length import MAX_LENGTH_DIGITS
from embedder.functions.answers import OK
from embedder.functions.bodies import BodyBuffer
from embedder.functions.function import Function, refusal
from embedder.functions.requests import (
    BAD_REQUEST,
    FAILED,
    METHOD_NOT_ALLOWED,
    TIMED_OUT,
    TOO_LARGE,
    Limits,
    RequestError,
)

_PHRASES = {
    OK: "OK",
    BAD_REQUEST: "Bad Request",
    METHOD_NOT_ALLOWED: "Method Not Allowed",
    TOO_LARGE: "Content Too Large",
    FAILED: "Internal Server Error",
    TIMED_OUT: "Gateway Timeout",
}
_READ_BYTES = 1 << 16


def wsgi_app(function: Function) -> Callable[[dict[str, Any], Callable[..., object]], Iterable[bytes]]:
    """Return a WSGI application. It answers every path, and keeps no more of a body than the limit.

    Example:
        >>> app = wsgi_app(Function("all-MiniLM-L6-v2"))
        >>> app({"REQUEST_METHOD": "GET", "wsgi.input": None}, lambda status, headers: print(status))
        405 Method Not Allowed
        [b'{"error":{"status":405,"message":"the method should be POST, with a JSON object as the body"}}']
    """

    def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        try:
            body = _read_body(environ, function.limits)
        except RequestError as error:
            answer = refusal(error)
        else:
            answer = function.answer(body, method=method)
        headers = [*answer.headers.items(), ("Content-Length", str(len(answer.body)))]
        start_response(f"{answer.status} {_PHRASES[answer.status]}", headers)
        return [] if method == "HEAD" else [answer.body]

    return app


def _read_body(environ: dict[str, Any], limits: Limits) -> bytes:
    """Return the body.

    Raises:
        RequestError: 400, its length is unknown, or it ended early; 413, it is too large.
    """
    length = _content_length(environ)
    body = BodyBuffer(limits)
    if length is not None:
        body.check_length(length)
    try:
        while length is None or body.size < length:
            part = environ["wsgi.input"].read(_READ_BYTES if length is None else min(_READ_BYTES, length - body.size))
            if not part:
                break
            body.add(part)
    except OSError as error:  # the client has gone, or its chunks are damaged
        raise RequestError(BAD_REQUEST, "the body cannot be read to its end") from error
    content = body.content()
    if length is not None and len(content) < length:
        raise RequestError(BAD_REQUEST, f"the body has {len(content):,} bytes, and its Content-Length is {length:,}")
    return content


def _content_length(environ: dict[str, Any]) -> int | None:
    """Return the length of the body. None: the server ends the stream after it, as it does for a body in chunks."""
    text = environ.get("CONTENT_LENGTH", "")
    if not text:
        return None if environ.get("wsgi.input_terminated") else 0
    if not (text.isascii() and text.isdigit() and len(text) < MAX_LENGTH_DIGITS):
        raise RequestError(BAD_REQUEST, "Content-Length should be a whole number of bytes")
    return int(text)
