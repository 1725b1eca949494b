"""What graphs are written with: ONNX operators as methods. `op.Add(x, y)` adds a node to a graph and is its value."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from embedder.artifact.manifest import GRAPH_INPUTS, IMAGE_INPUTS
from onnx_ir.tape import Tape

from embedder_export.body.body import POOLED, TOKEN_VECTORS

# onnxruntime's own operators; a graph that has one names their version.
MICROSOFT = "com.microsoft"


_AXES = ("batch_size", "sequence_length")
# Of versions that every onnxruntime can read which the runtime admits.
_OPSET, _IR_VERSION = 18, 10


def new_graph() -> ir.Graph:
    """A graph with the inputs of the contract, int64 of shape (batch, sequence), and nothing else."""
    inputs = [ir.val(name, ir.DataType.INT64, _AXES) for name in GRAPH_INPUTS]
    return ir.Graph(inputs, [], nodes=[], opset_imports={"": _OPSET}, name="embedder")


def new_image_graph(height: int, width: int) -> ir.Graph:
    """A graph with the input of the contract for images, float32 of shape (batch, 3, height, width)."""
    (name,) = IMAGE_INPUTS
    inputs = [ir.val(name, ir.DataType.FLOAT, ("batch_size", 3, height, width))]
    return ir.Graph(inputs, [], nodes=[], opset_imports={"": _OPSET}, name="embedder")


def new_model(graph: ir.Graph, output: ir.Value, width: int, *, pooled: bool = False) -> ir.Model:
    """The model of `graph`, of which `output` is float32 (batch, sequence, `width`); `pooled`, (batch, `width`)."""
    output.name, output.dtype = POOLED if pooled else TOKEN_VECTORS, ir.DataType.FLOAT
    output.shape = ir.Shape([*(_AXES[:1] if pooled else _AXES), width])
    graph.outputs.append(output)
    return ir.Model(graph, ir_version=_IR_VERSION, producer_name="embedder-export")


class Operators:
    """Writes nodes and constants into `graph`; its initializers are named after `prefix`."""

    def __init__(self, graph: ir.Graph, prefix: str) -> None:
        self._tape = Tape(graph)
        self._graph = graph
        self._prefix = prefix
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def __getattr__(self, operator: str) -> Callable[..., ir.Value]:
        """The operator of that name, as a function of its inputs (None for one left out) and attributes."""
        if not operator[0].isupper():  # as all of ONNX's are
            raise AttributeError(operator)
        return lambda *inputs, **attributes: self._tape.op(operator, inputs, attributes)

    def microsoft(self, operator: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """One of onnxruntime's own operators."""
        self._graph.opset_imports.setdefault(MICROSOFT, 1)
        return self._tape.op(operator, inputs, attributes, domain=MICROSOFT)

    def constant(self, value: np.ndarray | float | list[int]) -> ir.Value:
        """`value`: an array as it is, a float as float32, integers as int64; these are stored once."""
        if isinstance(value, np.ndarray):
            return self.initializer(ir.tensor(value))
        array = np.asarray(value, np.float32 if isinstance(value, float) else np.int64)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.initializer(ir.tensor(array))
        return self._constants[key]

    def initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        """`tensor` as a constant of the graph, which need not be in memory before it is written."""
        name = f"{self._prefix}/{len(self._graph.initializers)}"
        return self._tape.initializer(tensor, name)


def _gelu(op: Operators, x: ir.Value) -> ir.Value:
    """X * (1 + erf(x / sqrt(2))) / 2."""
    return op.microsoft("Gelu", x)


def _gelu_tanh(op: Operators, x: ir.Value) -> ir.Value:
    """X * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2."""
    return op.microsoft("FastGelu", x)


def _x_sigmoid(alpha: float) -> Callable[[Operators, ir.Value], ir.Value]:
    """X * sigmoid(alpha * x)."""
    return lambda op, x: op.microsoft("QuickGelu", x, alpha=alpha)


# By torch's names of the classes, and transformers' of what torch has none for. Formulas and defaults are theirs.
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
