"""The log of the server: a line for each request, and what happens to the server itself."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from embedder.common.escapes import escape_line

if TYPE_CHECKING:
    from embedder.serve.request_record import RequestRecord

# Lines are written together that come within so many seconds. A thread that wakes for each line slows the server down.
_GATHER_S = 0.05
# Lines that wait to be written. If their reader stands still, the newest ones are lost, not the requests.
_MAX_WAITING_LINES = 10_000
_MAX_PATH_CHARACTERS = 200


class ServerLog:
    """Writes lines to standard error in a thread of its own, so that a reader that stands still stops no request.

    A line of a request has the time, what was asked, and how it was answered. It has no text and no key.

    Example:
        >>> log = ServerLog("json")  # doctest: +SKIP
        >>> log.say("ready")  # doctest: +SKIP
        {"time":"2026-11-26T10:00:00.000Z","level":"info","message":"ready"}
    """

    def __init__(self, format: str = "plain", stream: TextIO | None = None, *, in_thread: bool = True) -> None:
        """Open the log.

        Args:
            format: "plain" or "json".
            stream: where the lines go. None is standard error.
            in_thread: False writes in the calling thread.
        """
        self._json = format == "json"
        self._in_thread = in_thread
        self._stream = stream
        self._waiting: deque[str] = deque()
        self._wake = threading.Condition()
        self._writing = self._hurry = False
        self._thread: threading.Thread | None = None

    def say(self, message: str, level: str = "info", **fields: Any) -> None:
        """Log what happens to the server."""
        now = _timestamp(time.time())
        if self._json:
            self._add(_json({"time": now, "level": level, "message": message, **fields}))
            return
        mark = "" if level == "info" else f"{level}: "
        more = "".join(f" {name}={value}" for name, value in fields.items())
        self._add(f"{now} {mark}{message}{more}")

    def request(self, method: str, path: str, client: str, record: RequestRecord, seconds: float) -> None:
        """Log a request that has ended."""
        now, ms = _timestamp(time.time()), round(seconds * 1000, 1)
        path = path[:_MAX_PATH_CHARACTERS]
        if self._json:
            fields = {
                "time": now,
                "method": method,
                "path": path,
                "status": record.status,
                "ms": ms,
                "texts": record.texts,
                "tokens": record.tokens,
                "body_bytes": record.body_bytes,
                "answer_bytes": record.answer_bytes,
                "client": client,
                "id": record.id,
            }
            if record.model is not None:
                fields["model"] = record.model
            if record.code is not None:
                fields["code"] = record.code
            self._add(_json(fields))
            return
        more = f" model={record.model}" if record.model is not None else ""
        more += f" code={record.code}" if record.code is not None else ""
        self._add(
            f"{now} {client} {method} {escape_line(path)} {record.status} {ms} ms texts={record.texts} "
            f"tokens={record.tokens} body={record.body_bytes} answer={record.answer_bytes} id={record.id}{more}"
        )

    def flush(self, timeout_s: float = 5.0) -> None:
        """Wait until all lines are written, but not longer than `timeout_s` seconds."""
        with self._wake:
            self._hurry = True
            self._wake.notify_all()
            self._wake.wait_for(lambda: not (self._waiting or self._writing), timeout_s)
            self._hurry = False

    def _add(self, line: str) -> None:
        if not self._in_thread:
            self._write_lines(f"{line}\n")
            return
        with self._wake:
            if len(self._waiting) < _MAX_WAITING_LINES:
                self._waiting.append(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="embedder-log", daemon=True)
                self._thread.start()
            if len(self._waiting) == 1 and not self._writing:
                self._wake.notify_all()

    def _write(self) -> None:
        while True:
            with self._wake:
                self._writing = False
                if not self._waiting:
                    self._wake.notify_all()
                    self._wake.wait_for(lambda: self._waiting)
                self._wake.wait_for(lambda: self._hurry, _GATHER_S)
                lines = "\n".join(self._waiting) + "\n"
                self._waiting.clear()
                self._writing = True
            self._write_lines(lines)

    def _write_lines(self, lines: str) -> None:
        stream = self._stream or sys.stderr
        with suppress(OSError, ValueError, AttributeError):  # it is closed: there is nobody to tell
            stream.write(lines)
            stream.flush()


class LibraryLog(logging.Handler):
    """Writes what libraries log into the log of the server, in its format.

    Example:
        >>> logging.getLogger().addHandler(LibraryLog(log))  # doctest: +SKIP
    """

    def __init__(self, log: ServerLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; see logging."""
        self._log.say(self.format(record), record.levelname.lower())


def _timestamp(seconds: float) -> str:
    """Return the time in UTC, such as "2026-11-26T10:00:00.000Z"."""
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03d}Z"


def _json(fields: dict[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"))
