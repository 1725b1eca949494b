"""Write the heads of sparse models: one number for each word of the vocabulary, or for each token id.

The scores of all words for all tokens would be the largest numbers of the whole graph: 512 tokens and 250,002
words make 512 MB. They are computed in blocks of words, and each block is pooled at once. The weights of a block are a
constant of their own, so that onnxruntime packs them once. A block that fits into the cache is also pooled faster.

Logarithms and their sums are computed in float64. In float32, onnxruntime computes the last few logarithms of an array
by another formula, and adds numbers in an order that depends on the padding. So the last bit of a weight would depend
on the batch.
"""

from functools import partial

import numpy as np
import onnx_ir as ir
from embedder.artifact.manifest import GRAPH_INPUTS, Output

from embedder_export.checkpoint.layers import Layer
from embedder_export.checkpoint.sparse_layers import (
    LOG1P_RELU,
    SUM,
    SpladePooling,
    StaticWeights,
    TokenWeights,
    WordScores,
)
from embedder_export.checkpoint.weights import Floats, lazy
from embedder_export.errors import CheckpointError
from embedder_export.graph.operators import ACTIVATIONS, Operators
from embedder_export.head.dense import PREFIX

OUTPUT = "weights"
# Most words of a block. The sum has float64 numbers for all tokens of a block, and the maximum has none.
_BLOCK_WORDS = 8192
_SUM_BLOCK_WORDS = 2048
# The names of the constants of a language model's head begin with this. int8 leaves out only those of `PREFIX`.
_WORDS_PREFIX = "words"


def add_sparse_head(graph: ir.Graph, layers: tuple[Layer, ...], width: int) -> tuple[Output, ...]:
    """Change `graph` so that it ends in the output `weights`, float32 (batch, words). Most numbers are 0.

    Args:
        graph: a graph that ends in token vectors.
        layers: the checkpoint's layers.
        width: length of the token vectors.

    Returns:
        The output's description for the manifest.

    Raises:
        CheckpointError: a layer is made for vectors of another length.

    Example:
        >>> add_sparse_head(graph, (word_scores, SpladePooling()), 768)  # doctest: +SKIP
        (Output(name='weights', kind='sparse', shape=(30522,)),)
    """
    first = layers[0]
    if isinstance(first, StaticWeights):
        count, output = len(first.weights), _write_static(graph, first)
    elif isinstance(first, TokenWeights):
        _check_width(first.weight, width)
        count, output = first.vocabulary_size, _write_token_weights(graph, first)
    else:
        pooling = layers[1]
        assert isinstance(first, WordScores)  # `read_sparse` made sure
        assert isinstance(pooling, SpladePooling)
        _check_width(first.dense, width)
        count, output = len(first.bias), _write_splade(graph, first, pooling, width)
    output.name, output.dtype = OUTPUT, ir.DataType.FLOAT
    output.shape = ir.Shape(["batch_size", count])
    graph.outputs[:] = [output]
    return (Output(OUTPUT, "sparse", (count,)),)


def _check_width(weight: Floats, width: int) -> None:
    if weight.shape[1] != width:
        raise CheckpointError(
            f"the checkpoint's head takes vectors of length {weight.shape[1]}, and is given vectors of length {width}"
        )


def _inputs(graph: ir.Graph) -> tuple[ir.Value, ir.Value]:
    """Return the token ids and the attention mask, int64 (batch, sequence)."""
    by_name = {value.name: value for value in graph.inputs}
    return by_name[GRAPH_INPUTS[0]], by_name[GRAPH_INPUTS[1]]


def _write_splade(graph: ir.Graph, words: WordScores, pooling: SpladePooling, width: int) -> ir.Value:
    """Write the pooled scores of all words, (batch, words)."""
    op = Operators(graph, _WORDS_PREFIX)
    _, attention_mask = _inputs(graph)
    tokens = _without_padding(op, graph.outputs[0], attention_mask)
    x = op.Reshape(tokens, op.constant([-1, width]))
    bias = [] if words.dense_bias is None else [op.constant(words.dense_bias)]
    x = ACTIVATIONS[words.activation](op, op.Gemm(x, op.constant(words.dense), *bias, transB=1))
    x = op.LayerNormalization(x, *(op.constant(part) for part in words.norm), epsilon=words.norm_epsilon)
    if pooling.strategy == SUM:
        return _write_sum(op, x, words, pooling, attention_mask)
    # The maximum is taken first: no step after it changes the order of numbers.
    pooled = [
        op.ReduceMax(_by_text(op, op.Gemm(x, block, transB=1), attention_mask, count), op.constant([1]), keepdims=0)
        for block, _, count in _blocks(op, words, _BLOCK_WORDS)
    ]
    highest = op.Add(_joined(op, pooled), op.constant(words.bias))
    return op.Cast(_write_activation(op, highest, pooling), to=ir.DataType.FLOAT)


def _write_sum(
    op: Operators, x: ir.Value, words: WordScores, pooling: SpladePooling, attention_mask: ir.Value
) -> ir.Value:
    """Write the sum over the tokens of each text, (batch, words)."""
    counted = op.Unsqueeze(op.Cast(attention_mask, to=ir.DataType.DOUBLE), op.constant([1]))
    sums = []
    for block, start, count in _blocks(op, words, _SUM_BLOCK_WORDS):
        bias = op.constant(words.bias[start : start + count])
        weights = _write_activation(op, op.Gemm(x, block, bias, transB=1), pooling)
        total = op.MatMul(counted, _by_text(op, weights, attention_mask, count))
        sums.append(op.Cast(op.Squeeze(total, op.constant([1])), to=ir.DataType.FLOAT))
    return _joined(op, sums)


def _without_padding(op: Operators, tokens: ir.Value, attention_mask: ir.Value) -> ir.Value:
    """Write the token vectors with that of the first token in place of the padding. The maximum stays the same."""
    inside = op.Unsqueeze(op.Cast(attention_mask, to=ir.DataType.BOOL), op.constant([-1]))
    first = op.Slice(tokens, op.constant([0]), op.constant([1]), op.constant([1]))
    return op.Where(inside, tokens, first)


def _blocks(op: Operators, words: WordScores, most: int) -> list[tuple[ir.Value, int, int]]:
    """Return the weights of each block of words, its first word, and its number of words."""
    total, width = words.words.shape.numpy()
    size = -(-total // -(-total // most))
    found = []
    for start in range(0, total, size):
        count = min(size, total - start)
        tensor = lazy(partial(_rows, words.words, start, count), (count, width))
        found.append((op.initializer(tensor), start, count))
    return found


def _rows(tensor: ir.TensorProtocol, start: int, count: int) -> Floats:
    rows: Floats = tensor.numpy()[start : start + count]
    return rows


def _by_text(op: Operators, x: ir.Value, attention_mask: ir.Value, width: int) -> ir.Value:
    """Reshape (tokens, width) to (batch, sequence, width)."""
    shape = op.Concat(op.Shape(attention_mask), op.constant([width]), axis=0)
    return op.Reshape(x, shape)


def _joined(op: Operators, blocks: list[ir.Value]) -> ir.Value:
    return blocks[0] if len(blocks) == 1 else op.Concat(*blocks, axis=1)


def _write_activation(op: Operators, x: ir.Value, pooling: SpladePooling) -> ir.Value:
    """Write log(1 + relu(x)), or log(1 + log(1 + relu(x))), in float64."""
    one = op.constant(np.ones(1))
    x = op.Cast(op.Relu(x), to=ir.DataType.DOUBLE)
    for _ in range(2 if pooling.activation == LOG1P_RELU else 1):
        x = op.Log(op.Add(x, one))
    return x


def _write_token_weights(graph: ir.Graph, layer: TokenWeights) -> ir.Value:
    """Write the largest weight of each token id, (batch, token ids)."""
    op = Operators(graph, PREFIX)
    ids, attention_mask = _inputs(graph)
    scores = op.Add(op.MatMul(graph.outputs[0], op.constant(layer.weight.T)), op.constant(layer.bias))
    weights = op.Squeeze(op.Relu(scores), op.constant([-1]))
    weights = op.Mul(weights, op.Cast(attention_mask, to=ir.DataType.FLOAT))
    kept = np.ones(layer.vocabulary_size, np.float32)
    kept[list(layer.left_out)] = 0
    return op.Mul(_scatter(op, ids, weights, layer.vocabulary_size), op.constant(kept))


def _write_static(graph: ir.Graph, layer: StaticWeights) -> ir.Value:
    """Write the weights of the token ids that each text has, (batch, token ids)."""
    op = Operators(graph, PREFIX)
    ids, attention_mask = _inputs(graph)
    present = op.Cast(attention_mask, to=ir.DataType.FLOAT)
    return op.Mul(_scatter(op, ids, present, len(layer.weights)), op.constant(layer.weights))


def _scatter(op: Operators, ids: ir.Value, values: ir.Value, count: int) -> ir.Value:
    """Write the largest value of each token id, and 0 for the others: (batch, token ids). No value is negative."""
    shape = op.Concat(op.Shape(ids, end=1), op.constant([count]), axis=0)
    return op.ScatterElements(op.Expand(op.constant(0.0), shape), ids, values, axis=1, reduction="max")
