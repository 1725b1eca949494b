"""Precision: the products of an fp32 graph in int8, such that a vector does not depend on its batch.

A product x @ w.T becomes, with x' = (x - shift) / smooth a column and w' = w * smooth,

    round(x' / a) @ round(w' / b).T * a * b + shift @ w.T

of which the first product is one of integers, b is a scale for each row of w', and a is

- a constant where a LayerNorm has made x, which bounds it (static quantisation);
- one for each row of x elsewhere, so that no text's range is another's.

`shift` is the middle of each column's range where a is constant, so that 256 steps have less to span. `smooth` moves
the range of wide columns of x into w (SmoothQuant: Xiao et al., 2023, https://arxiv.org/abs/2211.10438). The errors of
w' make up for one another (`rounding`), and what is left of their mean goes into the bias (Nagel et al., 2019,
https://arxiv.org/abs/1906.04721). All this is measured on a sample of activations.

Chosen by measurement on all-MiniLM-L6-v2, as mean and smallest cosine to fp32 over the sentences of STS Benchmark dev:
each row by its own range, weights to the nearest, 0.9963 and 0.979; with `smooth` and the bias 0.9982 and 0.994; with
constants after LayerNorm the same, and 8 % faster; with constants everywhere 0.9962 and 0.968; with errors that make
up for one another 0.9987 and 0.995, and on texts of many scripts 0.9983 and 0.991 where it was 0.9974 and 0.983.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
from embedder.artifact.manifest import GRAPH_INPUTS
from onnx_ir.passes.common import RemoveUnusedNodesPass

from embedder_export.checkpoint.weights import lazy
from embedder_export.dtype.calibrate import activations
from embedder_export.dtype.rounding import compensated, nearest
from embedder_export.dtype.samples import Feed
from embedder_export.graph.files import save_graph
from embedder_export.graph.operators import Operators
from embedder_export.head.head import PREFIX as HEAD

# Of a weight: 7 bits. AVX2's product of uint8 and int8 adds two of them in 16 bits, which 255 * 63 * 2 fits and
# 255 * 127 * 2 does not; there it would be cut off without a word.
MOST_WEIGHT = 63
# Of an activation: uint8, with its zero in the middle where it has either sign.
_STEPS, _MIDDLE = 255, 128
# Of an entry in the table of words, which no product sees.
_MOST_ENTRY = 127
# How much of a column's range goes over to the weights: 0.5 is as good on short texts, and not on long ones.
_SMOOTHING = 0.6
# A constant range is this much wider than the sample's, for what the sample has not.
_MARGIN = 1.1
_TINY = 1e-12
# What an activation function gives at the least, a little below: those that are bounded so need no sign.
_LEAST = {"Gelu": -0.18, "FastGelu": -0.18, "Relu": 0.0}
_SAME_VALUES = ("Reshape", "Identity")
# Its rows are alike whatever the text, so that a constant range fits them all. Of images no sample is at hand that
# would show it, as that of the export is drawn.
_BOUNDED = ("LayerNormalization",)

# Rows of a table that are read at once.
_CHUNK = 8192


@dataclass(frozen=True)
class _Product:
    """A product x @ w.T, with or without a bias, as a node of the graph."""

    node: ir.Node
    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None

    def matrix(self) -> np.ndarray:
        """The weights w as float32 (outputs, inputs)."""
        array = self.weight.const_value.numpy()
        return array if self.node.op_type == "Gemm" else array.T


@dataclass(frozen=True)
class _Input:
    """An activation x in uint8, (rows, width), as nodes of the graph, and on the sample.

    scale: the constant a; 1 where `row_scales`, (rows, 1), has one for each row.
    quantized: what the integers of the sample stand for, float32 (rows, width).
    """

    values: ir.Value
    scale: ir.Value
    zero: ir.Value
    row_scales: ir.Value | None
    smooth: np.ndarray
    mean: np.ndarray
    quantized: np.ndarray


def quantize(path: Path, singles: Sequence[Feed], target: Path) -> Path:
    """The float32 graph at `path` in int8, written to `target` in a new directory; returns its path.

    The head stays as it is, for it sees no more than a row a text. The sample is taken on `singles`.
    """
    model = ir.load(path)
    graph = model.graph
    groups: dict[ir.Value, list[_Product]] = {}
    for product in _products(graph):
        groups.setdefault(product.x, []).append(product)
    samples = activations(path, [x.name for x in groups], singles)
    op = Operators(graph, "int8")
    bounded = _BOUNDED if graph.inputs[0].name == GRAPH_INPUTS[0] else ()
    # The last first: what makes an activation is replaced only when all that takes it has been.
    for x, products in reversed(groups.items()):
        weights = [product.matrix() for product in products]
        quantized = _quantize_input(op, products[0], samples.pop(x.name), np.concatenate(weights), bounded)
        for product, matrix in zip(products, weights, strict=True):
            _replace(op, product, matrix, quantized)
    _quantize_tables(op, graph)
    graph.sort()
    RemoveUnusedNodesPass()(model)
    return save_graph(model, target.parent, target.name)


def _products(graph: ir.Graph) -> Iterator[_Product]:
    for node in graph:
        if node.op_type == "MatMul" or (node.op_type == "Gemm" and "transB" in node.attributes):
            product = _Product(node, *node.inputs, *([None] if len(node.inputs) == 2 else []))
            constants = [value for value in (product.weight, product.bias) if value is not None]
            known = all(value.const_value is not None for value in constants)
            if known and len(product.weight.shape) == 2 and not product.weight.name.startswith(f"{HEAD}/"):
                yield product


def _quantize_input(
    op: Operators, product: _Product, sample: np.ndarray, weights: np.ndarray, bounded: Collection[str]
) -> _Input:
    """What all products of one activation share; `weights` are those of all, (outputs, inputs)."""
    source, x = _source(product.x), product.x
    if product.node.op_type == "MatMul":  # of any rank
        x = op.Reshape(x, op.constant([-1, weights.shape[1]]))
    shift, smooth = _shift_and_smooth(source, sample, weights, centred=source in bounded)
    if shift.any():
        x = op.Sub(x, op.constant(shift))
    if (smooth != 1).any():
        x = op.Mul(x, op.constant(1 / smooth))
    shifted = (sample - shift) / smooth
    if source in bounded:
        values, scale, zero, quantized = _by_constant(op, x, shifted)
        row_scales = None
    else:
        values, row_scales, zero, quantized = _by_row(op, x, shifted, signed=source not in _LEAST)
        scale = op.constant(1.0)
    return _Input(values, scale, zero, row_scales, smooth, sample.mean(axis=0), quantized.astype(np.float32))


def _source(x: ir.Value) -> str:
    """The operator that has made the numbers of `x`."""
    node = x.producer()
    while node is not None and node.op_type in _SAME_VALUES:
        node = node.inputs[0].producer()
    return "" if node is None else node.op_type


def _shift_and_smooth(
    source: str, sample: np.ndarray, weights: np.ndarray, *, centred: bool
) -> tuple[np.ndarray, np.ndarray]:
    ones = np.ones(weights.shape[1], np.float32)
    if source in _LEAST:
        return _LEAST[source] * ones, ones
    shift = (sample.min(axis=0) + sample.max(axis=0)) / 2 if centred else 0 * ones
    reach, weight = np.abs(sample - shift).max(axis=0), np.abs(weights).max(axis=0)
    used = (reach > 0) & (weight > 0)
    smooth = ones.copy()
    smooth[used] = reach[used] ** _SMOOTHING / weight[used] ** (1 - _SMOOTHING)
    smooth[used] /= np.exp(np.log(smooth[used]).mean()) if used.any() else 1
    return shift, smooth


def _by_constant(op: Operators, x: ir.Value, sample: np.ndarray) -> tuple[ir.Value, ir.Value, ir.Value, np.ndarray]:
    """Of `x`: the integers, their scale and zero; and what those of `sample` stand for."""
    low, high = min(0.0, _MARGIN * sample.min()), max(_TINY, _MARGIN * sample.max())
    scale = np.array((high - low) / _STEPS, np.float32)
    zero = np.array(np.rint(-low / scale), np.uint8)
    quantized = (np.clip(np.rint(sample / scale) + zero, 0, _STEPS) - zero) * scale
    scale, zero = op.constant(scale), op.constant(zero)
    return op.QuantizeLinear(x, scale, zero), scale, zero, quantized


def _by_row(
    op: Operators, x: ir.Value, sample: np.ndarray, *, signed: bool
) -> tuple[ir.Value, ir.Value, ir.Value, np.ndarray]:
    """As `_by_constant`, with scales of shape (rows, 1)."""
    last, middle = op.constant([-1]), _MIDDLE if signed else 0
    zero, tiny = op.constant(np.array(middle, np.uint8)), op.constant(_TINY)
    reach = [op.ReduceMax(x, last, keepdims=1), *([op.Neg(op.ReduceMin(x, last, keepdims=1))] if signed else [])]
    scales = op.Mul(op.Max(*reach, tiny), op.constant(1 / (_STEPS - middle)))
    if signed:  # scales by row would want as many zeros, which takes more nodes than it saves
        values = op.QuantizeLinear(op.Div(x, scales), op.constant(1.0), zero)
    else:
        values = op.QuantizeLinear(x, op.Squeeze(scales, last), axis=0)
    of_sample = np.maximum(np.abs(sample).max(axis=1, keepdims=True), _TINY) / (_STEPS - middle)
    return values, scales, zero, np.rint(sample / of_sample) * of_sample


def _replace(op: Operators, product: _Product, matrix: np.ndarray, x: _Input) -> None:
    integers, scales = compensated(matrix * x.smooth, MOST_WEIGHT, x.quantized)
    # By linearity this is the product of `shift`, too.
    bias = matrix @ x.mean - (integers * scales) @ x.quantized.mean(axis=0)
    if product.bias is not None:
        bias = bias + product.bias.const_value.numpy()
    factors = (op.constant(np.ascontiguousarray(integers.T)), x.scale, op.constant(scales[:, 0]), x.zero, None)
    added = op.constant(bias.astype(np.float32))
    if x.row_scales is None:
        y = op.microsoft("MatMulIntegerToFloat", x.values, *factors, added)
    else:
        y = op.Add(op.Mul(op.microsoft("MatMulIntegerToFloat", x.values, *factors), x.row_scales), added)
    if product.node.op_type == "MatMul":
        outer = op.Shape(product.x, end=-1)
        y = op.Reshape(y, op.Concat(outer, op.constant([len(matrix)]), axis=0))
    ir.convenience.replace_all_uses_with(product.node.outputs[0], y)


def _quantize_tables(op: Operators, graph: ir.Graph) -> None:
    """The table of words by int8 with a scale for each word, read in parts, for it may be most of the model."""
    for node in list(graph):
        if node.op_type != "Gather" or node.inputs[1].name != GRAPH_INPUTS[0] or node.inputs[0].const_value is None:
            continue
        table, ids = node.inputs[0].const_value, node.inputs[1]
        rows, width = table.shape.numpy()
        integers = op.initializer(lazy(partial(_by_parts, table, 0), (rows, width), ir.DataType.INT8))
        scales = op.initializer(lazy(partial(_by_parts, table, 1), (rows, 1)))
        words = op.Cast(op.Gather(integers, ids), to=ir.DataType.FLOAT)
        ir.convenience.replace_all_uses_with(node.outputs[0], op.Mul(words, op.Gather(scales, ids)))


def _by_parts(table: ir.TensorProtocol, part: int) -> np.ndarray:
    array = table.numpy()
    parts = (nearest(array[start : start + _CHUNK], _MOST_ENTRY)[part] for start in range(0, len(array), _CHUNK))
    return np.concatenate(list(parts))
