"""How an int8 graph computes its matrix products. The manifest has it under `extra`, so older programs ignore it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from embedder.common.decode import decode
from embedder.common.records import frozen

if TYPE_CHECKING:
    from embedder.artifact.manifest import Graph, Manifest

# Name of the field under `extra`. It holds the products by the name of the graph's file.
_FIELD = "int8_products"


@frozen
class Int8Products:
    """The products of an int8 graph that are computed in fp32, wholly or in part. The head, always fp32, is not listed.

    Attributes:
        count: number of products of an activation and weights. Those that share an input count as one.
        fp32: the products in fp32, by their position in the graph, from 0.
        split: the products with a few outlier columns in fp32, by their position.
    """

    count: int
    fp32: tuple[int, ...]
    split: tuple[int, ...]


def int8_products(manifest: Manifest, graph: Graph) -> Int8Products | None:
    """Return what `manifest` says of the products of `graph`, or None if it says nothing, or nothing of this form.

    Example:
        >>> int8_products(model.manifest, model.manifest.graphs[1])  # doctest: +SKIP
        Int8Products(count=48, fp32=(), split=(3, 15))
    """
    found = manifest.extra.get(_FIELD)
    with suppress(ValueError):
        if isinstance(found, dict) and graph.file.name in found:
            return decode(Int8Products, found[graph.file.name])  # type: ignore[no-any-return]
    return None


def with_int8_products(manifest: Manifest, products: Mapping[str, Int8Products]) -> Manifest:
    """Return `manifest` with `products`, by the name of the graph's file.

    Example:
        >>> with_int8_products(manifest, {"model.int8.onnx": Int8Products(48, (), (3,))}).extra  # doctest: +SKIP
        {'int8_products': {'model.int8.onnx': {'count': 48, 'fp32': [], 'split': [3]}}}
    """
    entries = {
        name: {"count": entry.count, "fp32": list(entry.fp32), "split": list(entry.split)}
        for name, entry in products.items()
    }
    extra = {name: value for name, value in manifest.extra.items() if name != _FIELD}
    return replace(manifest, extra=extra | ({_FIELD: entries} if entries else {}))


def with_graphs(manifest: Manifest, graphs: Iterable[Graph]) -> Manifest:
    """Return `manifest` with only `graphs`, and with nothing about the products of others.

    Example:
        >>> with_graphs(manifest, manifest.graphs[:1]).extra  # doctest: +SKIP
        {}
    """
    kept = tuple(graphs)
    products = {graph.file.name: found for graph in kept if (found := int8_products(manifest, graph)) is not None}
    return with_int8_products(replace(manifest, graphs=kept), products)
