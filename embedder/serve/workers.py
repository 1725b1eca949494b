"""Several processes that listen on the same sockets, and the supervisor that starts, restarts and ends them."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embedder.errors import EmbedderError, WorkerError
from embedder.serve.access_log import ServerLog
from embedder.serve.settings import ServerSettings

# Both are written for one worker: what it should do, as JSON.
_VARIABLE = "EMBEDDER_WORKER"
# The directory of the package comes last, as it may be one of many packages.
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from embedder.serve.workers import main; sys.exit(main())"
_METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.5, 30.0
_READY = b"r"


class Supervisor:
    """Starts the workers. One that dies is started again; the others go on.

    Example:
        >>> Supervisor(settings, sockets, log).run()  # doctest: +SKIP
    """

    def __init__(self, settings: ServerSettings, sockets: list[socket.socket], log: ServerLog) -> None:
        self._settings, self._sockets, self._log = settings, sockets, log
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._was_ready = False
        self._pause_s = _MIN_PAUSE_S
        self._starts_at: list[float] = []
        self._metrics = ""
        self._alive, self._alive_end = os.pipe()

    def run(self) -> int:
        """Serve until a signal ends the process, and return the number of the signal.

        Raises:
            WorkerError: a worker cannot start. Its message is in the log.
        """
        self._take_signals()
        with tempfile.TemporaryDirectory(prefix="embedder-metrics-") as self._metrics:
            try:
                for _ in range(self._settings.workers):
                    self._start()
                while self._workers or (self._starts_at and not self._signals):
                    self._wait()
            finally:
                for worker in self._workers:
                    worker.process.kill()
                    worker.process.wait()
        return self._signals[0]

    def _take_signals(self) -> None:
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *unused: None)
        self._selector.register(reader, selectors.EVENT_READ, None)
        self._wakeup = (reader, writer)

    def _start(self) -> None:
        ready, ready_end = os.pipe()
        descriptors = [listener.fileno() for listener in self._sockets]
        task = {
            "settings": asdict(self._settings),
            "sockets": descriptors,
            "ready": ready_end,
            "parent": self._alive,
        }
        root = str(Path(__file__).resolve().parents[2])
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, root],
            env={**os.environ, _VARIABLE: json.dumps(task), _METRICS_VARIABLE: self._metrics},
            pass_fds=[*descriptors, ready_end, self._alive],
        )
        os.close(ready_end)
        worker = _Worker(process, ready)
        self._workers.append(worker)
        self._selector.register(ready, selectors.EVENT_READ, worker)

    def _wait(self) -> None:
        """Wait for a signal, for a worker, or until one should be started again."""
        pause = max(0.0, min(self._starts_at) - time.monotonic()) if self._starts_at and not self._signals else None
        for key, _ in self._selector.select(pause):
            if key.data is None:
                for number in self._wakeup[0].recv(100):
                    self._signalled(number)
            elif os.read(key.data.ready, 1) == _READY:
                self._was_ready = True
                self._pause_s = _MIN_PAUSE_S
            else:
                self._ended(key.data)
        now = time.monotonic()
        if not self._signals:
            due = sum(start <= now for start in self._starts_at)
            self._starts_at = [start for start in self._starts_at if start > now]
            for _ in range(due):
                self._start()

    def _signalled(self, number: int) -> None:
        if number not in (signal.SIGINT, signal.SIGTERM):
            return
        self._signals.append(number)
        for listener in self._sockets:
            listener.close()  # else connections would wait here when the workers take no more
        for worker in self._workers:
            worker.process.send_signal(signal.SIGTERM if len(self._signals) == 1 else signal.SIGKILL)
        if len(self._signals) > 1:
            self._log.say("a second signal ends the server at once", "warning")

    def _ended(self, worker: _Worker) -> None:
        self._selector.unregister(worker.ready)
        os.close(worker.ready)
        self._workers.remove(worker)
        status = worker.process.wait()
        for left in Path(self._metrics).glob(f"gauge_live*_{worker.process.pid}.db"):
            left.unlink()
        if self._signals:
            return
        if not self._was_ready:
            raise WorkerError("the server cannot start, see the message above")
        self._log.say(f"worker {worker.process.pid} has ended with status {status}. Another starts", "error")
        self._starts_at.append(time.monotonic() + self._pause_s)
        self._pause_s = min(2 * self._pause_s, _MAX_PAUSE_S)


class _Worker:
    """A worker.

    Attributes:
        process: its process.
        ready: the end of a pipe. It says when the worker is ready, and when it has ended.
    """

    def __init__(self, process: subprocess.Popen[bytes], ready: int) -> None:
        self.process, self.ready = process, ready


def main() -> int:
    """Be a worker: serve as the supervisor says, and return the exit status."""
    from embedder.serve.server import error_text, run_server

    task = json.loads(os.environ.pop(_VARIABLE))
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in task["settings"].items()
    }
    settings = ServerSettings(**values)
    sockets = [socket.socket(fileno=descriptor) for descriptor in task["sockets"]]
    log = ServerLog(settings.log_format)

    def ready() -> None:
        with suppress(OSError):
            os.write(task["ready"], _READY)

    try:
        run_server(settings, sockets, log, ready=ready, parent=task["parent"])
    except EmbedderError as error:
        log.say(error_text(error), "error")
        log.flush()
        return 1
    return 0
