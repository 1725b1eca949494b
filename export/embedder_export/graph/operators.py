"""What graphs are written with: ONNX operators as methods. `op.Add(x, y)` adds a node and returns its value."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from embedder.artifact.manifest import GRAPH_INPUTS, IMAGE_INPUTS
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from embedder_export.body.contract import POOLED, TOKEN_VECTORS

# The domain of onnxruntime's own operators. A graph that has one declares the domain's version.
MICROSOFT = "com.microsoft"

_AXES = ("batch_size", "sequence_length")
# Every onnxruntime that the runtime admits reads these versions.
_OPSET, _IR_VERSION = 18, 10


def new_graph() -> ir.Graph:
    """Return a graph with the manifest's inputs for texts, int64 (batch, sequence), and nothing else."""
    inputs = [ir.val(name, ir.DataType.INT64, _AXES) for name in GRAPH_INPUTS]
    return ir.Graph(inputs, [], nodes=[], opset_imports={"": _OPSET}, name="embedder")


def new_image_graph(height: int, width: int) -> ir.Graph:
    """Return a graph with the manifest's input for images, float32 (batch, 3, height, width), and nothing else."""
    (name,) = IMAGE_INPUTS
    inputs = [ir.val(name, ir.DataType.FLOAT, ("batch_size", 3, height, width))]
    return ir.Graph(inputs, [], nodes=[], opset_imports={"": _OPSET}, name="embedder")


def new_model(graph: ir.Graph, output: ir.Value, width: int, *, pooled: bool = False) -> ir.Model:
    """Return the model of `graph`.

    Args:
        graph: its nodes.
        output: float32 (batch, sequence, width), or (batch, width) if `pooled`.
        width: length of its vectors.
        pooled: whether there is one vector for each input.
    """
    output.name, output.dtype = POOLED if pooled else TOKEN_VECTORS, ir.DataType.FLOAT
    output.shape = ir.Shape([*(_AXES[:1] if pooled else _AXES), width])
    graph.outputs.append(output)
    return ir.Model(graph, ir_version=_IR_VERSION, producer_name="embedder-export")


class Operators:
    """Writes nodes and constants into `graph`. The constants' names begin with `prefix`."""

    def __init__(self, graph: ir.Graph, prefix: str) -> None:
        self._tape = Tape(graph)
        self._graph = graph
        self._prefix = prefix
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def __getattr__(self, operator: str) -> Callable[..., ir.Value]:
        """Return the operator as a function of its inputs and attributes. An input that is left out is None."""
        if not operator[0].isupper():  # all of ONNX's operators begin with a capital letter
            raise AttributeError(operator)
        return lambda *inputs, **attributes: self._tape.op(operator, inputs, attributes)

    def microsoft(self, operator: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Add one of onnxruntime's own operators."""
        self._graph.opset_imports.setdefault(MICROSOFT, 1)
        return self._tape.op(operator, inputs, attributes, domain=MICROSOFT)

    def constant(self, value: NDArray[Any] | float | list[int]) -> ir.Value:
        """Return a constant. A float becomes float32, integers become int64, an array stays as it is.

        Equal floats and equal lists are stored once. Arrays are not compared.
        """
        if isinstance(value, np.ndarray):
            return self.initializer(ir.tensor(value))
        array = np.asarray(value, np.float32 if isinstance(value, float) else np.int64)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.initializer(ir.tensor(array))
        return self._constants[key]

    def initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        """Return `tensor` as a constant. A lazy one is in memory only while it is written to a file."""
        name = f"{self._prefix}/{len(self._graph.initializers)}"
        return self._tape.initializer(tensor, name)


def _gelu(op: Operators, x: ir.Value) -> ir.Value:
    """Write x * (1 + erf(x / sqrt(2))) / 2."""
    return op.microsoft("Gelu", x)


def _gelu_tanh(op: Operators, x: ir.Value) -> ir.Value:
    """Write x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2."""
    return op.microsoft("FastGelu", x)


def _x_sigmoid(alpha: float) -> Callable[[Operators, ir.Value], ir.Value]:
    """Return a function that writes x * sigmoid(alpha * x)."""
    return lambda op, x: op.microsoft("QuickGelu", x, alpha=alpha)


# By the names of torch's classes, and of transformers' classes where torch has none. The formulas and defaults are
# theirs.
ACTIVATIONS: dict[str, Callable[[Operators, ir.Value], ir.Value]] = {
    "Identity": lambda op, x: x,
    "Tanh": lambda op, x: op.Tanh(x),
    "ReLU": lambda op, x: op.Relu(x),
    "GELU": _gelu,
    "GELUTanh": _gelu_tanh,
    "QuickGELU": _x_sigmoid(1.702),
    "Sigmoid": lambda op, x: op.Sigmoid(x),
    "SiLU": _x_sigmoid(1.0),
    "LeakyReLU": lambda op, x: op.LeakyRelu(x, alpha=0.01),
    "ELU": lambda op, x: op.Elu(x, alpha=1.0),
    "SELU": lambda op, x: op.Selu(x),
    "Softplus": lambda op, x: op.Softplus(x),
    "Softsign": lambda op, x: op.Softsign(x),
}
