"""Outliers: compute the few columns with by far the largest numbers in float32, apart from all others.

In some transformers, one to four of the thousands of columns after the activation function reach 20 to 100, where a
usual column reaches 2. int8 has one scale for each row. So in a row with such an outlier, the usual numbers become the
same few integers. A feed-forward part down(f(up(x))) then becomes

    down'(f(up'(x))) + f(x @ w.T + b) @ v.T

`up'` and `down'` are `up` and `down` with zeros for the outliers. They become int8. `w`, `b` and `v` are the weights of
the outliers alone. Their products are so small that float32 costs little.

Measured on all-mpnet-base-v2, over every tenth sentence of STS Benchmark dev: the mean and the smallest cosine to fp32.

    columns apart   mean     smallest
    0               0.9956   0.980
    1               0.9977   0.993
    4               0.9981   0.994
    8               0.9980   0.992
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from embedder_export.checkpoint.weights import Floats, lazy
from embedder_export.dtype.calibrate import sample_activations
from embedder_export.dtype.products import Product, name_of, read_product
from embedder_export.graph.files import save_graph
from embedder_export.graph.operators import MICROSOFT, Operators
from embedder_export.graph.run import Feed

_MAX_COLUMNS = 4
# A product is split only if less than this share of its squared error remains. The squared error of a row is taken as
# proportional to the square of its largest number.
_MAX_REMAINING_ERROR = 0.5
# Functions of one number that are 0 at 0.
_FUNCTIONS = ("Gelu", "FastGelu", "QuickGelu", "Relu")


@dataclass(frozen=True)
class _Separable:
    """An activation whose columns can be computed apart: a product, a function of one, or a gated unit of two.

    Attributes:
        node: the node that computes it.
        product: the product, if the node is one.
        inputs: what the node computes it from, if the node is no product.
    """

    node: ir.Node
    product: Product | None
    inputs: tuple["_Separable", ...]


def split_outliers(path: Path, singles: Sequence[Feed], target: Path) -> tuple[str, ...]:
    """Split the outliers off the feed-forward parts of the float32 graph at `path`, where that helps int8.

    Args:
        path: the graph's file.
        singles: single texts or images. They give the sample of activations.
        target: the new file, in a new directory. It is written only if there are outliers.

    Returns:
        The products that were split, by the names of their inputs.

    Raises:
        GraphError: onnxruntime fails on the graph, or an activation is not finite.

    Example:
        >>> split_outliers(Path("model.onnx"), singles, Path("split/model.onnx"))  # doctest: +SKIP
        ('val_40', 'val_88')
    """
    model = ir.load(path)
    op = Operators(model.graph, "outliers")
    downs = {name_of(down.x): (down, x) for down, x in _feed_forwards(model.graph)}
    samples = sample_activations(path, list(downs), singles) if downs else {}
    columns = {name: _outlier_columns(samples.pop(name)) for name in downs}
    split = tuple(name for name in downs if len(columns[name]))
    for name in split:
        _split(op, *downs[name], columns[name])
    if split:
        model.graph.sort()
        save_graph(model, target.parent, target.name)
    return split


def _feed_forwards(graph: ir.Graph) -> list[tuple[Product, _Separable]]:
    """Return the products with an input that is separable, and this input."""
    found = []
    for node in graph:
        product = _read_linear(node)
        x = None if product is None else _read_separable(product.x)
        if product is not None and x is not None and x.product is None:
            found.append((product, x))
    return found


def _read_linear(node: ir.Node) -> Product | None:
    """Return the product of a Gemm. A MatMul has its bias in a node of its own, and any number of axes."""
    return read_product(node) if node.op_type == "Gemm" else None


def _read_separable(value: ir.Value) -> _Separable | None:
    """Return how `value` is computed, or None if it is not separable, or if other nodes use parts of it."""
    node = value.producer()
    if node is None or len(value.uses()) != 1:
        return None
    product = _read_linear(node)
    if product is not None:
        return _Separable(node, product, ())
    inputs = [None if given is None else _read_separable(given) for given in node.inputs]
    parts = tuple(part for part in inputs if part is not None)
    fitting = node.op_type in _FUNCTIONS or (node.op_type == "Mul" and len(inputs) == 2)
    return _Separable(node, None, parts) if fitting and len(parts) == len(inputs) else None


def _outlier_columns(sample: Floats) -> NDArray[np.int64]:
    """Return the columns that enlarge the squares of the rows' largest numbers most; none if the gain is small.

    Args:
        sample: a sample of the activation, float32 (rows, width).
    """
    rest, rows, chosen = np.abs(sample), np.arange(len(sample)), set()
    before = np.square(rest.max(axis=1)).sum()
    for _ in range(_MAX_COLUMNS):
        columns = rest.argmax(axis=1)
        largest = rest[rows, columns]
        rest[rows, columns] = 0
        gains = np.square(largest) - np.square(rest.max(axis=1))
        rest[rows, columns] = largest
        column = int(np.bincount(columns, gains).argmax())
        chosen.add(column)
        rest[:, column] = 0
    remaining = np.square(rest.max(axis=1)).sum()
    return np.array(sorted(chosen) if remaining < _MAX_REMAINING_ERROR * before else [], np.int64)


def _split(op: Operators, down: Product, x: _Separable, columns: NDArray[np.int64]) -> None:
    """Compute the share of `columns` of `x` in the product `down` apart."""
    share = op.constant(np.ascontiguousarray(down.matrix()[:, columns].T))
    apart = _columns_of(op, x, columns)
    _set_to_zero(op, x, columns)
    _replace_constant(op, down.node, 1, (slice(None), columns))
    uses = list(down.node.outputs[0].uses())
    whole = op.Gemm(apart, share, down.node.outputs[0])  # it adds the other columns' share too
    for use in uses:
        use.node.replace_input_with(use.idx, whole)


def _columns_of(op: Operators, x: _Separable, columns: NDArray[np.int64]) -> ir.Value:
    """Compute `columns` of `x` again."""
    if x.product is not None:
        # Without transB, so that the conversion to int8 leaves it out.
        weights = op.constant(np.ascontiguousarray(x.product.matrix()[columns].T))
        bias = () if x.product.bias is None else (op.constant(x.product.bias.numpy()[columns]),)
        return op.Gemm(x.product.x, weights, *bias)
    inputs = [_columns_of(op, part, columns) for part in x.inputs]
    attributes = {name: attribute.value for name, attribute in x.node.attributes.items()}
    if x.node.domain == MICROSOFT:
        return op.microsoft(x.node.op_type, *inputs, **attributes)
    result: ir.Value = getattr(op, x.node.op_type)(*inputs, **attributes)
    return result


def _set_to_zero(op: Operators, x: _Separable, columns: NDArray[np.int64]) -> None:
    """Make `columns` of `x` 0."""
    if x.product is None:
        _set_to_zero(op, x.inputs[0], columns)  # every function and gated unit is 0 where its first input is 0
        return
    _replace_constant(op, x.node, 1, columns)
    if x.product.bias is not None:
        _replace_constant(op, x.node, 2, columns)


def _replace_constant(op: Operators, node: ir.Node, index: int, zeros: Any) -> None:
    """Replace the constant input `index` of `node` by a copy that is 0 at `zeros`."""
    value = node.inputs[index]
    assert value is not None
    assert value.const_value is not None  # `read_product` made sure
    shape = tuple(value.const_value.shape.numpy())
    node.replace_input_with(index, op.initializer(lazy(partial(_with_zeros, value.const_value, zeros), shape)))


def _with_zeros(tensor: ir.TensorProtocol, zeros: Any) -> Floats:
    array: Floats = tensor.numpy().copy()
    array[zeros] = 0
    return array
