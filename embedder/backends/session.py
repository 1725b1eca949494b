"""Running a graph; the only file that knows onnxruntime."""

import ctypes
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.manifest import Graph
from embedder.common.cores import usable_cores
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
    "cpu": Provider("CPUExecutionProvider", "onnxruntime", 256),
    "cuda": Provider("CUDAExecutionProvider", "onnxruntime-gpu", 16384),
}

_ERRORS_ONLY = 3
# Bytes of weights times tokens: where a call has less work, its threads wait longer for one another than they save.
# Measured on two cores: all-MiniLM-L6-v2 in int8 gains from some 25 tokens on, in fp32 from the first.
_LEAST_SHARED = 600_000_000
# In tokens; what the first call is likely to have, and by that which session to load first.
_SHORT = 16
# A text so much longer than a batch leaves onnxruntime's arena of that size, which is given back then.
_SHRINK_PAST = 4


class Session:
    """A graph loaded into onnxruntime. Safe to call from many threads, and after a fork.

    On a CPU there are two of onnxruntime's sessions, of which each is made when it is first wanted: one in which a call
    has all threads, for a text alone, and one in which each call has the caller's thread and no other, for many callers
    at once. The latter does more work in a second, as its threads never wait for one another.
    """

    def __init__(
        self,
        path: Path,
        graph: Graph,
        dimension: int,
        provider: str | None = None,
        threads: int | None = None,
        packed: Path | None = None,
        *,
        alone: bool = True,
    ) -> None:
        """Load `graph`, at `path`, or `packed`, as `save_prepacked` wrote it; its rows have length `dimension`.

        `provider` is one of `PROVIDERS`; None takes a GPU where there is one, else the CPU. `threads` is how many
        threads compute, on a CPU; None takes one for each core that the process may use. `alone` is whether the first
        call is likely to be, of a short text or of an image.

        Raises:
            DependencyError: onnxruntime is not installed.
            ProviderError: the provider is unknown, or not to be had here.
            ArtifactError: onnxruntime cannot load the graph, or it has another output.
        """
        self._path, self._graph, self._packed, self._wanted = path, graph, packed, provider
        self.provider = choose_provider(provider)
        cores = threads or usable_cores()
        self.threads = cores if self.provider == "cpu" else 1
        self._sessions: dict[int, Any] = {}
        self._used: set[int] = set()
        self._begin()
        outputs = self._load(self._threads_for(_SHORT) if alone else 1).get_outputs()
        if self.provider == "cpu":  # it may have fallen back on it
            self.threads = cores
        found = {value.name: value.shape[-1] if value.shape else None for value in outputs}
        self.token_budget = PROVIDERS[self.provider].token_budget
        if found.get(graph.outputs[0].name) != dimension:
            raise ArtifactError(
                f"{path} has the outputs {found}, the manifest says {graph.outputs[0].name!r} of length {dimension}: "
                "export or copy the model again"
            )

    def run(self, inputs: Mapping[str, NDArray[Any]], tokens: int, *, alone: bool = True) -> NDArray[np.float32]:
        """The embeddings, float32 of shape (batch, dimension), of the graph's `inputs`, with padding so many `tokens`.

        The call has all threads, unless it is one of many, not `alone`, is too small, or another has them already.

        Raises:
            ArtifactError: onnxruntime fails on them, as it does on ids or lengths that the graph has no place for.
        """
        if self._process != os.getpid():
            self._forget_threads()
        threads = self._threads_for(tokens)
        if alone and threads > 1 and self._all_threads.acquire(blocking=False):
            try:
                return self._run(inputs, tokens, threads)
            finally:
                self._all_threads.release()
        return self._run(inputs, tokens, 1)

    def _threads_for(self, tokens: int) -> int:
        return self.threads if tokens * self._graph.weights.size >= _LEAST_SHARED else 1

    def _run(self, inputs: Mapping[str, NDArray[Any]], tokens: int, threads: int) -> NDArray[np.float32]:
        session = self._load(threads)
        self._used.add(threads)
        options = _shrinking() if tokens > _SHRINK_PAST * self.token_budget and self.provider == "cpu" else None
        try:
            (embeddings,) = session.run([self._graph.outputs[0].name], dict(inputs), options)
        except Exception as error:  # as in `_open`
            shapes = ", ".join(f"{name} {value.shape}" for name, value in inputs.items())
            raise ArtifactError(f"onnxruntime failed on {shapes}: {error}") from error
        return embeddings  # type: ignore[no-any-return]

    def _load(self, threads: int) -> Any:
        """The session of so many threads a call."""
        if threads in self._sessions:
            return self._sessions[threads]
        with self._loading:
            if threads not in self._sessions:
                for unused in self._sessions.keys() - self._used:  # it has done no more than to show that it loads
                    del self._sessions[unused]
                self._sessions[threads] = self._new_session(threads)
            return self._sessions[threads]

    def _begin(self) -> None:
        """New locks, as after a fork those of the parent may be held for ever."""
        self._process = os.getpid()
        self._loading = threading.Lock()
        self._all_threads = threading.Lock()

    def _forget_threads(self) -> None:
        """After a fork: threads stay behind in the parent, so that a session with threads would wait for ever."""
        for threads in [threads for threads in self._sessions if threads > 1]:
            # Its end would wait for them, too. So it gets none.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._sessions.pop(threads)))
        self._begin()

    def _new_session(self, threads: int) -> Any:
        if self._packed is not None:
            try:
                return _open(self._packed, PROVIDERS["cpu"].name, _options(threads, optimize=False))
            except ArtifactError:
                self._packed = None  # it is but a copy
        name = PROVIDERS[self.provider].name
        session = _open(self._path, name, _options(threads))
        # Where CUDA is built in but does not start, onnxruntime goes on with the CPU and says so only in its log.
        if name not in session.get_providers():
            if self._wanted is not None:
                raise ProviderError(
                    f"provider {self._wanted!r} did not start: check the NVIDIA driver and CUDA libraries"
                )
            self.provider = "cpu"
        return session


def save_prepacked(graph: Path, target: Path) -> None:
    """Write `graph` to `target`, with its weights beside it, as onnxruntime optimises and packs them on this CPU.

    Raises:
        ArtifactError: onnxruntime cannot load the graph, or cannot write.
    """
    options = _options(1)
    options.optimized_model_filepath = str(target)
    for key, value in {
        "session.optimized_model_external_initializers_file_name": f"{target.name}.data",
        "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
        "session.save_external_prepacked_constant_initializers": "1",
    }.items():
        options.add_session_config_entry(key, value)
    _open(graph, PROVIDERS["cpu"].name, options)


def runtime_version() -> str:
    """Of onnxruntime."""
    return str(_import_onnxruntime().__version__)


def _options(threads: int, *, optimize: bool = True) -> Any:
    onnxruntime = _import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    # Between the steps of a call threads spin, which is worth a third of its time; between calls they sleep.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # A plan of memory is kept for each shape of input, and few shapes come twice: it costs more than it saves.
    options.enable_mem_pattern = False
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _open(graph: Path, provider: str, options: Any) -> Any:
    try:
        return _import_onnxruntime().InferenceSession(str(graph), options, providers=[provider])
    except Exception as error:  # onnxruntime's errors share no base but Exception
        raise ArtifactError(f"onnxruntime cannot load {graph}: {error}. Export or copy the model again") from error


def _shrinking() -> Any:
    options = _import_onnxruntime().RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def choose_provider(wanted: str | None) -> str:
    """The provider `wanted`, one of `PROVIDERS`; None is a GPU where onnxruntime has one, else the CPU.

    Raises:
        DependencyError, ProviderError: as `Session`.
    """
    if wanted is not None and (not isinstance(wanted, str) or wanted not in PROVIDERS):
        raise ProviderError(f"unknown provider {wanted!r}: choose from {', '.join(map(repr, PROVIDERS))}")
    available = _import_onnxruntime().get_available_providers()
    if wanted is None:
        return "cuda" if PROVIDERS["cuda"].name in available else "cpu"
    if PROVIDERS[wanted].name not in available:
        raise ProviderError(
            f"provider {wanted!r} is not in the onnxruntime installed here (it has {', '.join(available)}). "
            f"Run: pip uninstall onnxruntime; pip install {PROVIDERS[wanted].package}"
        )
    return wanted


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(
            "onnxruntime is not installed. Run: pip install onnxruntime (what the extra embedder[cpu] brings), or, for "
            "an NVIDIA GPU: pip install onnxruntime-gpu (embedder[gpu]); one of them, not both"
        ) from error
    return onnxruntime
