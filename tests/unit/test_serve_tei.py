"""The server's interface of text-embeddings-inference, asked in this process."""

import threading

import numpy as np
import pytest

from embedder import Embedder, cos_sim
from embedder.serve import requests
from embedder.serve.requests import parse_object
from embedder.serve.settings import ServerSettings
from tests.asgi_client import ServedApp
from tests.tiny import VOCABULARY, ids_of, write_tiny_artifact

TEXTS = ["the cat", "a dog", ""]
SENTENCES = {"source_sentence": "the cat", "sentences": ["the cat sat", "a dog"]}
LONG = "the cat " * 20


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tei")
    tiny = write_tiny_artifact(directory / "tiny", prompts={"query": "query: "})
    plain = write_tiny_artifact(directory / "plain", normalize=False)
    settings = ServerSettings(max_texts=4, max_characters=400_000)
    app = ServedApp({"org/tiny": Embedder(tiny), "plain": Embedder(plain)}, settings)
    yield app
    app.close()


@pytest.fixture(scope="module")
def model(app):
    return app.models.embedder(None).model


def vectors_of(answer):
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/json"
    return np.float32(answer.json)


def refusal_of(answer):
    """Return the status, the type and the message of a refusal, and check its form."""
    assert set(answer.json) == {"error", "error_type"}
    return answer.status, answer.json["error_type"], answer.json["error"]


def test_event_loop_does_not_parse_large_bodies(app, monkeypatch):
    threads = []

    def parse(content):
        threads.append(threading.current_thread())
        return parse_object(content)

    monkeypatch.setattr(requests, "parse_object", parse)
    for size in (100, 70_000):
        assert app.ask("/embed", {"inputs": "a " * size}).status == 200
    assert [thread is threading.main_thread() for thread in threads] == [True, False]


@pytest.mark.parametrize("path", ["/embed", "/"])
def test_embed(app, model, path):
    np.testing.assert_allclose(vectors_of(app.ask(path, {"inputs": TEXTS})), model.encode(TEXTS), atol=1e-6)
    np.testing.assert_array_equal(vectors_of(app.ask(path, {"inputs": "the cat"})), model.encode(["the cat"]))
    np.testing.assert_array_equal(vectors_of(app.ask(path, {"inputs": [ids_of("the cat")]})), model.encode(["the cat"]))
    nothing = dict.fromkeys(("normalize", "truncate", "prompt_name", "dimensions", "model", "options"))
    assert app.ask(path, {"inputs": TEXTS, **nothing}).body == app.ask(path, {"inputs": TEXTS}).body


def test_normalize_is_true_by_default(app):
    plain = app.models.get("plain").model
    ask = {"inputs": TEXTS, "model": "plain"}
    for options in ({}, {"normalize": True}, {"dimensions": 3}):
        wanted = plain.encode(TEXTS, normalize_embeddings=True, truncate_dim=options.get("dimensions"))
        np.testing.assert_allclose(vectors_of(app.ask("/embed", ask | options)), wanted, atol=1e-6)
    raw = vectors_of(app.ask("/embed", ask | {"normalize": False, "dimensions": 3}))
    np.testing.assert_allclose(raw, plain.encode(TEXTS, truncate_dim=3), atol=1e-6)


def test_options_of_embed(app, model):
    body = {"inputs": LONG, "truncate": True, "truncation_direction": "Right", "prompt_name": "query", "options": {}}
    np.testing.assert_array_equal(vectors_of(app.ask("/embed", body))[0], model.encode_query(LONG))


@pytest.mark.parametrize("path", ["/similarity", "/"])
def test_similarity_is_the_cosine(app, path):
    for name in ("org/tiny", "plain"):
        model = app.models.get(name).model
        expected = cos_sim(model.encode("the cat"), model.encode(SENTENCES["sentences"]))[0]
        got = vectors_of(app.ask(path, {"inputs": SENTENCES, "model": name, "parameters": {"truncate": False}}))
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_tokenize(app):
    (tokens,) = app.ask("/tokenize", {"inputs": "the é cats"}).json
    assert [token["id"] for token in tokens] == ids_of("the é cats")
    assert tokens[0] == {"id": VOCABULARY["[CLS]"], "text": "[CLS]", "special": True, "start": None, "stop": None}
    # Places count bytes, as in text-embeddings-inference.
    places = [(token["text"], token["start"], token["stop"]) for token in tokens if not token["special"]]
    assert places == [("the", 0, 3), ("é", 4, 6), ("cat", 7, 10), ("s", 10, 11)]
    tokens = app.ask("/tokenize", {"inputs": ["a", LONG], "add_special_tokens": False, "prompt_name": "query"}).json
    assert [token["text"] for token in tokens[0]] == ["query", ":", "a"]
    assert len(tokens[1]) == 42  # all tokens, also those that the model does not read


def test_info(app):
    info = app.ask("/info", method="GET").json
    assert info["served_model_name"] == "org/tiny"
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert (info["max_input_length"], info["max_client_batch_size"], info["models"]) == (16, 4, ["org/tiny", "plain"])
    assert app.ask("/info?model=plain", method="GET").json["served_model_name"] == "plain"
    assert refusal_of(app.ask("/info?model=x", method="GET"))[:2] == (404, "Validation")


BAD_REQUESTS = [
    ("/embed", b"{", 400, "Validation", "the body is not JSON"),
    ("/embed", b"", 400, "Validation", "there is no body"),
    ("/embed", {}, 422, "Validation", '"inputs" is missing'),
    ("/embed", {"input": "a"}, 422, "Validation", 'unknown key "input": the texts belong under "inputs". The keys are'),
    ("/embed", {"inputs": "a", "encoding_format": "float"}, 422, "Validation", "/v1/embeddings has it"),
    ("/embed", {"inputs": []}, 400, "Empty", "inputs is empty. Send at least one text"),
    ("/embed", {"inputs": {"text": 3}}, 422, "Validation", "inputs.text should be a string, not 3"),
    ("/embed", {"inputs": ["a"] * 5}, 413, "Validation", "inputs has 5 texts, and the limit is 4. Send fewer"),
    ("/embed", {"inputs": "a", "normalize": 1}, 422, "Validation", "normalize should be true or false, not 1"),
    ("/embed", {"inputs": "a", "truncate": "yes"}, 422, "Validation", 'truncate should be true or false, not "yes"'),
    (
        "/embed",
        {"inputs": "a", "truncation_direction": "Left"},
        422,
        "Validation",
        '"Left" is not possible: a text that',
    ),
    ("/embed", {"inputs": "a", "truncation_direction": "up"}, 422, "Validation", "truncation_direction should be"),
    ("/embed", {"inputs": "a", "dimensions": 9}, 422, "Validation", "dimensions should be at most 8"),
    ("/embed", {"inputs": "a", "prompt_name": "x"}, 422, "Validation", 'no prompt_name "x": it has query, document'),
    ("/embed", {"inputs": "a", "model": "x"}, 404, "Validation", "org/tiny, plain"),
    (
        "/embed",
        {"inputs": ["a", LONG], "truncate": False},
        422,
        "Validation",
        "inputs[1] has more than 16 tokens, which",
    ),
    ("/embed", {"inputs": [5, 6]}, 422, "Validation", "inputs should begin with 2 ([CLS])"),
    ("/", {"inputs": {"sentences": ["a"]}}, 422, "Validation", '"source_sentence" is missing'),
    ("/similarity", {"inputs": "a"}, 422, "Validation", 'an object with "source_sentence" and "sentences", not "a"'),
    ("/similarity", {"inputs": SENTENCES | {"x": 1}}, 422, "Validation", 'unknown key "x"'),
    ("/similarity", {"inputs": SENTENCES | {"sentences": "a"}}, 422, "Validation", "inputs.sentences should be a list"),
    ("/similarity", {"inputs": SENTENCES | {"sentences": [3]}}, 422, "Validation", "inputs.sentences[0] should be a"),
    ("/similarity", {"inputs": SENTENCES | {"sentences": []}}, 400, "Empty", "inputs.sentences is empty"),
    (
        "/similarity",
        {"inputs": SENTENCES | {"sentences": ["a"] * 4}},
        413,
        "Validation",
        "inputs.sentences has 5 texts",
    ),
    ("/similarity", {"inputs": SENTENCES, "parameters": 3}, 422, "Validation", "parameters should be an object, not 3"),
    ("/similarity", {"inputs": SENTENCES, "parameters": {"x": 1}}, 422, "Validation", 'unknown key "x"'),
    (
        "/similarity",
        {"inputs": {"source_sentence": "a", "sentences": ["b", LONG]}, "parameters": {"truncate": False}},
        422,
        "Validation",
        "inputs.sentences[1] has more than 16 tokens",
    ),
    ("/tokenize", {"inputs": "a", "prompt_name": "x"}, 422, "Validation", 'no prompt_name "x"'),
    ("/tokenize", {"inputs": [[2, 3]]}, 422, "Validation", "inputs[0] should be a string, not a list"),
    ("/tokenize", {"inputs": "a" * 300_001}, 413, "Validation", "and the limit of /tokenize is 300,000"),
]


@pytest.mark.parametrize(("path", "body", "status", "kind", "message"), BAD_REQUESTS)
def test_bad_request(app, path, body, status, kind, message):
    answered = refusal_of(app.ask(path, body))
    assert answered[:2] == (status, kind)
    assert message in answered[2]
