"""The page to try the server, at `/`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from embedder.serve.html import read_page

if TYPE_CHECKING:
    from starlette.requests import Request

    from embedder.serve.models import ServedModels
    from embedder.serve.settings import ServerSettings


def routes(models: ServedModels, settings: ServerSettings) -> list[BaseRoute]:
    """Return the route of the page. The page asks the other routes, as any client does."""
    page = read_page("try_page.html")

    async def show_page(request: Request) -> Response:
        return page

    return [Route("/", show_page, methods=["GET"])]
