"""The ASGI application of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from embedder.serve import cohere_api, openai_api, openapi, pages, tei_api
from embedder.serve.access import ApiKeys
from embedder.serve.access_log import ServerLog
from embedder.serve.answers import json_response
from embedder.serve.errors import RequestRefused
from embedder.serve.exchange import Exchange
from embedder.serve.metrics import CONTENT_TYPE, Metrics
from embedder.serve.refusals import answer_error
from embedder.serve.request_record import RequestRecord

if TYPE_CHECKING:
    from embedder.serve.models import ServedModels
    from embedder.serve.settings import ServerSettings

_STARTING, _READY, _STOPPING = "starting", "ready", "stopping"
_RETRY_AFTER_S = 1.0
_CORS_HEADERS = ("Authorization", "Content-Type")
_SHOWN_HEADERS = ("Retry-After", "X-Request-Id")


class ServerApp:
    """The application. It answers while the models are loaded, and says that it is not ready.

    Attributes:
        keys: who may ask.
        metrics: what is counted.
        log: where requests are logged.
    """

    def __init__(self, settings: ServerSettings, log: ServerLog) -> None:
        """Read the keys.

        Raises:
            InputError: the file of API keys cannot be used.
        """
        self.keys = ApiKeys() if settings.api_key_file is None else ApiKeys.read(settings.api_key_file)
        self.metrics = Metrics()
        self.log = log
        self._settings = settings
        self._phase = _STARTING
        self._router: Router | None = None
        self._operations = Router(
            [
                Route("/health", self._health, methods=["GET"]),
                Route("/ready", self._ready, methods=["GET"]),
                Route("/metrics", self._metrics, methods=["GET"]),
            ],
            redirect_slashes=False,
        )
        self._exchange = Exchange(self._with_cors(self._answer), settings, self.metrics, log)

    def serve(self, models: ServedModels) -> None:
        """Answer with `models` from now on."""
        settings = self._settings
        routes: list[BaseRoute] = [
            *openai_api.routes(models, settings),
            *tei_api.routes(models, settings),
            *cohere_api.routes(models, settings),
            *openapi.routes(models, settings),
            *pages.routes(models, settings),
            *self._operations.routes,
        ]
        self._router = Router(routes, redirect_slashes=False)
        self._exchange.known_paths = frozenset(route.path for route in routes if isinstance(route, Route))
        self._phase = _READY

    def stop(self) -> None:
        """Let /ready say that no more requests should come. Those that come are answered."""
        self._phase = _STOPPING

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; see the specification of ASGI."""
        if scope["type"] == "http":
            await self._exchange(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _live(receive, send)
        else:
            raise ValueError(f"this application answers HTTP, not {scope['type']}")

    def _with_cors(self, app: ASGIApp) -> ASGIApp:
        if not self._settings.cors_origins:
            return app
        return CORSMiddleware(
            app,
            allow_origins=self._settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=_CORS_HEADERS,
            expose_headers=_SHOWN_HEADERS,
        )

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self.keys.check(scope["method"], scope["path"], scope["headers"])
            scope["app"] = self  # without an application, Router answers itself that there is no such route
            await self._routed(scope, receive, send)
        except Exception as error:
            response = answer_error(error, scope, self.log)
            if response is None or RequestRecord.of_scope(scope).status:  # nobody reads, or an answer has begun
                raise
            await response(scope, receive, send)

    async def _routed(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._router is not None:
            await self._router(scope, receive, send)
        elif any(scope["path"] == route.path for route in self._operations.routes if isinstance(route, Route)):
            await self._operations(scope, receive, send)
        else:
            raise RequestRefused(
                503, "starting", "the models are being loaded. Try again later", retry_after_s=_RETRY_AFTER_S
            )

    async def _health(self, request: Request) -> Response:
        return json_response({"status": "alive"})

    async def _ready(self, request: Request) -> Response:
        response = json_response({"status": self._phase})
        response.status_code = 200 if self._phase == _READY else 503
        return response

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.render(), headers={"Content-Type": CONTENT_TYPE})


def create_app(models: ServedModels, settings: ServerSettings, log: ServerLog | None = None) -> ServerApp:
    """Return the ASGI application that serves `models`.

    A route takes a Request of Starlette and returns a Response, in a coroutine. It reads the body by
    `await read_body(request)`, notes what it knows in `RequestRecord.of(request)`, and raises RequestRefused where it
    does not answer.

    Raises:
        InputError: the file of API keys cannot be used.

    Example:
        >>> app = create_app(models, ServerSettings())  # doctest: +SKIP
    """
    app = ServerApp(settings, log or ServerLog(settings.log_format, in_thread=False))
    app.serve(models)
    return app


async def _live(receive: Receive, send: Send) -> None:
    """Answer the events of the server's start and end. There is nothing to do."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
