"""Write nodes into a graph. Each ONNX operator is a method: `op.Add(x, y)` adds a node and returns its output."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from embedder.artifact.manifest import GRAPH_INPUTS, IMAGE_INPUTS, TOKEN_TYPE_IDS
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from embedder_export.body.contract import POOLED, TOKEN_VECTORS

# The domain of onnxruntime's own operators. A graph with such an operator declares the domain's version.
MICROSOFT = "com.microsoft"

_AXES = ("batch_size", "sequence_length")
# Every version of onnxruntime that the runtime supports can read these versions of ONNX. Attention takes the number of
# tokens of each text from version 24 on.
_OPSET, IR_VERSION = 24, 10


def new_graph(*, token_types: bool = False) -> ir.Graph:
    """Return an empty graph with the manifest's inputs for texts, int64 (batch, sequence).

    Args:
        token_types: whether the graph takes token type ids too.

    Example:
        >>> [value.name for value in new_graph().inputs]
        ['input_ids', 'attention_mask']
    """
    names = (*GRAPH_INPUTS, TOKEN_TYPE_IDS) if token_types else GRAPH_INPUTS
    inputs = [ir.val(name, ir.DataType.INT64, _AXES) for name in names]
    return ir.Graph(inputs, [], nodes=[], opset_imports={"": _OPSET}, name="embedder")


def new_image_graph(height: int, width: int) -> ir.Graph:
    """Return an empty graph with the manifest's input for images, float32 (batch, 3, height, width).

    Example:
        >>> [value.name for value in new_image_graph(224, 224).inputs]
        ['pixel_values']
    """
    (name,) = IMAGE_INPUTS
    inputs = [ir.val(name, ir.DataType.FLOAT, ("batch_size", 3, height, width))]
    return ir.Graph(inputs, [], nodes=[], opset_imports={"": _OPSET}, name="embedder")


def new_model(graph: ir.Graph, output: ir.Value, width: int, *, pooled: bool = False) -> ir.Model:
    """Give `graph` its output, and return the model of it.

    Args:
        graph: the graph with all its nodes.
        output: the value to give out, float32 (batch, sequence, width), or (batch, width) if `pooled`.
        width: length of the output's vectors.
        pooled: whether there is one vector for each input instead of one for each token.

    Example:
        >>> graph = new_graph()
        >>> ones = Operators(graph, "body").Cast(graph.inputs[1], to=ir.DataType.FLOAT)
        >>> new_model(graph, ones, 8, pooled=True).graph.outputs[0].name
        'features'
    """
    output.name, output.dtype = POOLED if pooled else TOKEN_VECTORS, ir.DataType.FLOAT
    output.shape = ir.Shape([*(_AXES[:1] if pooled else _AXES), width])
    graph.outputs.append(output)
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="embedder-export")


class Operators:
    """Writes nodes and constants into a graph.

    Args:
        graph: the graph to write into.
        prefix: the names of the constants begin with it.
        domains: where the whole graph declares the domains of operators. None: `graph` does.

    Example:
        >>> op = Operators(new_graph(), "head")
        >>> op.constant(1.0).name
        'head/0'
    """

    def __init__(self, graph: ir.Graph, prefix: str, domains: dict[str, int] | None = None) -> None:
        self._tape = Tape(graph)
        self._graph = graph
        self._prefix = prefix
        self._domains = graph.opset_imports if domains is None else domains
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def __getattr__(self, operator: str) -> Callable[..., ir.Value]:
        """Return the operator as a function of its inputs and attributes. None stands for an input that is left out."""
        if not operator[0].isupper():  # the name of every ONNX operator begins with a capital letter
            raise AttributeError(operator)
        return lambda *inputs, **attributes: self._tape.op(operator, inputs, attributes)

    def microsoft(self, operator: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Add one of onnxruntime's own operators, and return its output."""
        self._domains.setdefault(MICROSOFT, 1)
        return self._tape.op(operator, inputs, attributes, domain=MICROSOFT)

    def differ(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Write x != y, bool. On a GPU, onnxruntime has no Equal of the graphs' version of ONNX."""
        return self.Cast(self.Sub(x, y), to=ir.DataType.BOOL)

    def top(self, x: ir.Value, count: int) -> tuple[ir.Value, ir.Value]:
        """Write the largest numbers of each row of `x`, (rows, count), and their columns, int64 of the same shape."""
        values, columns = self._tape.op_multi_out("TopK", (x, self.constant([count])), num_outputs=2)
        return values, columns

    def branch(self, name: str, write: Callable[["Operators"], ir.Value]) -> ir.Graph:
        """Return a branch of an If.

        Args:
            name: the name of the branch. It is unique in the graph.
            write: writes the nodes and returns their output. The nodes may use values of this graph.
        """
        graph = ir.Graph([], [], nodes=[], name=name)
        graph.outputs.append(write(Operators(graph, name, self._domains)))
        _name_values(graph, name)
        return graph

    def loop(self, name: str, count: ir.Value, write: Callable[["Operators", ir.Value], ir.Value]) -> ir.Value:
        """Write nodes that run `count` times, and return their outputs, one after another along a new first axis.

        Args:
            name: the name of the loop. It is unique in the graph.
            count: how often they run, an int64 without axes.
            write: writes the nodes and returns their output. It is given the number of the step, an int64 without axes.
                All outputs have one shape. The nodes may use values of this graph.
        """
        step, goes_on = ir.val(f"{name}/step", ir.DataType.INT64, ()), ir.val(f"{name}/on", ir.DataType.BOOL, ())
        graph = ir.Graph([step, goes_on], [], nodes=[], name=name)
        op = Operators(graph, name, self._domains)
        output = write(op, step)
        graph.outputs.extend([op.Identity(goes_on), output])
        _name_values(graph, name)
        return self.Loop(count, self.constant(np.array(True)), body=graph)

    def constant(self, value: NDArray[Any] | float | list[int]) -> ir.Value:
        """Return `value` as a constant. A float becomes float32, integers become int64, an array keeps its format.

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
        """Return `tensor` as a constant. A lazy tensor is in memory only while it is written to a file."""
        name = f"{self._prefix}/{len(self._graph.initializers)}"
        return self._tape.initializer(tensor, name)


def _name_values(graph: ir.Graph, name: str) -> None:
    """Give the values in the graph of a branch or loop names that no other graph has. ONNX demands that."""
    for index, value in enumerate(value for node in graph for value in node.outputs):
        value.name = f"{name}:{index}"


def _gelu(op: Operators, x: ir.Value) -> ir.Value:
    """Write x * (1 + erf(x / sqrt(2))) / 2."""
    return op.microsoft("Gelu", x)


def _gelu_tanh(op: Operators, x: ir.Value) -> ir.Value:
    """Write x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2."""
    return op.microsoft("FastGelu", x)


def _x_sigmoid(alpha: float) -> Callable[[Operators, ir.Value], ir.Value]:
    """Return a function that writes x * sigmoid(alpha * x)."""
    return lambda op, x: op.microsoft("QuickGelu", x, alpha=alpha)


# By the name of the class in torch, or in transformers if torch has none. Formulas and defaults are the same as there.
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
