"""int8: matrix products of integers, made so that a vector does not depend on its batch.

A product x @ w.T becomes, with x' = (x - shift) / smooth and w' = w * smooth (both by column),

    round(x' / a) @ round(w' / b).T * a * b + shift @ w.T

The first product is one of integers. b is a scale for each row of w'. a is

- a constant where x comes from a LayerNorm, which bounds it (static quantisation);
- a scale for each row of x elsewhere, so that no text's range affects another text.

Four steps reduce the error. All are measured on a sample of activations.

- `shift` is the middle of each column's range where a is constant. Then 256 steps have less to span.
- `smooth` moves the range of wide columns of x into w (SmoothQuant: Xiao et al., 2023,
  https://arxiv.org/abs/2211.10438).
- The rounding errors of w' compensate each other (GPTQ, see `rounding`).
- The mean of the error that is left goes into the bias (Nagel et al., 2019, https://arxiv.org/abs/1906.04721).

Measured on all-MiniLM-L6-v2: the mean and the smallest cosine to fp32 over the sentences of STS Benchmark dev.

    each row of x by its own range, w to the nearest    0.9963  0.979
    the same, with `smooth` and the bias                0.9982  0.994
    the same, with constants after LayerNorm            0.9982  0.994   and 8 % faster
    with constants everywhere instead                   0.9962  0.968
    constants after LayerNorm, with compensation        0.9987  0.995   this is what is done

On texts in many scripts, compensation raised 0.9974 and 0.983 to 0.9983 and 0.991.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from embedder.artifact.manifest import GRAPH_INPUTS
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from embedder_export.checkpoint.weights import Floats, lazy
from embedder_export.dtype.calibrate import sample_activations
from embedder_export.dtype.rounding import round_to_nearest, round_with_compensation
from embedder_export.errors import GraphError
from embedder_export.graph.files import save_graph
from embedder_export.graph.operators import Operators
from embedder_export.graph.run import Feed
from embedder_export.head.dense import PREFIX as HEAD_PREFIX

# Weights have 7 bits. AVX2 multiplies uint8 by int8 and adds two products in 16 bits. These hold 255 * 63 * 2 and not
# 255 * 127 * 2, which would saturate silently.
MAX_WEIGHT = 63
# Activations are uint8. The zero lies in the middle where they have both signs.
_MAX_ACTIVATION, _MIDDLE_ACTIVATION = 255, 128
# Entries of the table of words, which enters no product, have 8 bits.
_MAX_TABLE_ENTRY = 127
# The share of a column's range that moves to the weights. 0.5 is as good on short texts, and worse on long ones.
_SMOOTHING_EXPONENT = 0.6
# A constant range is wider than the sample's by this factor, for values that the sample does not show.
_RANGE_MARGIN = 1.1
_TINY = 1e-12
# A lower bound of each activation function's values, a little below the true one. With it no sign is needed.
_LOWER_BOUNDS = {"Gelu": -0.18, "FastGelu": -0.18, "Relu": 0.0}
# Operators that pass values on unchanged.
_TRANSPARENT_OPERATORS = ("Reshape", "Identity")
# Operators with outputs that have the same range for all texts, so that a constant scale fits. For images it is not
# used: the export's sample images are drawn, and would not show a photograph's range.
_BOUNDED_OPERATORS = ("LayerNormalization",)
# Rows of a table that are read at once.
_TABLE_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class _Product:
    """A product x @ w.T, with or without a bias, as a node of the graph.

    Attributes:
        node: a MatMul or a Gemm.
        x: its activation.
        weights: w, float32 (outputs, inputs).
        bias: float32 (outputs,), or None.
    """

    node: ir.Node
    x: ir.Value
    weights: ir.TensorProtocol
    bias: ir.TensorProtocol | None

    def matrix(self) -> Floats:
        """Return the weights as float32 (outputs, inputs)."""
        array: Floats = self.weights.numpy()
        return array if self.node.op_type == "Gemm" else array.T


@dataclass(frozen=True)
class _Quantized:
    """An activation as integers: nodes of the graph, and the values that the sample's integers stand for.

    Attributes:
        values: uint8 (rows, width).
        scale: one for all rows; or float32 (rows, 1).
        zero: the integer that stands for 0.
        sample: float32 (rows, width).
    """

    values: ir.Value
    scale: ir.Value
    zero: ir.Value
    sample: Floats


@dataclass(frozen=True)
class _Input:
    """What all products of one activation share.

    Attributes:
        integers: the activation after shift and smoothing.
        by_row: whether each row has its own scale.
        scale: of the product of integers: that of the activation, or 1 if each row has its own.
        smooth: the factor of each column, float32 (width,).
        mean: of the sample's columns before shift and smoothing.
    """

    integers: _Quantized
    by_row: bool
    scale: ir.Value
    smooth: Floats
    mean: Floats


def convert_to_int8(path: Path, singles: Sequence[Feed], target: Path) -> Path:
    """Write the float32 graph at `path` in int8 to `target`, in a new directory, and return `target`.

    The head stays as it is: it computes one row for each text.

    Args:
        path: of the graph.
        singles: single texts or images. The activations are sampled on them.
        target: the new file.

    Raises:
        GraphError: onnxruntime fails on the graph, or an activation is not finite.
    """
    model = ir.load(path)
    graph = model.graph
    groups: dict[ir.Value, list[_Product]] = {}
    for product in _products(graph):
        groups.setdefault(product.x, []).append(product)
    samples = sample_activations(path, [_name_of(x) for x in groups], singles)
    op = Operators(graph, "int8")
    bounded = _BOUNDED_OPERATORS if graph.inputs[0].name == GRAPH_INPUTS[0] else ()
    # From the end: what makes an activation is replaced after everything that uses the activation.
    for x, products in reversed(groups.items()):
        matrices = [product.matrix() for product in products]
        quantized = _quantize_input(op, products[0], samples.pop(_name_of(x)), np.concatenate(matrices), bounded)
        for product, matrix in zip(products, matrices, strict=True):
            _replace(op, product, matrix, quantized)
    _quantize_table(op, graph)
    graph.sort()
    RemoveUnusedNodesPass()(model)
    return save_graph(model, target.parent, target.name)


def _name_of(value: ir.Value) -> str:
    if value.name is None:
        raise GraphError("a value of the graph has no name")
    return value.name


def _products(graph: ir.Graph) -> Iterator[_Product]:
    """Yield the products of an activation and constant weights, outside of the head."""
    for node in graph:
        if node.op_type == "MatMul" or (node.op_type == "Gemm" and "transB" in node.attributes):
            product = _read_product(node)
            if product is not None:
                yield product


def _read_product(node: ir.Node) -> _Product | None:
    x, weight, *rest = node.inputs
    bias = rest[0] if rest else None
    if x is None or x.producer() is None or weight is None or weight.const_value is None:
        return None
    if bias is not None and bias.const_value is None:
        return None
    if len(weight.const_value.shape) != 2 or _name_of(weight).startswith(f"{HEAD_PREFIX}/"):
        return None
    return _Product(node, x, weight.const_value, None if bias is None else bias.const_value)


def _quantize_input(
    op: Operators, product: _Product, sample: Floats, weights: Floats, bounded: Collection[str]
) -> _Input:
    """Quantise the activation of `product`, which several products may share.

    Args:
        op: writes the nodes.
        product: the first of them.
        sample: of the activation, (rows, width).
        weights: of all of them, (outputs, width).
        bounded: operators with outputs that get a constant scale.
    """
    source, x = _source(product.x), product.x
    if product.node.op_type == "MatMul":  # its input has any rank
        x = op.Reshape(x, op.constant([-1, weights.shape[1]]))
    shift, smooth = _shift_and_smooth(source, sample, weights, centred=source in bounded)
    if shift.any():
        x = op.Sub(x, op.constant(shift))
    if (smooth != 1).any():
        x = op.Mul(x, op.constant(1 / smooth))
    shifted = (sample - shift) / smooth
    by_row = source not in bounded
    if by_row:
        integers = _quantize_by_row(op, x, shifted, signed=source not in _LOWER_BOUNDS)
    else:
        integers = _quantize_by_constant(op, x, shifted)
    scale = op.constant(1.0) if by_row else integers.scale
    return _Input(integers, by_row, scale, smooth, sample.mean(axis=0))


def _source(x: ir.Value) -> str:
    """Return the operator that computed the numbers of `x`."""
    node = x.producer()
    while node is not None and node.op_type in _TRANSPARENT_OPERATORS and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return "" if node is None else node.op_type


def _shift_and_smooth(source: str, sample: Floats, weights: Floats, *, centred: bool) -> tuple[Floats, Floats]:
    ones = np.ones(weights.shape[1], np.float32)
    if source in _LOWER_BOUNDS:
        return _LOWER_BOUNDS[source] * ones, ones
    shift: Floats = (sample.min(axis=0) + sample.max(axis=0)) / 2 if centred else 0 * ones
    largest, weight = np.abs(sample - shift).max(axis=0), np.abs(weights).max(axis=0)
    used = (largest > 0) & (weight > 0)
    smooth = ones.copy()
    smooth[used] = largest[used] ** _SMOOTHING_EXPONENT / weight[used] ** (1 - _SMOOTHING_EXPONENT)
    smooth[used] /= np.exp(np.log(smooth[used]).mean()) if used.any() else 1
    return shift, smooth


def _quantize_by_constant(op: Operators, x: ir.Value, sample: Floats) -> _Quantized:
    low, high = min(0.0, _RANGE_MARGIN * sample.min()), max(_TINY, _RANGE_MARGIN * sample.max())
    scale = np.array((high - low) / _MAX_ACTIVATION, np.float32)
    zero = np.array(np.rint(-low / scale), np.uint8)
    quantized = (np.clip(np.rint(sample / scale) + zero, 0, _MAX_ACTIVATION) - zero) * scale
    constants = op.constant(scale), op.constant(zero)
    return _Quantized(op.QuantizeLinear(x, *constants), *constants, quantized.astype(np.float32))


def _quantize_by_row(op: Operators, x: ir.Value, sample: Floats, *, signed: bool) -> _Quantized:
    last, middle = op.constant([-1]), _MIDDLE_ACTIVATION if signed else 0
    zero, tiny = op.constant(np.array(middle, np.uint8)), op.constant(_TINY)
    largest = [op.ReduceMax(x, last, keepdims=1)]
    if signed:
        largest.append(op.Neg(op.ReduceMin(x, last, keepdims=1)))
    scales = op.Mul(op.Max(*largest, tiny), op.constant(1 / (_MAX_ACTIVATION - middle)))
    if signed:  # with scales by row, QuantizeLinear needs a zero for each row, which costs more nodes than a Div
        values = op.QuantizeLinear(op.Div(x, scales), op.constant(1.0), zero)
    else:
        values = op.QuantizeLinear(x, op.Squeeze(scales, last), axis=0)
    of_sample = np.maximum(np.abs(sample).max(axis=1, keepdims=True), _TINY) / (_MAX_ACTIVATION - middle)
    quantized = np.rint(sample / of_sample) * of_sample
    return _Quantized(values, scales, zero, quantized.astype(np.float32))


def _replace(op: Operators, product: _Product, matrix: Floats, x: _Input) -> None:
    sample = x.integers.sample
    weights, scales = round_with_compensation(matrix * x.smooth, MAX_WEIGHT, sample)
    # By linearity this has the product of `shift` in it.
    bias = matrix @ x.mean - (weights * scales) @ sample.mean(axis=0)
    if product.bias is not None:
        bias = bias + product.bias.numpy()
    y = _write_product(op, x, weights, scales[:, 0], bias.astype(np.float32))
    if product.node.op_type == "MatMul":
        outer = op.Shape(product.x, end=-1)
        y = op.Reshape(y, op.Concat(outer, op.constant([len(matrix)]), axis=0))
    ir.convenience.replace_all_uses_with(product.node.outputs[0], y)


def _write_product(op: Operators, x: _Input, weights: NDArray[np.int8], scales: Floats, bias: Floats) -> ir.Value:
    columns = op.constant(np.ascontiguousarray(weights.T))
    factors = (x.integers.values, columns, x.scale, op.constant(scales), x.integers.zero, None)
    added = op.constant(bias)
    if not x.by_row:
        return op.microsoft("MatMulIntegerToFloat", *factors, added)
    return op.Add(op.Mul(op.microsoft("MatMulIntegerToFloat", *factors), x.integers.scale), added)


def _quantize_table(op: Operators, graph: ir.Graph) -> None:
    """Store the table of words as int8, with a scale for each word."""
    for node in list(graph):
        if node.op_type != "Gather":
            continue
        source, ids = node.inputs[:2]
        if source is None or source.const_value is None or ids is None or ids.name != GRAPH_INPUTS[0]:
            continue
        table = source.const_value
        rows, width = table.shape.numpy()
        integers = op.initializer(lazy(partial(_round_table, table, 0), (rows, width), ir.DataType.INT8))
        scales = op.initializer(lazy(partial(_round_table, table, 1), (rows, 1)))
        words = op.Cast(op.Gather(integers, ids), to=ir.DataType.FLOAT)
        ir.convenience.replace_all_uses_with(node.outputs[0], op.Mul(words, op.Gather(scales, ids)))


def _round_table(table: ir.TensorProtocol, part: int) -> NDArray[Any]:
    """Return the integers (part 0) or the scales (part 1) of a table. It is large, so it is read in blocks."""
    array = table.numpy()
    blocks = (array[start : start + _TABLE_ROWS_AT_ONCE] for start in range(0, len(array), _TABLE_ROWS_AT_ONCE))
    return np.concatenate([round_to_nearest(block, _MAX_TABLE_ENTRY)[part] for block in blocks])
