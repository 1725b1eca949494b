"""int8: compute matrix products with integers. A vector does not depend on the other vectors of its batch.

A product x @ w.T becomes

    round(x' / a) @ round(w' / b).T * a * b + shift @ w.T

where x' = (x - shift) / smooth and w' = w * smooth. The first product is one of integers. The second is constant, and
is part of the bias. `shift` and `smooth` have a value for each column. `b` has a value for each row of w'. `a` depends
on the operator that computes x:

- After LayerNorm, which bounds x, `a` is one constant (static quantisation).
- After other operators, `a` has a value for each row of x. So the range of one text never affects another text.

Four steps reduce the error. Each is fitted to a sample of activations.

- Where `a` is constant, `shift` is the middle of each column's range. The 256 integers then span a smaller range.
- `smooth` moves the range of wide columns from x to w (SmoothQuant: Xiao et al., 2023,
  https://arxiv.org/abs/2211.10438).
- The rounding errors of w' compensate each other (GPTQ, see `rounding`).
- The mean of the remaining error is added to the bias (Nagel et al., 2019, https://arxiv.org/abs/1906.04721).

Measured on all-MiniLM-L6-v2: the mean and the smallest cosine to fp32, over the sentences of STS Benchmark dev.

    `a`                        `smooth` and bias   rounding of w'   mean     smallest
    each row                   no                  nearest          0.9963   0.979
    each row                   yes                 nearest          0.9982   0.994
    constant after LayerNorm   yes                 nearest          0.9982   0.994      8 % faster than the row above
    constant everywhere        yes                 nearest          0.9962   0.968
    constant after LayerNorm   yes                 compensated      0.9987   0.995      what this module does

On texts in many scripts, compensation raised the mean from 0.9974 to 0.9983, and the smallest from 0.983 to 0.991.

Three other forms are no faster (calls of 20 to 256 tokens, AVX2 and AVX-512 with VNNI):
- one product for query, key and value, which needs a Split after it, or QAttention, which computes each head by itself;
- shift and smoothing in the weights of a second LayerNormalization, which takes as long as Sub and Mul;
- SkipLayerNormalization for the additions and the LayerNormalization after a product: a call takes 1.1 to 1.25 times as
  long.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
from embedder.artifact.manifest import GRAPH_INPUTS
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from embedder_export.checkpoint.weights import Floats, lazy
from embedder_export.dtype.calibrate import sample_activations
from embedder_export.dtype.products import Product, name_of, products_by_input
from embedder_export.dtype.rounding import round_table, round_with_compensation
from embedder_export.graph.files import save_graph
from embedder_export.graph.operators import MICROSOFT, Operators
from embedder_export.graph.run import Feed

# Weights have 7 bits. AVX2 multiplies uint8 by int8, and adds two products in 16 bits. 16 bits can hold 255 * 63 * 2.
# They cannot hold 255 * 127 * 2: the sum would saturate without an error.
MAX_WEIGHT = 63
# Activations are uint8. Where each row has its own scale, zero is the middle of them, if any number is possible. After
# GELU few numbers are negative, and they are small.
_MAX_ACTIVATION, _ZERO_OF_ANY, _ZERO_OF_ACTIVATED = 255, 128, 16
# Word embeddings have 8 bits, because they enter no product.
# The share of a column's range that moves to the weights. 0.5 is as good on short texts, but worse on long texts.
_SMOOTHING_EXPONENT = 0.6
# A constant range is this factor wider than the sample's range, for values that the sample lacks.
_RANGE_MARGIN = 1.1
_TINY = 1e-12
# A number at or below the minimum of each activation function.
_LOWEST_VALUES = {"Gelu": -0.17, "FastGelu": -0.1701, "Relu": 0.0}
# Operators that do not change values.
_TRANSPARENT_OPERATORS = ("Reshape", "Identity")
# Operators with the same output range for all texts, so one constant scale fits. Images get no constant scale: the
# sample images are drawn, and their range may differ from the range of photographs.
_BOUNDED_OPERATORS = ("LayerNormalization",)
# The input of a graph that has each product in both dtypes.
SWITCHES = "is_int8"
# How many rows of a table are read at once.


@dataclass(frozen=True)
class _Quantized:
    """An activation that is quantised to integers.

    Attributes:
        values: the integers, uint8 (rows, width).
        zero: the integer that stands for 0.
        scale: one scale for all rows. None if each row has its own.
        row_scales: the scale of each row, float32 (rows, 1). None if all rows share one.
        sample: the sample after quantisation and back, float32 (sample rows, width).
    """

    values: ir.Value
    zero: ir.Value
    scale: ir.Value | None
    row_scales: ir.Value | None
    sample: Floats


@dataclass(frozen=True)
class _Input:
    """The quantised activation that one or more products take.

    Attributes:
        integers: the activation after shift and smoothing.
        smooth: the factor of each column, float32 (width,).
        mean: the mean of each column of the sample, before shift and smoothing, float32 (width,).
    """

    integers: _Quantized
    smooth: Floats
    mean: Floats


def convert_to_int8(
    path: Path, singles: Sequence[Feed], target: Path, kept: Collection[str] = (), *, switched: bool = False
) -> Path:
    """Convert the float32 graph at `path` to int8.

    The head stays in float32. It computes only one row for each text.

    Args:
        path: the graph's file.
        singles: single texts or images. They give the sample of activations.
        target: the new file, in a new directory.
        kept: the products that stay in float32, by the names of their inputs.
        switched: whether the new graph has each product in both dtypes, and the input `SWITCHES` chooses: bool
            (products,), True for int8, in the order of `count_weights`.

    Returns:
        `target`.

    Raises:
        GraphError: onnxruntime fails on the graph, or an activation is not finite.

    Example:
        >>> singles = text_samples(tokenizer).singles  # doctest: +SKIP
        >>> convert_to_int8(Path("model.onnx"), singles, Path("int8/model.int8.onnx"))  # doctest: +SKIP
        PosixPath('int8/model.int8.onnx')
    """
    model = ir.load(path)
    graph = model.graph
    groups = {x: products for x, products in products_by_input(graph).items() if name_of(x) not in kept}
    samples = sample_activations(path, [name_of(x) for x in groups], singles)
    for x in groups:
        _use_fast_gelu(x)
    op = Operators(graph, "int8")
    switches = _add_switches(op, graph, len(groups)) if switched else [None] * len(groups)
    bounded = _BOUNDED_OPERATORS if graph.inputs[0].name == GRAPH_INPUTS[0] else ()
    # The last products are replaced first, so an activation is still there when the products that use it are replaced.
    for (x, products), switch in zip(reversed(groups.items()), reversed(switches), strict=True):
        matrices = [product.matrix() for product in products]
        quantized = _quantize_input(op, products[0], samples.pop(name_of(x)), np.concatenate(matrices), bounded)
        for product, matrix in zip(products, matrices, strict=True):
            y = _write_product(op, product, matrix, quantized)
            _replace_uses(op, product.node.outputs[0], y, switch)
    quantize_table(op, graph)
    graph.sort()
    RemoveUnusedNodesPass()(model)
    return save_graph(model, target.parent, target.name)


def _add_switches(op: Operators, graph: ir.Graph, count: int) -> list[ir.Value]:
    """Give `graph` the input `SWITCHES`, and return its values."""
    switches = ir.val(SWITCHES, ir.DataType.BOOL, (count,))
    graph.inputs.append(switches)
    return [op.Gather(switches, op.constant(index)) for index in range(count)]


def _replace_uses(op: Operators, old: ir.Value, new: ir.Value, switch: ir.Value | None) -> None:
    """Make all nodes that use `old` use `new`; with a switch, only while it is True."""
    uses = list(old.uses())
    chosen = new if switch is None else op.Where(switch, new, old)
    for use in uses:
        use.node.replace_input_with(use.idx, chosen)


def _quantize_input(
    op: Operators, product: Product, sample: Floats, weights: Floats, bounded: Collection[str]
) -> _Input:
    """Quantise the activation of `product`, which several products may share.

    Args:
        op: writes the nodes.
        product: the first of the products.
        sample: a sample of the activation, float32 (rows, width).
        weights: the weights of all these products, float32 (outputs, width).
        bounded: the operators with outputs that get a constant scale.
    """
    node, x = _source(product.x), product.x
    source = "" if node is None else node.op_type
    if product.node.op_type == "MatMul":  # its input may have any number of axes
        x = op.Reshape(x, op.constant([-1, weights.shape[1]]))
    shift, smooth = _shift_and_smooth(source, sample, weights, centred=source in bounded)
    if shift.any():
        x = op.Sub(x, op.constant(shift))
    if (smooth != 1).any():
        x = op.Mul(x, op.constant(1 / smooth))
    shifted = (sample - shift) / smooth
    if source in bounded:
        integers = _quantize_by_constant(op, x, shifted)
    else:
        integers = _quantize_by_row(op, x, shifted, _LOWEST_VALUES.get(source))
    return _Input(integers, smooth, sample.mean(axis=0))


def _source(x: ir.Value) -> ir.Node | None:
    """Return the node that computed the numbers of `x`."""
    node = x.producer()
    while node is not None and node.op_type in _TRANSPARENT_OPERATORS and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def _shift_and_smooth(source: str, sample: Floats, weights: Floats, *, centred: bool) -> tuple[Floats, Floats]:
    """Return `shift` and `smooth` of the module's formula, float32 (width,) each."""
    ones = np.ones(weights.shape[1], np.float32)
    if source in _LOWEST_VALUES:
        return 0 * ones, ones
    shift: Floats = (sample.min(axis=0) + sample.max(axis=0)) / 2 if centred else 0 * ones
    largest, weight = np.abs(sample - shift).max(axis=0), np.abs(weights).max(axis=0)
    used = (largest > 0) & (weight > 0)
    smooth = ones.copy()
    smooth[used] = largest[used] ** _SMOOTHING_EXPONENT / weight[used] ** (1 - _SMOOTHING_EXPONENT)
    smooth[used] /= np.exp(np.log(smooth[used]).mean()) if used.any() else 1
    return shift, smooth


def _quantize_by_constant(op: Operators, x: ir.Value, sample: Floats) -> _Quantized:
    """Quantise `x` with one scale for all rows."""
    low, high = min(0.0, _RANGE_MARGIN * sample.min()), max(_TINY, _RANGE_MARGIN * sample.max())
    scale = np.array((high - low) / _MAX_ACTIVATION, np.float32)
    zero = np.array(np.rint(-low / scale), np.uint8)
    quantized = (np.clip(np.rint(sample / scale) + zero, 0, _MAX_ACTIVATION) - zero) * scale
    values = op.QuantizeLinear(x, op.constant(scale), op.constant(zero))
    return _Quantized(values, op.constant(zero), op.constant(scale), None, quantized.astype(np.float32))


def _quantize_by_row(op: Operators, x: ir.Value, sample: Floats, lowest: float | None) -> _Quantized:
    """Quantise `x` with a scale for each row. No value is below `lowest`; None if any value is possible."""
    zero = _ZERO_OF_ANY if lowest is None else _ZERO_OF_ACTIVATED if lowest else 0
    steps = _MAX_ACTIVATION - zero
    # With this scale or a larger one, the integer 0 stands for `lowest` or a lower number.
    least = -lowest / zero if lowest else _TINY
    largest = op.ReduceMax(op.Abs(x) if lowest is None else x, op.constant([-1]), keepdims=1)
    scales = op.Max(op.Mul(largest, op.constant(1 / steps)), op.constant(least))
    zeros = op.Expand(op.constant(np.array(zero, np.uint8)), op.Shape(x, end=1))
    values = op.QuantizeLinear(x, op.Squeeze(scales, op.constant([-1])), zeros, axis=0)
    of_sample = (np.abs(sample) if lowest is None else sample).max(axis=1, keepdims=True)
    sample_scales = np.maximum(of_sample / steps, least)
    quantized = (np.rint(sample / sample_scales) * sample_scales).astype(np.float32)
    return _Quantized(values, op.constant(np.array(zero, np.uint8)), None, scales, quantized)


def _write_product(op: Operators, product: Product, matrix: Floats, x: _Input) -> ir.Value:
    """Write the product in int8, with its bias, and return its output."""
    sample = x.integers.sample
    weights, scales = round_with_compensation(matrix * x.smooth, MAX_WEIGHT, sample)
    # The mean of x includes `shift`, so this bias includes shift @ w.T too.
    bias = matrix @ x.mean - (weights * scales) @ sample.mean(axis=0)
    if product.bias is not None:
        bias = bias + product.bias.numpy()
    y = _write_integers(op, x.integers, weights, scales[:, 0], bias.astype(np.float32))
    if product.node.op_type == "MatMul":
        outer = op.Shape(product.x, end=-1)
        y = op.Reshape(y, op.Concat(outer, op.constant([len(matrix)]), axis=0))
    return y


def _write_integers(op: Operators, x: _Quantized, weights: NDArray[np.int8], scales: Floats, bias: Floats) -> ir.Value:
    """Write values @ weights.T * scales + bias. `scales` has a value for each row of `weights`."""
    columns, added = op.constant(np.ascontiguousarray(weights.T)), op.constant(bias)
    scale = op.constant(1.0) if x.scale is None else x.scale
    factors = (x.values, columns, scale, op.constant(scales), x.zero, None)
    if x.row_scales is None:
        return op.microsoft("MatMulIntegerToFloat", *factors, added)
    return op.Add(op.Mul(op.microsoft("MatMulIntegerToFloat", *factors), x.row_scales), added)


def _use_fast_gelu(x: ir.Value) -> None:
    """Compute the GELU that gives `x` by its approximation with tanh, if it is one.

    The approximation differs by 5e-4 at most. That is far below a step of int8.
    """
    node = _source(x)
    if node is not None and node.op_type == "Gelu" and node.domain == MICROSOFT:
        node.op_type = "FastGelu"


def quantize_table(op: Operators, graph: ir.Graph) -> None:
    """Store the word embeddings of `graph` as int8, with a scale for each word.

    Example:
        >>> quantize_table(Operators(graph, "int8"), graph)  # doctest: +SKIP
    """
    for node in list(graph):
        if node.op_type != "Gather":
            continue
        source, ids = node.inputs[:2]
        if source is None or source.const_value is None or ids is None or ids.name != GRAPH_INPUTS[0]:
            continue
        table = source.const_value
        rows, width = table.shape.numpy()
        integers = op.initializer(lazy(partial(round_table, table, 0), (rows, width), ir.DataType.INT8))
        scales = op.initializer(lazy(partial(round_table, table, 1), (rows, 1)))
        words = op.Cast(op.Gather(integers, ids), to=ir.DataType.FLOAT)
        ir.convenience.replace_all_uses_with(node.outputs[0], op.Mul(words, op.Gather(scales, ids)))
