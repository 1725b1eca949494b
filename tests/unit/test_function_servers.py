"""Functions under WSGI and ASGI, by the messages of the two specifications."""

import asyncio
import io
import json
import threading
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from embedder.functions import Function, Limits
from embedder.functions.asgi import asgi_app
from embedder.functions.wsgi import wsgi_app
from tests.function_requests import BODY_BYTES, NO_BODY, REQUEST, TOO_LARGE, WRONG_METHOD, message_of, small_function
from tests.tiny import DIMENSION


@pytest.fixture(scope="module")
def function(tmp_path_factory):
    return small_function(tmp_path_factory.mktemp("adapters"))


# WSGI


def call_wsgi(function, *, method="POST", body=BODY_BYTES, length="", stream=None, **fields):
    """Call the application as a server does that keeps to the specification. Return status, headers and body."""
    environ = {"REQUEST_METHOD": method, "wsgi.input": stream or io.BytesIO(body), "QUERY_STRING": "", **fields}
    if length is not None:
        environ["CONTENT_LENGTH"] = length or str(len(body))
    setup_testing_defaults(environ)
    started = []

    def start_response(status, headers, exc_info=None):
        started.append((status, headers))
        return lambda part: None

    parts = validator(wsgi_app(function))(environ, start_response)
    content = b"".join(parts)
    parts.close()
    ((status, headers),) = started
    return status, dict(headers), content


def test_wsgi_answers(function):
    status, headers, content = call_wsgi(function)
    assert status == "200 OK"
    assert headers == {"Content-Type": "application/json", "Content-Length": str(len(content))}
    assert json.loads(content) == function.embed(REQUEST)


def test_wsgi_answers_every_path(function):
    assert call_wsgi(function, SCRIPT_NAME="", PATH_INFO="/v1/embed")[0] == "200 OK"


def test_wsgi_reads_a_body_in_chunks(function):
    assert call_wsgi(function, length=None, **{"wsgi.input_terminated": True})[0] == "200 OK"


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ({"method": "GET", "body": b""}, "405 Method Not Allowed", WRONG_METHOD),
        ({"body": b""}, "400 Bad Request", NO_BODY),
        ({"length": None}, "400 Bad Request", NO_BODY),
        ({"body": b" " * 201}, "413 Content Too Large", TOO_LARGE),
        ({"length": "2001"}, "413 Content Too Large", TOO_LARGE),
        ({"length": "9" * 19}, "413 Content Too Large", TOO_LARGE),
        (
            {"body": b" " * 201, "length": None, "wsgi.input_terminated": True},
            "413 Content Too Large",
            TOO_LARGE,
        ),
        ({"body": b"{", "length": "20"}, "400 Bad Request", "the body has 1 bytes, and its Content-Length is 20"),
    ],
)
def test_wsgi_refuses(function, options, status, message):
    found, headers, content = call_wsgi(function, **options)
    assert found == status
    assert headers["Content-Length"] == str(len(content))
    assert message_of(content) == message
    assert call_wsgi(function)[0] == "200 OK"


@pytest.mark.parametrize("length", ["-1", "1e3", "²", "9" * 5000])
def test_wsgi_refuses_a_length_that_is_no_number(function, length):
    """The validator would stop these before the application sees them."""
    (content,) = wsgi_app(function)({"REQUEST_METHOD": "POST", "CONTENT_LENGTH": length}, lambda status, headers: None)
    assert message_of(content) == "Content-Length should be a whole number of bytes"


def test_wsgi_head_has_no_body(function):
    status, headers, content = call_wsgi(function, method="HEAD", body=b"")
    assert (status, content) == ("405 Method Not Allowed", b"")
    assert int(headers["Content-Length"]) > 0


def test_wsgi_reads_a_body_that_is_too_large_to_its_end_so_that_the_client_sees_the_answer(function):
    stream = io.BytesIO(b" " * 2000)
    assert call_wsgi(function, stream=stream, length="2000")[0] == "413 Content Too Large"
    assert stream.tell() == 2000


def test_wsgi_does_not_read_ten_times_the_limit(function):
    stream = io.BytesIO(b" " * 1_000_000)
    assert call_wsgi(function, stream=stream, length="2001")[0] == "413 Content Too Large"
    assert stream.tell() == 0
    terminated = {"wsgi.input_terminated": True}
    assert call_wsgi(function, stream=stream, length=None, **terminated)[0] == "413 Content Too Large"
    assert stream.tell() == 65_536


def test_wsgi_client_that_goes_is_400(function):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise ConnectionResetError

    status, _, content = call_wsgi(function, stream=Broken())
    assert status == "400 Bad Request"
    assert message_of(content) == "the body cannot be read to its end"


def test_wsgi_failure_is_500(tmp_path):
    status, _, content = call_wsgi(Function(tmp_path / "none"))
    assert status == "500 Internal Server Error"
    assert message_of(content) == "the function failed. Its log has the reason"


def test_wsgi_time_is_over(tiny):
    assert call_wsgi(Function(tiny, limits=Limits(timeout_s=0.001)))[0] == "504 Gateway Timeout"


# ASGI


def call_asgi(app, messages, *, kind="http", method="POST", headers=()):
    """Call the application with the messages of a client. Return the messages that it sends."""
    sent = []

    async def run():
        waiting = iter(messages)

        async def receive():
            return next(waiting)

        async def send(message):
            sent.append(message)

        await app({"type": kind, "method": method, "path": "/", "headers": headers}, receive, send)

    asyncio.run(run())
    return sent


def parts_of(body, size):
    """Return the messages of a body in parts of `size` bytes."""
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return [{"type": "http.request", "body": part, "more_body": part is not parts[-1]} for part in parts]


def result_of(sent):
    """Return status, headers and body of the messages that an application sent."""
    start, rest = sent
    assert (start["type"], rest["type"]) == ("http.response.start", "http.response.body")
    return start["status"], dict(start["headers"]), rest["body"]


@pytest.mark.parametrize("size", [1000, 7, 1])
def test_asgi_answers(function, size):
    status, headers, content = result_of(call_asgi(asgi_app(function), parts_of(BODY_BYTES, size)))
    assert status == 200
    assert headers == {b"content-type": b"application/json", b"content-length": str(len(content)).encode()}
    assert json.loads(content) == function.embed(REQUEST)


@pytest.mark.parametrize(
    ("messages", "method", "status", "message"),
    [
        ([{"type": "http.request"}], "GET", 405, WRONG_METHOD),
        ([{"type": "http.request"}], "POST", 400, NO_BODY),
        (parts_of(b" " * 201, 200), "POST", 413, TOO_LARGE),
        (parts_of(b" " * 2000, 201), "POST", 413, TOO_LARGE),
        (parts_of(b" " * 5000, 501)[:4], "POST", 413, TOO_LARGE),  # the rest is not read
    ],
)
def test_asgi_refuses(function, messages, method, status, message):
    app = asgi_app(function)
    found, headers, content = result_of(call_asgi(app, messages, method=method))
    assert (found, message_of(content)) == (status, message)
    assert headers.get(b"allow") == (b"POST" if status == 405 else None)
    assert result_of(call_asgi(app, parts_of(BODY_BYTES, 99)))[0] == 200


@pytest.mark.parametrize("length", [b"2001", b"9" * 5000])
def test_asgi_does_not_read_ten_times_the_limit(function, length):
    status, _, content = result_of(call_asgi(asgi_app(function), [], headers=[(b"content-length", length)]))
    assert (status, message_of(content)) == (413, TOO_LARGE)


@pytest.mark.parametrize("length", [b"2000", b"", b"x", "\u00b2".encode("latin-1")])
def test_asgi_reads_a_body_whatever_its_length_should_be(function, length):
    headers = [(b"content-length", length)]
    assert result_of(call_asgi(asgi_app(function), parts_of(BODY_BYTES, 99), headers=headers))[0] == 200


def test_asgi_head_has_no_body(function):
    status, headers, content = result_of(call_asgi(asgi_app(function), [{"type": "http.request"}], method="HEAD"))
    assert (status, content) == (405, b"")
    assert int(headers[b"content-length"]) > 0


def test_asgi_client_that_goes_gets_nothing(function):
    messages = [*parts_of(BODY_BYTES, 10)[:2], {"type": "http.disconnect"}]
    assert call_asgi(asgi_app(function), messages) == []


def test_asgi_client_that_goes_before_the_answer_is_no_error(function):
    async def receive():
        return {"type": "http.request", "body": BODY_BYTES}

    async def send(message):
        raise ConnectionResetError

    asyncio.run(asgi_app(function)({"type": "http", "method": "POST", "headers": []}, receive, send))


def test_asgi_computes_outside_the_event_loop(function, monkeypatch):
    threads = []
    embed = function.embed
    monkeypatch.setattr(
        function,
        "embed",
        lambda *given, **options: threads.append(threading.current_thread()) or embed(*given, **options),
    )
    call_asgi(asgi_app(function), parts_of(BODY_BYTES, 99))
    assert threads
    assert threading.main_thread() not in threads


def test_asgi_time_counts_while_a_request_waits(tiny):
    app = asgi_app(Function(tiny, limits=Limits(timeout_s=1e-9)))
    status, _, content = result_of(call_asgi(app, parts_of(BODY_BYTES, 99)))
    assert (status, message_of(content)) == (504, "the time was over before the request was begun. Try again later")


def test_asgi_loads_the_model_when_the_server_starts(tiny, monkeypatch):
    function = Function(tiny)
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = call_asgi(asgi_app(function), messages, kind="lifespan")
    assert sent == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]
    monkeypatch.setattr("embedder.encoder.Embedder", None)  # it is not loaded again
    assert function.embed({"inputs": "cat"})["dimension"] == DIMENSION


def test_asgi_server_does_not_start_without_the_model(tmp_path):
    app = asgi_app(Function(tmp_path / "none"))
    (sent,) = call_asgi(app, [{"type": "lifespan.startup"}], kind="lifespan")
    assert sent["type"] == "lifespan.startup.failed"
    assert sent["message"].startswith("ModelNotFoundError: no exported model at ")


def test_asgi_refuses_websockets(function):
    with pytest.raises(ValueError, match="this application answers HTTP, not websocket"):
        call_asgi(asgi_app(function), [], kind="websocket")
