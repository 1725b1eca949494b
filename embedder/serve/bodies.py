"""Read the body of a request within the limits of size, time and memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from embedder.common.content_length import MAX_LENGTH_DIGITS
from embedder.serve.errors import RequestRefused
from embedder.serve.request_record import RequestRecord
from embedder.serve.settings import ServerSettings

if TYPE_CHECKING:
    from starlette.requests import Request

_KEY = "embedder.bodies"
_RETRY_AFTER_S = 1.0


class ClientGone(Exception):  # noqa: N818 (nobody is left to whom it could be an error)
    """The client closed the connection before its request was complete."""


class BodyReader:
    """Reads bodies, and counts the memory of all bodies and large answers. It belongs to one event loop.

    Example:
        >>> reader = BodyReader(ServerSettings(max_body_bytes=1000))
        >>> record = RequestRecord("1")
        >>> reader.hold(record, 16_000)
        >>> record.held_bytes
        16000
        >>> reader.release(record)
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._max_bytes = settings.max_body_bytes
        self._timeout_s = settings.read_timeout_s
        self._free_bytes = settings.max_body_memory_bytes

    def put(self, scope: Any) -> None:
        """Make this the reader of the request of `scope`."""
        scope[_KEY] = self

    def hold(self, record: RequestRecord, size: int) -> None:
        """Count `size` bytes of memory until the request of `record` has ended.

        Raises:
            RequestRefused: 503, other requests hold too much memory.
        """
        if size > self._free_bytes:
            raise RequestRefused(
                503,
                "out_of_memory",
                "other requests hold all the memory that the server has for bodies. Try again later",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._free_bytes -= size
        record.held_bytes += size

    def release(self, record: RequestRecord) -> None:
        """Give back the memory of a request that has ended."""
        self._free_bytes += record.held_bytes
        record.held_bytes = 0

    async def read(self, request: Request) -> bytes:
        """Return the body; see `read_body`."""
        if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise RequestRefused(
                415, "unsupported_encoding", "the body is compressed. Send it without the header Content-Encoding"
            )
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:MAX_LENGTH_DIGITS]) > self._max_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._collect(request)
        except TimeoutError:
            raise RequestRefused(
                408, "body_timeout", f"the body did not come within {self._timeout_s:g} seconds"
            ) from None

    async def _collect(self, request: Request) -> bytes:
        record = RequestRecord.of(request)
        parts = []
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            record.body_bytes += len(part)
            if record.body_bytes > self._max_bytes:
                raise self._too_large()
            self.hold(record, len(part))
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def _too_large(self) -> RequestRefused:
        return RequestRefused(
            413,
            "body_too_large",
            f"the body has more than {self._max_bytes:,} bytes, which is the limit. Send fewer texts at a time",
        )


async def read_body(request: Request) -> bytes:
    """Return the whole body of `request`. Its memory is counted until the request is answered.

    Raises:
        RequestRefused: 413, the body is too large; 415, it is compressed; 408, it did not come in time; 503, too many
            bodies are in memory.
        ClientGone: the client closed the connection.
    """
    reader = request.scope[_KEY]
    assert isinstance(reader, BodyReader)
    return await reader.read(request)
