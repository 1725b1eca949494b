"""Write attention for long texts in blocks of queries, so that its memory does not grow with the square of the length.

A round of a loop computes the scores of one block of queries. With "causal" and with a window, a round reads only the
keys that its queries attend to. Measured in milliseconds, for 16 heads of 128 numbers with 8 heads of keys, two threads
with AVX-512:

    tokens                                  512     2,048
    all scores at once, causal              32      490
    blocks of 128 queries, causal           34      370
    blocks of 256 queries, causal           39      340
    blocks of 256 queries, window of 512    39      250

At 8,192 tokens the scores of a block of 256 queries take 0.13 GB. All scores would take 4.3 GB.
"""

from dataclasses import replace

import onnx_ir as ir

from embedder_export.body.attention import MAX_SCORED_TOKENS, Attention, Projections, scored_attention
from embedder_export.graph.operators import Operators

_BLOCK_TOKENS = MAX_SCORED_TOKENS


def visible_tokens(
    op: Operators, rows: ir.Value, columns: ir.Value, spec: Attention, token_counts: ir.Value | None
) -> ir.Value | None:
    """Write which tokens attend to which. Return None if each attends to all.

    Args:
        op: writes the nodes.
        rows: the positions of the tokens that attend, int64 (rows,).
        columns: the positions of the tokens that are attended to, int64 (columns,).
        spec: which tokens a token attends to.
        token_counts: as in `Projections`.

    Returns:
        bool (rows, columns), or (batch, 1, rows, columns) if there are token counts.

    Example:
        >>> mask = visible_tokens(op, positions, positions, spec, None)  # doctest: +SKIP
    """
    distance = op.Sub(op.Unsqueeze(rows, op.constant([1])), op.Unsqueeze(columns, op.constant([0])))
    is_causal, conditions = spec.mask == "causal", []
    if is_causal:
        conditions.append(op.GreaterOrEqual(distance, op.constant(0)))
    if spec.window is not None:
        conditions.append(op.LessOrEqual(op.Abs(distance), op.constant(spec.window)))
    if token_counts is not None:
        counts = op.Unsqueeze(token_counts, op.constant([1, 2, 3]))
        # Padding attends to itself. If it attended to nothing, its vector would not be finite.
        is_same = op.Equal(distance, op.constant(0))
        conditions.append(op.Or(op.Less(columns, counts), is_same))
    if not conditions:
        return None
    mask = conditions[0]
    for condition in conditions[1:]:
        mask = op.And(mask, condition)
    return mask


def attention_in_blocks_if_long(op: Operators, given: Projections, spec: Attention, length: ir.Value) -> ir.Value:
    """Write attention that takes little memory for long texts: (batch, sequence, inner).

    Args:
        op: writes the nodes.
        given: the inputs. They have no bias.
        spec: the names and sizes.
        length: number of tokens of each text, padding included, int64 (1,).

    Example:
        >>> mixed = attention_in_blocks_if_long(op, projections, spec, length)  # doctest: +SKIP
    """
    has_effect = spec.window is not None and spec.window < MAX_SCORED_TOKENS - 1

    def write_short(op: Operators) -> ir.Value:
        return masked_attention(op, given, spec, length) if has_effect else scored_attention(op, given, spec)

    return op.If(
        op.Greater(length, op.constant([MAX_SCORED_TOKENS])),
        then_branch=op.branch(f"{spec.output}/long", lambda op: attention_in_blocks(op, given, spec, length)),
        else_branch=op.branch(f"{spec.output}/short", write_short),
    )


def masked_attention(op: Operators, given: Projections, spec: Attention, length: ir.Value) -> ir.Value:
    """Write attention that holds all scores, with a window: (batch, sequence, inner).

    `attention_in_blocks_if_long` describes the arguments.

    Example:
        >>> mixed = masked_attention(op, projections, spec, length)  # doctest: +SKIP
    """
    positions = _range(op, op.constant([0]), length)
    mask = visible_tokens(op, positions, positions, spec, given.token_counts)
    return scored_attention(op, replace(given, bias=mask, token_counts=None), replace(spec, mask="none"))


def attention_in_blocks(op: Operators, given: Projections, spec: Attention, length: ir.Value) -> ir.Value:
    """Write attention for texts of any length: (batch, sequence, inner).

    `attention_in_blocks_if_long` describes the arguments.

    Example:
        >>> mixed = attention_in_blocks(op, projections, spec, length)  # doctest: +SKIP
    """
    block = op.constant([_BLOCK_TOKENS])
    count = op.Div(op.Add(length, op.constant([_BLOCK_TOKENS - 1])), block)
    padded = op.Mul(count, block)
    pads = op.Concat(op.constant([0, 0, 0, 0]), op.Sub(padded, length), op.constant([0]), axis=0)
    queries = op.Pad(given.query, pads)

    def write_block(op: Operators, step: ir.Value) -> ir.Value:
        start = op.Mul(op.Unsqueeze(step, op.constant([0])), op.constant([_BLOCK_TOKENS]))
        end = op.Add(start, op.constant([_BLOCK_TOKENS]))
        first, last = _seen(op, start, end, length, spec)
        key_width = spec.projected_width(spec.key)
        block = Projections(
            _slice(op, queries, (start, end), spec.inner),
            _slice(op, given.key, (first, last), key_width),
            _slice(op, given.value, (first, last), key_width),
        )
        # The queries after the last token take its position. Their results are cut off.
        rows = op.Min(_range(op, start, end), op.Sub(length, op.constant([1])))
        mask = visible_tokens(op, rows, _range(op, first, last), spec, given.token_counts)
        return scored_attention(op, replace(block, bias=mask), replace(spec, mask="none"))

    blocks = op.loop(f"{spec.output}/blocks", op.Squeeze(count), write_block)
    batch = op.Shape(given.query, start=0, end=1)
    shape = op.Concat(batch, padded, op.constant([spec.inner]), axis=0)
    joined = op.Reshape(op.Transpose(blocks, perm=[1, 0, 2, 3]), shape)
    return op.Slice(joined, op.constant([0]), length, op.constant([1]))


def _seen(
    op: Operators, start: ir.Value, end: ir.Value, length: ir.Value, spec: Attention
) -> tuple[ir.Value, ir.Value]:
    """Write the positions from and to which the tokens from `start` to `end` attend, int64 (1,) each."""
    first, last = op.constant([0]), length
    if spec.window is not None:
        first = op.Max(op.Sub(start, op.constant([spec.window])), op.constant([0]))
        last = op.Min(op.Add(end, op.constant([spec.window])), length)
    if spec.mask == "causal":
        last = op.Min(end, length)
    return first, last


def _slice(op: Operators, x: ir.Value, limits: tuple[ir.Value, ir.Value], width: int) -> ir.Value:
    """Write the vectors of the tokens within `limits`, (batch, tokens, width)."""
    found = op.Slice(x, *limits, op.constant([1]))
    # As in `Network`, onnxruntime needs the width to find out that of Attention's output.
    found.dtype, found.shape = ir.DataType.FLOAT, ir.Shape([None, None, width])
    return found


def _range(op: Operators, start: ir.Value, end: ir.Value) -> ir.Value:
    return op.Range(op.Squeeze(start), op.Squeeze(end), op.constant(1))
