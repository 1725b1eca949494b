"""Find the products of an activation and constant weights in a graph: what int8 makes faster."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from embedder_export.body.contract import ONE_ROW
from embedder_export.checkpoint.weights import Floats
from embedder_export.errors import GraphError
from embedder_export.head.dense import PREFIX as HEAD_PREFIX


@dataclass(frozen=True)
class Product:
    """A product x @ w.T, with or without a bias, as a node of the graph.

    Attributes:
        node: a MatMul or a Gemm.
        x: the activation that enters it.
        weights: float32 (outputs, inputs) for a Gemm, (inputs, outputs) for a MatMul.
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


def count_weights(path: Path) -> dict[str, int]:
    """Return the number of weights of each product that `convert_to_int8` converts, by the name of its input.

    Products that share an input count as one. They have the order of the graph.

    Example:
        >>> count_weights(Path("model.onnx"))  # doctest: +SKIP
        {'val_9': 442368, 'val_20': 147456, ...}
    """
    groups = products_by_input(ir.load(path).graph)
    return {name_of(x): sum(product.weights.size for product in products) for x, products in groups.items()}


def products_by_input(graph: ir.Graph) -> dict[ir.Value, list[Product]]:
    """Return the products by their input, in the graph's order."""
    groups: dict[ir.Value, list[Product]] = {}
    for product in _products(graph):
        groups.setdefault(product.x, []).append(product)
    return groups


def check_products(products: Collection[object]) -> None:
    """Raise GraphError if there are no products, because then there is nothing to convert.

    Example:
        >>> check_products(["a product"])
    """
    if not products:
        raise GraphError("the graph has no product of an activation with weights")


def name_of(value: ir.Value) -> str:
    """Return the name of a value.

    Raises:
        GraphError: it has none.
    """
    if value.name is None:
        raise GraphError("a value of the graph has no name")
    return value.name


def read_product(node: ir.Node) -> Product | None:
    """Return the product that `node` computes, or None if it is no such product, or one of the head's.

    A product that computes only one row for each text is left out too.
    """
    if node.op_type != "MatMul" and not (node.op_type == "Gemm" and "transB" in node.attributes):
        return None
    if (node.name or "").startswith(ONE_ROW):
        return None
    x, weight, *rest = node.inputs
    bias = rest[0] if rest else None
    if x is None or x.producer() is None or weight is None or weight.const_value is None:
        return None
    if bias is not None and bias.const_value is None:
        return None
    if len(weight.const_value.shape) != 2 or name_of(weight).startswith(f"{HEAD_PREFIX}/"):
        return None
    return Product(node, x, weight.const_value, None if bias is None else bias.const_value)


def _products(graph: ir.Graph) -> Iterator[Product]:
    """Yield the products of an activation and constant weights. The head's products are left out."""
    for node in graph:
        product = read_product(node)
        if product is not None:
            yield product
