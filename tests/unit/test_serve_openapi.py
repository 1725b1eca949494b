"""The description of the server, held against its routes, its keys and its answers."""

import json

import numpy as np
import pytest
from starlette.routing import Route

from embedder import CrossEncoder, Embedder
from embedder.serve import cohere_api, openai_api, openapi, pages, tei_api
from embedder.serve.settings import ServerSettings
from tests.asgi_client import ServedApp
from tests.tiny import add_image_graph, write_tiny_artifact, write_tiny_ranker

KEYS = {
    "EmbeddingsRequest": openai_api.KEYS,
    "EmbeddingsForm": openai_api.KEYS,
    "EmbedRequest": tei_api.EMBED_KEYS,
    "SimilarityRequest": tei_api.SIMILARITY_KEYS,
    "RerankRequest": tei_api.RERANK_KEYS,
    "PredictRequest": tei_api.PREDICT_KEYS,
    "TokenizeRequest": tei_api.TOKENIZE_KEYS,
    "DocumentsRequest": cohere_api.KEYS,
}
TYPES = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    directory = tmp_path_factory.mktemp("openapi")
    clip = write_tiny_artifact(directory / "clip", prompts={"query": "query: "})
    add_image_graph(clip)
    app = ServedApp({"clip": Embedder(clip), "ranker": CrossEncoder(write_tiny_ranker(directory / "ranker"))})
    yield app
    app.close()


@pytest.fixture(scope="module")
def document(app):
    return app.ask("/openapi.json", method="GET").json


def fits(value, schema, document):
    """Return whether a JSON value fits a schema, by the keywords that the description uses."""
    if "$ref" in schema:
        return fits(value, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    kinds = schema.get("type", list(TYPES))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not any(isinstance(value, TYPES[kind]) and (kind == "boolean") == isinstance(value, bool) for kind in kinds):
        return False
    if "anyOf" in schema and not any(fits(value, one, document) for one in schema["anyOf"]):
        return False
    if value != schema.get("const", value) or value not in schema.get("enum", [value]):
        return False
    if isinstance(value, list):
        items = all(fits(item, schema.get("items", {}), document) for item in value)
        return items and schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        closed = schema.get("additionalProperties", True) or value.keys() <= properties.keys()
        known = all(fits(item, properties.get(key, {}), document) for key, item in value.items())
        return closed and known and set(schema.get("required", ())) <= value.keys()
    return not isinstance(value, int) or value >= schema.get("minimum", value)


def test_every_route_is_described_and_every_description_has_a_route(app, document):
    settings = ServerSettings()
    found = {
        (route.path.replace("{name:path}", "{model}"), method.lower())
        for module in (openai_api, tei_api, cohere_api, openapi, pages)
        for route in module.routes(app.models, settings)
        if isinstance(route, Route)
        for method in route.methods - {"HEAD"}
    }
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert found <= described
    for path, method in described:
        answer = app.ask(path.replace("{model}", "clip"), b"" if method == "post" else None, method=method.upper())
        assert answer.status not in (404, 405), path


@pytest.mark.parametrize("name", KEYS)
def test_every_key_is_described(document, name):
    schema = document["components"]["schemas"][name]
    assert tuple(schema["properties"]) == KEYS[name]
    assert schema["additionalProperties"] is False


def test_keys_inside_of_similarity_are_described(document):
    properties = document["components"]["schemas"]["SimilarityRequest"]["properties"]
    assert tuple(properties["inputs"]["properties"]) == tei_api.SIMILARITY_INPUTS
    assert tuple(properties["parameters"]["anyOf"][0]["properties"]) == tei_api.SIMILARITY_PARAMETERS


def test_examples_and_answers_fit_the_schemas(app, document):
    asked = 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            answers = operation["responses"].get("200", {}).get("content", {}).get("application/json")
            if not answers or not answers["schema"]:
                continue
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            body = content and content["example"]
            assert content is None or fits(body, content["schema"], document)
            answer = app.ask(path.replace("{model}", "clip"), body, method=method.upper())
            assert answer.status == 200, (path, answer.body)
            assert fits(answer.json, answers["schema"], document), path
            asked += 1
    assert asked >= 12


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "/v1/embeddings",
            {"input": "a", "dimensions": 3, "encoding_format": "base64", "user": 3, "prompt_name": "query"},
        ),
        ("/v1/embeddings", {"input": ["a", [2, 3], {"text": "b"}], "model": None}),
        ("/v1/embeddings", {"input": "a", "dimensions": 0}),
        ("/v1/embeddings", {"input": "a", "dimensions": "3"}),
        ("/v1/embeddings", {"input": [], "model": "clip"}),
        ("/v1/embeddings", {"input": [[]]}),
        ("/v1/embeddings", {"input": [None]}),
        ("/v1/embeddings", {"input": [{"text": "a", "x": 1}]}),
        ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}),
        ("/v1/embeddings", {"input": "a", "x": 1}),
        ("/v1/embeddings", {"model": "clip"}),
        ("/embed", {"inputs": "a", "normalize": None, "truncate": True, "options": {}}),
        ("/embed", {"inputs": "a", "normalize": 1}),
        ("/embed", {"inputs": 3}),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"]}, "parameters": None}),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}),
        ("/similarity", {"inputs": {"source_sentence": "a"}}),
        ("/rerank", {"query": "a", "texts": ["b"], "raw_scores": True, "return_text": True, "truncate": False}),
        ("/rerank", {"query": "a", "documents": ["b", {"text": "c", "x": 1}], "top_n": 1, "return_documents": True}),
        ("/rerank", {"query": "a"}),
        ("/rerank", {"query": "a", "texts": []}),
        ("/predict", {"inputs": ["a", "b"], "raw_scores": True}),
        ("/predict", {"inputs": [["a", "b"], ["c", "d"]], "model": "ranker"}),
        ("/predict", {"inputs": ["a", "b", "c"]}),
        ("/predict", {"inputs": []}),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "model": None, "max_tokens_per_doc": 4096}),
        ("/v2/rerank", {"query": "a", "documents": ["b"], "return_documents": True}),
        ("/v2/rerank", {"query": "a", "documents": ["b"], "top_n": 0}),
        ("/v2/rerank", {"query": "a", "documents": [{"image": "b"}]}),
        ("/tokenize", {"inputs": ["a"], "add_special_tokens": False}),
        ("/tokenize", {"inputs": [3]}),
    ],
)
def test_schema_accepts_what_the_server_accepts(app, document, path, body):
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    answer = app.ask(path, body)
    assert (answer.status == 200) == fits(body, schema, document), answer.body
    operation = document["paths"][path]["post"]
    assert str(answer.status) in operation["responses"]
    if answer.status != 200:
        error = operation["responses"][str(answer.status)]["content"]["application/json"]["schema"]
        assert fits(answer.json, error, document)


def test_numbers_of_an_answer_give_the_same_float32_again(app):
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    numbers = bits[np.isfinite(bits)][:16_000].reshape(-1, 8)

    async def encode(items, *, deadline_s=None):
        return numbers

    served = app.models.embedder(None)
    original, served.batcher.encode = served.batcher.encode, encode
    try:
        answer = app.ask("/embed", {"inputs": "a", "normalize": False})
    finally:
        served.batcher.encode = original
    np.testing.assert_array_equal(np.float32(json.loads(answer.body)).view(np.uint32), numbers.view(np.uint32))


def test_key_is_described_if_the_server_asks_for_one(app):
    described = openapi.describe(app.models, ServerSettings(api_key_file="keys"))
    assert described["security"] == [{"key": []}]
    assert described["paths"]["/health"]["get"]["security"] == []
    assert "security" not in described["paths"]["/"]["post"]
    assert "keys" not in json.dumps(described["components"]["securitySchemes"])


def test_form_is_described_where_a_model_takes_images(app, document, tmp_path):
    content = document["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]
    assert "multipart/form-data" in content
    texts = ServedApp({"tiny": Embedder(write_tiny_artifact(tmp_path / "tiny"))})
    described = openapi.describe(texts.models, ServerSettings())
    assert "multipart/form-data" not in described["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]
    texts.close()


def test_page_runs_its_own_script_alone(app):
    answer = app.ask("/docs", method="GET")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; connect-src 'self'; ")
    assert policy.count("sha256-") == 2
    assert "unsafe" not in policy
    assert b"http" not in answer.body.replace(b"http-equiv", b"")
