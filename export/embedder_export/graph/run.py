"""Run graphs with onnxruntime. Its errors become `GraphError`: their only common base class is Exception."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from embedder.backends.onnxruntime_package import import_onnxruntime
from numpy.typing import NDArray

from embedder_export.errors import GraphError

onnxruntime = import_onnxruntime()
_bindings = onnxruntime.capi.onnxruntime_pybind11_state

# The inputs of a call by name.
Feed: TypeAlias = Mapping[str, NDArray[Any]]

_FATAL_ONLY = 4
_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(_bindings).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    UnicodeDecodeError,  # a name in the graph is not UTF-8
)


class Session:
    """A graph that is loaded on the CPU.

    Attributes:
        inputs: the names of the graph's inputs.
        outputs: the names of the graph's outputs.
    """

    def __init__(self, graph: Path | bytes, *, threads: int = 0) -> None:
        """Load `graph`.

        Args:
            graph: the graph's file, with the weights beside it; or the content of a file without such weights.
            threads: number of threads of a call. 0 is onnxruntime's default, one thread for each core.

        Raises:
            GraphError: onnxruntime cannot load the graph.

        Example:
            >>> Session(Path("model.onnx"), threads=1).outputs  # doctest: +SKIP
            ('embedding',)
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _FATAL_ONLY
        source = graph if isinstance(graph, bytes) else str(graph)
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            self.inputs = tuple(value.name for value in self._session.get_inputs())
            self.outputs = tuple(value.name for value in self._session.get_outputs())
        except _ERRORS as error:
            raise GraphError(f"onnxruntime cannot load it: {error}") from error

    def run(self, feed: Feed, outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """Run the graph, and return its outputs.

        Args:
            feed: the inputs by name. Names that the graph does not have are ignored.
            outputs: the names of the outputs to return. None returns all.

        Raises:
            KeyError: `feed` lacks an input of the graph.
            GraphError: onnxruntime fails.
        """
        inputs = {name: feed[name] for name in self.inputs}
        try:
            return list(self._session.run(outputs, inputs))
        except _ERRORS as error:
            raise GraphError(f"onnxruntime cannot run it: {error}") from error
