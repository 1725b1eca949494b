"""The interface of Cohere for rerankers: `/v1/rerank` and `/v2/rerank`. Jina and infinity have the same keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.routing import BaseRoute, Route

from embedder.activations import apply_activation
from embedder.common.json_values import wrong_value
from embedder.serve.answers import json_response
from embedder.serve.errors import RequestRefused
from embedder.serve.request_record import RequestRecord
from embedder.serve.requests import (
    check_count,
    check_keys,
    read_count,
    read_flag,
    read_object,
    read_string,
    read_text,
    refuse,
)
from embedder.serve.scoring import ScoreRequest, best_first, score

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from embedder.serve.models import ServedCrossEncoder, ServedModels
    from embedder.serve.settings import ServerSettings

PATHS = {"/v1/rerank": "1", "/v2/rerank": "2"}
KEYS = ("query", "documents", "model", "top_n", "return_documents", "max_tokens_per_doc", "raw_scores")
_DOCUMENTS = "documents"
_HINTS = {
    **dict.fromkeys(("texts", "inputs", "passages"), 'the texts belong under "documents"'),
    **dict.fromkeys(("top_k", "limit"), 'use "top_n"'),
    "rank_fields": 'put all that counts into the "text" of a document',
    "max_chunks_per_doc": "leave it out: a document that is too long loses its end. Send its parts as documents",
}


def routes(models: ServedModels, settings: ServerSettings) -> list[BaseRoute]:
    """Return the routes of the interface."""

    def route(path: str, version: str) -> Route:
        async def answer(request: Request) -> Response:
            value = await read_object(request)
            return await rerank(models, settings, value, RequestRecord.of(request), version)

        return Route(path, answer, methods=["POST"])

    return [route(path, version) for path, version in PATHS.items()]


def error_body(error: RequestRefused) -> dict[str, Any]:
    """Return the JSON object of an error: `message` is for clients of Cohere, `detail` for clients of Jina.

    Example:
        >>> error_body(RequestRefused(429, "queue_full", "the queue is full"))
        {'message': 'the queue is full', 'detail': 'the queue is full', 'code': 'queue_full'}
    """
    return {"message": str(error), "detail": str(error), "code": error.code}


async def rerank(
    models: ServedModels,
    settings: ServerSettings,
    value: dict[str, Any],
    record: RequestRecord,
    version: str | None,
) -> Response:
    """Answer with the documents of a request and their scores, best first.

    Args:
        models: the models.
        settings: the limits.
        value: the object of the request.
        record: the record of the request.
        version: the version of Cohere's interface. None is the interface of infinity: a document that is returned is a
            string instead of an object.
    """
    check_keys(value, KEYS, _HINTS, needed=("query", _DOCUMENTS))
    served = models.reranker(read_string(value, "model"), must_name=True)
    _check_max_tokens(value, served)
    query = read_text(value["query"], "query", settings)
    texts = _read_documents(value[_DOCUMENTS], settings)
    top_n, with_documents = read_count(value, "top_n"), read_flag(value, "return_documents") is True
    wanted = ScoreRequest(
        pairs=[(query, text) for text in texts],
        name_of=f"{_DOCUMENTS}[{{}}]".format,
        truncate=True,
        timeout_s=settings.request_timeout_s,
    )
    activation_fn = "identity" if read_flag(value, "raw_scores") else "sigmoid"
    raw = await score(served, wanted, record)
    scores = apply_activation(raw, activation_fn)[:, 0]
    results: list[dict[str, Any]] = []
    for row in best_first(raw[:, 0])[:top_n]:
        result: dict[str, Any] = {"index": row, "relevance_score": scores[row]}
        if with_documents:
            result["document"] = texts[row] if version is None else {"text": texts[row]}
        results.append(result)
    return json_response(_answer(served.name, results, record, version))


def _answer(name: str, results: list[dict[str, Any]], record: RequestRecord, version: str | None) -> dict[str, Any]:
    """Return the object of an answer, with the keys that the clients of Cohere, Jina and infinity read."""
    answer = {
        "object": "rerank",
        "id": record.id,
        "model": name,
        "results": results,
        "usage": {"prompt_tokens": record.tokens, "total_tokens": record.tokens},
    }
    if version is not None:
        answer["meta"] = {"api_version": {"version": version}, "tokens": {"input_tokens": record.tokens}}
    return answer


def _read_documents(documents: object, settings: ServerSettings) -> list[str]:
    """Return the texts of the documents: strings, or objects with "text". Other keys of an object are not read."""
    if not isinstance(documents, list):
        raise refuse(wrong_value(_DOCUMENTS, 'a list of strings or of objects with "text"', documents), _DOCUMENTS)
    check_count(len(documents), _DOCUMENTS, settings)
    return [_read_document(document, f"{_DOCUMENTS}[{row}]", settings) for row, document in enumerate(documents)]


def _read_document(document: object, name: str, settings: ServerSettings) -> str:
    if isinstance(document, dict):
        return read_text(document.get("text"), f"{name}.text", settings)
    if not isinstance(document, str):
        raise refuse(wrong_value(name, 'a string or an object with "text"', document), name)
    return read_text(document, name, settings)


def _check_max_tokens(value: dict[str, Any], served: ServedCrossEncoder) -> None:
    """Refuse a limit of a document's tokens below what the model reads. A larger one changes nothing."""
    tokens, limit = read_count(value, "max_tokens_per_doc"), served.model.max_seq_length
    if tokens is not None and tokens < limit:
        raise refuse(
            f"max_tokens_per_doc should be at least {limit}, not {tokens}: that is what {served.name} reads of a query "
            "and a document together",
            "max_tokens_per_doc",
        )
