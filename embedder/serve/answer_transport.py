"""What the answer to one request is written to."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

# A longer part of an answer is sent apart from the head, because to join them would copy it.
_MAX_JOINED_BYTES = 65_536


class Cycle(Protocol):
    """A request and its answer, as uvicorn's `RequestResponseCycle` has them.

    Attributes:
        scope: the request, as in ASGI.
        response_started: whether the next bytes that are written belong to the answer.
    """

    scope: Any
    response_started: bool


class AnswerTransport:
    """Writes the head of an answer together with the first part of its body: in one packet, by one system call.

    Example:
        >>> AnswerTransport(transport, cycle).write(b"HTTP/1.1 200 OK")  # doctest: +SKIP
    """

    def __init__(self, transport: asyncio.Transport, cycle: Cycle) -> None:
        """Take the transport of the connection, and the request that is answered."""
        self._transport, self._cycle = transport, cycle
        self._is_head_next = cycle.scope["method"] != "HEAD"  # uvicorn writes nothing after a head without a body
        self._head = b""

    def write(self, data: bytes) -> None:
        """Write a part of the answer; see asyncio. "100 Continue" comes before the answer and waits for nothing."""
        if self._is_head_next and self._cycle.response_started:
            self._is_head_next, self._head = False, data
        elif self._head and len(data) <= _MAX_JOINED_BYTES:
            self._transport.write(self._head + data)
            self._head = b""
        else:
            if self._head:
                self._transport.write(self._head)
                self._head = b""
            self._transport.write(data)

    def close(self) -> None:
        """Close the connection when all is written; see asyncio."""
        self.write(b"")
        self._transport.close()

    def is_closing(self) -> bool:
        """Return whether the connection is being closed; see asyncio."""
        return self._transport.is_closing()
