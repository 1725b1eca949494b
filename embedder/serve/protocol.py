"""HTTP over one connection: uvicorn's protocol, with limits of time and size for clients that are slow or hostile."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from embedder.serve.answer_transport import AnswerTransport
from embedder.serve.closing import LingeringTransport
from embedder.serve.exchange import CONNECTION_KEY
from embedder.serve.settings import ServerSettings

# Most bytes of a request's line and headers, and of what comes between two parts of a body in chunks.
_MAX_HEADER_BYTES = 65_536
_MAX_HEADERS = 100
# Requests of one connection that may wait for the answers to earlier ones.
_MAX_PIPELINED = 32
# Seconds that a connection may wait for its next request. Load balancers keep theirs for up to 60.
_KEEP_ALIVE_S = 75.0
_UPGRADE = re.compile(rb"(\r\n)(upgrade:)", re.IGNORECASE)
_SHORT_ANSWER = (
    b"HTTP/1.1 %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n%s\r\n%s"
)


class HttpProtocol(HttpToolsProtocol):
    """One connection.

    Attributes:
        running: the task of the request that is being answered.
        lost: whether the client has gone.
    """

    def __init__(self, config: Config, state: ServerState, settings: ServerSettings, owner: ConnectionOwner) -> None:
        super().__init__(config, state, {})
        self.running: asyncio.Task[Any] | None = None
        self.lost = False
        self._settings, self._owner = settings, owner
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._cycles: list[RequestResponseCycle] = []  # the requests without an answer
        self._in_headers = False
        self._unread_bytes = 0  # received since the last part of a body
        self._ignores_input = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for a request; see asyncio."""
        super().connection_made(LingeringTransport(transport, self._linger))
        # Otherwise an answer in two packets waits for the client's delayed acknowledgement, 40 ms.
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family != getattr(socket, "AF_UNIX", None):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._owner.connections_changed()
        if len(self.connections) > self._settings.max_connections:
            self._write_refusal(b"503 Service Unavailable", b"too many connections", b"Retry-After: 1\r\n")
            self._close()
        else:
            self._wait(self._settings.read_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the request that nobody waits for; see asyncio."""
        self.lost = True
        for cycle in self._cycles:  # uvicorn tells the last one alone
            cycle.disconnected = True
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        if self.running is not None:
            self.running.cancel()
        self._owner.connections_changed()

    def data_received(self, data: bytes) -> None:
        """Read a part of a request; see asyncio."""
        if self.transport.is_closing() or self._ignores_input:
            return
        self._unread_bytes += len(data)
        if not self._in_headers and (self.cycle is None or not self.cycle.more_body):
            data = _without_upgrade(data)
        super().data_received(data)
        if self.transport.is_closing():
            self._abort_later()
        elif self._unread_bytes > _MAX_HEADER_BYTES or len(self.headers or ()) > _MAX_HEADERS:
            self._refuse(b"431 Request Header Fields Too Large", b"the headers are too large")

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request; see uvicorn."""
        self._refuse(b"400 Bad Request", msg.encode("ascii"))

    def _unsupported_upgrade_warning(self) -> None:
        """Ignore the offer to change to another protocol; see uvicorn."""

    def on_message_begin(self) -> None:
        """Start a request; see httptools."""
        super().on_message_begin()
        scope: Any = self.scope
        scope[CONNECTION_KEY] = self
        self._in_headers = True
        self._wait(self._settings.read_timeout_s)

    def on_headers_complete(self) -> None:
        """Let the application answer; see httptools."""
        self._in_headers = False
        self._unread_bytes = 0
        self._stop_waiting()
        super().on_headers_complete()
        self.cycle.transport = AnswerTransport(self.transport, self.cycle)  # type: ignore[assignment]
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete] + [self.cycle]
        if self._owner.is_stopping or self.parser.should_upgrade():
            self.cycle.keep_alive = False
        if len(self.pipeline) > _MAX_PIPELINED:
            self.pipeline.popleft()  # the client sees that this one and all later ones have no answer
            self.pipeline[0][0].keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a part of a body; see httptools."""
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request; see httptools."""
        self._unread_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of this one; see uvicorn."""
        super().on_response_complete()
        self._unset_keepalive_if_required()  # any byte would stop uvicorn's timer
        if self.transport.is_closing():
            self._abort_later()
        elif self.cycle.response_complete and not self._in_headers:
            self._wait(self._settings.read_timeout_s if self.cycle.more_body else _KEEP_ALIVE_S)

    def pause_writing(self) -> None:
        """Give the client its time to read the answer; see asyncio."""
        super().pause_writing()
        self._abort_later()

    def resume_writing(self) -> None:
        """The client has read the answer; see asyncio."""
        super().resume_writing()
        if self._write_timer is not None and not self.transport.is_closing():
            self._write_timer.cancel()
            self._write_timer = None

    def end_after_answer(self) -> bool:
        """Close the connection after the answer to the last request that has come, and return whether there is one."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering:
            self.cycle.keep_alive = False
        return is_answering

    def end_when_idle(self) -> None:
        """Close the connection: now if no request is on its way, else after its answer."""
        if not self.end_after_answer() and not self._in_headers and not self.transport.is_closing():
            self._close()

    def _wait(self, seconds: float) -> None:
        """Close the connection unless the headers of a request are complete in time."""
        self._stop_waiting()
        self._timer = self.loop.call_later(seconds, self._waited)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _waited(self) -> None:
        if self.transport.is_closing():
            return
        if self._in_headers:
            self._refuse(b"408 Request Timeout", b"the headers did not come in time")
        else:
            self._close()

    def _refuse(self, status: bytes, message: bytes) -> None:
        """Answer without the application what is no request, and close the connection.

        Requests that came before are answered first. The client sees by the closed connection that no more are.
        """
        accepted = [cycle for cycle in self._cycles if not (cycle.response_complete or cycle.more_body)]
        if accepted:
            self._ignores_input = True
            self._stop_waiting()
            if self.pipeline and self.pipeline[0][0].more_body:
                self.pipeline.popleft()
            accepted[-1].keep_alive = False
            return
        cycle = self.cycle
        if cycle is None or (not cycle.more_body if cycle.response_complete else not cycle.response_started):
            self._write_refusal(status, message)
        if cycle is not None:
            cycle.disconnected = True  # its body does not come
            cycle.message_event.set()
        self._linger()

    def _write_refusal(self, status: bytes, message: bytes, header: bytes = b"") -> None:
        self.transport.write(_SHORT_ANSWER % (status, len(message), header, message))

    def _linger(self) -> None:
        """Close the connection after the last answer.

        If the client still sends, its bytes are read and dropped for a while. To close a connection with unread bytes
        resets it, and the client might not get to read the answer.
        """
        assert isinstance(self.transport, LingeringTransport)
        if self.cycle is None or self.cycle.more_body or self._in_headers:
            self.flow.resume_reading()
            self.transport.end_writing()
            self._abort_later()
        else:
            self._close()

    def _close(self) -> None:
        assert isinstance(self.transport, LingeringTransport)
        self.transport.close_now()
        self._abort_later()

    def _abort_later(self) -> None:
        """Drop the connection if the client does not read what was written in time."""
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self._settings.read_timeout_s, self.transport.abort)


def _without_upgrade(data: bytes) -> bytes:
    r"""Return the start of a request without the offer to change to another protocol, which HTTP lets a server ignore.

    Java's client offers HTTP/2 with each request, and httptools would drop the body of such a request.

    Example:
        >>> _without_upgrade(b"GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n")
        b'GET / HTTP/1.1\r\nX-Upgrade: h2c\r\n\r\n'
    """
    place = data.find(b"\r\n\r\n", 0, _MAX_HEADER_BYTES)
    if _UPGRADE.search(data, 0, place if place > 0 else len(data)) is None:
        return data
    return _UPGRADE.sub(rb"\1X-\2", data[:place]) + data[place:]


class ConnectionOwner:
    """What the connections of a process ask and tell the server.

    Attributes:
        is_stopping: whether the server ends, so that each connection is closed after its answer.
    """

    is_stopping = False

    def connections_changed(self) -> None:
        """Hear that a connection was opened or closed."""
