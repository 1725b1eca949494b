"""List the heads. The head of a task turns a transformer's output into the artifact's outputs.

A new kind of output needs a function in this folder, a row in `HEADS`, and a task in the manifest. CONTRIBUTING.md has
the other steps, under "An output".
"""

from collections.abc import Callable, Mapping

import onnx_ir as ir
from embedder.artifact.manifest import EMBED, MULTI_VECTOR, RANK, SPARSE, Output

from embedder_export.checkpoint.layers import Layer
from embedder_export.head.dense import add_dense_head, add_score_head, add_token_head
from embedder_export.head.sparse import add_sparse_head

# Called with a graph that ends in a transformer's output, the layers, and the transformer's width. It changes the graph
# and returns the graph's new outputs.
HeadWriter = Callable[[ir.Graph, tuple[Layer, ...], int], tuple[Output, ...]]

# By the manifest's task.
HEADS: Mapping[str, HeadWriter] = {
    EMBED: add_dense_head,
    RANK: add_score_head,
    SPARSE: add_sparse_head,
    MULTI_VECTOR: add_token_head,
}


def add_head(graph: ir.Graph, layers: tuple[Layer, ...], width: int, task: str = EMBED) -> tuple[Output, ...]:
    """Change `graph` so that it ends in the head of `task`.

    Args:
        graph: a graph that ends in a transformer's output.
        layers: the checkpoint's layers.
        width: length of the transformer's vectors.
        task: one of `HEADS`.

    Returns:
        The descriptions of the graph's new outputs for the manifest.

    Raises:
        CheckpointError: a layer is made for vectors of another length.

    Example:
        >>> add_head(graph, (Pooling(("mean",), True), Normalize()), 384)  # doctest: +SKIP
        (Output(name='embedding', kind='dense', shape=(384,)),)
    """
    return HEADS[task](graph, layers, width)
