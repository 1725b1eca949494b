"""Write biases of the attention scores that depend on the distance of two tokens.

A distance is the position of the key minus the position of the query.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from embedder_export.checkpoint.weights import lazy
from embedder_export.graph.operators import Operators

# Added to the score of a token that is not attended to. Its share becomes exactly 0.
HIDDEN = -1e9


@dataclass(frozen=True)
class RelativeBias:
    """A learnt bias of the attention scores. It has a value for each head and each bucket of distances.

    Attributes:
        name: the name of its table, float32 (rows, heads).
        rows: number of rows of the table.
        heads: number of heads.
        buckets: number of rows that are used.
        max_distance: distances from here on share a bucket, in tokens.
    """

    name: str
    rows: int
    heads: int
    buckets: int
    max_distance: int


def write_relative_bias(op: Operators, table: ir.TensorProtocol, spec: RelativeBias, length: ir.Value) -> ir.Value:
    """Write the bias of each pair of tokens, (1, heads, sequence, sequence).

    Args:
        op: writes the nodes.
        table: the weight `spec.name`.
        spec: the name and sizes.
        length: number of tokens of the batch's texts, int64 (1,).

    Example:
        >>> bias = write_relative_bias(op, table, spec, length)  # doctest: +SKIP
    """
    furthest = spec.max_distance
    numbers = bucket(np.arange(-furthest, furthest + 1), spec.buckets, furthest)
    return by_distance(op, op.initializer(lazy(lambda: table.numpy()[numbers], (len(numbers), spec.heads))), length)


def window_table(window: int) -> NDArray[np.float32]:
    """Return the bias of each distance that hides tokens farther than `window`, for `by_distance`.

    Example:
        >>> window_table(1).ravel().tolist()
        [-1000000000.0, 0.0, 0.0, 0.0, -1000000000.0]
    """
    table = np.zeros((2 * window + 3, 1), np.float32)
    table[[0, -1]] = HIDDEN
    return table


def write_alibi_bias(op: Operators, slopes: Sequence[float], queries: ir.Value, keys: ir.Value) -> ir.Value:
    """Write the bias -slope * |distance| of each head: (1, heads, queries, keys).

    ALiBi is from Press et al., 2022: https://arxiv.org/abs/2108.12409. Here it has both directions.

    Args:
        op: writes the nodes.
        slopes: the slope of each head.
        queries: positions of the queries, int64 (queries,).
        keys: positions of the keys, int64 (keys,).

    Example:
        >>> bias = write_alibi_bias(op, alibi_slopes(12), positions, positions)  # doctest: +SKIP
    """
    distance = op.Cast(op.Abs(_distance(op, queries, keys)), to=ir.DataType.FLOAT)
    return op.Mul(distance, op.constant(np.array(slopes, np.float32).reshape(1, -1, 1, 1) * -1))


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """Return the slope of each head, as the authors of ALiBi define it.

    Example:
        >>> alibi_slopes(4)
        (0.25, 0.0625, 0.015625, 0.00390625)
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (index + 1) / power) for index in range(power)]
    # Further heads take every other slope of twice as many heads.
    return (*slopes, *alibi_slopes(2 * power)[0::2][: heads - power]) if heads > power else tuple(slopes)


def positions(op: Operators, length: ir.Value) -> ir.Value:
    """Write the positions 0, 1, 2 ... of a text of `length` tokens, int64 (sequence,).

    Example:
        >>> rows = positions(op, length)  # doctest: +SKIP
    """
    return op.Range(op.constant(0), op.Squeeze(length), op.constant(1))


def _distance(op: Operators, queries: ir.Value, keys: ir.Value) -> ir.Value:
    return op.Sub(op.Unsqueeze(keys, op.constant([0])), op.Unsqueeze(queries, op.constant([1])))


def by_distance(op: Operators, biases: ir.Value, length: ir.Value) -> ir.Value:
    """Write the bias of each pair of tokens, (1, heads, sequence, sequence).

    Args:
        op: writes the nodes.
        biases: the bias of each distance from -n to n, float32 (2 * n + 1, heads). Larger distances have the bias of n.
        length: number of tokens of the batch's texts, int64 (1,).

    Example:
        >>> bias = by_distance(op, op.constant(window_table(64)), length)  # doctest: +SKIP
    """
    assert biases.const_value is not None  # the callers give constants
    furthest = biases.const_value.shape.numpy()[0] // 2
    rows = positions(op, length)
    distance = op.Clip(_distance(op, rows, rows), op.constant(-furthest), op.constant(furthest))
    by_pair = op.Gather(biases, op.Add(distance, op.constant(furthest)))
    return op.Unsqueeze(op.Transpose(by_pair, perm=[2, 0, 1]), op.constant([0]))


def bucket(distances: NDArray[np.int64], buckets: int, max_distance: int) -> NDArray[np.int64]:
    """Return T5's bucket of each distance, from 0 to `buckets` - 1.

    The source is section 2.1 of Raffel et al., 2020: https://arxiv.org/abs/1910.10683.

    A distance is the position of the key minus the position of the query. The lower half of the buckets is for keys up
    to the query, the upper half for keys after it. In each half, the first buckets hold one distance each. The other
    buckets hold ranges that grow logarithmically up to `max_distance`.

    The function computes in float32, as transformers does: near a bucket's limit float64 would give another bucket.

    Args:
        distances: int64 of any shape, in tokens.
        buckets: number of buckets, 4 or more.
        max_distance: distances from here on share a bucket. It is larger than `buckets` // 4.

    Example:
        >>> bucket(np.array([-200, -9, -1, 0, 1]), 32, 128)
        array([15,  8,  1,  0, 17])
    """
    half = buckets // 2
    exact = half // 2
    far = np.maximum(np.abs(distances), exact).astype(np.float32) / np.float32(exact)
    steps = np.log(far) / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    logarithmic = np.minimum(exact + steps.astype(np.int64), half - 1)
    within = np.where(np.abs(distances) < exact, np.abs(distances), logarithmic)
    return np.where(distances > 0, half, 0) + within
