"""The interface of text-embeddings-inference: `/embed`, `/similarity`, `/rerank`, `/predict`, `/tokenize`, `/info`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from embedder import __version__
from embedder.activations import apply_activation
from embedder.common.json_values import wrong_value
from embedder.common.records import frozen
from embedder.serve import cohere_api
from embedder.serve.answers import json_response, write_rows
from embedder.serve.embedding import VectorRequest, check_prompt, embed
from embedder.serve.errors import WRONG_KIND, RequestRefused
from embedder.serve.models import ServedEmbedder, ServedModel
from embedder.serve.request_record import RequestRecord
from embedder.serve.requests import (
    EMPTY,
    INVALID_JSON,
    TOO_LARGE,
    check_count,
    check_keys,
    item_names,
    read_choice,
    read_count,
    read_flag,
    read_items,
    read_object,
    read_string,
    read_text,
    read_texts,
    refuse,
)
from embedder.serve.scoring import ScoreRequest, best_first, labels_of, score
from embedder.vectors.similarity import cos_sim

if TYPE_CHECKING:
    from starlette.requests import Request

    from embedder.encoder import Embedder
    from embedder.serve.models import ServedModels
    from embedder.serve.settings import ServerSettings

Handler = Callable[["Request"], Awaitable[Response]]

EMBED_KEYS = (
    "inputs",
    "normalize",
    "truncate",
    "truncation_direction",
    "prompt_name",
    "dimensions",
    "model",
    "options",
)
SIMILARITY_KEYS = ("inputs", "parameters", "model", "options")
SIMILARITY_INPUTS = ("source_sentence", "sentences")
SIMILARITY_PARAMETERS = ("truncate", "truncation_direction", "prompt_name")
RERANK_KEYS = ("query", "texts", "truncate", "truncation_direction", "raw_scores", "return_text", "model")
PREDICT_KEYS = ("inputs", "truncate", "truncation_direction", "raw_scores", "model")
TOKENIZE_KEYS = ("inputs", "add_special_tokens", "prompt_name", "model")
# The side that is cut. A model of embedder always keeps the start of a text.
DIRECTIONS = ("Right", "right", "Left", "left")
# Most characters of a request to /tokenize. The answer has up to 100 bytes for each.
MAX_TOKENIZED_CHARACTERS = 300_000
_INPUTS = "inputs"
_HINTS = {
    **dict.fromkeys(("input", "text", "texts", "sentences", "documents"), 'the texts belong under "inputs"'),
    "truncate_dim": 'use "dimensions"',
    "encoding_format": "/v1/embeddings has it",
}
_HINTS_OF_RERANK = {
    **dict.fromkeys(("inputs", "sentences", "passages"), 'the texts belong under "texts"'),
    "return_documents": 'use "return_text"',
    "top_n": 'it goes with "documents" instead of "texts", or to /v1/rerank',
}
_HINTS_OF_PREDICT = dict.fromkeys(("query", "texts"), "/rerank has it")
_TYPES = {429: "Overloaded", 503: "Unhealthy"}


def routes(models: ServedModels, settings: ServerSettings) -> list[BaseRoute]:
    """Return the routes of the interface."""
    api = _TeiRoutes(models, settings)
    return [
        Route("/", _as_tei(api.embed_or_compare), methods=["POST"]),
        Route("/embed", _as_tei(api.embed), methods=["POST"]),
        Route("/similarity", _as_tei(api.compare), methods=["POST"]),
        Route("/tokenize", _as_tei(api.tokenize), methods=["POST"]),
        Route("/rerank", _as_tei(api.rerank), methods=["POST"]),
        Route("/predict", _as_tei(api.predict), methods=["POST"]),
        Route("/info", _as_tei(api.info), methods=["GET"]),
    ]


def error_body(error: RequestRefused) -> dict[str, Any]:
    """Return the JSON object of an error, in the form of text-embeddings-inference.

    Example:
        >>> error_body(RequestRefused(429, "queue_full", "the queue is full"))
        {'error': 'the queue is full', 'error_type': 'Overloaded'}
    """
    kind = "Empty" if error.code == EMPTY else "Backend" if error.status == 424 or error.status >= 500 else "Validation"
    return {"error": str(error), "error_type": _TYPES.get(error.status, kind)}


def _as_tei(handler: Handler) -> Handler:
    """Return a route with the statuses of text-embeddings-inference instead of 400.

    A wrong value has 422, and a model of another kind 424.
    """

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except RequestRefused as error:
            if error.status != 400 or error.code in (EMPTY, INVALID_JSON):
                raise
            status = 424 if error.code == WRONG_KIND else 422
            raise RequestRefused(status, error.code, str(error), param=error.param) from error

    return answer


@frozen
class _TeiRoutes:
    """The routes of the interface.

    Attributes:
        models: the models.
        settings: the limits.
    """

    models: ServedModels
    settings: ServerSettings

    async def embed_or_compare(self, request: Request) -> Response:
        """Answer as /similarity if `inputs` is an object, else as /embed. Clients of the Hub know one address alone."""
        value = await read_object(request)
        return await (self._compare if isinstance(value.get(_INPUTS), dict) else self._embed)(request, value)

    async def embed(self, request: Request) -> Response:
        """Answer with a list of vectors."""
        return await self._embed(request, await read_object(request))

    async def compare(self, request: Request) -> Response:
        """Answer with the cosine similarity of a sentence with others."""
        return await self._compare(request, await read_object(request))

    async def tokenize(self, request: Request) -> Response:
        """Answer with the tokens of texts."""
        value = await read_object(request)
        check_keys(value, TOKENIZE_KEYS, _HINTS, needed=(_INPUTS,))
        served = self.models.embedder(read_string(value, "model"))
        prompt_name = read_string(value, "prompt_name")
        check_prompt(served, prompt_name)
        texts = read_items(value[_INPUTS], _INPUTS, self.settings)
        special = read_flag(value, "add_special_tokens") is not False
        prompt = served.model.prompts[prompt_name] if prompt_name is not None else ""
        prompted = [prompt + read_text(text, f"{_INPUTS}[{row}]", self.settings) for row, text in enumerate(texts)]
        characters = sum(map(len, prompted))
        if characters > MAX_TOKENIZED_CHARACTERS:
            raise RequestRefused(
                TOO_LARGE,
                "text_too_long",
                f"the texts have {characters:,} characters, and the limit of /tokenize is {MAX_TOKENIZED_CHARACTERS:,}",
                param=_INPUTS,
            )
        record = RequestRecord.of(request)
        record.model, record.texts = served.name, len(prompted)

        def tokenize() -> bytes:
            return b"[" + b",".join(_tokens_json(served.model, text, special=special) for text in prompted) + b"]"

        return Response(await asyncio.to_thread(tokenize), media_type="application/json")

    async def info(self, request: Request) -> Response:
        """Answer with what is known of a model, and with the limits."""
        served = self.models.get(request.query_params.get("model"))
        model, limits = served.model, served.model.batch_limits
        return json_response(
            {
                "model_id": model.manifest.source.model,
                "model_sha": model.manifest.source.revision,
                "model_dtype": model.dtype,
                "served_model_name": served.name,
                "model_type": _model_type(served),
                "max_concurrent_requests": self.settings.queue_size,
                "max_input_length": model.max_seq_length,
                "max_batch_tokens": self.settings.max_batch_tokens or limits.token_budget,
                "max_batch_requests": None,
                "max_client_batch_size": self.settings.max_texts,
                "auto_truncate": True,
                "tokenization_workers": limits.threads,
                "version": __version__,
                "sha": None,
                "docker_label": None,
                "models": list(self.models.names),
            }
        )

    async def rerank(self, request: Request) -> Response:
        """Answer with the scores of texts with a query, best first. `documents` is the form of infinity."""
        value = await read_object(request)
        if "documents" in value:
            return await cohere_api.rerank(self.models, self.settings, value, RequestRecord.of(request), version=None)
        check_keys(value, RERANK_KEYS, _HINTS_OF_RERANK, needed=("query", "texts"))
        served = self.models.reranker(read_string(value, "model"))
        query = read_text(value["query"], "query", self.settings)
        texts = read_texts(value["texts"], "texts", self.settings)
        return_text = read_flag(value, "return_text") is True
        activation_fn = "identity" if read_flag(value, "raw_scores") else "sigmoid"
        wanted = self._scores_wanted(value, [(query, text) for text in texts], "texts[{}]".format)
        raw = await score(served, wanted, RequestRecord.of(request))
        scores = apply_activation(raw, activation_fn)[:, 0]
        return json_response(
            [
                {"index": row, "score": scores[row]} | ({"text": texts[row]} if return_text else {})
                for row in best_first(raw[:, 0])
            ]
        )

    async def predict(self, request: Request) -> Response:
        """Answer with the labels of a pair of texts, or of several pairs, and their scores, best first."""
        value = await read_object(request)
        check_keys(value, PREDICT_KEYS, _HINTS_OF_PREDICT, needed=(_INPUTS,))
        served = self.models.cross_encoder(read_string(value, "model"))
        pairs, single = self._read_pairs(value[_INPUTS])
        name_of = (lambda row: _INPUTS) if single else f"{_INPUTS}[{{}}]".format
        labels = labels_of(served)
        activation_fn = "identity" if read_flag(value, "raw_scores") else "softmax" if len(labels) > 1 else "sigmoid"
        wanted = self._scores_wanted(value, pairs, name_of)
        raw = await score(served, wanted, RequestRecord.of(request))
        found = [
            [{"score": scores[label], "label": labels[label]} for label in best_first(row)]
            for row, scores in zip(raw, apply_activation(raw, activation_fn), strict=True)
        ]
        return json_response(found[0] if single else found)

    def _scores_wanted(
        self, value: dict[str, Any], pairs: list[tuple[str, str]], name_of: Callable[[int], str]
    ) -> ScoreRequest:
        _check_direction(value)
        return ScoreRequest(
            pairs=pairs,
            name_of=name_of,
            truncate=read_flag(value, "truncate") is not False,
            timeout_s=self.settings.request_timeout_s,
        )

    def _read_pairs(self, inputs: object) -> tuple[list[tuple[str, str]], bool]:
        """Return the pairs of texts of /predict, and whether it is a single one."""
        if not isinstance(inputs, list):
            raise refuse(wrong_value(_INPUTS, "a pair of strings or a list of pairs", inputs), _INPUTS)
        if inputs and isinstance(inputs[0], str):
            return [self._read_pair(inputs, _INPUTS)], True
        check_count(len(inputs), _INPUTS, self.settings)
        return [self._read_pair(pair, f"{_INPUTS}[{row}]") for row, pair in enumerate(inputs)], False

    def _read_pair(self, pair: object, name: str) -> tuple[str, str]:
        if not isinstance(pair, list):
            raise refuse(wrong_value(name, "a pair of strings", pair), name)
        if len(pair) != 2:
            raise refuse(f"{name} should be a pair of strings, not a list of {len(pair)}", name)
        first, second = (read_text(text, f"{name}[{side}]", self.settings) for side, text in enumerate(pair))
        return first, second

    async def _embed(self, request: Request, value: dict[str, Any]) -> Response:
        check_keys(value, EMBED_KEYS, _HINTS, needed=(_INPUTS,))
        served = self.models.embedder(read_string(value, "model"))
        wanted = self._wanted(
            value, read_items(value[_INPUTS], _INPUTS, self.settings), item_names(value[_INPUTS], _INPUTS)
        )
        vectors, _ = await embed(served, wanted, RequestRecord.of(request))
        return Response(await write_rows(vectors, lambda rows, first: rows), media_type="application/json")

    async def _compare(self, request: Request, value: dict[str, Any]) -> Response:
        check_keys(value, SIMILARITY_KEYS, _HINTS, needed=(_INPUTS,))
        served = self.models.embedder(read_string(value, "model"))
        source, sentences = self._sentences(value[_INPUTS])
        parameters = value.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise refuse(wrong_value("parameters", "an object", parameters), "parameters")
        check_keys(parameters, SIMILARITY_PARAMETERS, _HINTS)
        wanted = self._wanted(parameters, [source, *sentences], _sentence_name)
        vectors, _ = await embed(served, wanted, RequestRecord.of(request))
        return json_response(cos_sim(vectors[:1], vectors[1:])[0])

    def _sentences(self, inputs: object) -> tuple[str, list[str]]:
        """Return the sentence, and those to compare it with."""
        if not isinstance(inputs, dict):
            raise refuse(wrong_value(_INPUTS, 'an object with "source_sentence" and "sentences"', inputs), _INPUTS)
        check_keys(inputs, SIMILARITY_INPUTS, {}, needed=("source_sentence",))
        source = read_text(inputs["source_sentence"], f"{_INPUTS}.source_sentence", self.settings)
        name, sentences = f"{_INPUTS}.sentences", inputs.get("sentences")
        if not isinstance(sentences, list):
            raise refuse(wrong_value(name, "a list of strings", sentences), name)
        check_count(len(sentences) and len(sentences) + 1, name, self.settings)
        return source, [read_text(text, f"{name}[{row}]", self.settings) for row, text in enumerate(sentences)]

    def _wanted(self, value: dict[str, Any], items: list[Any], name_of: Callable[[int], str]) -> VectorRequest:
        _check_direction(value)
        return VectorRequest(
            items=items,
            name_of=name_of,
            prompt_name=read_string(value, "prompt_name"),
            dimensions=read_count(value, "dimensions"),
            normalize=read_flag(value, "normalize") is not False,
            truncate=read_flag(value, "truncate") is not False,
            timeout_s=self.settings.request_timeout_s,
        )


def _check_direction(value: dict[str, Any]) -> None:
    """Raise RequestRefused if the start of texts that are too long should be cut."""
    if (read_choice(value, "truncation_direction", DIRECTIONS) or "Right").lower() == "left":
        raise refuse(
            'truncation_direction "Left" is not possible: a text that is too long loses its end', "truncation_direction"
        )


def _model_type(served: ServedModel) -> dict[str, Any]:
    """Return the kind of a model as text-embeddings-inference describes it."""
    if isinstance(served, ServedEmbedder):
        head = served.model.manifest.head
        return {"embedding": {"pooling": "+".join(head.pooling) if head is not None else "unknown"}}
    labels = labels_of(served)
    names = {
        "id2label": {str(row): label for row, label in enumerate(labels)},
        "label2id": {label: row for row, label in enumerate(labels)},
    }
    return {"reranker" if len(labels) == 1 else "classifier": names}


def _sentence_name(index: int) -> str:
    """Return the name of a text of /similarity. The first one is the source."""
    return f"{_INPUTS}.sentences[{index - 1}]" if index else f"{_INPUTS}.source_sentence"


def _tokens_json(model: Embedder, text: str, *, special: bool) -> bytes:
    """Return the JSON list of the tokens of a text. Places count bytes of UTF-8, as in text-embeddings-inference."""
    places = range(len(text) + 1) if text.isascii() else list(accumulate((len(c.encode()) for c in text), initial=0))
    values: list[dict[str, Any]] = []
    for token in model.tokens(text):
        if token.start is not None and token.end is not None:
            start, stop = places[token.start], places[token.end]
            own = text[token.start : token.end]
            values.append({"id": token.id, "text": own, "special": False, "start": start, "stop": stop})
        elif special:
            values.append({"id": token.id, "text": token.name, "special": True, "start": None, "stop": None})
    return orjson.dumps(values)
