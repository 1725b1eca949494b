"""What surrounds each request: its record, its log line, its metrics, its memory, and the end of its client."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from typing import TYPE_CHECKING, Any, Protocol

from embedder.serve.bodies import BodyReader, ClientGone
from embedder.serve.request_record import RequestRecord

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from embedder.serve.access_log import ServerLog
    from embedder.serve.metrics import Metrics
    from embedder.serve.settings import ServerSettings

CONNECTION_KEY = "embedder.connection"
_CLIENT_GONE = 499
_OTHER_PATH = "other"
# A connection buffers smaller answers itself.
_MAX_UNCOUNTED_ANSWER_BYTES = 65_536


class Connection(Protocol):
    """A connection that says when its client has gone.

    Attributes:
        running: the task of the request that is being answered. It is cancelled when the client goes.
        lost: whether the client has gone.
    """

    running: asyncio.Task[Any] | None
    lost: bool


class Exchange:
    """An ASGI application around another one.

    Attributes:
        known_paths: the paths of the routes. The metrics count all other paths together.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics, log: ServerLog) -> None:
        self.known_paths: frozenset[str] = frozenset()
        self._app = app
        self._metrics = metrics
        self._log = log
        self._bodies = BodyReader(settings)
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, log it and count it."""
        started = time.perf_counter()
        record = RequestRecord(f"{self._prefix}-{next(self._numbers):x}")
        record.put(scope)
        self._bodies.put(scope)
        connection: Connection | None = scope.get(CONNECTION_KEY)
        if connection is not None:
            connection.running = asyncio.current_task()
        try:
            await self._app(scope, receive, _Sender(send, record, self._bodies).send)
        except ClientGone:
            record.status = record.status or _CLIENT_GONE
        except asyncio.CancelledError:
            if connection is None or not connection.lost:
                raise
            record.status = record.status or _CLIENT_GONE
        finally:
            if connection is not None:
                connection.running = None
            self._bodies.release(record)
            seconds = time.perf_counter() - started
            path = scope["path"]
            self._metrics.request_ended(record, path if path in self.known_paths else _OTHER_PATH, seconds)
            self._log.request(scope["method"], path, _client(scope), record, seconds)


class _Sender:
    """Sends the answer of one request: with its id, and with its memory counted until the client has read it."""

    def __init__(self, send: Send, record: RequestRecord, bodies: BodyReader) -> None:
        self._send, self._record, self._bodies = send, record, bodies
        self._head: Message | None = None

    async def send(self, message: Message) -> None:
        """Send a message of ASGI. The first one waits for the second, so that an answer can still be refused."""
        if message["type"] == "http.response.start":
            self._head = message
            return
        record, body, more = self._record, message.get("body", b""), message.get("more_body", False)
        large = len(body) > _MAX_UNCOUNTED_ANSWER_BYTES
        if large:
            self._bodies.hold(record, len(body))
        await self._send_head()
        record.answer_bytes += len(body)
        if large and not more:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            # This waits until the client has read almost all of the answer.
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await self._send(message)

    async def _send_head(self) -> None:
        if self._head is None:
            return
        head, self._head = self._head, None
        self._record.status = head["status"]
        # A new list, because some answers are sent many times.
        headers = [*head["headers"], (b"x-request-id", self._record.id.encode("ascii"))]
        await self._send({**head, "headers": headers})


def _client(scope: Scope) -> str:
    """Return the address of the client. A Unix socket has none."""
    client = scope.get("client")
    return client[0] if client else "-"
