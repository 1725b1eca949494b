"""`embedder serve` as a process: hostile clients, signals, and workers that die."""

import json
import os
import signal
import socket
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.servers import ask, free_port, serving
from tests.tiny import write_tiny_artifact

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="Windows has neither these signals nor workers"),
]
TIMEOUT_S = 60
BODY = b'{"input": "the cat"}'
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n"


@contextmanager
def server(tmp_path, *options):
    """Run a server of the tiny model. Yield its process, its port, and a function that waits for a line of its log."""
    directory, port = tmp_path / "tiny", free_port()
    if not directory.exists():
        write_tiny_artifact(directory)
    command = ["-m", "embedder", "serve", str(directory), "--port", str(port), "--log-format", "json", *options]
    with serving(command, port, cwd=tmp_path) as process:
        yield process, port, lambda message, count=1: wait_for_log(tmp_path / "log", process, message, count)


def wait_for_log(path, process, message, count):
    """Wait until a message is in the log `count` times, and return its lines."""
    while True:
        ended = process.poll() is not None
        entries = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        found = [entry for entry in entries if message in entry.get("message", "")]
        if len(found) >= count:
            return found
        assert not ended, path.read_text()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A server with narrow limits: its process and its port."""
    options = ("--read-timeout-s", "1", "--max-body-bytes", "1000", "--max-connections", "20")
    with server(tmp_path_factory.mktemp("serve"), *options) as (process, port, wait):
        wait("ready")
        yield process, port


@pytest.fixture
def port(running):
    return running[1]


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)


def talk(port, *parts):
    """Send the parts, and return all that comes until the server closes the connection."""
    with connect(port) as connection:
        with suppress(ConnectionError):  # the server has refused already
            for part in parts:
                connection.sendall(part)
        return read_all(connection)


def read_all(connection):
    received = b""
    with suppress(ConnectionError):  # the rest of a refused request came after the answer
        while data := connection.recv(65_536):
            received += data
    return received


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /health HTTP/1.1\r\nHo", b"408 Request Timeout"),
        (HEAD + b'{"in', b"408 Request Timeout"),
        (b"GET / HTTP/1.1\r\na: " + b"a" * 100_000, b"431 Request Header Fields Too Large"),
        (b"GET /" + b"a" * 100_000, b"431 Request Header Fields Too Large"),
        (HEALTH + b"a: b\r\n" * 101 + b"Connection: close\r\n", b"431 Request Header Fields Too Large"),
        (b"\x16\x03\x01\x02\x00\x01", b"400 Bad Request"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na", b"400 Bad Request"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400 Bad Request"),
        (b"GET http://other/health HTTP/1.0\r\n\r\n", b"200 OK"),
        (HEAD.replace(b"20", b"2000"), b"413 Request Entity Too Large"),
        (HEALTH + b"Connection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n", b"200 OK"),
        (HEAD[:-2] + b"Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n\r\n" + BODY, b"200 OK"),
    ],
)
def test_slow_damaged_and_unusual_requests(port, request_bytes, status):
    answer = talk(port, request_bytes)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"\r\nserver:" not in answer.lower()


def test_client_that_says_nothing_is_dropped(port):
    assert talk(port) == b""


def test_pipelined_requests_are_answered_in_order_up_to_a_limit(port):
    last = HEALTH + b"Connection: close\r\n\r\n"
    assert talk(port, (HEALTH + b"\r\n") * 3 + last).count(b"200 OK") == 4
    answer = talk(port, (HEALTH + b"\r\n") * 200)
    assert answer.count(b"200 OK") == 33
    assert b"connection: close" in answer


def test_body_in_chunks_with_endless_extras_is_refused(port):
    chunked = b"POST /embed HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert talk(port, chunked + b"1;" + b"a" * 2_000_000).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize("damage", [b"\0\r\n\r\n", b"GET /" + b"a" * 100_000, b"GET / HTTP/1.1\r\nHo"])
def test_requests_before_damaged_bytes_are_answered(port, damage):
    answer = talk(port, (HEAD + BODY) * 2 + damage)
    assert answer.count(b"HTTP/1.1 200 OK") == answer.count(b"HTTP/1.1 ") - answer.count(b"408") == 2


def test_client_that_closes_after_its_request_reads_why_its_body_was_refused(port):
    head = HEAD.replace(b"20", b"20000000")[:-2] + b"Connection: close\r\n\r\n"
    with connect(port) as connection:
        connection.sendall(head)
        for _ in range(20):  # nothing resets the connection
            connection.sendall(bytes(1_000_000))
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_many_clients_that_come_at_once_are_let_in_at_once(running):
    process, port = running
    process.send_signal(signal.SIGSTOP)
    try:
        connections = [connect(port) for _ in range(125)]
    finally:
        process.send_signal(signal.SIGCONT)
    for connection in connections:
        connection.close()


def test_too_many_connections_are_told_so(port):
    connections = [connect(port) for _ in range(20)]
    answer = talk(port)
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable")
    assert b"Retry-After: 1\r\n" in answer
    for connection in connections:
        connection.close()


def test_accepted_request_is_answered_after_the_signal(tmp_path):
    with server(tmp_path) as (process, port, wait):
        wait("ready")
        idle, started = connect(port), connect(port)
        started.sendall(HEAD)
        ask(port, BODY, path="/v1/embeddings")  # so that the server has read what was sent before
        process.send_signal(signal.SIGTERM)
        wait("ending")
        started.sendall(BODY)
        answer = read_all(started)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close" in answer
        assert read_all(idle) == b""
        assert process.wait(TIMEOUT_S) == 0
        started.close()
        idle.close()


def test_connections_that_wait_at_the_signal_are_answered(tmp_path):
    with server(tmp_path) as (process, port, wait):
        wait("ready")
        process.send_signal(signal.SIGSTOP)
        connections = [connect(port) for _ in range(100)]
        for connection in connections:
            connection.sendall(HEAD + BODY)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        answers = [read_all(connection)[:15] for connection in connections]
        assert answers == [b"HTTP/1.1 200 OK"] * 100
        for connection in connections:
            connection.close()


def test_not_ready_while_it_drains_and_a_second_signal_ends_it(tmp_path):
    with server(tmp_path, "--drain-s", "600") as (process, port, wait):
        wait("ready")
        process.send_signal(signal.SIGINT)
        wait("ending")
        assert ask(port, method="GET", path="/ready")[0] == 503
        # What a library logs has the format of the log, too.
        assert b"400 Bad Request" in talk(port, b"no HTTP\r\n\r\n")
        assert wait("Invalid HTTP request")[0]["level"] == "warning"
        assert ask(port, BODY, path="/v1/embeddings")[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130


def test_model_that_cannot_be_loaded_ends_the_server(tmp_path):
    (write_tiny_artifact(tmp_path / "tiny") / "model.onnx").write_bytes(b"damaged")
    for options in ((), ("--workers", "2")):
        with server(tmp_path, *options) as (process, _, _):
            assert process.wait(TIMEOUT_S) == 1
            assert "model.onnx" in (tmp_path / "log").read_text()


def wait_for_count(port, count):
    """Wait until the metrics have so many answers. A worker counts an answer after it was sent."""
    line = f'embedder_requests_total{{model="tiny",path="/v1/embeddings",status="200"}} {count}.0'
    while line not in ask(port, method="GET", path="/metrics")[2].decode():
        pass


def test_workers_that_end_take_no_connections(tmp_path):
    with server(tmp_path, "--workers", "2") as (process, port, wait):
        wait("ready", 2)
        with connect(port) as started:
            started.sendall(HEAD + BODY[:-1])
            for _ in range(20):  # so that the worker has read what was sent before
                ask(port, method="GET", path="/health")
            process.send_signal(signal.SIGTERM)
            with suppress(ConnectionError):
                while True:
                    connect(port).close()
            started.sendall(BODY[-1:])
            assert read_all(started).startswith(b"HTTP/1.1 200 OK")
        assert process.wait(TIMEOUT_S) == 0


def test_killed_worker_is_started_again(tmp_path):
    with server(tmp_path, "--workers", "2") as (process, port, wait):
        wait("ready", 2)
        assert ask(port, BODY, path="/v1/embeddings")[0] == 200
        wait_for_count(port, 1)
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        os.kill(children[0], signal.SIGKILL)
        (entry,) = wait("Another starts")
        assert entry["message"] == f"worker {children[0]} has ended with status -9. Another starts"
        wait("ready", 3)
        assert ask(port, BODY, path="/v1/embeddings")[0] == 200
        wait_for_count(port, 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
