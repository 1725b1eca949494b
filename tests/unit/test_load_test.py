"""`embedder bench-server`: the load, what is counted, and the client that makes it."""

import http.server
import json
import threading
from contextlib import contextmanager

import pytest

from embedder.cli.main import main
from embedder.errors import EmbedderError, InputError
from embedder.serve import load_test
from embedder.serve.http_client import Answer, AnswerReader
from embedder.serve.load_test import LoadResult, LoadSettings, check_server, measure_load
from embedder.serve.sample_texts import sample_texts
from tests.servers import free_port

WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nX: y\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 429 No\r\nRetry-After: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n"
CLOSING = b"HTTP/1.0 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
TEXTS = ["a cat", 'with "quotes"', "é 字 🦄"]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_answers_are_read_in_parts_of_any_size(size):
    reader = AnswerReader()
    answers = []
    for stream in (WHOLE, CHUNKED, CLOSING):
        answers += [reader.feed(stream[start : start + size]) for start in range(0, len(stream), size)]
    assert [answer for answer in answers if answer is not None] == [
        Answer(200, b"hello", closes=False, retry_after_s=None),
        Answer(429, b"hello", closes=False, retry_after_s=3),
        Answer(503, b"", closes=True, retry_after_s=None),
    ]


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "the answer has no Content-Length"),
        (b"SSH-2.0\r\nContent-Length: 0\r\n\r\n", "the server does not speak HTTP/1.1"),
        (b"x" * 70_000, "the headers of the answer are too long"),
    ],
)
def test_bytes_that_are_no_answer(stream, message):
    with pytest.raises(ValueError, match=message):
        AnswerReader().feed(stream)


def vectors_for(request, **headers):
    """The answer of a server that works: a vector for each text."""
    count = 1 if isinstance(request["input"], str) else len(request["input"])
    data = [{"object": "embedding", "embedding": [0.5], "index": index} for index in range(count)]
    return 200, headers, json.dumps({"object": "list", "data": data})


@contextmanager
def server(answer):
    """Run a server. `answer` gives status, headers and body for a request. Yield the address and the requests."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, dict(self.headers), json.loads(body)))
            status, headers, content = answer(seen[-1][2])
            if status is None:  # end the connection
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content.encode())), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *unused):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}", seen
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(load_test, "_WARM_UP_S", 0.0)
    monkeypatch.setattr(load_test, "_LAST_ANSWERS_TIMEOUT_S", 30.0)


def measure(url, texts=TEXTS, **settings):
    return measure_load(LoadSettings(url, **{"clients": 2, "seconds": 0.1, **settings}), texts)


def test_each_client_asks_again_when_it_has_its_answer():
    with server(vectors_for) as (url, seen):
        result = measure(url, model="m", key="secret")
    assert result.failures == {}
    assert 0 < result.texts == result.requests <= len(result.latencies_ms) == len(seen)
    assert result.latencies_ms == sorted(result.latencies_ms)
    assert result.texts_per_s == result.requests_per_s == result.texts / 0.1
    for path, headers, body in seen:
        assert (path, headers["Authorization"]) == ("/v1/embeddings", "Bearer secret")
        assert (headers["Content-Type"], headers["Host"]) == ("application/json", url.removeprefix("http://"))
        assert body == {"input": body["input"], "encoding_format": "float", "model": "m"}
    assert {body["input"] for _, _, body in seen} <= set(TEXTS)


def test_texts_of_a_request():
    with server(vectors_for) as (url, seen):
        result = measure(url, texts_per_request=2, encoding_format="base64", clients=1)
    assert result.texts == 2 * result.requests > 0
    bodies = [body for _, _, body in seen]
    assert bodies[0] == {"input": TEXTS[:2], "encoding_format": "base64"}
    assert bodies[1]["input"] == [TEXTS[2], TEXTS[0]]
    assert "Authorization" not in seen[0][1]


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        ((429, {"Retry-After": "0"}, "{}"), "status 429"),
        ((503, {"Connection": "close"}, "{}"), "status 503"),
        ((200, {}, '{"object": "embedding"}'), "another number of vectors than of texts"),
        ((None, {}, ""), "the server closed the connection"),
    ],
)
def test_what_fails_is_counted_by_its_reason(answer, failure):
    with server(lambda request: answer if request["input"] == "a cat" else vectors_for(request)) as (url, seen):
        result = measure(url, texts=["a cat", "a dog"])
    assert list(result.failures) == [failure]
    assert result.failures[failure] == sum(body["input"] == "a cat" for _, _, body in seen)
    assert result.requests > 0


def test_connection_that_the_server_closes_after_its_answer_is_made_again():
    with server(lambda request: vectors_for(request, Connection="close")) as (url, _):
        result = measure(url)
    assert result.requests > 2
    assert result.failures == {}


def test_answer_that_does_not_come(monkeypatch):
    monkeypatch.setattr(load_test, "_LAST_ANSWERS_TIMEOUT_S", 0.0)
    ended = threading.Event()
    with server(lambda request: (ended.wait(30), None)[1] or (None, {}, "")) as (url, _):
        result = measure(url)
        ended.set()
    assert result.failures == {"no answer": 2}
    assert result.percentile_ms(50) != result.percentile_ms(50)


def test_percentiles():
    result = LoadResult(1.0, 4, 4, [1.0, 2.0, 3.0, 4.0], {})
    assert [result.percentile_ms(percent) for percent in (0, 25, 50, 51, 99, 100)] == [1, 1, 2, 3, 4, 4]


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("", "/v1/embeddings"),
        ("/", "/v1/embeddings"),
        ("/v1/", "/v1/embeddings"),
        ("/models/v1", "/models/v1/embeddings"),
        ("/models", "/models/v1/embeddings"),
        ("/embeddings", "/embeddings"),
    ],
)
def test_path_that_is_asked(address, path):
    with server(vectors_for) as (url, seen):
        check_server(LoadSettings(url + address), TEXTS)
    assert [place for place, _, _ in seen] == [path]


@pytest.mark.parametrize(
    "url", ["127.0.0.1:80", "ftp://host", "http://", "http://host:port", "http://host:0", "http://h/a b", "http://é"]
)
def test_address_that_is_none(url):
    with pytest.raises(InputError, match=r"the address should be one such as http://127\.0\.0\.1:8080, not"):
        LoadSettings(url)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clients": 0}, "clients should be a whole number, at least 1, not 0"),
        ({"texts_per_request": 0}, "texts_per_request should be a whole number, at least 1, not 0"),
        ({"seconds": 0}, "seconds should be more than 0, not 0"),
        ({"seconds": float("inf")}, "seconds should be more than 0, not inf"),
        ({"encoding_format": "int8"}, "encoding_format should be one of float, base64, not 'int8'"),
        ({"key": "a\r\nb"}, "an API key has only printable characters of ASCII"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(InputError, match=message):
        LoadSettings("http://127.0.0.1", **settings)


def test_wrong_texts():
    for texts, message in (([], "there are no texts to send"), (["\ud800"], r"texts\[0\] is not valid Unicode")):
        with pytest.raises(InputError, match=message):
            measure_load(LoadSettings("http://127.0.0.1"), texts)


def test_server_that_refuses_is_found_before_the_load():
    with (
        server(lambda request: (401, {}, '{"error": "wrong key\x1b"}')) as (url, seen),
        pytest.raises(EmbedderError, match=r'embeddings answers with status 401: \{"error": "wrong key\\x1b"\}'),
    ):
        check_server(LoadSettings(url), TEXTS)
    assert len(seen) == 1
    with (
        server(lambda request: (200, {}, "")) as (url, _),
        pytest.raises(EmbedderError, match="does not answer as OpenAI's interface does: the answer is empty"),
    ):
        check_server(LoadSettings(url), TEXTS)
    with pytest.raises(EmbedderError, match="/v1/embeddings cannot be asked: "):
        check_server(LoadSettings(f"http://127.0.0.1:{free_port()}"), TEXTS)


def test_server_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(load_test, "_LAST_ANSWERS_TIMEOUT_S", 0.0)
    with pytest.raises(EmbedderError, match="gave no answer within 0 s"):
        check_server(LoadSettings("http://127.0.0.1:9"), TEXTS)


def test_sample_texts_are_the_same_each_time_and_of_mixed_lengths():
    texts = sample_texts(1000)
    assert texts == sample_texts(1000)
    assert len(set(texts)) > 990
    assert min(map(len, texts)) < 60
    assert max(map(len, texts)) > 1000


# The command


def bench(capsys, *arguments):
    status = main(["bench-server", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_command_prints_the_result(capsys, tmp_path):
    (tmp_path / "key").write_text("first\nsecond\n", encoding="utf-8")
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n', encoding="utf-8")
    own = ("--texts", tmp_path / "in.jsonl", "--key-file", tmp_path / "key", "-m", "m", "--texts-per-request", 2)
    with server(vectors_for) as (url, seen):
        status, out, err = bench(capsys, url, "--seconds", 0.1, "--clients", 1, *own)
    assert (status, err) == (0, "embedder: 1 client, 2 texts a request, 0.1 s\n")
    names = ["texts/s", "requests/s", "p50 ms", "p95 ms", "p99 ms", "failed"]
    assert [line[:10].strip() for line in out.splitlines()] == names
    assert out.splitlines()[-1].split() == ["failed", "0"]
    assert {headers["Authorization"] for _, headers, _ in seen} == {"Bearer first"}
    assert all(body["input"] == ["a", "b"] for _, _, body in seen)


def test_command_prints_json(capsys):
    with server(vectors_for) as (url, seen):
        _, out, _ = bench(capsys, url, "--seconds", 0.1, "--clients", 2, "--json")
    fields = json.loads(out)
    assert list(fields) == [
        *("clients", "texts_per_request", "seconds", "texts_per_s", "requests_per_s"),
        *("p50_ms", "p95_ms", "p99_ms", "failures"),
    ]
    assert fields["failures"] == {}
    assert {body["input"] for _, _, body in seen} <= set(sample_texts(5000))


def test_command_fails_if_nothing_is_answered(capsys):
    answers = iter([vectors_for({"input": "the first"})])
    with server(lambda request: next(answers, (429, {"Retry-After": "0"}, "{}"))) as (url, _):
        status, out, err = bench(capsys, url, "--seconds", 0.1, "--clients", 1)
    assert status == 1
    assert "x status 429" in out
    assert err.endswith("embedder: error: no request was answered\n")
    assert "NaN" not in out


def test_wrong_files_of_the_command(capsys, tmp_path):
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    for options, message in (
        (("--key-file", tmp_path / "empty.txt"), "the file of API keys is empty"),
        (("--texts", tmp_path / "none.txt"), "none.txt: No such file or directory"),
    ):
        status, _, err = bench(capsys, "http://127.0.0.1:9", *options)
        assert status == 1
        assert message in err
