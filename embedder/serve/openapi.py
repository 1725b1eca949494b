"""The description of the server: OpenAPI 3.1 at /openapi.json, and a page that shows it at /docs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from embedder import __version__
from embedder.serve import cohere_api
from embedder.serve.answers import json_response
from embedder.serve.html import read_page
from embedder.serve.schemas import SCHEMAS, Schema, list_of, schema_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from embedder.serve.models import ServedModel, ServedModels
    from embedder.serve.settings import ServerSettings

DOCUMENT, PAGE = "/openapi.json", "/docs"
_OPENAI, _TEI, _COHERE = "OpenAI", "text-embeddings-inference", "Cohere"
_OPERATIONS, _PAGES = "Operations", "Pages"
_ERRORS = {_OPENAI: "OpenAIError", _COHERE: "CohereError"}
_JSON, _TEXT, _HTML = "application/json", "text/plain", "text/html"
_TAGS = {
    _OPENAI: "The interface of OpenAI, for its clients and for frameworks that use them.",
    _TEI: "The interface of text-embeddings-inference, for its clients and for InferenceClient of huggingface_hub.",
    _COHERE: "The interface of Cohere for rerankers, for its clients and for those of Jina.",
    _OPERATIONS: "For those who run the server.",
    _PAGES: "Pages for people, and this description.",
}
_STATUSES = {
    400: "The body is not JSON, or a value is wrong. The message names the key.",
    401: "The API key is missing or wrong.",
    404: "No such model is served.",
    408: "The body did not come in time.",
    413: "The body, a text, an image or the number of texts is over a limit.",
    415: "The body is not JSON by its header Content-Type, or is compressed.",
    422: "A value is wrong, or a text is longer than the model reads and must not be cut.",
    424: "The model is of another kind than the route needs, or there is none of this kind.",
    429: "The queue is full. Retry-After says when to ask again.",
    500: "The server failed. Its log has the reason, under the request's id.",
    501: "The server cannot read images.",
    503: "The server is starting or ending, or holds too many bodies.",
    504: "The vectors were not there in time.",
}
_LIMITS = (
    "Served here: {names}. A request has at most {settings.max_texts:,} texts of at most {settings.max_characters:,} "
    "characters, and at most {settings.max_body_bytes:,} bytes."
)
_QUERY, _DOCUMENTS = "Where is the cat?", ["It rains.", "The cat sits outside."]
_COMPUTING = (400, 401, 404, 408, 413, 415, 429, 500, 503, 504)


def routes(models: ServedModels, settings: ServerSettings) -> list[BaseRoute]:
    """Return the routes of the description and its page."""
    document = json_response(describe(models, settings)).body

    async def show_document(request: Request) -> Response:
        return Response(document, media_type=_JSON)

    page = read_page("api_page.html")

    async def show_page(request: Request) -> Response:
        return page

    return [Route(DOCUMENT, show_document, methods=["GET"]), Route(PAGE, show_page, methods=["GET"])]


def describe(models: ServedModels, settings: ServerSettings) -> dict[str, Any]:
    """Return the OpenAPI document of a server.

    Args:
        models: the models. The examples name the first one.
        settings: the limits.

    Example:
        >>> sorted(describe(models, settings)["paths"])[:2]  # doctest: +SKIP
        ['/', '/docs']
    """
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "embedder serve",
            "version": __version__,
            "summary": "Vectors of texts and images, and scores of pairs of texts, over HTTP.",
            "description": _LIMITS.format(names=", ".join(models.names), settings=settings),
        },
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": {**_openai_paths(models), **_tei_paths(), **_cohere_paths(models), **_other_paths()},
        "components": {"schemas": SCHEMAS},
    }
    if settings.api_key_file is not None:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        for path in ("/health", "/ready", "/", PAGE, DOCUMENT):
            for operation in document["paths"][path].values():
                if operation["tags"] != [_TEI]:
                    operation["security"] = []
    return document


def _operation(
    tag: str,
    summary: str,
    answer: dict[str, Any],
    *,
    description: str = "",
    body: dict[str, Any] | None = None,
    statuses: tuple[int, ...] = (),
    parameters: tuple[dict[str, Any], ...] = (),
) -> dict[str, Any]:
    """Return the description of one method of a path."""
    error = {_JSON: {"schema": schema_of(_ERRORS.get(tag, "TeiError"))}}
    operation: dict[str, Any] = {"tags": [tag], "summary": summary}
    if description:
        operation["description"] = description
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    operation["responses"] = {
        "200": {"description": "The answer.", "content": answer},
        **{str(status): {"description": _STATUSES[status], "content": error} for status in statuses},
    }
    return operation


def _json(schema: Schema, example: Any = None) -> dict[str, Any]:
    return {_JSON: {"schema": schema} if example is None else {"schema": schema, "example": example}}


def _openai_paths(models: ServedModels) -> dict[str, Any]:
    name = _name_of_first(models.embedders, models)
    body = _json(schema_of("EmbeddingsRequest"), {"input": ["The cat sits outside."], "model": name})
    if any("image" in served.model.modalities for served in models.embedders):
        body["multipart/form-data"] = {"schema": schema_of("EmbeddingsForm")}
    parameter = {
        "name": "model",
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "example": name,
        "description": "Name of a model. It may contain slashes.",
    }
    return {
        "/v1/embeddings": {
            "post": _operation(
                _OPENAI,
                "Vectors of texts or images",
                _json(schema_of("EmbeddingsAnswer")),
                description="A string is always a text: no file is read, and no address is asked.",
                body=body,
                statuses=(*_COMPUTING, 501),
            )
        },
        "/v1/models": {"get": _operation(_OPENAI, "The models", _json(schema_of("ModelList")), statuses=(401,))},
        "/v1/models/{model}": {
            "get": _operation(
                _OPENAI, "One model", _json(schema_of("Model")), parameters=(parameter,), statuses=(401, 404)
            )
        },
    }


def _name_of_first(fitting: tuple[ServedModel, ...], models: ServedModels) -> str:
    """Return the name of a model for an example: the first that fits, or any model."""
    return (fitting or models.models)[0].name


def _tei_paths() -> dict[str, Any]:
    statuses = tuple(sorted((*_COMPUTING, 422, 424)))
    vectors = _json(list_of(list_of({"type": "number"})))
    embed = _json(schema_of("EmbedRequest"), {"inputs": ["The cat sits outside."]})
    sentences = {
        "source_sentence": "The cat sits outside.",
        "sentences": ["A cat is outdoors.", "He plays the guitar."],
    }
    compare = _json(schema_of("SimilarityRequest"), {"inputs": sentences})
    either = {"anyOf": [schema_of("EmbedRequest"), schema_of("SimilarityRequest")]}
    scores = {"anyOf": [list_of(list_of({"type": "number"})), list_of({"type": "number"})]}
    return {
        "/embed": {"post": _operation(_TEI, "Vectors of texts", vectors, body=embed, statuses=statuses)},
        "/similarity": {
            "post": _operation(
                _TEI,
                "Cosine similarity of a sentence with others",
                _json(list_of({"type": "number"})),
                body=compare,
                statuses=statuses,
            )
        },
        "/": {
            "get": _operation(_PAGES, "The page to try the server", {_HTML: {}}),
            "post": _operation(
                _TEI,
                "As /similarity if inputs is an object, else as /embed",
                _json(scores),
                body=_json(either, {"inputs": "The cat sits outside."}),
                statuses=statuses,
            ),
        },
        "/tokenize": {
            "post": _operation(
                _TEI,
                "The tokens of texts",
                _json(list_of(list_of(schema_of("Token")))),
                body=_json(schema_of("TokenizeRequest"), {"inputs": ["The cat sits outside."]}),
                statuses=(400, 401, 404, 408, 413, 415, 422, 424, 500, 503),
            )
        },
        "/info": {"get": _info_operation()},
        **_scoring_paths(statuses),
    }


def _info_operation() -> dict[str, Any]:
    parameter = {
        "name": "model",
        "in": "query",
        "schema": {"type": "string"},
        "description": "Name of a model. Without it, the first one.",
    }
    answer = _json(schema_of("Info"))
    return _operation(_TEI, "A model and the limits", answer, parameters=(parameter,), statuses=(401, 404))


def _scoring_paths(statuses: tuple[int, ...]) -> dict[str, Any]:
    rerank = {"anyOf": [schema_of("RerankRequest"), schema_of("DocumentsRequest")]}
    ranked = {"anyOf": [list_of(schema_of("RankedText")), schema_of("RankedDocuments")]}
    labels = list_of(schema_of("Label"))
    return {
        "/rerank": {
            "post": _operation(
                _TEI,
                "Texts in the order of their scores with a query",
                _json(ranked),
                description="With documents instead of texts, keys and answer are those of infinity.",
                body=_json(rerank, {"query": _QUERY, "texts": _DOCUMENTS}),
                statuses=statuses,
            )
        },
        "/predict": {
            "post": _operation(
                _TEI,
                "Labels of pairs of texts, in the order of their scores",
                _json({"anyOf": [labels, list_of(labels)]}),
                body=_json(schema_of("PredictRequest"), {"inputs": [[_QUERY, text] for text in _DOCUMENTS]}),
                statuses=statuses,
            )
        },
    }


def _cohere_paths(models: ServedModels) -> dict[str, Any]:
    name = _name_of_first(models.rerankers, models)
    operation = _operation(
        _COHERE,
        "Documents in the order of their scores with a query",
        _json(schema_of("RankedDocuments")),
        body=_json(schema_of("DocumentsRequest"), {"query": _QUERY, "documents": _DOCUMENTS, "model": name}),
        statuses=_COMPUTING,
    )
    return {path: {"post": operation} for path in cohere_api.PATHS}


def _other_paths() -> dict[str, Any]:
    status = _json(schema_of("Status"))
    health = _operation(_OPERATIONS, "Whether the process lives", status)
    ready = _operation(_OPERATIONS, "Whether the server takes requests", status)
    ready["responses"]["503"] = {"description": "The server is starting or stopping.", "content": status}
    metrics = _operation(_OPERATIONS, "Metrics in the text format of Prometheus", {_TEXT: {}}, statuses=(401,))
    return {
        "/health": {"get": health},
        "/ready": {"get": ready},
        "/metrics": {"get": metrics},
        PAGE: {"get": _operation(_PAGES, "This description as a page", {_HTML: {}})},
        DOCUMENT: {"get": _operation(_PAGES, "This description", _json({"type": "object"}))},
    }
