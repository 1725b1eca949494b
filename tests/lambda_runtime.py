"""A server of AWS' Lambda Runtime API on this machine. AWS' runtime interface client, `awslambdaric`, asks it.

It speaks the version "2018-06-01": the next event, the response to an event, an error of an event, an error of the
start, and the two addresses of SnapStart. It refuses a response that is larger than Lambda allows.
"""

import json
import queue
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

_PREFIX = "/2018-06-01/runtime"
# Lambda refuses a response of more than 6 MB and 100 bytes.
MAX_RESPONSE_BYTES = 6 * 1024 * 1024 + 100


@dataclass(frozen=True)
class Invocation:
    """An event that waits for its response, and what came of it.

    Attributes:
        content: the event, as JSON.
        timeout_s: the time that Lambda gives the call.
        id: its request id.
        taken: set when the function has taken the event.
        done: set when a response or an error has come.
        outcome: "response" and its JSON, "error" and its JSON, or "too large" and its size; empty before that.
        times: the seconds of the monotonic clock at which it was taken and done.
    """

    content: bytes
    timeout_s: float
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    taken: Event = field(default_factory=Event)
    done: Event = field(default_factory=Event)
    outcome: list[Any] = field(default_factory=list)
    times: dict[str, float] = field(default_factory=dict)

    def finish(self, *outcome: Any) -> None:
        self.times["done"] = time.monotonic()
        self.outcome.extend(outcome)
        self.done.set()

    def response(self, wait_s: float = 60) -> Any:
        """Wait for the response, and return it. An error of the function is an AssertionError."""
        assert self.done.wait(wait_s), "no response came"
        kind, value = self.outcome
        assert kind == "response", (kind, value)
        return value

    @property
    def seconds(self) -> float:
        """The time from taking the event to the end of the response."""
        return self.times["done"] - self.times["taken"]


@dataclass(frozen=True)
class RuntimeApi:
    """The state of a server.

    Attributes:
        events: the invocations that nobody has taken yet.
        running: the invocations that were taken, by their id.
        asked: set when the function has asked for its first event: its start is over.
        idle: set while the function waits for an event. Lambda freezes it then.
        init_errors: the errors that the function reported at its start.
        times: the second of the monotonic clock at which the function asked for its first event: "ready".
        snapshot: set when a function with SnapStart may be frozen and copied.
        restored: such a function waits for it. Set it to go on after the snapshot.
    """

    events: "queue.SimpleQueue[Invocation]" = field(default_factory=queue.SimpleQueue)
    running: dict[str, Invocation] = field(default_factory=dict)
    asked: Event = field(default_factory=Event)
    idle: Event = field(default_factory=Event)
    init_errors: "queue.SimpleQueue[dict[str, Any]]" = field(default_factory=queue.SimpleQueue)
    times: dict[str, float] = field(default_factory=dict)
    snapshot: Event = field(default_factory=Event)
    restored: Event = field(default_factory=Event)

    def send(self, event: Any, timeout_s: float = 60) -> Invocation:
        """Give the function an event. It waits until the function asks for it. Bytes are sent as they are."""
        content = event if isinstance(event, bytes) else json.dumps(event).encode()
        invocation = Invocation(content, timeout_s)
        self.events.put(invocation)
        return invocation

    def call(self, event: Any, timeout_s: float = 60) -> Any:
        """Give the function an event, and return the response."""
        return self.send(event, timeout_s).response()


@contextmanager
def serve_runtime_api(listening: socket.socket) -> Iterator[RuntimeApi]:
    """Serve on `listening`, a socket of 127.0.0.1. It may belong to another network namespace."""
    api = RuntimeApi()
    handler = type("Handler", (_Handler,), {"api": api})
    server = _Server(("127.0.0.1", 0), handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a function that waits for an event may never leave

    def handle_error(self, *_: Any) -> None:
        """Be silent when a function ends and leaves its connection open."""


class _Handler(BaseHTTPRequestHandler):
    api: RuntimeApi
    protocol_version = "HTTP/1.1"
    # Headers and content leave in one packet. Otherwise the second one waits for an acknowledgement of the first.
    wbufsize = -1

    def do_GET(self) -> None:
        if self.path == f"{_PREFIX}/invocation/next":
            self._send_event()
        elif self.path == f"{_PREFIX}/restore/next":
            self.api.snapshot.set()
            self.api.restored.wait()
            self._answer(200)
        else:
            self._answer(404)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        match self.path.removeprefix(_PREFIX).split("/")[1:]:
            case ["init", "error"] | ["restore", "error"]:
                self.api.init_errors.put(json.loads(content))
                self._answer(202)
            case ["invocation", id_, "response"] if id_ in self.api.running:
                self._take_response(self.api.running.pop(id_), content)
            case ["invocation", id_, "error"] if id_ in self.api.running:
                self.api.running.pop(id_).finish("error", json.loads(content))
                self._answer(202)
            case _:
                self._answer(404)

    def _send_event(self) -> None:
        if not self.api.asked.is_set():
            self.api.times["ready"] = time.monotonic()
            self.api.asked.set()
        self.api.idle.set()
        invocation = self.api.events.get()
        self.api.idle.clear()
        self.api.running[invocation.id] = invocation
        invocation.times["taken"] = time.monotonic()
        self._answer(
            200,
            invocation.content,
            {
                "Lambda-Runtime-Aws-Request-Id": invocation.id,
                "Lambda-Runtime-Deadline-Ms": str(int((time.time() + invocation.timeout_s) * 1000)),
                "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-central-1:123456789012:function:vectors",
                "Lambda-Runtime-Trace-Id": "Root=1-00000000-000000000000000000000000",
            },
        )
        invocation.taken.set()

    def _take_response(self, invocation: Invocation, content: bytes) -> None:
        if len(content) > MAX_RESPONSE_BYTES:
            self._answer(413)
            invocation.finish("too large", len(content))
        else:
            self._answer(202)
            invocation.finish("response", json.loads(content))

    def _answer(self, status: int, content: bytes = b"{}", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        """Be silent."""
