"""Write attention over long texts without padding, in blocks of queries, where flash attention does not fit.

onnxruntime's flash attention takes no window, and no bias that it computes by itself. All scores of a text of 8,192
tokens would take 3.2 GB for 12 heads. So:

- With a window of up to `MAX_BATCHED_WINDOW` tokens, a block of queries attends to its own tokens and to those of the
  window before and after it. The blocks are one batch. Time and memory grow with the length of the text, and not with
  its square. They also grow with the window, so `blocks` serves wider windows, block by block.
- With ALiBi, a loop over the blocks holds the scores of one block and all tokens.
"""

import numpy as np
import onnx_ir as ir

from embedder_export.body.attention import Attention, Projections, scored_attention
from embedder_export.body.distance_bias import HIDDEN, by_distance, positions, window_table, write_alibi_bias
from embedder_export.graph.operators import Operators

# The widest window whose blocks are one batch. The scores of 12 heads and 8,192 tokens then take 200 MB.
MAX_BATCHED_WINDOW = 128
# Queries in a block of the loop. The scores of 12 heads and 8,192 tokens take 50 MB.
_LOOP_BLOCK = 128


def windowed_attention(op: Operators, given: Projections, spec: Attention, length: ir.Value) -> ir.Value:
    """Write attention to the tokens that are at most `spec.window` away: (batch, sequence, inner).

    A block has as many queries as the windows before and after a token. So a block attends to two blocks of keys,
    which begin one window before it.

    Args:
        op: writes the nodes.
        given: queries, keys and values. Their texts have no padding. The bias is that of `write_window_biases`.
        spec: the names and sizes.
        length: number of tokens of the texts, int64 (1,).

    Example:
        >>> mixed = windowed_attention(op, projections, spec, length)  # doctest: +SKIP
    """
    window = spec.window
    assert window is not None  # the caller asks for one
    block, inner = 2 * window, spec.inner
    size, one = op.constant([block]), op.constant([1])
    count = op.Div(op.Add(length, op.constant([block - 1])), size)
    end = op.Sub(op.Mul(count, size), length)
    queries = _with_shape(op.Reshape(_pad(op, given.query, 0, end), op.constant([-1, block, inner])), block, inner)
    rest = op.Add(end, op.constant([window]))
    parts = (_pad(op, x, window, rest) for x in (given.key, given.value))
    shape = op.Concat(op.constant([0]), op.Add(count, one), op.constant([block, inner]), axis=0)
    keys, values = (_pairs_of_blocks(op, op.Reshape(part, shape), spec) for part in parts)
    batch = op.Shape(given.query, start=0, end=1)
    bias = op.Expand(given.bias, op.Concat(batch, op.constant([1, 1, 1, 1]), axis=0))
    bias = op.Reshape(bias, op.constant([-1, 1, block, 2 * block]))
    mixed = scored_attention(op, Projections(queries, keys, values, bias), spec)
    mixed = op.Reshape(mixed, op.Concat(batch, op.constant([-1, inner]), axis=0))
    return op.Slice(mixed, op.constant([0]), length, one)


def _pad(op: Operators, x: ir.Value, before: int, after: ir.Value) -> ir.Value:
    """Write zeros before and after the tokens of `x`, (batch, sequence, inner)."""
    pads = op.Concat(op.constant([0, before, 0, 0]), after, op.constant([0]), axis=0)
    return op.Pad(x, pads)


def _pairs_of_blocks(op: Operators, x: ir.Value, spec: Attention) -> ir.Value:
    """Write each block with the block after it: from (batch, blocks + 1, block, inner) to (-1, 2 * block, inner)."""
    ends = [op.constant([value]) for value in (0, -1, 1, np.iinfo(np.int64).max)]
    first, second = op.Slice(x, ends[0], ends[1], ends[2]), op.Slice(x, ends[2], ends[3], ends[2])
    both, width = op.Concat(first, second, axis=2), 4 * (spec.window or 0)
    return _with_shape(op.Reshape(both, op.constant([-1, width, spec.inner])), width, spec.inner)


def write_window_biases(op: Operators, window: int, length: ir.Value, are_long: ir.Value) -> ir.Value:
    """Write the bias that hides tokens outside of the window, for texts of any length. All layers may share it.

    Args:
        op: writes the nodes.
        window: a token attends only to tokens that are at most so many tokens away.
        length: number of tokens of the batch's texts, int64 (1,).
        are_long: whether the texts are long and have no padding, bool (1,).

    Returns:
        For long texts, the bias of `windowed_attention`: (blocks, 1, block, 2 * block). For others, that of each pair
        of tokens: (1, 1, sequence, sequence).

    Example:
        >>> bias = write_window_biases(op, 64, length, are_long)  # doctest: +SKIP
    """
    block = 2 * window
    # Of the two blocks, the query of row r sees the columns r to r + 2 * window.
    column = np.arange(2 * block) - np.arange(block)[:, None]
    outside = op.constant(np.where((column >= 0) & (column <= block), 0, HIDDEN).astype(np.float32))
    table = op.constant(window_table(window))

    def write_blocks(op: Operators) -> ir.Value:
        count = op.Div(op.Add(length, op.constant([block - 1])), op.constant([block]))
        starts = op.Sub(op.Mul(positions(op, count), op.constant(block)), op.constant(window))
        keys = op.Add(op.Unsqueeze(starts, op.constant([1])), positions(op, op.constant([2 * block])))
        is_token = op.And(op.GreaterOrEqual(keys, op.constant(0)), op.Less(keys, length))
        beyond = op.Where(is_token, op.constant(0.0), op.constant(HIDDEN))
        return op.Add(outside, op.Unsqueeze(beyond, op.constant([1, 2])))

    return op.If(
        are_long,
        then_branch=op.branch(f"window {window}/long", write_blocks),
        else_branch=op.branch(f"window {window}/short", lambda op: by_distance(op, table, length)),
    )


def alibi_attention(op: Operators, given: Projections, spec: Attention, length: ir.Value) -> ir.Value:
    """Write attention with the bias of ALiBi: (batch, sequence, inner).

    Args:
        op: writes the nodes.
        given: queries, keys and values. Their texts have no padding.
        spec: the names and sizes.
        length: number of tokens of the texts, int64 (1,).

    Example:
        >>> mixed = alibi_attention(op, projections, spec, length)  # doctest: +SKIP
    """
    block, one = op.constant([_LOOP_BLOCK]), op.constant([1])
    count = op.Div(op.Add(length, op.constant([_LOOP_BLOCK - 1])), block)
    queries = _pad(op, given.query, 0, op.Sub(op.Mul(count, block), length))

    def write(op: Operators, step: ir.Value) -> ir.Value:
        start = op.Mul(op.Unsqueeze(step, op.constant([0])), block)
        rows = _with_shape(op.Slice(queries, start, op.Add(start, block), one), _LOOP_BLOCK, spec.inner)
        bias = write_alibi_bias(op, spec.slopes, op.Add(positions(op, block), start), positions(op, length))
        return scored_attention(op, Projections(rows, given.key, given.value, bias), spec)

    blocks = op.loop(f"{spec.output}/blocks", op.Squeeze(count), write)
    batch = op.Shape(given.query, start=0, end=1)
    shape = op.Concat(batch, op.constant([-1, spec.inner]), axis=0)
    mixed = op.Reshape(op.Transpose(blocks, perm=[1, 0, 2, 3]), shape)
    return op.Slice(mixed, op.constant([0]), length, one)


def _with_shape(x: ir.Value, tokens: int, inner: int) -> ir.Value:
    """Return `x`, (batch, tokens, inner), with its shape, as `Network` gives it to Attention."""
    x.dtype, x.shape = ir.DataType.FLOAT, ir.Shape([None, tokens, inner])
    return x


def write_alibi_biases(op: Operators, slopes: tuple[float, ...], length: ir.Value, are_long: ir.Value) -> ir.Value:
    """Write the bias of ALiBi for texts that are not long. All layers may share it.

    Args:
        op: writes the nodes.
        slopes: the slope of each head.
        length: number of tokens of the batch's texts, int64 (1,).
        are_long: whether the texts are long and have no padding, bool (1,).

    Returns:
        (1, heads, sequence, sequence). For long texts it is not used, and has no content.

    Example:
        >>> bias = write_alibi_biases(op, alibi_slopes(12), length, are_long)  # doctest: +SKIP
    """
    nothing = op.constant(np.zeros((1, 1, 1, 1), np.float32))

    def write(op: Operators) -> ir.Value:
        rows = positions(op, length)
        return write_alibi_bias(op, slopes, rows, rows)

    return op.If(
        are_long,
        then_branch=op.branch("alibi/long", lambda op: op.Identity(nothing)),
        else_branch=op.branch("alibi/short", write),
    )


def attention_by_distance(
    op: Operators, given: Projections, spec: Attention, length: ir.Value, are_long: ir.Value
) -> ir.Value:
    """Write attention with a window or with ALiBi for texts of any length: (batch, sequence, inner).

    Args:
        op: writes the nodes.
        given: the inputs, with the bias of `write_window_biases` or `write_alibi_biases`.
        spec: the names and sizes.
        length: number of tokens of the batch's texts, int64 (1,).
        are_long: whether the texts are long and have no padding, bool (1,).

    Example:
        >>> mixed = attention_by_distance(op, projections, spec, length, are_long)  # doctest: +SKIP
    """
    write_long = alibi_attention if spec.window is None else windowed_attention
    return op.If(
        are_long,
        then_branch=op.branch(f"{spec.output}/long", lambda op: write_long(op, given, spec, length)),
        else_branch=op.branch(f"{spec.output}/short", lambda op: scored_attention(op, given, spec)),
    )
