"""Servers that tests start as processes, and requests to them."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 120


@contextmanager
def serving(command, port, *, cwd):
    """Run a server until the end of the `with` statement. Yield its process when it listens."""
    # gunicorn makes a socket in the home directory, and the path of a socket must be short.
    with tempfile.TemporaryDirectory() as home, open(cwd / "log", "wb") as log:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": home, "PORT": str(port)}
        process = subprocess.Popen(
            [sys.executable, *command], cwd=cwd, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for(port, process, cwd / "log")
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def wait_for(port, process, log):
    """Wait until the server answers. A connection that is refused comes back at once, so this tries again and again."""
    ended = threading.Event()
    timer = threading.Timer(START_TIMEOUT_S, ended.set)
    timer.start()
    try:
        while process.poll() is None and not ended.wait(0.05):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
            except OSError:
                continue
            return
    finally:
        timer.cancel()
    pytest.fail(f"the server did not start: {log.read_text()}")


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def ask(port, body=None, *, method="POST", path="/"):
    """Return the status, the headers and the body of an answer. A body that is an iterator is sent in chunks."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()
