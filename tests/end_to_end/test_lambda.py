"""The zip of `make lambda` under AWS' own runtime interface client, in Lambda's sandbox and within its limits."""

import base64
import json
import shutil
import signal
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import embedder
from tests.lambda_sandbox import Place, copy_client, no_limit_of, no_sandbox, run_function, unpack

pytest.importorskip("awslambdaric")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# The memory of a function in MB. Lambda gives them 0.29, 0.58 and 1 vCPU.
SIZES = (512, 1024, 1769)
TEXTS = ["How do I get a refund?", "", "Wie bekomme ich mein Geld zurück?", "a long text, and longer " * 100]
REQUEST = {"inputs": TEXTS}
# As many texts as a request may have, so the answer is as large as it can be.
MANY = {"inputs": [f"text {number}" for number in range(1000)]}
# Texts of as many tokens as the model reads. They take the most memory, and many seconds.
LONG = {"inputs": [f"{number}: {'many words and ' * 100}" for number in range(1000)]}
# Another optimisation of the same graph may round differently.
TOLERANCE = 1e-4


@pytest.fixture(scope="session")
def place(lambda_zip: Path, tmp_path_factory) -> Place:
    """The unpacked zip and AWS' client, without limits."""
    task = unpack(lambda_zip, tmp_path_factory.mktemp("task"))
    return Place(task, copy_client(tmp_path_factory.mktemp("runtime")))


@pytest.fixture(scope="module", params=SIZES)
def function(place, request):
    """A function of each size. It has answered one event."""
    with started(replace(place, memory_mb=request.param)) as function:
        yield function


@pytest.fixture(scope="module")
def expected(minilm):
    with embedder.Embedder(minilm, dtype="int8") as model:
        return model.encode(TEXTS)


@contextmanager
def started(place):
    """Start a function, and let it answer one event."""
    with run_function(place) as function:
        function.wait_until_ready()
        assert function.api.call({"inputs": ["first"]})["dimension"] == 384
        yield function


def check_vectors(answer, expected):
    assert answer.keys() == {"embeddings", "dimension"}
    np.testing.assert_allclose(answer["embeddings"], expected, atol=TOLERANCE)


def http_event(body, **fields):
    """An event of a function URL."""
    return {"version": "2.0", "requestContext": {"http": {"method": "POST"}}, "body": body, **fields}


def test_direct_events(function, expected):
    check_vectors(function.api.call(REQUEST), expected)
    single = function.api.call({"inputs": TEXTS[0], "task": "query", "truncate_dim": 100, "encoding_format": "base64"})
    assert single["dimension"] == 100
    vector = np.frombuffer(base64.b64decode(single["embeddings"][0]), "<f4")
    shortened = expected[0, :100] / np.linalg.norm(expected[0, :100])
    assert abs(vector @ shortened / np.linalg.norm(vector) - 1) < TOLERANCE


def test_http_events(function, expected):
    body = json.dumps(REQUEST)
    encoded = base64.b64encode(body.encode()).decode()
    rest = {"httpMethod": "POST", "requestContext": {}, "body": body}
    direct = function.api.call(REQUEST)
    for event in (http_event(body), http_event(encoded, isBase64Encoded=True), rest):
        answer = function.api.call(event)
        assert answer["statusCode"] == 200
        assert answer["headers"]["Content-Type"] == "application/json"
        assert json.loads(answer["body"]) == direct
    check_vectors(direct, expected)


BAD_EVENTS = {
    "no event": (None, 400, "JSON object"),
    "no inputs": ({}, 400, "inputs"),
    "a wrong type": ({"inputs": [1]}, 400, "inputs"),
    "an unknown key": ({"inputs": ["a"], "model": "other"}, 400, "model"),
    "a bad value": ({"inputs": ["a"], "truncate_dim": 385}, 400, "truncate_dim"),
    "too many texts": ({"inputs": ["a"] * 1001}, 413, "1,000"),
    "a text too long": ({"inputs": ["a" * 100_001]}, 413, "100,000"),
    "no body": (http_event(None), 400, "body"),
    "not JSON": (http_event("{"), 400, "JSON"),
    "not base64": (http_event("%", isBase64Encoded=True), 400, "base64"),
    "a body too large": (http_event(" " * 6_000_001), 413, "6,000,000"),
    "a wrong method": ({"version": "2.0", "requestContext": {"http": {"method": "GET"}}}, 405, "POST"),
}


@pytest.mark.parametrize(("event", "status", "message"), BAD_EVENTS.values(), ids=BAD_EVENTS)
def test_bad_events_and_then_a_good_one(event, status, message, function, expected):
    answer = function.api.call(event)
    if "statusCode" in answer:
        assert answer["statusCode"] == status
        answer = json.loads(answer["body"])
    assert answer["error"]["status"] == status
    assert message in answer["error"]["message"]
    check_vectors(function.api.call(REQUEST), expected)


def test_an_event_that_is_not_json_is_refused_by_the_client(function, expected):
    invocation = function.api.send(b"{")
    assert invocation.done.wait(60)
    assert invocation.outcome[0] == "error"
    assert invocation.outcome[1]["errorType"] == "Runtime.UnmarshalError"
    check_vectors(function.api.call(REQUEST), expected)


def test_a_call_that_runs_out_of_time_says_so(function, expected):
    for timeout_s, event in ((1, LONG), (0, REQUEST), (1, http_event(json.dumps(LONG)))):
        answer = function.api.call(event, timeout_s)
        error = json.loads(answer["body"])["error"] if "body" in answer else answer["error"]
        assert error["status"] == 504
        assert "the time" in error["message"]
        check_vectors(function.api.call(REQUEST), expected)


def test_large_events_fit_into_memory_and_their_answers_into_the_limit(place):
    with started(replace(place, memory_mb=512, cpus=1)) as function:
        for event in (MANY, http_event(json.dumps(MANY))):
            answer = function.api.call(event)
            found = json.loads(answer["body"]) if "body" in answer else answer
            assert len(found["embeddings"]) == 1000
        assert len(function.api.call({"inputs": LONG["inputs"][:32]})["embeddings"]) == 32
        assert function.peak_mb() < 300
        if not no_limit_of("memory"):
            assert function.group.killed_for_memory() == 0


def test_a_function_of_one_vcpu_computes_in_one_thread(function):
    function.api.call({"inputs": TEXTS * 10})
    assert int(function.status()["Threads"]) <= 2  # the main one, and one for batches


def test_nothing_is_written_or_printed(place):
    with started(replace(place, memory_mb=1769)) as function:
        assert list(function.tmp.iterdir()) == []
        assert function.log.read_text() == ""


def test_a_frozen_function_goes_on_when_it_is_thawed(function, expected):
    function.freeze()
    waiting = function.api.send(REQUEST)
    assert waiting.taken.wait(60)
    assert not waiting.done.is_set()
    function.thaw()
    check_vectors(waiting.response(), expected)


def test_a_function_that_is_frozen_in_a_call(function, expected):
    for _ in range(3):
        running = function.api.send(REQUEST)
        assert running.taken.wait(60)
        function.stop()
        function.thaw()
        check_vectors(running.response(), expected)


def test_a_function_that_was_frozen_past_its_deadline(function, expected):
    function.freeze()
    late = function.api.send(REQUEST, timeout_s=0)
    assert late.taken.wait(60)
    function.thaw()
    assert late.response()["error"]["status"] == 504
    check_vectors(function.api.call(REQUEST), expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("in_call", [False, True])
def test_a_function_that_is_shut_down_and_started_again(number, in_call, place, expected):
    for _ in range(2):
        with started(replace(place, memory_mb=1769)) as function:
            if in_call:
                running = function.api.send(LONG)
                assert running.taken.wait(60)
            function.send_signal(number)
            assert function.wait() == -number
            assert list(function.tmp.iterdir()) == []
    with started(replace(place, memory_mb=1769)) as function:
        check_vectors(function.api.call(REQUEST), expected)


STRANGE_PLACES = {
    "cpuinfo is hidden": {"hide_cpuinfo": True},
    "the user has no name": {"user_has_name": False},
    "the client asks for events in a thread": {"environment": {"AWS_EXECUTION_ENV": "AWS_Lambda_python3.13"}},
    "the smallest function": {"memory_mb": 192},
    "a home that cannot be written": {"environment": {"HOME": "/var/task"}},
    "a home in /tmp": {"environment": {"HOME": "/tmp"}},
}


@pytest.mark.parametrize("fields", STRANGE_PLACES.values(), ids=STRANGE_PLACES)
def test_strange_places(fields, place, expected):
    if no_sandbox() and fields.keys() & {"hide_cpuinfo", "user_has_name", "memory_mb"}:
        pytest.skip(str(no_sandbox()))
    with started(replace(place, **fields)) as function:
        check_vectors(function.api.call(REQUEST), expected)


@pytest.mark.skipif(no_limit_of("cpu") is not None, reason=str(no_limit_of("cpu")))
def test_the_benchmark_measures_every_stage(place, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import functions

    figures = defaultdict(list)
    place = replace(place, memory_mb=1769)
    functions.measure(place, functions.make_empty(place, tmp_path), ("handler", "imports"), figures)
    for stage in functions.STAGES:
        ((begun, ended),) = figures[stage, 1769]
        assert 0 <= begun <= ended


def test_snapshots(place, expected):
    """With SnapStart, the platform freezes a started function, and thaws copies of it later."""
    with run_function(replace(place, environment={"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"})) as function:
        assert function.api.snapshot.wait(60)
        function.stop()
        function.api.restored.set()
        function.thaw()
        check_vectors(function.api.call(REQUEST), expected)


def test_a_broken_model_is_an_error_of_the_start(place, tmp_path):
    task = shutil.copytree(place.task, tmp_path / "task")
    (task / "model/tokenizer.json").write_text("{}")
    with run_function(replace(place, task=task)) as function:
        assert function.wait() == 1
        error = function.api.init_errors.get(timeout=60)
    assert error["errorType"] == "ArtifactError"
    assert "tokenizer.json" in error["errorMessage"]
