"""The page to try the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from embedder.serve.models import ServedModels
    from embedder.serve.settings import ServerSettings


def routes(models: ServedModels, settings: ServerSettings) -> list[BaseRoute]:
    """Return the routes."""
    return []
