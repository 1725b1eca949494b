"""Rerankers behind the server: the forms of text-embeddings-inference, Cohere, Jina and infinity, in this process."""

import numpy as np
import pytest

from embedder import CrossEncoder, Embedder
from embedder.activations import apply_activation
from embedder.artifact.scores import ScoreSettings
from embedder.errors import InputError
from embedder.serve.loading import load_models
from embedder.serve.metrics import Metrics
from embedder.serve.settings import ServerSettings
from tests.asgi_client import ServedApp
from tests.tiny import expected_score, segments_of, write_tiny_artifact, write_tiny_ranker

QUERY = "the cat"
TEXTS = ["a dog", "the cat sat on the mat", "", "the cat", "a dog"]
LONG = "the cat " * 20
LABELS = ("entailment", "neutral", "contradiction")


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    directory = tmp_path_factory.mktemp("rerank")
    nli = ScoreSettings("identity", LABELS, "longest_first", parity=None)
    models = {
        "nli": CrossEncoder(write_tiny_ranker(directory / "nli", labels=3, scores=nli)),
        "tiny": Embedder(write_tiny_artifact(directory / "tiny")),
        "org/ranker": CrossEncoder(write_tiny_ranker(directory / "ranker")),
    }
    app = ServedApp(models, ServerSettings(max_texts=5, max_characters=300))
    yield app
    app.close()


def raw_scores(labels=1, texts=TEXTS):
    """Return the raw scores of the texts with the query, float32 (n, labels)."""
    return np.float32([expected_score(*segments_of(QUERY, text), labels=labels) for text in texts])


def order_of(scores):
    return np.argsort(-scores, kind="stable").tolist()


def answer_of(answered):
    assert answered.status == 200, answered.body
    assert answered.headers["content-type"] == "application/json"
    return answered.json


@pytest.mark.parametrize("raw", [False, True])
def test_rerank_of_text_embeddings_inference(app, raw):
    body = {"query": QUERY, "texts": TEXTS, "raw_scores": raw, "return_text": True, "truncate": True}
    found = answer_of(app.ask("/rerank", body))
    scores = apply_activation(raw_scores(), "identity" if raw else "sigmoid")[:, 0]
    assert [item["index"] for item in found] == order_of(scores)  # the same text twice keeps its order
    np.testing.assert_allclose([item["score"] for item in found], scores[order_of(scores)], atol=1e-6)
    assert [item["text"] for item in found] == [TEXTS[row] for row in order_of(scores)]
    plain = answer_of(app.ask("/rerank", {"query": QUERY, "texts": TEXTS}))
    assert all(item.keys() == {"index", "score"} for item in plain)


@pytest.mark.parametrize(("path", "version"), [("/v1/rerank", "1"), ("/v2/rerank", "2"), ("/rerank", None)])
def test_rerank_of_cohere_jina_and_infinity(app, path, version):
    documents = [TEXTS[0], {"text": TEXTS[1], "title": "not read"}, *TEXTS[2:]]
    options = {"top_n": 2, "return_documents": True, "model": "ranker"}
    found = answer_of(app.ask(path, {"query": QUERY, "documents": documents, **options}))
    scores = apply_activation(raw_scores(), "sigmoid")[:, 0]
    best = order_of(scores)[:2]
    assert [item["index"] for item in found["results"]] == best
    np.testing.assert_allclose([item["relevance_score"] for item in found["results"]], scores[best], atol=1e-6)
    texts = [TEXTS[row] for row in best]
    wanted = texts if version is None else [{"text": text} for text in texts]
    assert [item["document"] for item in found["results"]] == wanted
    tokens = sum(map(len, app.models.reranker(None).model.tokenize_pairs([(QUERY, text) for text in TEXTS])))
    assert (found["model"], found["usage"]) == ("org/ranker", {"prompt_tokens": tokens, "total_tokens": tokens})
    meta = {"api_version": {"version": version}, "tokens": {"input_tokens": tokens}}
    assert found.get("meta") == (None if version is None else meta)
    body = {"query": QUERY, "documents": TEXTS, "raw_scores": True, "top_n": 9, "max_tokens_per_doc": 4096}
    answered = app.ask(path, body)
    found = answer_of(answered)
    assert found["id"] == answered.headers["x-request-id"]
    np.testing.assert_allclose(
        [item["relevance_score"] for item in found["results"]], np.sort(raw_scores()[:, 0])[::-1], atol=1e-6
    )
    assert all(item.keys() == {"index", "relevance_score"} for item in found["results"])


def test_scores_that_the_sigmoid_makes_equal_are_in_the_order_of_the_raw_ones(app, monkeypatch):
    async def encode(items, *, deadline_s):
        return np.float32([[20], [30], [25]])

    monkeypatch.setattr(app.models.reranker(None).batcher, "encode", encode)
    found = answer_of(app.ask("/rerank", {"query": QUERY, "texts": TEXTS[:3]}))
    assert [(item["index"], item["score"]) for item in found] == [(1, 1), (2, 1), (0, 1)]
    found = answer_of(app.ask("/v2/rerank", {"query": QUERY, "documents": TEXTS[:3]}))
    assert [item["index"] for item in found["results"]] == [1, 2, 0]


def test_predict_gives_the_labels_of_pairs(app):
    pairs = [[QUERY, text] for text in TEXTS[:2]]
    found = answer_of(app.ask("/predict", {"inputs": pairs}))
    scores = apply_activation(raw_scores(3, TEXTS[:2]), "softmax")
    for labels, row in zip(found, scores, strict=True):
        assert [item["label"] for item in labels] == [LABELS[label] for label in order_of(row)]
        np.testing.assert_allclose([item["score"] for item in labels], np.sort(row)[::-1], atol=1e-6)
    single = answer_of(app.ask("/predict", {"inputs": pairs[0]}))
    assert [item["label"] for item in single] == [item["label"] for item in found[0]]
    (one,) = answer_of(app.ask("/predict", {"inputs": pairs[0], "model": "org/ranker", "raw_scores": True}))
    assert one == {"label": "LABEL_0", "score": pytest.approx(raw_scores()[0, 0].item(), abs=1e-6)}


def test_requests_of_all_forms_share_batches_and_get_the_scores_of_predict(app):
    ranker = app.models.reranker(None).model
    pairs = [(f"{query} {row}", text) for row, query in enumerate(("the cat", "a dog", "mat")) for text in TEXTS]
    requests = []
    for first in range(0, len(pairs), len(TEXTS)):
        texts = {"query": pairs[first][0], "texts": TEXTS}
        requests.append(("/rerank", texts))
        requests.append(("/embed", {"inputs": TEXTS}))
    answers = app.gather(*requests)[::2]
    scores = np.empty(len(pairs), np.float32)
    for request, answered in enumerate(answers):
        for item in answer_of(answered):
            scores[request * len(TEXTS) + item["index"]] = item["score"]
    np.testing.assert_allclose(scores, ranker.predict(pairs), atol=1e-6)


def test_descriptions_of_models(app):
    found = {model["id"]: model for model in answer_of(app.ask("/v1/models", method="GET"))["data"]}
    assert (found["nli"]["task"], found["nli"]["labels"]) == ("rank", list(LABELS))
    assert (found["org/ranker"]["labels"], found["org/ranker"]["activation_fn"]) == (["LABEL_0"], "sigmoid")
    assert found["tiny"]["task"] == "embed"
    info = answer_of(app.ask("/info?model=ranker", method="GET"))
    names = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    assert (info["model_type"], info["max_input_length"]) == ({"reranker": names}, 16)
    assert set(answer_of(app.ask("/info", method="GET"))["model_type"]) == {"classifier"}


def test_models_are_loaded_by_their_task(tmp_path):
    paths = (write_tiny_ranker(tmp_path / "ranker"), write_tiny_artifact(tmp_path / "tiny"))
    models = load_models(ServerSettings(models=tuple(map(str, paths)), threads=1), Metrics())
    assert [served.name for served in models.rerankers] == ["ranker"]
    assert [served.name for served in models.embedders] == ["tiny"]
    for served in models.models:
        served.model.close()


def test_default_prompt_is_read_before_the_query(tmp_path):
    plain = CrossEncoder(write_tiny_ranker(tmp_path / "plain"))
    path = write_tiny_ranker(tmp_path / "prompted", prompts={"query": "a dog "}, default_prompt_name="query")
    app = ServedApp({"prompted": CrossEncoder(path)})
    (found,) = answer_of(app.ask("/rerank", {"query": QUERY, "texts": ["the mat"]}))
    assert found["score"] == pytest.approx(plain.predict(("a dog " + QUERY, "the mat")).item(), abs=1e-6)
    plain.close()
    app.close()


PAIRS = {"query": QUERY, "texts": ["a"]}
DOCUMENTS = {"query": QUERY, "documents": ["a"], "model": "ranker"}
NOT_ONE = "this route needs a reranker, and {} is none. Those served here: org/ranker"
BAD_REQUESTS = [
    ("/rerank", PAIRS | {"model": "tiny"}, 424, NOT_ONE.format("tiny")),
    ("/rerank", PAIRS | {"model": "nli"}, 424, NOT_ONE.format("nli")),
    ("/rerank", PAIRS | {"model": "x"}, 404, "no model 'x' is served here"),
    ("/rerank", {"texts": ["a"]}, 422, '"query" is missing'),
    ("/rerank", {"query": "a"}, 422, '"texts" is missing'),
    ("/rerank", PAIRS | {"query": 3}, 422, "query should be a string, not 3"),
    ("/rerank", PAIRS | {"texts": "a"}, 422, 'texts should be a list of strings, not "a"'),
    ("/rerank", PAIRS | {"texts": ["a", None]}, 422, "texts[1] should be a string, not null"),
    ("/rerank", PAIRS | {"texts": []}, 400, "texts is empty. Send at least one text"),
    ("/rerank", PAIRS | {"texts": ["a"] * 6}, 413, "texts has 6 texts, and the limit is 5"),
    ("/rerank", PAIRS | {"texts": ["a" * 301]}, 413, "texts[0] has 301 characters, and the limit is 300"),
    ("/rerank", PAIRS | {"inputs": ["a"]}, 422, 'unknown key "inputs": the texts belong under "texts"'),
    ("/rerank", PAIRS | {"top_n": 1}, 422, 'it goes with "documents" instead of "texts", or to /v1/rerank'),
    ("/rerank", PAIRS | {"raw_scores": 1}, 422, "raw_scores should be true or false, not 1"),
    ("/rerank", PAIRS | {"truncation_direction": "left"}, 422, '"Left" is not possible'),
    (
        "/rerank",
        {"query": QUERY, "texts": ["a", LONG], "truncate": False},
        422,
        "texts[1]: the pair has more than 16 tokens, which is what org/ranker reads",
    ),
    ("/rerank", DOCUMENTS | {"model": "tiny"}, 424, NOT_ONE.format("tiny")),
    ("/rerank", DOCUMENTS | {"top_n": 0}, 422, "top_n should be a whole number, at least 1, not 0"),
    ("/predict", {"inputs": ["a", "b"], "model": "tiny"}, 424, "needs a cross-encoder, and tiny is none. Those served"),
    ("/predict", {"inputs": "a"}, 422, 'inputs should be a pair of strings or a list of pairs, not "a"'),
    ("/predict", {"inputs": []}, 400, "inputs is empty"),
    ("/predict", {"inputs": ["a"]}, 422, "inputs should be a pair of strings, not a list of 1"),
    ("/predict", {"inputs": [["a", "b"], ["c"]]}, 422, "inputs[1] should be a pair of strings, not a list of 1"),
    ("/predict", {"inputs": [["a", "b"], "cd"]}, 422, 'inputs[1] should be a pair of strings, not "cd"'),
    ("/predict", {"inputs": [["a", 3]]}, 422, "inputs[0][1] should be a string, not 3"),
    ("/predict", {"inputs": ["a", LONG], "truncate": False}, 422, "inputs: the pair has more than 16 tokens"),
    ("/predict", PAIRS, 422, 'unknown keys "query", "texts": /rerank has it'),
    (
        "/embed",
        {"inputs": "a", "model": "nli"},
        424,
        "needs an embedding model, and nli is none. Those served here: tiny",
    ),
    ("/tokenize", {"inputs": "a", "model": "ranker"}, 424, "needs an embedding model, and org/ranker is none"),
    ("/v1/embeddings", {"input": "a", "model": "ranker"}, 400, "needs an embedding model, and org/ranker is none"),
    ("/v1/rerank", DOCUMENTS | {"model": "tiny"}, 400, NOT_ONE.format("tiny")),
    ("/v1/rerank", DOCUMENTS | {"model": "gpt"}, 404, "no model 'gpt' is served here. The models are nli, tiny, org/"),
    ("/v1/rerank", {"query": "a"}, 400, '"documents" is missing'),
    (
        "/v1/rerank",
        DOCUMENTS | {"documents": "a"},
        400,
        'documents should be a list of strings or of objects with "text"',
    ),
    ("/v1/rerank", DOCUMENTS | {"documents": []}, 400, "documents is empty"),
    (
        "/v1/rerank",
        DOCUMENTS | {"documents": [3]},
        400,
        'documents[0] should be a string or an object with "text", not 3',
    ),
    ("/v1/rerank", DOCUMENTS | {"documents": [{"image": "a"}]}, 400, "documents[0].text should be a string, not null"),
    ("/v1/rerank", DOCUMENTS | {"rank_fields": ["a"]}, 400, 'put all that counts into the "text" of a document'),
    ("/v1/rerank", DOCUMENTS | {"max_chunks_per_doc": 2}, 400, "a document that is too long loses its end"),
    ("/v2/rerank", DOCUMENTS | {"top_k": 3}, 400, 'use "top_n"'),
    ("/v2/rerank", DOCUMENTS | {"texts": ["a"]}, 400, 'the texts belong under "documents"'),
    (
        "/v2/rerank",
        DOCUMENTS | {"max_tokens_per_doc": 5},
        400,
        "max_tokens_per_doc should be at least 16, not 5: that is what org/ranker reads",
    ),
    ("/v2/rerank", b"{", 400, "the body is not JSON"),
]


def test_a_pair_without_tokens_is_the_fault_of_the_request(app, monkeypatch):
    def refuse(*_):
        raise InputError("the pair '' and '' has no tokens, so that it gets no score")

    monkeypatch.setattr(CrossEncoder, "tokenize_pairs", refuse)
    for path, body, status in (("/rerank", PAIRS, 422), ("/v1/rerank", DOCUMENTS, 400)):
        answered = app.ask(path, body)
        assert answered.status == status
        assert "has no tokens, so that it gets no score" in answered.json.get("error", answered.json.get("message"))


@pytest.mark.parametrize(("path", "body", "status", "message"), BAD_REQUESTS)
def test_bad_request(app, path, body, status, message):
    answered = app.ask(path, body)
    assert answered.status == status, answered.body
    if path in ("/v1/rerank", "/v2/rerank"):
        assert answered.json.keys() == {"message", "detail", "code"}
        found = answered.json["message"]
    elif path.startswith("/v1/"):
        found = answered.json["error"]["message"]
    else:
        assert answered.json.keys() == {"error", "error_type"}
        found = answered.json["error"]
    assert message in found


def test_server_without_a_reranker_says_so(tmp_path):
    app = ServedApp({"tiny": Embedder(write_tiny_artifact(tmp_path / "tiny"))})
    answered = app.ask("/rerank", PAIRS)
    assert (answered.status, answered.json["error_type"]) == (424, "Backend")
    assert answered.json["error"] == "this route needs a reranker. None is served here"
    assert app.ask("/v2/rerank", {"query": "a", "documents": ["b"]}).status == 400
    app.close()


def test_name_may_be_missing_if_one_model_fits(tmp_path, app):
    assert app.ask("/v2/rerank", {"query": QUERY, "documents": ["a"]}).status == 200
    paths = (write_tiny_ranker(tmp_path / name) for name in ("a", "b"))
    two = ServedApp({path.name: CrossEncoder(path) for path in paths})
    answered = two.ask("/v2/rerank", {"query": QUERY, "documents": ["a"]})
    assert (answered.status, answered.json["message"]) == (400, '"model" is missing. The models are a, b')
    assert two.ask("/rerank", PAIRS).status == 200  # text-embeddings-inference names no model
    two.close()
