"""The server's application in this process: keys, limits, errors, its log and its metrics."""

import asyncio
import io
import json
from types import SimpleNamespace

import pytest

from embedder import Embedder, InputError
from embedder.errors import DeviceMemoryError
from embedder.serve.access import ApiKeys
from embedder.serve.access_log import ServerLog
from embedder.serve.app import ServerApp, create_app
from embedder.serve.bodies import BodyReader
from embedder.serve.errors import RequestRefused
from embedder.serve.exchange import CONNECTION_KEY
from embedder.serve.loading import serve_model
from embedder.serve.models import ServedModels
from embedder.serve.request_record import RequestRecord
from embedder.serve.settings import ServerSettings
from tests.asgi_client import ask_app
from tests.tiny import write_tiny_artifact

PATH, BODY = "/v1/embeddings", {"input": "the cat"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    with Embedder(write_tiny_artifact(tmp_path_factory.mktemp("serve") / "tiny")) as model:
        yield ServedModels((serve_model("tiny", model),))


def exchange(models, path, body=None, *, app=None, log_format="json", **options):
    """Return the answer to one request, and the lines of the log."""
    settings = options.pop("settings", ServerSettings())
    stream = io.StringIO()
    app = app or create_app(models, settings, ServerLog(log_format, stream, in_thread=False))
    answer = asyncio.run(ask_app(app, path, body, **options))
    return answer, stream.getvalue().splitlines()


def test_request_is_logged_without_its_text(models):
    answer, (line,) = exchange(models, PATH, {"input": ["the cat", "secret"]}, headers={"authorization": "Bearer k"})
    entry = json.loads(line)
    assert entry["id"] == answer.headers["x-request-id"]
    known = {key: entry[key] for key in ("method", "path", "status", "texts", "tokens", "client", "model")}
    assert known == {
        "method": "POST",
        "path": PATH,
        "status": 200,
        "texts": 2,
        "tokens": 7,
        "client": "127.0.0.1",
        "model": "tiny",
    }
    assert entry["answer_bytes"] == len(answer.body)
    assert "secret" not in line
    assert "server" not in answer.headers


def test_lines_that_come_together_are_written_together(monkeypatch):
    """A thread that wakes for each line would take time from the requests. The end of a server does not wait."""
    monkeypatch.setattr("embedder.serve.access_log._GATHER_S", 3600)
    written = []
    log = ServerLog(stream=SimpleNamespace(write=written.append, flush=lambda: None))
    for number in range(3):
        log.say(f"line {number}")
    log.flush(60)
    (lines,) = written
    assert [line[-6:] for line in lines.splitlines()] == ["line 0", "line 1", "line 2"]


def test_plain_log_shows_control_characters_as_escapes(models):
    _, (line,) = exchange(models, "/\x1b[2J", log_format="plain", method="GET")
    assert r"GET /\x1b[2J 404" in line
    assert "code=not_found" in line


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        ("/nothing", "GET", 404, "not_found"),
        (PATH, "PUT", 405, "method_not_allowed"),
        ("/v1/x", "POST", 404, "not_found"),
    ],
)
def test_no_route(models, path, method, status, code):
    answer, (line,) = exchange(models, path, method=method)
    assert (answer.status, json.loads(line)["code"]) == (status, code)
    assert path in answer.json["error"]["message"] if path.startswith("/v1/") else answer.json["error"]
    if status == 405:
        assert answer.headers["allow"] == "POST"


def test_unexpected_error_has_an_id_and_no_detail(models, monkeypatch):
    def fail(self, name):
        raise RuntimeError("/home/somebody/model.onnx")

    monkeypatch.setattr(ServedModels, "get", fail)
    answer, (trace, line) = exchange(models, "/v1/models/tiny", method="GET")
    error = answer.json["error"]
    assert (answer.status, error["code"]) == (500, "internal_error")
    assert answer.headers["x-request-id"] in error["message"]
    assert "somebody" not in answer.body.decode()
    assert "RuntimeError: /home/somebody/model.onnx" in json.loads(trace)["message"]
    assert json.loads(trace)["id"] == json.loads(line)["id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("error", [MemoryError, DeviceMemoryError("input 0 has 9,000 tokens")])
def test_out_of_memory(models, monkeypatch, error):
    def fail(self, name):
        raise error

    monkeypatch.setattr(ServedModels, "get", fail)
    answer, _ = exchange(models, "/v1/models/tiny", method="GET")
    assert (answer.status, answer.json["error"]["code"]) == (503, "out_of_memory")


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (None, "missing_api_key"),
        ("Bearer wrong", "invalid_api_key"),
        ("Basic one", "invalid_api_key"),
        ("", "invalid_api_key"),
    ],
)
def test_wrong_key(models, tmp_path, given, code):
    keys = tmp_path / "keys"
    keys.write_text("one\n\n  two \n")
    settings = ServerSettings(api_key_file=str(keys))
    for path in (PATH, "/metrics", "/v1/models", "/", "/nothing"):
        answer, _ = exchange(models, path, BODY, settings=settings, headers={"authorization": given})
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    answer, _ = exchange(models, PATH, BODY, settings=settings, headers={"authorization": given})
    assert answer.json["error"]["code"] == code


def test_right_keys_and_what_needs_none(models, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("one\r\ntwo")
    settings = ServerSettings(api_key_file=str(keys))
    for key in ("Bearer one", "bearer two"):
        assert exchange(models, PATH, BODY, settings=settings, headers={"authorization": key})[0].status == 200
    for path in ("/health", "/ready", "/docs", "/openapi.json", "/"):
        assert exchange(models, path, method="GET", settings=settings)[0].status == 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file of API keys is empty"),
        (b"\n \n", "the file of API keys is empty"),
        (b"good\nnot good\n", "line 2: a key should have the visible characters of ASCII"),
        ("schlüssel".encode(), "line 1: a key should have"),
    ],
)
def test_wrong_key_files(tmp_path, content, message):
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(InputError, match=message):
        ApiKeys.read(str(tmp_path / "keys"))


def test_key_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"the file of API keys cannot be read: .*: No such file"):
        ApiKeys.read(str(tmp_path / "none"))


def test_page_of_another_origin_may_ask_only_if_it_is_named(models):
    headers = {"origin": "https://a.example"}
    answer, _ = exchange(models, PATH, BODY, headers=headers)
    assert "access-control-allow-origin" not in answer.headers
    settings = ServerSettings(cors_origins=("https://a.example",))
    answer, _ = exchange(models, PATH, BODY, headers=headers, settings=settings)
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    asked = {**headers, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    assert exchange(models, PATH, method="OPTIONS", headers=asked, settings=settings)[0].status == 200
    other, _ = exchange(models, PATH, BODY, headers={"origin": "https://b.example"}, settings=settings)
    assert "access-control-allow-origin" not in other.headers


def test_phases_of_the_server(models):
    app = ServerApp(ServerSettings(), ServerLog(stream=io.StringIO(), in_thread=False))
    for phase, ready, asked in (("starting", 503, 503), ("ready", 200, 200), ("stopping", 503, 200)):
        answer, _ = exchange(models, "/ready", method="GET", app=app)
        if phase == "starting":
            assert exchange(models, PATH, BODY, app=app)[0].headers["retry-after"] == "1"
            assert (answer.status, answer.json) == (ready, {"status": phase})
            app.serve(models)
            continue
        assert (answer.status, answer.json) == (ready, {"status": phase})
        assert exchange(models, "/health", method="GET", app=app)[0].status == 200
        assert exchange(models, PATH, BODY, app=app)[0].status == asked
        app.stop()


def test_metrics_count_requests_texts_and_refusals_by_model(models):
    app = create_app(models, ServerSettings(), ServerLog(stream=io.StringIO(), in_thread=False))
    for path, body in ((PATH, BODY), (PATH, {"input": []}), ("/made-up-by-a-client", None)):
        exchange(models, path, body, app=app)
    answer, _ = exchange(models, "/metrics", method="GET", app=app)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = answer.body.decode()
    for line in (
        'embedder_requests_total{model="tiny",path="/v1/embeddings",status="200"} 1.0',
        'embedder_requests_total{model="",path="/v1/embeddings",status="400"} 1.0',
        'embedder_requests_total{model="",path="other",status="404"} 1.0',
        'embedder_request_seconds_count{model="tiny",path="/v1/embeddings"} 1.0',
        'embedder_texts_total{model="tiny"} 1.0',
        'embedder_tokens_total{model="tiny"} 4.0',
        'embedder_requests_refused_total{code="empty_input"} 1.0',
    ):
        assert line in text, text
    assert "made-up" not in text


async def ask_in_parts(app, parts, *, headers=(), connection=None):
    """Return the messages that the application sends. After the last of the parts, nothing more comes."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": PATH,
        "headers": list(headers),
        "query_string": b"",
        "root_path": "",
    }
    if connection is not None:
        scope[CONNECTION_KEY] = connection
    waiting, sent = list(parts), []

    async def receive():
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent


def part(content, more=True):
    return {"type": "http.request", "body": content, "more_body": more}


JSON_TYPE = (b"content-type", b"application/json")


@pytest.mark.parametrize(
    ("parts", "headers", "status", "code"),
    [
        ([], [(b"content-length", b"1001")], 413, "body_too_large"),
        ([], [(b"content-length", b"9" * 5000)], 413, "body_too_large"),
        ([part(b"a" * 600), part(b"a" * 600)], [], 413, "body_too_large"),
        ([part(b"a")], [], 408, "body_timeout"),
    ],
)
def test_refused_bodies(models, parts, headers, status, code):
    settings = ServerSettings(max_body_bytes=1000, read_timeout_s=0.01)
    app = create_app(models, settings, ServerLog(stream=io.StringIO(), in_thread=False))
    start, body = asyncio.run(ask_in_parts(app, parts, headers=[JSON_TYPE, *headers]))
    assert (start["status"], json.loads(body["body"])["error"]["code"]) == (status, code)
    assert ((b"connection", b"close") in start["headers"]) == (status == 408)


def test_bodies_share_a_bounded_memory():
    reader, first, second = BodyReader(ServerSettings(max_body_bytes=10)), RequestRecord("1"), RequestRecord("2")
    reader.hold(first, 127_999_990)
    reader.hold(second, 10)
    with pytest.raises(RequestRefused, match="other requests hold all the memory") as refusal:
        reader.hold(second, 1)
    assert (refusal.value.status, refusal.value.retry_after_s) == (503, 1.0)
    reader.release(first)
    reader.hold(second, 127_999_990)


def test_client_that_leaves_in_the_body_is_logged(models):
    stream = io.StringIO()
    app = create_app(models, ServerSettings(), ServerLog("json", stream, in_thread=False))
    parts = [part(b'{"input"'), {"type": "http.disconnect"}]
    assert asyncio.run(ask_in_parts(app, parts, headers=[JSON_TYPE])) == []
    assert json.loads(stream.getvalue())["status"] == 499


def test_client_that_leaves_while_it_waits_cancels_its_request(models):
    class Connection:
        running, lost = None, False

    stream, connection = io.StringIO(), Connection()
    app = create_app(models, ServerSettings(), ServerLog("json", stream, in_thread=False))

    async def leave():
        task = asyncio.create_task(ask_in_parts(app, [part(b'{"in')], headers=[JSON_TYPE], connection=connection))
        while connection.running is None:
            await asyncio.sleep(0)
        connection.lost = True
        connection.running.cancel()
        assert await task == []

    asyncio.run(leave())
    assert json.loads(stream.getvalue())["status"] == 499
    assert connection.running is None


def test_large_answer_is_counted_until_it_is_read(models):
    settings = ServerSettings()
    app = create_app(models, settings, ServerLog(stream=io.StringIO(), in_thread=False))
    body = json.dumps({"input": ["the cat"] * 2000}).encode()
    start, first, last = asyncio.run(ask_in_parts(app, [part(body, more=False)], headers=[JSON_TYPE]))
    assert dict(start["headers"])[b"content-length"] == str(len(first["body"])).encode()
    assert (first["more_body"], last["body"], last["more_body"]) == (True, b"", False)


def test_lifespan_and_other_protocols(models):
    app = create_app(models, ServerSettings())
    events, sent = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}], []

    async def receive():
        return events.pop(0)

    async def send(message):
        sent.append(message["type"])

    asyncio.run(app({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(ValueError, match="answers HTTP, not websocket"):
        asyncio.run(app({"type": "websocket"}, receive, send))


def test_log_in_a_thread_writes_all_lines_in_order():
    stream = io.StringIO()
    log = ServerLog("plain", stream)
    for number in range(1000):
        log.say(f"line {number}", "warning")
    log.flush()
    assert [line.split()[-1] for line in stream.getvalue().splitlines()] == [str(number) for number in range(1000)]
