"""List the poolings. A new pooling needs a function here and a row in `POOLINGS`.

Names and formulas are the same as in sentence-transformers' Pooling.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from embedder_export.graph.operators import Operators


@dataclass(frozen=True)
class PoolingInputs:
    """The inputs of a pooling.

    Attributes:
        tokens: the token vectors, float32 (batch, sequence, width).
        mask: 1 for each token that is pooled, float32 (batch, sequence).
        attention: 1 for each token that is not padding, float32 (batch, sequence). Only here the prompt may count too.
    """

    tokens: ir.Value
    mask: ir.Value
    attention: ir.Value


@dataclass(frozen=True)
class PoolingMode:
    """A way to pool token vectors.

    Attributes:
        legacy_flag: its key in config.json as older versions of sentence-transformers write it.
        write: writes its nodes, and returns the pooled vectors, float32 (batch, width).
    """

    legacy_flag: str
    write: Callable[[Operators, PoolingInputs], ir.Value]


def _write_cls(op: Operators, given: PoolingInputs) -> ir.Value:
    """Write the vector of the first token in the mask. If the mask is empty, it is the first token of the sequence."""
    return op.GatherND(given.tokens, op.ArgMax(given.mask, axis=1), batch_dims=1)


def _write_max(op: Operators, given: PoolingInputs) -> ir.Value:
    """Write the maximum of each component over the tokens in the mask."""
    inside = op.Cast(_column(op, given.mask), to=ir.DataType.BOOL)
    masked = op.Where(inside, given.tokens, op.constant(float("-inf")))
    return op.ReduceMax(masked, op.constant([1]), keepdims=0)


def _write_mean(op: Operators, given: PoolingInputs) -> ir.Value:
    """Write sum(tokens * mask) / max(sum(mask), 1e-9), over the sequence."""
    return op.Div(*_sum_and_count(op, given.tokens, given.mask))


def _write_mean_sqrt_len(op: Operators, given: PoolingInputs) -> ir.Value:
    """Write sum(tokens * mask) / sqrt(max(sum(mask), 1e-9)), over the sequence."""
    total, count = _sum_and_count(op, given.tokens, given.mask)
    return op.Div(total, op.Sqrt(count))


def _write_weighted_mean(op: Operators, given: PoolingInputs) -> ir.Value:
    """Write the mean, weighted by each token's position. Positions begin at 1 and count the prompt's tokens too."""
    weights = op.Mul(given.mask, _positions(op, given.attention))
    return op.Div(*_sum_and_count(op, given.tokens, weights))


def _write_last_token(op: Operators, given: PoolingInputs) -> ir.Value:
    """Write the vector of the last token in the mask. If the mask is empty, it is zero."""
    last = op.ArgMax(op.Mul(given.mask, _positions(op, given.mask)), axis=1)
    return op.GatherND(op.Mul(given.tokens, _column(op, given.mask)), last, batch_dims=1)


def write_last_but(op: Operators, tokens: ir.Value, is_chosen: ir.Value, attention_mask: ir.Value) -> ir.Value:
    """Write the vector of the last chosen token. If no token is chosen, it is that of the first token.

    transformers pools so in its sequence classifiers of language models.

    Args:
        op: writes the nodes.
        tokens: the token vectors, float32 (batch, sequence, width).
        is_chosen: whether a token may be pooled, bool (batch, sequence).
        attention_mask: 1 for each token that is not padding, int64 (batch, sequence).

    Example:
        >>> pooled = write_last_but(op, tokens, is_chosen, attention_mask)  # doctest: +SKIP
    """
    chosen = op.Mul(op.Cast(is_chosen, to=ir.DataType.INT64), attention_mask)
    last = op.ArgMax(op.Mul(chosen, op.CumSum(attention_mask, op.constant(1))), axis=1)
    return op.GatherND(tokens, last, batch_dims=1)


def _sum_and_count(op: Operators, tokens: ir.Value, weights: ir.Value) -> tuple[ir.Value, ir.Value]:
    total = op.ReduceSum(op.Mul(tokens, _column(op, weights)), op.constant([1]), keepdims=0)
    count = op.ReduceSum(_column(op, weights), op.constant([1]), keepdims=0)
    return total, op.Max(count, op.constant(1e-9))


def _positions(op: Operators, mask: ir.Value) -> ir.Value:
    return op.CumSum(mask, op.constant(1))


def _column(op: Operators, mask: ir.Value) -> ir.Value:
    return op.Unsqueeze(mask, op.constant([-1]))


# In the order of sentence-transformers. Legacy flags of several poolings are read in this order.
POOLINGS: Mapping[str, PoolingMode] = {
    "cls": PoolingMode("pooling_mode_cls_token", _write_cls),
    "max": PoolingMode("pooling_mode_max_tokens", _write_max),
    "mean": PoolingMode("pooling_mode_mean_tokens", _write_mean),
    "mean_sqrt_len_tokens": PoolingMode("pooling_mode_mean_sqrt_len_tokens", _write_mean_sqrt_len),
    "weightedmean": PoolingMode("pooling_mode_weightedmean_tokens", _write_weighted_mean),
    "lasttoken": PoolingMode("pooling_mode_lasttoken", _write_last_token),
}
