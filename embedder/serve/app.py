"""The ASGI application of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from embedder.serve import openai_api, openapi, pages, tei_api
from embedder.serve.errors import RequestRefused
from embedder.serve.request_record import RequestRecord

if TYPE_CHECKING:
    from embedder.serve.models import ServedModels
    from embedder.serve.settings import ServerSettings

_OPENAI_PATHS = "/v1/"


def create_app(models: ServedModels, settings: ServerSettings) -> ASGIApp:
    """Return the ASGI application that serves `models`.

    A route takes a Request of Starlette and returns a Response, in a coroutine. It reads the body by
    `await read_body(request)`, notes what it knows in `RequestRecord.of(request)`, and raises RequestRefused where it
    does not answer.
    """
    routes = [
        *openai_api.routes(models, settings),
        *tei_api.routes(models, settings),
        *openapi.routes(models, settings),
        *pages.routes(models, settings),
    ]
    inner = Starlette(routes=routes, exception_handlers={RequestRefused: _answer_refused})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            RequestRecord("0").put(scope)
        await inner(scope, receive, send)

    return app


async def _answer_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestRefused)
    form = openai_api if request.url.path.startswith(_OPENAI_PATHS) else tei_api
    return JSONResponse(form.error_body(error), error.status)
