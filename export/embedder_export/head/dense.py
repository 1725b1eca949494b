"""Write the heads of dense vectors, of scores and of token vectors: a pooling and the layers before and after it.

The formulas and epsilons are the same as in sentence-transformers' modules with the same names.
"""

from dataclasses import dataclass

import onnx_ir as ir
from embedder.artifact.manifest import GRAPH_INPUTS, POOLING_MASK, Output

from embedder_export.body.contract import POOLED
from embedder_export.checkpoint.layers import TOKENS, Dense, Layer, LayerNorm, Normalize, Pooling, Truncate
from embedder_export.errors import CheckpointError
from embedder_export.graph.operators import ACTIVATIONS, Operators
from embedder_export.head.poolings import POOLINGS, PoolingInputs, write_last_but

OUTPUT, SCORES = "embedding", "scores"
# The names of the head's constants begin with this prefix.
PREFIX = "head"


@dataclass(frozen=True)
class _Vectors:
    """The result of the layers so far.

    Attributes:
        tokens: the token vectors, float32 (batch, sequence, width).
        pooled: the pooled vector, float32 (batch, dimension). Before the pooling it is meaningless.
        dimension: length of the vectors that the next layer takes.
    """

    tokens: ir.Value
    pooled: ir.Value
    dimension: int


def add_dense_head(graph: ir.Graph, layers: tuple[Layer, ...], width: int) -> tuple[Output, ...]:
    """Change `graph` so that it ends in the output `embedding`, float32 (batch, dimension).

    Args:
        graph: a graph that ends in token vectors, or in one vector for each text or image.
        layers: the checkpoint's layers.
        width: length of the transformer's vectors.

    Returns:
        The output's description for the manifest.

    Raises:
        CheckpointError: a layer is made for vectors of another length.

    Example:
        >>> add_dense_head(graph, (Pooling(("mean",), True), Normalize()), 384)  # doctest: +SKIP
        (Output(name='embedding', kind='dense', shape=(384,)),)
    """
    return (Output(OUTPUT, "dense", (_write_pooled(graph, layers, width, OUTPUT),)),)


def add_score_head(graph: ir.Graph, layers: tuple[Layer, ...], width: int) -> tuple[Output, ...]:
    """Change `graph` so that it ends in the output `scores`, float32 (pairs, labels). They have no activation.

    Args:
        graph: a graph that ends in token vectors, in the vector of each pair's first token, or in scores.
        layers: the checkpoint's layers. Without layers, the graph ends in scores.
        width: length of the vectors, or number of scores.

    Returns:
        The output's description for the manifest.

    Raises:
        CheckpointError: a layer is made for vectors of another length.

    Example:
        >>> add_score_head(graph, read_head(directory, BERT, 1), 384)  # doctest: +SKIP
        (Output(name='scores', kind='score', shape=(1,)),)
    """
    return (Output(SCORES, "score", (_write_pooled(graph, layers, width, SCORES),)),)


def add_token_head(graph: ir.Graph, layers: tuple[Layer, ...], width: int) -> tuple[Output, ...]:
    """Change `graph` so that it ends in the output `token_embeddings`, float32 (batch, sequence, dimension).

    Args:
        graph: a graph that ends in token vectors.
        layers: the checkpoint's layers. All of them take the vectors of tokens.
        width: length of the transformer's vectors.

    Returns:
        The output's description for the manifest.

    Raises:
        CheckpointError: a layer is made for vectors of another length.

    Example:
        >>> add_token_head(graph, (Normalize(TOKENS),), 384)  # doctest: +SKIP
        (Output(name='token_embeddings', kind='token', shape=(None, 384)),)
    """
    op = Operators(graph, PREFIX)
    vectors = _write_layers(op, graph, layers, width)
    _end_with(op, graph, vectors.tokens, TOKENS, ["batch_size", "sequence_length", vectors.dimension])
    return (Output(TOKENS, "token", (None, vectors.dimension)),)


def _write_pooled(graph: ir.Graph, layers: tuple[Layer, ...], width: int, name: str) -> int:
    """Let `graph` end in the pooled result of `layers`, float32 (batch, size), under `name`. Return the size."""
    op = Operators(graph, PREFIX)
    vectors = _write_layers(op, graph, layers, width)
    _end_with(op, graph, vectors.pooled, name, ["batch_size", vectors.dimension])
    return vectors.dimension


def _write_layers(op: Operators, graph: ir.Graph, layers: tuple[Layer, ...], width: int) -> _Vectors:
    end = graph.outputs[0]
    vectors = _Vectors(end, end, width)
    is_pooled = end.name == POOLED
    for layer in layers:
        if is_pooled and isinstance(layer, Pooling):  # the graph gives only the vector that this layer would choose
            continue
        _check_width(layer, vectors.dimension)
        vectors = _write_layer(op, graph, vectors, layer)
    return vectors


def _end_with(op: Operators, graph: ir.Graph, value: ir.Value, name: str, shape: list[int | str]) -> None:
    """Let `graph` end in `value`, float32, under `name`."""
    output = op.Identity(value)
    output.name, output.dtype, output.shape = name, ir.DataType.FLOAT, ir.Shape(shape)
    graph.outputs[:] = [output]


def _check_width(layer: Layer, dimension: int) -> None:
    if isinstance(layer, Dense | LayerNorm) and layer.weight.shape[-1] != dimension:
        raise CheckpointError(
            f"the checkpoint's {type(layer).__name__} takes vectors of length {layer.weight.shape[-1]}, and is given "
            f"vectors of length {dimension}"
        )


def _write_layer(op: Operators, graph: ir.Graph, vectors: _Vectors, layer: Layer) -> _Vectors:
    tokens, pooled, dimension = vectors.tokens, vectors.pooled, vectors.dimension
    if isinstance(layer, Pooling):
        return _Vectors(tokens, _write_pooling(op, graph, tokens, layer), dimension * len(layer.modes))
    if isinstance(layer, Dense):
        if layer.feature == TOKENS:
            return _Vectors(_write_dense(op, tokens, layer), pooled, len(layer.weight))
        return _Vectors(tokens, _write_dense(op, pooled, layer), len(layer.weight))
    if isinstance(layer, LayerNorm):
        scale, shift = op.constant(layer.weight), op.constant(layer.bias)
        normed = op.LayerNormalization(pooled, scale, shift, epsilon=layer.epsilon)
        return _Vectors(tokens, normed, dimension)
    if isinstance(layer, Normalize):
        if layer.feature == TOKENS:
            return _Vectors(_write_normalize(op, tokens, axis=2), pooled, dimension)
        return _Vectors(tokens, _write_normalize(op, pooled, axis=1), dimension)
    assert isinstance(layer, Truncate)  # other layers have heads of their own
    return _write_truncate(op, vectors, layer)


def _write_pooling(op: Operators, graph: ir.Graph, tokens: ir.Value, pooling: Pooling) -> ir.Value:
    input_ids, attention_mask = (next(value for value in graph.inputs if value.name == name) for name in GRAPH_INPUTS)
    if pooling.padding_id is not None:
        return write_last_but(op, tokens, op.differ(input_ids, op.constant(pooling.padding_id)), attention_mask)
    pooled_mask = attention_mask
    if not pooling.include_prompt:
        pooled_mask = ir.Value(name=POOLING_MASK, type=attention_mask.type, shape=attention_mask.shape)
        graph.inputs.append(pooled_mask)
    mask, attention = (op.Cast(value, to=ir.DataType.FLOAT) for value in (pooled_mask, attention_mask))
    given = PoolingInputs(tokens, mask, attention)
    pooled = [POOLINGS[mode].write(op, given) for mode in pooling.modes]
    return pooled[0] if len(pooled) == 1 else op.Concat(*pooled, axis=1)


def _write_dense(op: Operators, vectors: ir.Value, layer: Dense) -> ir.Value:
    result = op.MatMul(vectors, op.constant(layer.weight.T))
    if layer.bias is not None:
        result = op.Add(result, op.constant(layer.bias))
    result = ACTIVATIONS[layer.activation](op, result)
    if not layer.is_residual:
        return result
    residual = vectors if layer.residual is None else op.MatMul(vectors, op.constant(layer.residual.T))
    return op.Add(result, residual)


def _write_normalize(op: Operators, vectors: ir.Value, axis: int) -> ir.Value:
    """Write vectors / max(|vectors|, 1e-12)."""
    norm = op.ReduceL2(vectors, op.constant([axis]), keepdims=1)
    return op.Div(vectors, op.Max(norm, op.constant(1e-12)))


def _write_truncate(op: Operators, vectors: _Vectors, layer: Truncate) -> _Vectors:
    dimension = min(vectors.dimension, layer.dimension)
    pooled = op.Slice(vectors.pooled, *(op.constant([value]) for value in (0, dimension, 1)))
    return _Vectors(vectors.tokens, pooled, dimension)
