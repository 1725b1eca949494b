"""Make the graph of a model without a transformer: its head works on token ids alone."""

import onnx_ir as ir
from embedder.artifact.manifest import TEXT

from embedder_export.body.contract import NATIVE, Body, BodySizes
from embedder_export.graph.operators import Operators, new_graph, new_model


def static_bodies(vocabulary_size: int) -> dict[str, Body]:
    """Return a graph of texts without a transformer.

    Args:
        vocabulary_size: number of token ids.

    Example:
        >>> static_bodies(30522)["text"].sizes.vocabulary_size
        30522
    """
    graph = new_graph()
    op = Operators(graph, "body")
    mask = op.Unsqueeze(op.Cast(graph.inputs[1], to=ir.DataType.FLOAT), op.constant([-1]))
    return {TEXT: Body([(NATIVE, new_model(graph, mask, 1))], BodySizes(1, vocabulary_size=vocabulary_size))}
