"""The table of heads: for each task, what turns a transformer's output into the outputs of the artifact.

A new kind of output is one function here, and its task in the manifest.
"""

from collections.abc import Callable, Mapping

import onnx_ir as ir
from embedder.artifact.manifest import EMBED, Output

from embedder_export.checkpoint.layers import Layer
from embedder_export.head.dense import add_dense_head

# From a graph that ends in a transformer's output, the layers and the transformer's width to the graph's outputs.
HeadWriter = Callable[[ir.Graph, tuple[Layer, ...], int], tuple[Output, ...]]

# By the manifest's task.
HEADS: Mapping[str, HeadWriter] = {EMBED: add_dense_head}


def add_head(graph: ir.Graph, layers: tuple[Layer, ...], width: int, task: str = EMBED) -> tuple[Output, ...]:
    """Change `graph` so that it ends in the head of `task`.

    Args:
        graph: it ends in a transformer's output.
        layers: of the checkpoint.
        width: of the transformer's vectors.
        task: one of `HEADS`.

    Returns:
        The graph's new outputs, for the manifest.

    Raises:
        CheckpointError: a layer does not fit the vectors that it is given.
    """
    return HEADS[task](graph, layers, width)
