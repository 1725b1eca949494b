"""Running a graph; the only file that knows onnxruntime."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.errors import ArtifactError, DependencyError, ProviderError

# Since 1.32 onnxruntime reports to its maker unless told not to before it is imported, by us or by the export: an
# identifier and a database in the user's cache, and an uploader in the process. Whoever wants that sets this to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


@dataclass(frozen=True)
class Provider:
    """An execution provider: onnxruntime's name, the package that has it, and padded tokens a call does best with.

    The CPU's budget was measured (its caches hold the activations); a GPU wants far more work a call.
    """

    name: str
    package: str
    token_budget: int


PROVIDERS = {
    "cpu": Provider("CPUExecutionProvider", "onnxruntime", 512),
    "cuda": Provider("CUDAExecutionProvider", "onnxruntime-gpu", 16384),
}

_ERRORS_ONLY = 3


class Session:
    """A graph loaded into onnxruntime. Safe to call from many threads."""

    def __init__(self, graph: Path, output: str, dimension: int, provider: str | None) -> None:
        """Load `graph`, of which `output` has rows of length `dimension`.

        `provider` is one of `PROVIDERS`; None takes a GPU where there is one, else the CPU.

        Raises:
            DependencyError: onnxruntime is not installed.
            ProviderError: the provider is unknown, or not to be had here.
            ArtifactError: onnxruntime cannot load the graph, or it has another output.
        """
        if provider is not None and (not isinstance(provider, str) or provider not in PROVIDERS):
            raise ProviderError(f"unknown provider {provider!r}: choose from {', '.join(map(repr, PROVIDERS))}")
        onnxruntime = _import_onnxruntime()
        self.provider = _choose_provider(onnxruntime, provider)
        self._output = output
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        # A plan of memory is kept for each shape of input, and few shapes come twice: it costs more than it saves.
        options.enable_mem_pattern = False
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=[PROVIDERS[self.provider].name])
        except Exception as error:  # onnxruntime's errors share no base but Exception
            raise ArtifactError(f"onnxruntime cannot load {graph}: {error}. Export or copy the model again") from error
        # Where CUDA is built in but does not start, onnxruntime goes on with the CPU and says so only in its log.
        if PROVIDERS[self.provider].name not in self._session.get_providers():
            if provider is not None:
                raise ProviderError(f"provider {provider!r} did not start: check the NVIDIA driver and CUDA libraries")
            self.provider = "cpu"
        self.token_budget = PROVIDERS[self.provider].token_budget
        found = {value.name: value.shape[-1] if value.shape else None for value in self._session.get_outputs()}
        if found.get(output) != dimension:
            raise ArtifactError(
                f"{graph} has the outputs {found}, the manifest says {output!r} of length {dimension}: "
                "export or copy the model again"
            )

    def run(self, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """The embeddings, float32 of shape (batch, dimension), of the graph's `inputs`, each (batch, length).

        Raises:
            ArtifactError: onnxruntime fails on them, as it does on ids or lengths that the graph has no place for.
        """
        try:
            (embeddings,) = self._session.run([self._output], dict(inputs))
        except Exception as error:  # as above
            shapes = ", ".join(f"{name} {value.shape}" for name, value in inputs.items())
            raise ArtifactError(f"onnxruntime failed on {shapes}: {error}") from error
        return embeddings  # type: ignore[no-any-return]


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(
            "onnxruntime is not installed. Run: pip install onnxruntime (what the extra embedder[cpu] brings), or, for "
            "an NVIDIA GPU: pip install onnxruntime-gpu (embedder[gpu]); one of them, not both"
        ) from error
    return onnxruntime


def _choose_provider(onnxruntime: Any, wanted: str | None) -> str:
    available = onnxruntime.get_available_providers()
    if wanted is None:
        return "cuda" if PROVIDERS["cuda"].name in available else "cpu"
    if PROVIDERS[wanted].name not in available:
        raise ProviderError(
            f"provider {wanted!r} is not in the onnxruntime installed here (it has {', '.join(available)}). "
            f"Run: pip uninstall onnxruntime; pip install {PROVIDERS[wanted].package}"
        )
    return wanted
