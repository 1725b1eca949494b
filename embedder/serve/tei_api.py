"""The interface of text-embeddings-inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedder.serve.errors import RequestRefused

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from embedder.serve.models import ServedModels
    from embedder.serve.settings import ServerSettings


def routes(models: ServedModels, settings: ServerSettings) -> list[BaseRoute]:
    """Return the routes of the interface."""
    return []


def error_body(error: RequestRefused) -> dict[str, Any]:
    """Return the JSON object of an error, in the form of text-embeddings-inference."""
    return {"error": {"message": str(error), "code": error.code}}
