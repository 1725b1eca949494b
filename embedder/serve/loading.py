"""Load the models that a server serves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedder.artifact.locate import open_artifact
from embedder.artifact.manifest import RANK
from embedder.common.checks import read_assignments
from embedder.common.cores import usable_cores
from embedder.cross_encoder import CrossEncoder
from embedder.encoder import Embedder
from embedder.serve.batch_model import BatchedCrossEncoder, BatchedEmbedder
from embedder.serve.batcher import Batcher, BatcherSettings, Observer
from embedder.serve.models import ServedCrossEncoder, ServedEmbedder, ServedModel, ServedModels

if TYPE_CHECKING:
    from embedder.serve.metrics import Metrics
    from embedder.serve.settings import ServerSettings

_FIRST_TEXT = "The first text takes longer than the others."


def load_models(settings: ServerSettings, metrics: Metrics) -> ServedModels:
    """Load all models, and run a first text with each.

    Raises:
        EmbedderError: a model cannot be loaded; see `Embedder` and `CrossEncoder`.

    Example:
        >>> load_models(ServerSettings(), Metrics()).names  # doctest: +SKIP
        ('all-MiniLM-L6-v2',)
    """
    return ServedModels(tuple(_load(model, settings, metrics) for model in settings.models))


def serve_model(
    name: str,
    model: Embedder | CrossEncoder,
    limits: BatcherSettings | None = None,
    observer: Observer | None = None,
) -> ServedModel:
    """Return a loaded model with a batcher.

    Args:
        name: the name that requests give.
        model: the model.
        limits: the limits of the batcher. None takes the defaults.
        observer: hears of batches and requests.

    Example:
        >>> serve_model("minilm", Embedder("all-MiniLM-L6-v2")).name  # doctest: +SKIP
        'minilm'
    """
    if isinstance(model, CrossEncoder):
        return ServedCrossEncoder(name, model, Batcher(BatchedCrossEncoder(model), limits, observer))
    return ServedEmbedder(name, model, Batcher(BatchedEmbedder(model), limits, observer))


def _load(place: str, settings: ServerSettings, metrics: Metrics) -> ServedModel:
    threads = settings.threads or max(1, usable_cores() // settings.workers)  # a GPU does not use it
    options: dict[str, Any] = {"provider": settings.provider, "dtype": settings.dtype, "threads": threads}
    if settings.provider_options is not None:
        options["provider_options"] = read_assignments("provider_options", settings.provider_options)
    model: Embedder | CrossEncoder
    if open_artifact(place).manifest.task == RANK:
        model = CrossEncoder(place, **options)
        model.predict((_FIRST_TEXT, _FIRST_TEXT))
    else:
        model = Embedder(place, **options)
        model.encode(_FIRST_TEXT)
    name = Path(place).resolve().name if Path(place).is_dir() else place
    limits = BatcherSettings(
        queue_size=settings.queue_size, cache_size=settings.cache_size, token_budget=settings.max_batch_tokens
    )
    observer = metrics.watch(name)
    served = serve_model(name, model, limits, observer)
    observer.batcher_is(served.batcher)
    return served
