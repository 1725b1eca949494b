"""`LoadedModel`, the base of the public classes of models: an artifact, its engine, and what all models know and do."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from embedder.artifact.artifact import Artifact
from embedder.artifact.hub_access import HubAccess
from embedder.artifact.locate import open_artifact
from embedder.artifact.manifest import EMBED, MULTI_VECTOR, RANK, SPARSE, Manifest
from embedder.artifact.positions import check_limit
from embedder.backends import check_backend
from embedder.common.checks import check_count
from embedder.common.read_only import ReadOnly
from embedder.engine.batching import BatchLimits
from embedder.engine.engine import Engine
from embedder.errors import ArtifactError, SettingError
from embedder.options import LoadSettings

if TYPE_CHECKING:
    from embedder.backends import Backend

# What to use instead for a model of another task: a class in Python, a command on the command line.
_FITTING = {
    EMBED: "embedder.Embedder, or `embedder search` on the command line",
    RANK: "embedder.CrossEncoder, or `embedder rerank` on the command line",
    SPARSE: "embedder.SparseEncoder",
    MULTI_VECTOR: "embedder.MultiVectorEncoder",
}


class LoadedModel(ReadOnly):
    """Base of `Embedder` and the other classes of models. Safe to call from many threads at once.

    Pickle stores the path and the options. Unpickling loads the model again. A `with` statement releases the memory and
    the threads at its end. The attributes cannot be set.

    Example:
        >>> with Embedder("all-MiniLM-L6-v2") as model:  # doctest: +SKIP
        ...     model.max_seq_length
        256
    """

    _task: ClassVar[str]
    # The option that is passed on as `LoadSettings.max_seq_length`, for errors.
    _limit_option: ClassVar[str] = "max_seq_length"
    _artifact: Artifact
    _engine: Engine
    _settings: LoadSettings
    _has_own_backend: bool

    def _load(
        self, model: str | os.PathLike[str], access: HubAccess, settings: LoadSettings, backend: Backend | None
    ) -> None:
        """Find the artifact, check the options against it, and load it. `Embedder` describes the arguments."""
        check_backend(backend, settings.provider, settings.threads, settings.provider_options)
        self._settings = settings
        self._has_own_backend = backend is not None
        self._artifact = open_artifact(model, access, task=self._task)
        manifest = self._artifact.manifest
        if manifest.task != self._task:
            kind, fitting = type(self).__name__, _FITTING.get(manifest.task)
            hint = "" if fitting is None else f". Use {fitting}"
            raise ArtifactError(
                f"{self._artifact.directory} is for the task {manifest.task!r}. {kind} needs a model for "
                f"{self._task!r}{hint}"
            )
        if settings.truncate_dim is not None:
            check_count("truncate_dim", settings.truncate_dim, manifest.dimension)
        check_limit(settings.max_seq_length, manifest, self._limit_option)
        self._engine = Engine(self._artifact, settings, backend)

    def _load_options(self) -> dict[str, Any]:
        """Return the keyword arguments that load this model again."""
        return self._settings.options()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._has_own_backend:
            kind = type(self).__name__
            raise SettingError(f"a model with a backend of its own cannot be pickled or copied. Make another {kind}")
        return _load, (type(self), str(self._artifact.directory), self._load_options())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the model's memory and threads. Later calls raise EmbedderError. Closing twice does nothing.

        Example:
            >>> model.close()  # doctest: +SKIP
        """
        self._engine.close()

    @property
    def manifest(self) -> Manifest:
        """The artifact's manifest: its source, settings, files, and measured parity."""
        return self._artifact.manifest

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a text, or of a pair of texts, special tokens included. The model does not read the rest."""
        return self._settings.max_seq_length or self.manifest.tokenizer.max_seq_length

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the outputs: the tokenizer, the graphs that run, and how inputs are prepared.

        Models with the same digest give the same outputs, up to their last bits. It is in lower-case hexadecimal.
        """
        import hashlib  # here, as these take milliseconds of the start of every process
        import json

        images, multi_vector = self.manifest.images, self.manifest.multi_vector
        prepared = None if images is None else asdict(replace(images, parity=None))
        roles = [] if multi_vector is None else [asdict(multi_vector)]
        content = json.dumps([*self._engine.digests, self.max_seq_length, prepared, *roles])
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def dtype(self) -> str:
        """The dtype of the graph that runs, such as "fp32"; "int8+fp32" if texts and images have different dtypes."""
        return "+".join(self._engine.dtypes)

    @property
    def device(self) -> str:
        """Name of the device that runs the graphs, such as "cpu"."""
        return self._engine.device.name

    @property
    def batch_limits(self) -> BatchLimits:
        """What makes a good batch on the device: its tokens, and how many batches run at the same time."""
        return self._engine.batch_limits


def _load(kind: type[Any], path: str, options: dict[str, Any]) -> Any:
    """Load a pickled model."""
    return kind(path, **options)
