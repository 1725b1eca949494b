"""A graph in half precision, for GPUs: weights and activations in float16; inputs, head and output as they were.

The head stays in float32, as its sums over many tokens, and the lengths of vectors, would lose what the body has kept.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from embedder_export.body.body import POOLED, TOKEN_VECTORS
from embedder_export.checkpoint.weights import lazy
from embedder_export.dtype.samples import Feed
from embedder_export.graph.files import save_graph
from embedder_export.graph.operators import Operators

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
_MOST = float(np.finfo(np.float16).max)


def halve(path: Path, singles: Sequence[Feed], target: Path) -> Path:
    """The float32 graph at `path` in float16, written to `target` in a new directory; returns its path.

    `singles` are what other precisions are calibrated on; here nothing is.
    """
    model = ir.load(path)
    graph = model.graph
    op = Operators(graph, "fp16")
    (end,) = (value for node in graph for value in node.outputs if value.name in (TOKEN_VECTORS, POOLED))
    body = _ancestors(end)
    halves: dict[ir.Value, ir.Value] = {}
    for node in body:
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == _FLOAT and _is_given(value):
                if value not in halves:
                    halves[value] = _half(op, value)
                node.replace_input_with(index, halves[value])
        _halve_attributes(node)
        for value in node.outputs:
            value.type = value.shape = None  # those that are floats have become another kind
    uses = [(use.node, use.idx) for use in end.uses()]
    exact = op.Cast(end, to=_FLOAT)
    for node, index in uses:
        node.replace_input_with(index, exact)
    graph.sort()
    RemoveUnusedNodesPass()(model)
    return save_graph(model, target.parent, target.name)


def _ancestors(value: ir.Value) -> list[ir.Node]:
    """The nodes that `value` is made by."""
    found: dict[ir.Node, None] = {}
    waiting = [value.producer()]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = None
            waiting += [given.producer() for given in node.inputs if given is not None]
    return list(found)


def _is_given(value: ir.Value) -> bool:
    return value.const_value is not None or value.is_graph_input()


def _half(op: Operators, value: ir.Value) -> ir.Value:
    """A constant, or an input of the graph, in float16; what is past its range is at its end."""
    if value.const_value is None:
        return op.Cast(value, to=_HALF)
    tensor = value.const_value
    shape = tuple(tensor.shape.numpy())
    return op.initializer(lazy(partial(_halved, tensor), shape, _HALF))


def _halved(tensor: ir.TensorProtocol) -> np.ndarray:
    return np.clip(tensor.numpy(), -_MOST, _MOST).astype(np.float16)


def _halve_attributes(node: ir.Node) -> None:
    if node.op_type == "Cast" and node.attributes["to"].as_int() == _FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", _HALF)
    value = node.attributes.get("value")
    if node.op_type == "ConstantOfShape" and (value is None or value.as_tensor().dtype == _FLOAT):
        array = np.zeros(1, np.float16) if value is None else _halved(value.as_tensor())
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))
