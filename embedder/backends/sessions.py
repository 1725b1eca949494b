"""Open and run sessions of onnxruntime. Every device uses these functions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedder.artifact.manifest import Graph
from embedder.backends.backend import Feeds, Outputs
from embedder.backends.external_data import check_external_data
from embedder.backends.onnxruntime_package import import_onnxruntime
from embedder.common.native_calls import native_calls
from embedder.errors import ArtifactError

# The provider that every onnxruntime has.
CPU_EXECUTION_PROVIDER = "CPUExecutionProvider"
LOG_ERRORS_ONLY = 3


def runtime_version() -> str:
    """Return onnxruntime's version.

    Example:
        >>> runtime_version()  # doctest: +SKIP
        '1.32.0'
    """
    return str(import_onnxruntime().__version__)


def session_options(threads: int, *, optimize: bool = True) -> Any:
    """Return the options of a session.

    Args:
        threads: threads of a call.
        optimize: whether onnxruntime optimises the graph when it loads it.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_ERRORS_ONLY
    options.intra_op_num_threads = threads
    # Threads spin between the steps of a call, which saves a third of its time. Between calls they sleep.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # onnxruntime can keep a memory plan for each input shape. Few shapes come twice, so plans cost more than they save.
    options.enable_mem_pattern = False
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def open_session(
    graph: Path | bytes,
    execution_provider: str,
    options: Any,
    weights: str | None = None,
    provider_options: Mapping[str, str] | None = None,
) -> Any:
    """Return a session of a graph.

    Args:
        graph: the file of the graph, or its content.
        execution_provider: onnxruntime's name of the provider.
        options: the options of the session.
        weights: name of the file of the graph's weights, which lies beside it; default: `<name of the graph>.data`.
        provider_options: the options of the provider.

    Raises:
        ArtifactError: onnxruntime cannot load the graph.
    """
    if isinstance(graph, Path):
        check_external_data(graph, weights)
    source = graph if isinstance(graph, bytes) else str(graph)
    onnxruntime = import_onnxruntime()
    provider = (execution_provider, dict(provider_options)) if provider_options else execution_provider
    try:
        # By default onnxruntime prints a failure on standard output, and tries again on the CPU.
        with native_calls:
            return onnxruntime.InferenceSession(source, options, providers=[provider], enable_fallback=0)
    except Exception as error:  # onnxruntime's errors share no base but Exception
        name = graph if isinstance(graph, Path) else "a graph"
        raise ArtifactError(f"onnxruntime {onnxruntime.__version__} cannot load {name}: {error}") from error


def check_outputs(session: Any, path: Path, graph: Graph) -> None:
    """Raise ArtifactError unless `session` has the outputs that the manifest lists for `graph`. `path` is its file."""
    try:
        found = {value.name: _sizes(value.shape) for value in session.get_outputs()}
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} has an output whose name is not UTF-8: export or copy the model again") from error
    for output in graph.outputs:
        sizes = found.get(output.name)
        if sizes is None or len(sizes) != len(output.shape) or not all(map(_sizes_agree, sizes, output.shape)):
            raise ArtifactError(
                f"{path} has the outputs {found}, the manifest says {output.name!r} of shape {list(output.shape)}: "
                "export or copy the model again"
            )


def _sizes(shape: list[Any]) -> list[int | None]:
    """Return the shape for one input. None stands for an axis that has a name instead of a size."""
    return [size if isinstance(size, int) else None for size in shape[1:]]


def _sizes_agree(found: int | None, expected: int | None) -> bool:
    return found == expected or expected is None


def run_session(session: Any, feeds: Feeds, names: list[str], options: Any = None) -> Outputs:
    """Run `session` on `feeds`. Return the outputs that `names` lists, by name.

    Raises:
        ArtifactError: onnxruntime fails on these inputs, for example on a token id that the model does not have.
    """
    try:
        with native_calls:
            values = session.run(names, dict(feeds), options)
    except Exception as error:  # as in `open_session`
        shapes = ", ".join(f"{name} {value.shape}" for name, value in feeds.items())
        raise ArtifactError(f"onnxruntime failed on {shapes}: {error}") from error
    return dict(zip(names, values, strict=True))
