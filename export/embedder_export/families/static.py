"""Static embeddings: a text's vector is the mean of its tokens' vectors, which are in a table.

    sum over tokens of weight(token) * table[row(token)]  /  max(number of tokens, 1)

It is torch's EmbeddingBag in sentence-transformers' `StaticEmbedding`, and `StaticModel` of model2vec. A text without
tokens gets zeros, as there. model2vec also leaves out the token that stands for unknown words: the sum and the number
are without it.
"""

from dataclasses import dataclass, replace
from functools import partial

import onnx_ir as ir
from embedder.artifact.manifest import LOOKUP

from embedder_export.body.contract import Body, BodySizes
from embedder_export.checkpoint.static_table import StaticTable
from embedder_export.checkpoint.weights import Floats, lazy, shape_of
from embedder_export.dtype.fp16 import to_float16
from embedder_export.dtype.rounding import round_table
from embedder_export.errors import GraphError
from embedder_export.families.family import Family
from embedder_export.graph.operators import Operators, new_graph, new_model

# Texts of more tokens are looked up block by block, so that their vectors are never in memory together.
_BLOCK_TOKENS = 4096
_FORMATS = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16, "int8": ir.DataType.INT8}


@dataclass(frozen=True)
class StaticSettings:
    """Static embeddings have no settings in config.json that change the vectors."""


# It has no builders: `static_body` needs the tokenizer too.
STATIC: Family[StaticSettings] = Family(
    "", "", StaticSettings, builders={}, own_pooling="mean", module_classes=("StaticEmbedding",)
)


def static_body(table: StaticTable, unknown_id: int | None) -> Body:
    """Return the graph of static embeddings. It gives one vector for each text.

    Args:
        table: the vectors of the tokens.
        unknown_id: the token to leave out of the mean. None leaves out none.

    Example:
        >>> static_body(read_static_table(directory), None).sizes.width  # doctest: +SKIP
        256
    """
    write = partial(_write_graph, table, unknown_id)
    sizes = BodySizes(table.dimension, vocabulary_size=table.token_count)
    return Body([(LOOKUP, write("fp32"))], sizes, write_dtype=write)


def _write_graph(table: StaticTable, unknown_id: int | None, dtype: str) -> ir.Model:
    if dtype not in _FORMATS:
        raise GraphError("a model of static embeddings can be " + " or ".join(_FORMATS))
    graph = new_graph()
    op = Operators(graph, "body")
    ids, mask = graph.inputs
    if unknown_id is not None:
        mask = op.Mul(mask, op.Cast(op.differ(ids, op.constant(unknown_id)), to=ir.DataType.INT64))
    counted = op.Cast(mask, to=ir.DataType.FLOAT)
    table = _with_scales(table) if dtype == "int8" else table
    weights = counted
    if table.weight_of_token is not None:
        weights = op.Mul(counted, op.Gather(op.constant(table.weight_of_token), ids))
    places = ids if table.row_of_token is None else op.Gather(op.constant(table.row_of_token), ids)
    rows = op.initializer(_in_format(table.rows, dtype))
    total = _weighted_sum(op, rows, places, weights)
    count = op.Max(op.ReduceSum(counted, op.constant([1]), keepdims=1), op.constant(1.0))
    return new_model(graph, op.Div(total, count), table.dimension, pooled=True)


def _weighted_sum(op: Operators, rows: ir.Value, places: ir.Value, weights: ir.Value) -> ir.Value:
    """Write the sum of weights * rows[places] over the tokens, float32 (batch, dimension).

    Args:
        op: writes the nodes.
        rows: the table.
        places: the row of each token, int64 (batch, sequence).
        weights: the weight of each token, float32 (batch, sequence).
    """
    length, block = op.Shape(places, start=1, end=2), op.constant([_BLOCK_TOKENS])

    def write_blocks(op: Operators) -> ir.Value:
        count = op.Div(op.Add(length, op.constant([_BLOCK_TOKENS - 1])), block)

        def write_block(op: Operators, step: ir.Value) -> ir.Value:
            start = op.Mul(op.Unsqueeze(step, op.constant([0])), block)
            ends = (start, op.Add(start, block), op.constant([1]))
            return _sum_of_rows(op, rows, op.Slice(places, *ends), op.Slice(weights, *ends))

        blocks = op.loop("blocks", op.Squeeze(count), write_block)
        return op.ReduceSum(blocks, op.constant([0]), keepdims=0)

    return op.If(
        op.Greater(length, block),
        then_branch=op.branch("long", write_blocks),
        else_branch=op.branch("short", lambda op: _sum_of_rows(op, rows, places, weights)),
    )


def _sum_of_rows(op: Operators, rows: ir.Value, places: ir.Value, weights: ir.Value) -> ir.Value:
    """Write the sum as a matrix product: it reads each vector once, and needs no second array of their size."""
    vectors = op.Gather(rows, places)
    if rows.dtype != ir.DataType.FLOAT:
        vectors = op.Cast(vectors, to=ir.DataType.FLOAT)
    axis = op.constant([1])
    return op.Squeeze(op.MatMul(op.Unsqueeze(weights, axis), vectors), axis)


def _with_scales(table: StaticTable) -> StaticTable:
    """Return `table` with the scale of each rounded row in the weights of its tokens."""
    scales: Floats = round_table(table.rows, 1)[:, 0]
    of_token = scales if table.row_of_token is None else scales[table.row_of_token]
    if table.weight_of_token is not None:
        count = table.token_count
        of_token = of_token[:count] * table.weight_of_token[:count]
    return replace(table, weight_of_token=of_token)


def _in_format(rows: ir.TensorProtocol, dtype: str) -> ir.TensorProtocol:
    """Return the table in the format of `dtype`. It is converted while it is written to a file."""
    convert = {"fp16": partial(to_float16, rows), "int8": partial(round_table, rows, 0)}
    return lazy(convert[dtype], shape_of(rows), _FORMATS[dtype]) if dtype in convert else rows
