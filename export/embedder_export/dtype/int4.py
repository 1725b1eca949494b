"""int4: store the weights of matrix products in 4 bits. The activations stay in float32 between the products.

A block of 32 weights of a row shares a scale and a zero. onnxruntime's MatMulNBits computes the product. It rounds each
block of 32 activations of a row to 8 bits with a scale of its own, so that the product is one of integers. Errors of
weights compensate each other (GPTQ, see `rounding`), and the mean of what is left is added to the bias.

A row's result has the same bits whatever other rows the product has. That is so for blocks of 16 and 32, and not for
larger ones, nor if activations stay in float32 (`accuracy_level` 0): `tests/export/test_int4.py` checks it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from embedder_export.checkpoint.weights import Floats
from embedder_export.dtype.calibrate import sample_activations
from embedder_export.dtype.int8 import quantize_table
from embedder_export.dtype.products import Product, check_products, name_of, products_by_input
from embedder_export.dtype.rounding import RoundedBlocks, round_blocks_with_compensation
from embedder_export.graph.files import save_graph
from embedder_export.graph.operators import Operators
from embedder_export.samples.feeds import Samples

BITS, BLOCK = 4, 32
# Activations are rounded to 8 bits.
ACCURACY_LEVEL = 4
_LARGEST = 2**BITS - 1


def convert_to_int4(path: Path, samples: Samples, target: Path, report: Callable[[str], None]) -> None:
    """Convert the float32 graph at `path` to int4. The head stays in float32.

    Args:
        path: the graph's file.
        samples: the weights are rounded for the activations of `samples.singles`.
        target: the new file, in a new directory.
        report: not used. Other dtypes report the steps of their search.

    Raises:
        GraphError: onnxruntime fails on the graph, an activation is not finite, or the graph has no product.

    Example:
        >>> convert_to_int4(Path("model.onnx"), samples, Path("int4/model.int4.onnx"), print)  # doctest: +SKIP
    """
    model = ir.load(path)
    graph = model.graph
    groups = products_by_input(graph)
    check_products(groups)
    activations = sample_activations(path, [name_of(x) for x in groups], samples.singles)
    op = Operators(graph, "int4")
    for x, products in groups.items():
        sample = activations.pop(name_of(x))
        for product in products:
            ir.convenience.replace_all_uses_with(product.node.outputs[0], _write_product(op, product, sample))
    quantize_table(op, graph)
    graph.sort()
    RemoveUnusedNodesPass()(model)
    save_graph(model, target.parent, target.name)


def _write_product(op: Operators, product: Product, sample: Floats) -> ir.Value:
    """Write the product with its bias, and return its output."""
    matrix = np.ascontiguousarray(product.matrix())
    rows, columns = matrix.shape
    rounded = round_blocks_with_compensation(matrix, _LARGEST, BLOCK, sample)
    bias = (matrix - rounded.weights(columns)) @ sample.mean(axis=0)
    if product.bias is not None:
        bias = bias + product.bias.numpy()
    return op.microsoft(
        "MatMulNBits",
        product.x,
        *_constants(op, rounded),
        None,
        op.constant(bias.astype(np.float32)),
        K=columns,
        N=rows,
        bits=BITS,
        block_size=BLOCK,
        accuracy_level=ACCURACY_LEVEL,
    )


def _constants(op: Operators, rounded: RoundedBlocks) -> list[ir.Value]:
    zeros = rounded.zeros
    if zeros.shape[1] % 2:
        zeros = np.pad(zeros, ((0, 0), (0, 1)))
    return [op.constant(_pack(rounded.integers)), op.constant(rounded.scales), op.constant(_pack(zeros))]


def _pack(integers: NDArray[Any]) -> NDArray[np.uint8]:
    """Return two integers in each byte, the first one in the lower half."""
    pairs = integers.astype(np.uint8)
    return (pairs[..., 0::2] | pairs[..., 1::2] << BITS).astype(np.uint8)
