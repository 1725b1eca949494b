"""Run the application in one process: from the sockets to the graceful end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from email.utils import formatdate
from typing import NoReturn

import uvloop
from uvicorn.config import Config
from uvicorn.server import ServerState

from embedder.errors import EmbedderError
from embedder.serve.access_log import LibraryLog, ServerLog
from embedder.serve.app import ServerApp
from embedder.serve.listening import BACKLOG, accept_waiting, close
from embedder.serve.loading import load_models
from embedder.serve.models import ServedModels
from embedder.serve.protocol import ConnectionOwner, HttpProtocol
from embedder.serve.settings import ServerSettings

# Requests that are on their way to idle connections arrive meanwhile.
_CLOSING_S = 0.1
_DATE_S = 1.0


def run_server(
    settings: ServerSettings,
    sockets: list[socket.socket],
    log: ServerLog,
    *,
    ready: Callable[[], None] = lambda: None,
    parent: int | None = None,
) -> int:
    """Serve until a signal ends the process, and return the number of the signal.

    Args:
        settings: the settings.
        sockets: they listen already.
        log: where requests are logged.
        ready: called when the models are loaded.
        parent: file descriptor of a pipe. The server ends when its other end is closed. With a parent, SIGINT is left
            to it.

    Raises:
        EmbedderError: a model cannot be loaded, or the file of API keys cannot be used.
    """
    server, library_log = _Server(settings, sockets, log, parent), LibraryLog(log)
    logging.getLogger().addHandler(library_log)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(server.run(ready))
        finally:
            logging.getLogger().removeHandler(library_log)
            log.flush()


class _Server(ConnectionOwner):
    """One process. A first signal ends it when all accepted requests are answered, a second one at once."""

    def __init__(
        self, settings: ServerSettings, sockets: list[socket.socket], log: ServerLog, parent: int | None
    ) -> None:
        self._settings, self._sockets, self._log, self._parent = settings, sockets, log, parent
        self._app = ServerApp(settings, log)
        self._state = ServerState()
        # The application has its own log, and its own answer for every error.
        self._config = Config(
            self._app, http=HttpProtocol, ws="none", lifespan="off", log_config=None, access_log=False
        )
        self._stopped = asyncio.Event()
        self._all_closed = asyncio.Event()
        self._signal = 0

    async def run(self, ready: Callable[[], None]) -> int:
        loop = asyncio.get_running_loop()
        self._take_signals(loop)
        # The event loop listens once more, by default with a short queue.
        listeners = [
            await loop.create_server(self._connect, sock=listener, backlog=BACKLOG) for listener in self._sockets
        ]
        date = asyncio.create_task(self._keep_date())
        try:
            models = await self._load()
            self._app.serve(models)
            ready()
            self._log.say("ready")
            await self._stopped.wait()
            await self._end(listeners, models)
        finally:
            date.cancel()
            for listener in listeners:
                listener.close()
        return self._signal

    def connections_changed(self) -> None:
        """Count the connections; see `ConnectionOwner`."""
        count = len(self._state.connections)
        self._app.metrics.connections_changed(count)
        if self.is_stopping and not count:
            self._all_closed.set()

    def _connect(self) -> HttpProtocol:
        return HttpProtocol(self._config, self._state, self._settings, self)

    def _connections(self) -> list[HttpProtocol]:
        return [connection for connection in self._state.connections if isinstance(connection, HttpProtocol)]

    def _take_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._parent is None:
            loop.add_signal_handler(signal.SIGINT, self._signalled, signal.SIGINT)
            loop.add_signal_handler(signal.SIGTERM, self._signalled, signal.SIGTERM)
            return
        # The parent hears Ctrl-C too, and decides. It ends a worker at once by SIGKILL, so SIGTERM may come again.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        loop.add_signal_handler(signal.SIGTERM, self._stop, signal.SIGTERM)
        loop.add_reader(self._parent, self._parent_died)

    def _signalled(self, number: int) -> None:
        if self._stopped.is_set():
            self._log.say("a second signal ends the server at once", "warning")
            self._exit(128 + number)
        self._stop(number)

    def _stop(self, number: int) -> None:
        self._signal = self._signal or number
        self._stopped.set()

    def _parent_died(self) -> None:
        assert self._parent is not None
        asyncio.get_running_loop().remove_reader(self._parent)
        self._stop(signal.SIGTERM)

    def _exit(self, status: int) -> NoReturn:
        self._log.flush(1.0)
        if self._parent is None:
            close(self._sockets, self._settings)
        os._exit(status)

    async def _load(self) -> ServedModels:
        """Return the models. A signal that comes before they are loaded ends the process."""
        loading = asyncio.create_task(asyncio.to_thread(load_models, self._settings, self._app.metrics))
        stopped = asyncio.create_task(self._stopped.wait())
        await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            self._log.say("ended before the models were loaded")
            self._exit(0 if self._signal == signal.SIGTERM else 128 + self._signal)  # nothing ends the thread
        stopped.cancel()
        return loading.result()

    async def _keep_date(self) -> None:
        """Keep the header Date of the answers."""
        while True:
            self._state.default_headers = [(b"date", formatdate(usegmt=True).encode("ascii"))]
            await asyncio.sleep(_DATE_S)

    async def _end(self, listeners: list[asyncio.Server], models: ServedModels) -> None:
        """Answer what was accepted, and close all connections."""
        self._app.stop()
        self.is_stopping = True
        for connection in self._connections():
            connection.end_after_answer()
        self._log.say("ending: accepted requests are answered")
        await asyncio.sleep(self._settings.drain_s)
        waiting = accept_waiting(self._sockets)
        for listener in listeners:
            listener.close()
        for accepted in waiting:
            await asyncio.get_running_loop().connect_accepted_socket(self._connect, accepted)
        await asyncio.sleep(_CLOSING_S)
        for connection in self._connections():
            connection.end_when_idle()
        self.connections_changed()
        await self._all_closed.wait()
        for served in models.models:
            await served.batcher.drain()
        self._log.say("ended")


def error_text(error: EmbedderError) -> str:
    """Return an error with its notes, as the command line shows it.

    Example:
        >>> error_text(EmbedderError("no model"))
        'no model'
    """
    return "\n".join([str(error), *getattr(error, "__notes__", ())])
