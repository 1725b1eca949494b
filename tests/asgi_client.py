"""Ask an ASGI application in this process, without a port."""

import asyncio
import json
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from embedder.serve.app import create_app
from embedder.serve.loading import serve_model
from embedder.serve.models import ServedModels
from embedder.serve.settings import ServerSettings


@dataclass(frozen=True)
class Answered:
    """An answer of the application."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


async def ask_app(app, path, body=None, *, method="POST", headers=()):
    """Return the answer of `app`. A body that is not bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    path, _, query = path.partition("?")
    given = {"host": "test", "content-type": "application/json", "content-length": str(len(content)), **dict(headers)}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items() if value is not None],
        "client": ("127.0.0.1", 50_000),
        "server": ("test", 80),
        "state": {},
    }
    messages = [{"type": "http.request", "body": content, "more_body": False}]
    sent = []

    async def receive():
        if messages:
            return messages.pop()
        await asyncio.Event().wait()  # the client waits for the answer
        raise AssertionError

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    start, *parts = sent
    received = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return Answered(start["status"], received, b"".join(part.get("body", b"") for part in parts))


def served_app(models, settings=None):
    """Return the served `models`, which are given by name, and the application that serves them."""
    served = ServedModels(tuple(serve_model(name, model) for name, model in models.items()))
    return served, create_app(served, settings or ServerSettings())


class ServedApp:
    """An application for synchronous tests. `close` ends its loop, its threads and its models."""

    def __init__(self, models, settings=None):
        """Serve `models`, which are given by name."""
        self.models, self.app = served_app(models, settings)
        self._runner = asyncio.Runner()

    def ask(self, path, body=None, **options):
        return self._runner.run(ask_app(self.app, path, body, **options))

    def gather(self, *requests):
        """Return the answers to requests that are made at the same time. Each is a path and a body."""

        async def ask_all():
            return await asyncio.gather(*(ask_app(self.app, path, body) for path, body in requests))

        return self._runner.run(ask_all())

    def close(self):
        for served in self.models.models:
            self._runner.run(served.batcher.drain())
            served.model.close()
        self._runner.close()


@contextmanager
def listening(app):
    """Serve an application on a port of this machine until the end of the `with` statement. Yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:  # clients wait in its queue until the server runs
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()
