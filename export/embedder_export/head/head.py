"""Third stage: pooling and what follows it as nodes of the graph, so that the runtime needs to know of none of it.

The formulas, epsilons included, are those of sentence-transformers' modules of the same names.
"""

import onnx_ir as ir
from embedder.artifact.manifest import GRAPH_INPUTS, POOLING_MASK

from embedder_export.checkpoint.modules import TOKENS, Dense, Layer, LayerNorm, Normalize, Pooling, Truncate
from embedder_export.errors import CheckpointError
from embedder_export.graph.operators import ACTIVATIONS, Operators

OUTPUT = "embedding"
# Of the names of its constants.
PREFIX = "head"
_TORCH_LAYER_NORM_EPSILON = 1e-5


def add_head(graph: ir.Graph, layers: tuple[Layer, ...], hidden_size: int) -> int:
    """Change `graph` to have one output, `embedding`, float32 of shape (batch, dimension); returns the dimension.

    Raises:
        CheckpointError: a layer is made for vectors of another length than the layer before it gives.
    """
    op = Operators(graph, PREFIX)
    tokens = vectors = graph.outputs[0]
    dimension = hidden_size
    for layer in layers:
        _check_width(layer, dimension)
        if isinstance(layer, Pooling):
            vectors = _pool(op, graph, tokens, layer)
            dimension *= len(layer.modes)
        elif isinstance(layer, Dense):
            if layer.feature == TOKENS:
                tokens = _dense(op, tokens, layer)
            else:
                vectors = _dense(op, vectors, layer)
            dimension = len(layer.weight)
        elif isinstance(layer, LayerNorm):
            scale, shift = op.constant(layer.weight), op.constant(layer.bias)
            vectors = op.LayerNormalization(vectors, scale, shift, epsilon=_TORCH_LAYER_NORM_EPSILON)
        elif isinstance(layer, Normalize):
            vectors = _normalize(op, vectors)
        elif isinstance(layer, Truncate):
            dimension = min(dimension, layer.dimension)
            vectors = op.Slice(vectors, *(op.constant([value]) for value in (0, dimension, 1)))
    output = op.Identity(vectors)
    output.name, output.dtype, output.shape = OUTPUT, ir.DataType.FLOAT, ir.Shape(["batch_size", dimension])
    graph.outputs[:] = [output]
    return dimension


def _check_width(layer: Layer, dimension: int) -> None:
    if isinstance(layer, Dense | LayerNorm) and layer.weight.shape[-1] != dimension:
        raise CheckpointError(
            f"the checkpoint's {type(layer).__name__} takes vectors of {layer.weight.shape[-1]} numbers, and is given "
            f"ones of {dimension}"
        )


def _pool(op: Operators, graph: ir.Graph, tokens: ir.Value, pooling: Pooling) -> ir.Value:
    (attention_mask,) = (value for value in graph.inputs if value.name == GRAPH_INPUTS[1])
    pooled_mask = attention_mask
    if not pooling.include_prompt:
        pooled_mask = ir.Value(name=POOLING_MASK, type=attention_mask.type, shape=attention_mask.shape)
        graph.inputs.append(pooled_mask)
    mask, attention = (op.Cast(value, to=ir.DataType.FLOAT) for value in (pooled_mask, attention_mask))
    pooled = [_POOLINGS[mode](op, tokens, mask, attention) for mode in pooling.modes]
    return pooled[0] if len(pooled) == 1 else op.Concat(*pooled, axis=1)


def _cls(op: Operators, tokens: ir.Value, mask: ir.Value, attention: ir.Value) -> ir.Value:
    """The first token in the mask; without any, the first."""
    return op.GatherND(tokens, op.ArgMax(mask, axis=1), batch_dims=1)


def _last_token(op: Operators, tokens: ir.Value, mask: ir.Value, attention: ir.Value) -> ir.Value:
    """The last token in the mask; without any, zero."""
    last = op.ArgMax(op.Mul(mask, _positions(op, mask)), axis=1)
    return op.GatherND(_masked(op, tokens, mask), last, batch_dims=1)


def _max(op: Operators, tokens: ir.Value, mask: ir.Value, attention: ir.Value) -> ir.Value:
    outside = op.Equal(_column(op, mask), op.constant(0.0))
    masked = op.Where(outside, op.constant(float("-inf")), tokens)
    return op.ReduceMax(masked, op.constant([1]), keepdims=0)


def _mean(op: Operators, tokens: ir.Value, mask: ir.Value, attention: ir.Value) -> ir.Value:
    """sum(tokens * mask) / max(sum(mask), 1e-9), over the sequence."""
    return op.Div(*_total_and_count(op, tokens, mask))


def _mean_sqrt_len(op: Operators, tokens: ir.Value, mask: ir.Value, attention: ir.Value) -> ir.Value:
    total, count = _total_and_count(op, tokens, mask)
    return op.Div(total, op.Sqrt(count))


def _weighted_mean(op: Operators, tokens: ir.Value, mask: ir.Value, attention: ir.Value) -> ir.Value:
    """The mean weighted by position, from 1, which the prompt's tokens count for too."""
    return op.Div(*_total_and_count(op, tokens, op.Mul(mask, _positions(op, attention))))


_POOLINGS = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last_token,
}


def _total_and_count(op: Operators, tokens: ir.Value, weights: ir.Value) -> tuple[ir.Value, ir.Value]:
    total = op.ReduceSum(_masked(op, tokens, weights), op.constant([1]), keepdims=0)
    count = op.ReduceSum(_column(op, weights), op.constant([1]), keepdims=0)
    return total, op.Max(count, op.constant(1e-9))


def _positions(op: Operators, mask: ir.Value) -> ir.Value:
    return op.CumSum(mask, op.constant(1))


def _masked(op: Operators, tokens: ir.Value, mask: ir.Value) -> ir.Value:
    return op.Mul(tokens, _column(op, mask))


def _column(op: Operators, mask: ir.Value) -> ir.Value:
    return op.Unsqueeze(mask, op.constant([-1]))


def _dense(op: Operators, vectors: ir.Value, layer: Dense) -> ir.Value:
    vectors = op.MatMul(vectors, op.constant(layer.weight.T))
    if layer.bias is not None:
        vectors = op.Add(vectors, op.constant(layer.bias))
    return ACTIVATIONS[layer.activation](op, vectors)


def _normalize(op: Operators, vectors: ir.Value) -> ir.Value:
    """Vectors / max(|vectors|, 1e-12)."""
    norm = op.ReduceL2(vectors, op.constant([1]), keepdims=1)
    return op.Div(vectors, op.Max(norm, op.constant(1e-12)))
