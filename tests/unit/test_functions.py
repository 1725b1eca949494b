"""The core of serverless functions: requests are checked, answers are JSON, one model is loaded, deadlines are kept."""

import binascii
import json
import logging
import math
import pickle
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import embedder
from embedder.functions import Answer, Function, Limits, RequestError
from tests.tiny import DIMENSION, add_int8_graph, expected, flip_a_bit, ids_of, write_tiny_artifact

PROMPTS = {"query": "query: ", "document": "document: "}


@pytest.fixture(scope="module")
def tiny_with_prompts(tmp_path_factory):
    return write_tiny_artifact(tmp_path_factory.mktemp("functions") / "tiny", prompts=PROMPTS)


@pytest.fixture(scope="module")
def function(tiny_with_prompts):
    return Function(tiny_with_prompts, limits=Limits(max_inputs=5, max_characters=50, max_body_bytes=1000))


def refused(function, request, **options):
    """Return the status and the message of a refused request. Afterwards the function still answers."""
    with pytest.raises(RequestError) as caught:
        function.embed(request, **options)
    status, value = function.reply(request, **options)
    assert value == {"error": {"status": status, "message": str(caught.value)}}
    assert status == caught.value.status
    assert function.embed({"inputs": ["cat"]})["dimension"] == DIMENSION
    return status, str(caught.value)


def test_vectors_are_those_of_the_model_in_the_order_of_the_texts(function):
    texts = ["cat", "the cat sat on the mat", "", "dog"]
    answer = function.embed({"inputs": texts})
    assert answer["dimension"] == DIMENSION
    np.testing.assert_allclose(answer["embeddings"], [expected(ids_of(text)) for text in texts], atol=1e-6)


def test_one_text_gets_a_list_of_one_vector(function):
    assert function.embed({"inputs": "cat"}) == function.embed({"inputs": ["cat"]})


def test_no_texts_get_no_vectors(function):
    assert function.embed({"inputs": []}) == {"embeddings": [], "dimension": DIMENSION}


@pytest.mark.parametrize("task", PROMPTS)
def test_task_chooses_the_prompt(function, task):
    (vector,) = function.embed({"inputs": ["cat"], "task": task})["embeddings"]
    np.testing.assert_allclose(vector, expected(ids_of(PROMPTS[task] + "cat")), atol=1e-6)


def test_model_without_prompts_has_every_task(tiny):
    function = Function(tiny)
    plain = function.embed({"inputs": "cat"})
    assert [function.embed({"inputs": "cat", "task": task}) for task in PROMPTS] == [plain, plain]


def test_truncate_dim_keeps_the_first_dimensions(function):
    answer = function.embed({"inputs": ["cat"], "truncate_dim": 3})
    assert answer["dimension"] == 3
    assert answer["embeddings"] == [function.embed({"inputs": ["cat"]})["embeddings"][0][:3]]


def test_base64_is_little_endian_float32(function):
    answer = function.embed({"inputs": ["cat", "dog"], "encoding_format": "base64", "truncate_dim": 5})
    vectors = [np.frombuffer(binascii.a2b_base64(text), "<f4") for text in answer["embeddings"]]
    plain = function.embed({"inputs": ["cat", "dog"], "truncate_dim": 5})
    np.testing.assert_array_equal(vectors, np.float32(plain["embeddings"]))


def test_null_stands_for_a_key_that_is_left_out(function):
    request = {"inputs": ["cat"], "task": None, "truncate_dim": None, "encoding_format": None}
    assert function.embed(request) == function.embed({"inputs": ["cat"], "encoding_format": "float"})


def test_fastest_graph_runs_unless_another_is_chosen(tiny):
    add_int8_graph(tiny)
    (fast,) = Function(tiny).embed({"inputs": "cat"})["embeddings"]
    (exact,) = Function(tiny, dtype="fp32").embed({"inputs": "cat"})["embeddings"]
    np.testing.assert_allclose(fast, np.negative(exact), atol=1e-6)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (None, 'the request should be a JSON object such as {"inputs": ["a text"]}, not null'),
        ([], 'the request should be a JSON object such as {"inputs": ["a text"]}, not a list'),
        ("cat", 'the request should be a JSON object such as {"inputs": ["a text"]}, not "cat"'),
        ({}, '"inputs" is missing. It should be a list of texts'),
        ({"inputs": None}, "inputs should be a list of strings, not null"),
        ({"inputs": 3}, "inputs should be a list of strings, not 3"),
        ({"inputs": True}, "inputs should be a list of strings, not true or false"),
        ({"inputs": {"0": "cat"}}, "inputs should be a list of strings, not an object"),
        ({"inputs": ("cat",)}, "inputs should be a list of strings, not tuple"),
        ({"inputs": ["cat", ["dog"]]}, "inputs[1] should be a string, not a list"),
        ({"inputs": ["cat", None]}, "inputs[1] should be a string, not null"),
        ({"inputs": ["cat", 10**400]}, "inputs[1] should be a string, not a number"),
        (
            {"inputs": ["cat", "a\ud800"]},
            "inputs[1] is not valid Unicode: it has the lone surrogate U+D800 at character 1",
        ),
        ({"inputs": "\udfff"}, "inputs is not valid Unicode: it has the lone surrogate U+DFFF at character 0"),
        ({"inputs": [], "task": "rank"}, 'task should be "query" or "document", not "rank"'),
        ({"inputs": [], "task": ["query"]}, 'task should be "query" or "document", not a list'),
        ({"inputs": [], "encoding_format": 8}, 'encoding_format should be "float" or "base64", not 8'),
        (
            {"inputs": [], "encoding_format": "x" * 99},
            f'encoding_format should be "float" or "base64", not "{"x" * 40}..."',
        ),
        ({"inputs": [], "truncate_dim": 0}, "truncate_dim should be a whole number, at least 1, not 0"),
        ({"inputs": [], "truncate_dim": 2.0}, "truncate_dim should be a whole number, at least 1, not 2.0"),
        ({"inputs": [], "truncate_dim": True}, "truncate_dim should be a whole number, at least 1, not true or false"),
        (
            {"inputs": [], "truncate_dim": DIMENSION + 1},
            "truncate_dim should be a whole number, at least 1 and at most 8, not 9",
        ),
        (
            {"input": ["cat"]},
            'unknown key "input": the texts belong under "inputs". '
            "The keys are inputs, task, truncate_dim, encoding_format",
        ),
        (
            {"inputs": [], "dimensions": 8},
            'unknown key "dimensions": use "truncate_dim". The keys are inputs, task, truncate_dim, encoding_format',
        ),
        (
            {"inputs": [], "prompt_name": "query"},
            'unknown key "prompt_name": use "task", which is "query" or "document". '
            "The keys are inputs, task, truncate_dim, encoding_format",
        ),
        (
            {"inputs": [], "user": "me", "model": "x"},
            'unknown keys "user", "model": this function has one model. '
            "The keys are inputs, task, truncate_dim, encoding_format",
        ),
        (
            dict.fromkeys("abcde"),
            'unknown keys "a", "b", "c" and 2 more. The keys are inputs, task, truncate_dim, encoding_format',
        ),
        ({3: 4}, "unknown key 3. The keys are inputs, task, truncate_dim, encoding_format"),
        ({"\ud800": 1}, 'unknown key "?". The keys are inputs, task, truncate_dim, encoding_format'),
    ],
)
def test_malformed_request_is_400(function, request_, message):
    assert refused(function, request_) == (400, message)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"inputs": ["a"] * 6}, "inputs has 6 texts, and the limit is 5. Send fewer at a time"),
        ({"inputs": ["a", "b" * 51]}, "inputs[1] has 51 characters, and the limit is 50. Split it"),
        ({"inputs": "b" * 51}, "inputs has 51 characters, and the limit is 50. Split it"),
    ],
)
def test_too_large_request_is_413(function, request_, message):
    assert refused(function, request_) == (413, message)


def test_largest_request_is_answered(function):
    assert len(function.embed({"inputs": ["é" * 50] * 5})["embeddings"]) == 5


def test_too_large_answer_is_413(tiny):
    function = Function(tiny, limits=Limits(max_body_bytes=400))
    texts = ["cat", "dog", "mat", "the cat sat", "on"]
    message = ' bytes, and the limit is 400. Send fewer texts, a smaller truncate_dim, or "encoding_format": "base64"'
    status, value = function.reply({"inputs": texts})
    assert status == 413
    assert value["error"]["message"].startswith("the answer would have 5")
    assert value["error"]["message"].endswith(message)
    assert function.reply({"inputs": texts * 2, "encoding_format": "base64"})[0] == 413
    assert function.reply({"inputs": texts, "encoding_format": "base64"})[0] == 200
    assert function.reply({"inputs": texts, "truncate_dim": 3})[0] == 200
    assert len(function.answer(json.dumps({"inputs": texts[:3]})).body) <= 400


def test_too_large_base64_is_refused_before_it_is_computed(tiny, monkeypatch):
    function = Function(tiny, limits=Limits(max_body_bytes=200))
    monkeypatch.setattr(embedder.Embedder, "encode", None)
    assert function.reply({"inputs": ["cat"] * 9, "encoding_format": "base64"})[0] == 413


# Bodies


def test_answer_is_compact_json(function):
    answer = function.answer(b'{"inputs": ["cat"], "truncate_dim": 2}')
    assert answer == Answer(200, {"Content-Type": "application/json"}, answer.body)
    assert b" " not in answer.body
    assert json.loads(answer.body) == function.embed({"inputs": ["cat"], "truncate_dim": 2})
    assert function.answer('{"inputs": ["cat"], "truncate_dim": 2}') == answer


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (None, 400, 'there is no body. Send a JSON object such as {"inputs": ["a text"]}'),
        (b"", 400, 'there is no body. Send a JSON object such as {"inputs": ["a text"]}'),
        ("", 400, 'there is no body. Send a JSON object such as {"inputs": ["a text"]}'),
        (b"\xff{}", 400, "the body is not UTF-8: byte 0 cannot be decoded"),
        ('["\ud800"]', 400, "the body is not UTF-8: byte 2 cannot be decoded"),
        (b"inputs=cat", 400, "the body is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b'{"inputs": NaN}', 400, "the body is not JSON: NaN is not a number of JSON"),
        (b'{"inputs": 1e999}', 400, "the body is not JSON: 1e999 is too large for a float"),
        (b'{"inputs": ["\\ud800"]}', 400, "the body is not JSON: a string has \\ud800, a half of a surrogate pair"),
        (b"[" * 500 + b"]" * 500, 400, "the body is not JSON: it nests more than 100 levels deep"),
        (b"[" * 90 + b"]" * 90, 400, 'the request should be a JSON object such as {"inputs": ["a text"]}, not a list'),
        (b" " * 1001, 413, "the body has more than 1,000 bytes, which is the limit. Send fewer texts at a time"),
    ],
)
def test_bad_body(function, body, status, message):
    answer = function.answer(body)
    assert answer.status == status
    assert json.loads(answer.body) == {"error": {"status": status, "message": message}}
    assert function.answer(b'{"inputs": ["cat"]}').status == 200


def message_of(answer):
    return json.loads(answer.body)["error"]["message"]


def test_number_of_many_digits_is_400(tiny):
    answer = Function(tiny).answer(b'{"inputs": -' + b"9" * 5000 + b"}")
    message = "the body is not JSON: -9999999999999999999... has more than 1,000 digits"
    assert (answer.status, message_of(answer)) == (400, message)


@pytest.mark.parametrize("part", [b"[],", b'{"a": 0},', b"[" * 50 + b"]" * 50 + b",", b'"[\\",",', b"0,", b'""\n,'])
def test_body_of_many_values_is_refused_in_little_memory(tiny, part):
    function = Function(tiny)
    body = b'{"inputs": [' + part * (5_000_000 // len(part)) + b'""]}'
    tracemalloc.start()
    try:
        answer = function.answer(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = (
        "the body has more than 101,000 JSON values, and the limit for inputs is 1,000 texts. Send fewer at a time"
    )
    assert (answer.status, message_of(answer)) == (413, message)
    assert peak < 1_000_000


def test_brackets_and_commas_in_texts_are_no_values(tiny):
    request = {"inputs": ['[{,"\\' * 20_000] * 3}
    function = Function(tiny)
    assert json.loads(function.answer(json.dumps(request).encode()).body) == function.embed(request)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "post", None, 3])
def test_other_methods_are_405(function, method):
    answer = function.answer(b'{"inputs": ["cat"]}', method=method)
    message = "the method should be POST, with a JSON object as the body"
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert json.loads(answer.body) == {"error": {"status": 405, "message": message}}


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_body_is_answered(function, body):
    assert function.answer(body).status in (200, 400)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
requests = st.fixed_dictionaries(
    {"inputs": values | st.lists(st.text(max_size=60), max_size=6)},
    optional={
        "task": st.sampled_from(["query", "document"]) | values,
        "truncate_dim": st.integers(-1, 9) | values,
        "encoding_format": st.sampled_from(["float", "base64"]) | values,
        "model": values,
    },
)


@given(requests | values)
def test_any_request_is_answered(function, request_):
    status, value = function.reply(request_)
    assert status in (200, 400, 413)
    assert json.loads(Answer.of(status, value).body) == value
    if status == 200:
        count = 1 if isinstance(request_["inputs"], str) else len(request_["inputs"])
        assert len(value["embeddings"]) == count


# Limits and errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_inputs": 0}, "max_inputs should be a whole number, at least 1, not 0"),
        ({"max_characters": True}, "max_characters should be a whole number, at least 1, not True"),
        ({"max_body_bytes": 6e6}, "max_body_bytes should be a whole number, at least 1, not 6000000.0"),
        ({"timeout_s": 0}, "timeout_s should be a number of seconds above 0, or None, not 0"),
        ({"timeout_s": math.inf}, "timeout_s should be a number of seconds above 0, or None, not inf"),
        ({"timeout_s": "3"}, "timeout_s should be a number of seconds above 0, or None, not '3'"),
    ],
)
def test_wrong_limits(options, message):
    with pytest.raises(embedder.InputError) as caught:
        Limits(**options)
    assert str(caught.value) == message


def test_error_is_one_of_embedder_and_can_be_pickled():
    error = pickle.loads(pickle.dumps(RequestError(413, "too large")))
    assert isinstance(error, embedder.EmbedderError)
    assert (error.status, str(error)) == (413, "too large")


# Loading


def test_bad_request_loads_no_model():
    assert Function("./no-such-model").reply({"inputs": 3})[0] == 400


def test_broken_model_is_500_at_every_try_and_serves_when_it_is_mended(tiny, caplog):
    weights = tiny / "model.onnx.data"
    function = Function(tiny)
    flip_a_bit(weights)
    for _ in range(2):
        with pytest.raises(embedder.ArtifactError):
            function.load()
        answer = function.answer(b'{"inputs": ["cat"]}')
        message = "the function failed. Its log has the reason"
        assert answer.status == 500
        assert json.loads(answer.body) == {"error": {"status": 500, "message": message}}
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "model.onnx.data" in caplog.text
    flip_a_bit(weights)
    function.load()
    assert function.answer(b'{"inputs": ["cat"]}').status == 200


@pytest.mark.parametrize("error", [MemoryError(), RecursionError(), embedder.ArtifactError("/secret/path")])
def test_failure_of_the_model_is_500_and_tells_nothing(tiny, monkeypatch, error, caplog):
    function = Function(tiny)

    def fail(*arguments, **options):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(embedder.Embedder, "encode", fail)
        answer = function.answer(b'{"inputs": ["cat"]}')
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert type(error).__name__ in caplog.text
    assert function.answer(b'{"inputs": ["cat"]}').status == 200


def test_first_requests_that_come_together_load_one_model(tiny, monkeypatch):
    loads, started, go = [], threading.Event(), threading.Event()

    class Slow(embedder.Embedder):
        def __init__(self, model, **options):
            loads.append(options)
            started.set()
            assert go.wait(60)
            super().__init__(model, dtype=options["dtype"])

    monkeypatch.setattr("embedder.encoder.Embedder", Slow)
    function = Function(tiny, threads=1, verify=False)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(function.embed, {"inputs": "cat"})
        assert started.wait(60)
        others = [pool.submit(function.embed, {"inputs": "cat"}) for _ in range(7)]
        go.set()
        answers = [future.result() for future in (first, *others)]
    assert answers == [answers[0]] * 8
    assert loads == [{"dtype": "auto", "threads": 1, "verify": False}]


def test_import_loads_no_numpy_and_no_logging():
    code = "import sys, embedder.functions.aws_lambda; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    )
    unwanted = {"numpy", "onnxruntime", "tokenizers", "logging", "urllib.parse", "http", "asyncio", "base64"}
    assert not unwanted & loaded


# Time


def test_with_little_time_nothing_is_begun(function):
    status, message = refused(function, {"inputs": ["cat", "dog"]}, remaining_s=0.05)
    assert status == 504
    assert message.startswith("the time limit of 0.1 s is too short: 0 of 2 inputs were done after 0.")


@pytest.mark.parametrize("seconds", [0.0, -3.0])
def test_without_time_nothing_is_begun(function, seconds):
    status, message = refused(function, {"inputs": ["cat", "dog"]}, remaining_s=seconds)
    assert (status, message) == (504, "the time was over before the request was begun. Try again later")


def test_shorter_time_counts(tiny):
    function = Function(tiny, limits=Limits(timeout_s=1e-9))
    assert function.reply({"inputs": "cat"}, remaining_s=60)[0] == 504
    assert function.reply({"inputs": []})[0] == 200
