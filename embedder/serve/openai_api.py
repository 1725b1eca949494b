"""The interface of OpenAI: `/v1/embeddings` and `/v1/models`."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from embedder.common.records import frozen
from embedder.serve.answers import embedding_objects, json_response, write_rows
from embedder.serve.bodies import read_body
from embedder.serve.embedding import VectorRequest, embed, normalizes
from embedder.serve.errors import RequestRefused
from embedder.serve.form_data import is_form, parse_form
from embedder.serve.models import ServedEmbedder
from embedder.serve.request_record import RequestRecord
from embedder.serve.requests import (
    check_keys,
    item_names,
    read_choice,
    read_count,
    read_items,
    read_object,
    read_string,
)
from embedder.serve.scoring import labels_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from embedder.serve.models import ServedCrossEncoder, ServedModel, ServedModels
    from embedder.serve.settings import ServerSettings

EMBEDDINGS, MODELS = "/v1/embeddings", "/v1/models"
KEYS = ("input", "model", "dimensions", "encoding_format", "user", "prompt_name")
ENCODING_FORMATS = ("float", "base64")
OWNER = "embedder"
_INPUT = "input"
# What other services call these keys. The value completes "unknown key 'inputs': ".
_HINTS = {
    **dict.fromkeys(("inputs", "text", "texts", "sentences", "documents"), 'the texts belong under "input"'),
    **dict.fromkeys(("truncate_dim", "dimension", "output_dimension"), 'use "dimensions"'),
    **dict.fromkeys(("task", "input_type", "prompt"), 'use "prompt_name", such as "query" or "document"'),
}
_SERVER_ERROR, _WRONG_REQUEST = "server_error", "invalid_request_error"
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


def routes(models: ServedModels, settings: ServerSettings) -> list[BaseRoute]:
    """Return the routes of the interface."""
    api = _OpenAIRoutes(models, settings, int(time.time()))
    return [
        Route(EMBEDDINGS, api.embeddings, methods=["POST"]),
        Route(MODELS, api.list_models, methods=["GET"]),
        Route(f"{MODELS}/{{name:path}}", api.show_model, methods=["GET"]),
    ]


def error_body(error: RequestRefused) -> dict[str, Any]:
    """Return the JSON object of an error, in the form of OpenAI.

    Example:
        >>> error_body(RequestRefused(429, "queue_full", "the queue is full"))
        {'error': {'message': 'the queue is full', 'type': 'rate_limit_error', 'param': None, 'code': 'queue_full'}}
    """
    kind = _TYPES.get(error.status, _SERVER_ERROR if error.status >= 500 else _WRONG_REQUEST)
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


@frozen
class _OpenAIRoutes:
    """The routes of the interface.

    Attributes:
        models: the models.
        settings: the limits.
        started: seconds since 1970, for `created`.
    """

    models: ServedModels
    settings: ServerSettings
    started: int

    async def embeddings(self, request: Request) -> Response:
        """Answer with the vectors of texts, token ids or images."""
        value = await self._read(request)
        check_keys(value, KEYS, _HINTS, needed=(_INPUT,))
        # OpenAI requires the name of a model. It may be missing if there is one.
        served = self.models.embedder(read_string(value, "model"), must_name=True)
        base64 = read_choice(value, "encoding_format", ENCODING_FORMATS) == "base64"
        wanted = VectorRequest(
            items=read_items(value[_INPUT], _INPUT, self.settings),
            name_of=item_names(value[_INPUT], _INPUT),
            prompt_name=read_string(value, "prompt_name"),
            dimensions=read_count(value, "dimensions"),
            normalize=None,
            truncate=True,
            timeout_s=self.settings.request_timeout_s,
        )
        vectors, tokens = await embed(served, wanted, RequestRecord.of(request))
        rows = await write_rows(vectors, partial(embedding_objects, base64=base64))
        frame = {"model": served.name, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
        return Response(
            b'{"object":"list","data":' + rows + b"," + orjson.dumps(frame)[1:], media_type="application/json"
        )

    async def list_models(self, request: Request) -> Response:
        """Answer with the models."""
        return json_response({"object": "list", "data": [self._describe(model) for model in self.models.models]})

    async def show_model(self, request: Request) -> Response:
        """Answer with one model."""
        return json_response(self._describe(self.models.get(request.path_params["name"])))

    async def _read(self, request: Request) -> dict[str, Any]:
        """Return the keys of the body. A form becomes what a JSON object would be."""
        content_type = request.headers.get("content-type")
        if content_type is not None and is_form(content_type):
            return parse_form(await read_body(request), content_type, _INPUT, self.settings.max_texts)
        return await read_object(request)

    def _describe(self, served: ServedModel) -> dict[str, Any]:
        """Return the object of a model. The keys after "owned_by" are not OpenAI's."""
        return {
            "id": served.name,
            "object": "model",
            "created": self.started,
            "owned_by": OWNER,
            "task": served.model.manifest.task,
            "max_seq_length": served.model.max_seq_length,
            "dtype": served.model.dtype,
            **(_of_embedder(served) if isinstance(served, ServedEmbedder) else _of_cross_encoder(served)),
        }


def _of_embedder(served: ServedEmbedder) -> dict[str, Any]:
    model = served.model
    return {
        "dimension": model.manifest.dimension,
        "modalities": list(model.modalities),
        "prompt_names": list(model.prompts),
        "similarity": model.similarity_fn_name,
        "normalized": normalizes(served),
    }


def _of_cross_encoder(served: ServedCrossEncoder) -> dict[str, Any]:
    return {"labels": labels_of(served), "activation_fn": served.model.activation_fn}
