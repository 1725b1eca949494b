"""A small client of HTTP/1.1 for one kept connection. It takes little time, and needs Python's own library alone."""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import NamedTuple
from urllib.parse import SplitResult

_HEAD_END = b"\r\n\r\n"
_MAX_HEAD_BYTES = 65_536
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked[ \t]*\r\n", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*\r\n", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after:[ \t]*(\d{1,6})[ \t]*\r\n", re.IGNORECASE)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[^\r]*\r\n")
_CHUNK_END = b"\r\n"
_PORTS = {"http": 80, "https": 443}


class Answer(NamedTuple):
    """A whole answer.

    Attributes:
        status: the status of HTTP, such as 200.
        body: the body.
        closes: whether the server closes the connection after it.
        retry_after_s: after how many seconds the server asks to come back, if it says so.
    """

    status: int
    body: bytes
    closes: bool
    retry_after_s: int | None


class AnswerReader:
    r"""Collects the bytes of one connection until an answer is whole. Not safe to share between threads.

    It reads what servers send after a POST: a body with a Content-Length, or in chunks.

    Example:
        >>> reader = AnswerReader()
        >>> reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{")
        >>> reader.feed(b"}")
        Answer(status=200, body=b'{}', closes=False, retry_after_s=None)
    """

    def __init__(self) -> None:
        self._received = bytearray()
        # Of the answer that is being read: its head, where its body starts, and the size of the whole.
        self._head = b""
        self._body_start = 0
        self._end: int | None = None

    def feed(self, data: bytes) -> Answer | None:
        """Add bytes of the connection. Return the answer if it is whole now, otherwise None.

        Raises:
            ValueError: the bytes are no answer of HTTP/1.1 whose end can be found.
        """
        received = self._received
        received += data
        if not self._head and not self._read_head():
            return None
        if self._end is None:
            body = self._read_chunks()
            if body is None:
                return None
        elif len(received) < self._end:
            return None
        else:
            body = bytes(received[self._body_start : self._end])
        return self._finish(body)

    def _read_head(self) -> bool:
        """Read the status line and the headers, once they are there."""
        end = self._received.find(_HEAD_END)
        if end < 0:
            if len(self._received) > _MAX_HEAD_BYTES:
                raise ValueError("the headers of the answer are too long")
            return False
        self._head = bytes(self._received[: end + 2])  # with the line break after the last header
        self._body_start = end + len(_HEAD_END)
        if _CHUNKED.search(self._head):
            self._end = None
        elif length := _LENGTH.search(self._head):
            self._end = self._body_start + int(length[1])
        else:
            raise ValueError("the answer has no Content-Length")
        return True

    def _read_chunks(self) -> bytes | None:
        """Return the body of an answer in chunks, once it is there. Trailers are not supported."""
        parts: list[bytes] = []
        start = self._body_start
        while size := _CHUNK_SIZE.match(self._received, start):
            start = size.end()
            end = start + int(size[1], 16)
            if len(self._received) < end + len(_CHUNK_END):
                return None
            if start == end:
                self._end = end + len(_CHUNK_END)
                return b"".join(parts)
            parts.append(bytes(self._received[start:end]))
            start = end + len(_CHUNK_END)
        return None

    def _finish(self, body: bytes) -> Answer:
        """Return the answer, and forget its bytes."""
        line = _STATUS_LINE.match(self._head)
        if line is None:
            raise ValueError("the server does not speak HTTP/1.1")
        retry_after = _RETRY_AFTER.search(self._head)
        answer = Answer(
            status=int(line[1]),
            body=body,
            closes=_CLOSES.search(self._head) is not None,
            retry_after_s=None if retry_after is None else int(retry_after[1]),
        )
        del self._received[: self._end]
        self._head, self._end = b"", None
        return answer


class Connection(asyncio.Protocol):
    """A kept connection to a server. One request at a time.

    Example:
        >>> async def status_of(request):
        ...     connection = await connect(urlsplit("http://127.0.0.1:8080"))
        ...     return (await connection.ask(request)).status
    """

    def __init__(self) -> None:
        self._reader = AnswerReader()
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> Answer:
        """Send a whole request, and return its answer.

        Raises:
            ConnectionError: the server closed the connection, or sent what is no answer.
        """
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        try:
            answer = self._reader.feed(data)
        except ValueError as error:
            self._fail(str(error))
            self.close()
            return
        if answer is None or self._answer is None or self._answer.done():
            return
        if answer.closes:
            self.close()
        self._answer.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self._fail("the server closed the connection")
        self._transport = None

    def _fail(self, reason: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(reason))


async def connect(address: SplitResult) -> Connection:
    """Connect to the server of an address of http or https.

    Raises:
        OSError: the server cannot be reached.

    Example:
        >>> connecting = connect(urlsplit("http://127.0.0.1:8080"))  # doctest: +SKIP
    """
    _, connection = await asyncio.get_running_loop().create_connection(
        Connection,
        address.hostname or "",
        address.port or _PORTS[address.scheme],
        ssl=ssl.create_default_context() if address.scheme == "https" else None,
    )
    return connection
