"""What every converter makes: the transformer as a graph of token vectors."""

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir
from embedder.manifest import GRAPH_INPUTS

TOKEN_VECTORS = "last_hidden_state"
# The form of a graph that was written directly.
NATIVE = "native"
_AXES = ("batch_size", "sequence_length")
_OPSET, _IR_VERSION = 18, 10


@dataclass(frozen=True)
class Body:
    """The transformer, and what the later stages must know of it.

    forms: the graph, or several that compute the same, of which the first is the reference; each by its name. One is
        made when the one before it is done with.
    positions: what the configuration has as max_position_embeddings, if anything.
    places: rows of its table of positions that a text can use, if it has one.
    """

    forms: Iterable[tuple[str, ir.Model]]
    hidden_size: int
    positions: int | None
    places: int | None


def new_graph() -> ir.Graph:
    """A graph with the inputs of the contract, int64 of shape (batch, sequence), and nothing else."""
    inputs = [ir.val(name, ir.DataType.INT64, _AXES) for name in GRAPH_INPUTS]
    return ir.Graph(inputs, [], nodes=[], opset_imports={"": _OPSET}, name="embedder")


def set_output(graph: ir.Graph, tokens: ir.Value, width: int) -> None:
    """Make `tokens`, float32 of shape (batch, sequence, width), the output of `graph`."""
    tokens.name, tokens.dtype = TOKEN_VECTORS, ir.DataType.FLOAT
    tokens.shape = ir.Shape([*_AXES, width])
    graph.outputs.append(tokens)


def new_model(graph: ir.Graph) -> ir.Model:
    """`graph` as a model, of versions that every onnxruntime the runtime admits can read."""
    return ir.Model(graph, ir_version=_IR_VERSION, producer_name="embedder-export")
