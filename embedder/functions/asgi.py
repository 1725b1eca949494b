"""ASGI: an application for servers such as uvicorn and hypercorn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

from embedder.common.content_length import MAX_LENGTH_DIGITS
from embedder.functions.answers import Answer
from embedder.functions.bodies import BodyBuffer
from embedder.functions.deadline import Deadline
from embedder.functions.function import Function, refusal
from embedder.functions.requests import Limits, RequestError

Message: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]


def asgi_app(function: Function) -> Callable[[Message, Receive, Send], Awaitable[None]]:
    """Return an ASGI application. It answers every path, and keeps no more of a body than the limit.

    The model is loaded when the server starts. If it cannot be loaded, the server does not start. Requests are computed
    in threads, so that the event loop goes on.

    Example:
        >>> app = asgi_app(Function("all-MiniLM-L6-v2"))  # uvicorn module:app
    """

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(function, receive, send)
        elif scope["type"] == "http":
            await _answer(function, scope, receive, send)
        else:
            raise ValueError(f"this application answers HTTP, not {scope['type']}")

    return app


async def _live(function: Function, receive: Receive, send: Send) -> None:
    """Load the model when the server starts. There is nothing to do when it stops."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
        try:
            await asyncio.to_thread(function.load)
        except Exception as error:  # the server prints the message and ends
            await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
            return
        await send({"type": "lifespan.startup.complete"})


async def _answer(function: Function, scope: Message, receive: Receive, send: Send) -> None:
    try:
        body = await _read_body(scope, receive, function.limits)
    except RequestError as error:
        answer = refusal(error)
    else:
        if body is None:
            return
        deadline = Deadline.after(function.limits.timeout_s)  # here, as the request may wait for a thread
        answer = await asyncio.to_thread(
            lambda: function.answer(body, method=scope["method"], remaining_s=deadline.remaining())
        )
    with suppress(OSError):  # the client has gone
        await _send(answer, scope["method"], send)


async def _read_body(scope: Message, receive: Receive, limits: Limits) -> bytes | None:
    """Return the body; None if the client has gone.

    Raises:
        RequestError: 413, it is too large.
    """
    body = BodyBuffer(limits)
    length = dict(scope["headers"]).get(b"content-length", b"")
    if length.isdigit():
        body.check_length(int(length[:MAX_LENGTH_DIGITS]))
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body.add(message.get("body", b""))
        if not message.get("more_body", False):
            return body.content()


async def _send(answer: Answer, method: str, send: Send) -> None:
    headers = {**answer.headers, "Content-Length": str(len(answer.body))}
    pairs = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": pairs})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else answer.body})
