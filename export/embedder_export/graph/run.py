"""Run graphs with onnxruntime. Its errors share no base class but Exception; here they become `GraphError`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as _bindings

from embedder_export.errors import GraphError

# The inputs of a call by name.
Feed: TypeAlias = Mapping[str, NDArray[Any]]

_FATAL_ONLY = 4
_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(_bindings).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
)


class Session:
    """A graph on the CPU. Each call may have more feeds than the graph has inputs."""

    def __init__(self, graph: Path | bytes, *, threads: int = 0) -> None:
        """Load `graph`, a file or its content.

        Args:
            graph: its weights lie beside the file.
            threads: of a call. 0 is onnxruntime's default, one for each core.

        Raises:
            GraphError: onnxruntime cannot load it.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _FATAL_ONLY
        source = graph if isinstance(graph, bytes) else str(graph)
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except _ERRORS as error:
            raise GraphError(f"onnxruntime cannot load it: {error}") from error
        self.inputs = tuple(value.name for value in self._session.get_inputs())
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    def select(self, feed: Feed) -> dict[str, NDArray[Any]]:
        """Return those of `feed` that the graph takes."""
        return {name: feed[name] for name in self.inputs}

    def run(self, feed: Feed, outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """Return the graph's `outputs`, by default all.

        Raises:
            GraphError: onnxruntime fails.
        """
        try:
            return list(self._session.run(outputs, self.select(feed)))
        except _ERRORS as error:
            raise GraphError(f"onnxruntime cannot run it: {error}") from error
