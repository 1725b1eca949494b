"""Load the models that a server serves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embedder.common.cores import usable_cores
from embedder.encoder import Embedder
from embedder.serve.batcher import Batcher, BatcherSettings
from embedder.serve.models import ServedModel, ServedModels

if TYPE_CHECKING:
    from embedder.serve.metrics import Metrics
    from embedder.serve.settings import ServerSettings

_FIRST_TEXT = "The first text takes longer than the others."


def load_models(settings: ServerSettings, metrics: Metrics) -> ServedModels:
    """Load all models, and encode a first text with each.

    Raises:
        EmbedderError: a model cannot be loaded; see `Embedder`.

    Example:
        >>> load_models(ServerSettings(), Metrics()).names  # doctest: +SKIP
        ('all-MiniLM-L6-v2',)
    """
    return ServedModels(tuple(_load(model, settings, metrics) for model in settings.models))


def _load(place: str, settings: ServerSettings, metrics: Metrics) -> ServedModel:
    threads = settings.threads or max(1, usable_cores() // settings.workers)  # a GPU does not use it
    model = Embedder(place, provider=settings.provider, dtype=settings.dtype, threads=threads)
    model.encode(_FIRST_TEXT)
    name = Path(place).resolve().name if Path(place).is_dir() else place
    limits = BatcherSettings(
        queue_size=settings.queue_size, cache_size=settings.cache_size, token_budget=settings.max_batch_tokens
    )
    observer = metrics.watch(name)
    batcher = Batcher(model, limits, observer)
    observer.batcher_is(batcher)
    return ServedModel(name, model, batcher)
