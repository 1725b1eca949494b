"""fp16, for GPUs: weights and activations in float16. Inputs, head and output keep their formats.

The head stays in float32. In float16, sums over many tokens and lengths of vectors would be inexact.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from embedder_export.body.contract import POOLED, TOKEN_VECTORS
from embedder_export.checkpoint.weights import lazy
from embedder_export.graph.files import save_graph
from embedder_export.graph.operators import Operators
from embedder_export.samples.feeds import Samples

_FLOAT32, _FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
_GRAPH = ir.AttributeType.GRAPH
_MAX_FLOAT16 = float(np.finfo(np.float16).max)


def convert_to_fp16(path: Path, samples: Samples, target: Path, report: Callable[[str], None]) -> None:
    """Convert the float32 graph at `path` to float16.

    Args:
        path: the graph's file.
        samples: not used. Other dtypes are calibrated on them.
        target: the new file, in a new directory.
        report: not used. Other dtypes report the steps of their search.

    Example:
        >>> convert_to_fp16(Path("model.onnx"), samples, Path("fp16/model.fp16.onnx"), print)  # doctest: +SKIP
    """
    model = ir.load(path)
    convert_model(model)
    save_graph(model, target.parent, target.name)


def convert_model(model: ir.Model) -> None:
    """Convert a float32 graph to float16 in place.

    Example:
        >>> convert_model(ir.load("model.onnx"))  # doctest: +SKIP
    """
    graph = model.graph
    op = Operators(graph, "fp16")
    (end,) = (value for node in graph for value in node.outputs if value.name in (TOKEN_VECTORS, POOLED))
    converted: dict[ir.Value, ir.Value] = {}
    for node in _ancestors(end):
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == _FLOAT32 and _is_constant_or_input(value):
                if value not in converted:
                    converted[value] = _convert_value(op, value)
                node.replace_input_with(index, converted[value])
        _convert_attributes(node)
        for output in node.outputs:  # a float32 output is float16 now
            if node.op_type == "Reshape" and output.dtype == _FLOAT32:
                output.dtype = _FLOAT16  # Attention needs the shape: see `Network`
            else:
                output.type = output.shape = None
    uses = [(use.node, use.idx) for use in end.uses()]
    restored = op.Cast(end, to=_FLOAT32)
    for node, index in uses:
        node.replace_input_with(index, restored)
    graph.sort()
    RemoveUnusedNodesPass()(model)


def _ancestors(value: ir.Value) -> list[ir.Node]:
    """Return the nodes that `value` depends on."""
    found: dict[ir.Node, None] = {}
    waiting = [value.producer()]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = None
            waiting += [given.producer() for given in _inputs(node) if given is not None]
    return list(found)


def _inputs(node: ir.Node) -> list[ir.Value | None]:
    """Return the inputs of a node, and those of the nodes in its branches."""
    branches = [attribute.as_graph() for attribute in node.attributes.values() if attribute.type == _GRAPH]
    return [*node.inputs, *(value for branch in branches for inner in branch for value in inner.inputs)]


def _is_constant_or_input(value: ir.Value) -> bool:
    return value.const_value is not None or value.is_graph_input()


def _convert_value(op: Operators, value: ir.Value) -> ir.Value:
    """Return a constant or an input of the graph in float16."""
    tensor = value.const_value
    if tensor is None:
        return op.Cast(value, to=_FLOAT16)
    shape = tuple(tensor.shape.numpy())
    return op.initializer(lazy(partial(to_float16, tensor), shape, _FLOAT16))


def to_float16(tensor: ir.TensorProtocol) -> NDArray[Any]:
    """Return the numbers in float16. Numbers out of range become the nearest limit.

    Example:
        >>> to_float16(ir.tensor(np.array([1, 1e9], np.float32))).tolist()
        [1.0, 65504.0]
    """
    numbers: NDArray[Any] = tensor.numpy()
    return numbers.clip(-_MAX_FLOAT16, _MAX_FLOAT16).astype(np.float16)


def _convert_attributes(node: ir.Node) -> None:
    if node.op_type == "Cast" and node.attributes["to"].as_int() == _FLOAT32:
        node.attributes["to"] = ir.AttrInt64("to", _FLOAT16)
    value = node.attributes.get("value")
    if node.op_type == "ConstantOfShape" and (value is None or value.as_tensor().dtype == _FLOAT32):
        array = np.zeros(1, np.float16) if value is None else to_float16(value.as_tensor())
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array))
