"""The table of poolings. A new pooling is one function and one line at the end.

Names and formulas are those of sentence-transformers' Pooling.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from embedder_export.graph.operators import Operators


@dataclass(frozen=True)
class PoolingInputs:
    """What a pooling is given.

    Attributes:
        tokens: the tokens' vectors, float32 (batch, sequence, width).
        mask: float32 (batch, sequence), 1 for each token that is pooled.
        attention: the same for each token that is not padding. It differs from `mask` by the prompt.
    """

    tokens: ir.Value
    mask: ir.Value
    attention: ir.Value


@dataclass(frozen=True)
class PoolingMode:
    """A way to pool.

    Attributes:
        legacy_flag: its key in the config.json of older versions of sentence-transformers.
        write: writes its nodes. They give float32 (batch, width).
    """

    legacy_flag: str
    write: Callable[[Operators, PoolingInputs], ir.Value]


def _write_cls(op: Operators, given: PoolingInputs) -> ir.Value:
    """Write the first token in the mask. Without any it is the first token."""
    return op.GatherND(given.tokens, op.ArgMax(given.mask, axis=1), batch_dims=1)


def _write_max(op: Operators, given: PoolingInputs) -> ir.Value:
    outside = op.Equal(_column(op, given.mask), op.constant(0.0))
    masked = op.Where(outside, op.constant(float("-inf")), given.tokens)
    return op.ReduceMax(masked, op.constant([1]), keepdims=0)


def _write_mean(op: Operators, given: PoolingInputs) -> ir.Value:
    """Write sum(tokens * mask) / max(sum(mask), 1e-9), over the sequence."""
    return op.Div(*_sum_and_count(op, given.tokens, given.mask))


def _write_mean_sqrt_len(op: Operators, given: PoolingInputs) -> ir.Value:
    total, count = _sum_and_count(op, given.tokens, given.mask)
    return op.Div(total, op.Sqrt(count))


def _write_weighted_mean(op: Operators, given: PoolingInputs) -> ir.Value:
    """Write the mean, weighted by position from 1. Positions count the prompt's tokens too."""
    weights = op.Mul(given.mask, _positions(op, given.attention))
    return op.Div(*_sum_and_count(op, given.tokens, weights))


def _write_last_token(op: Operators, given: PoolingInputs) -> ir.Value:
    """Write the last token in the mask. Without any it is zero."""
    last = op.ArgMax(op.Mul(given.mask, _positions(op, given.mask)), axis=1)
    return op.GatherND(op.Mul(given.tokens, _column(op, given.mask)), last, batch_dims=1)


def _sum_and_count(op: Operators, tokens: ir.Value, weights: ir.Value) -> tuple[ir.Value, ir.Value]:
    total = op.ReduceSum(op.Mul(tokens, _column(op, weights)), op.constant([1]), keepdims=0)
    count = op.ReduceSum(_column(op, weights), op.constant([1]), keepdims=0)
    return total, op.Max(count, op.constant(1e-9))


def _positions(op: Operators, mask: ir.Value) -> ir.Value:
    return op.CumSum(mask, op.constant(1))


def _column(op: Operators, mask: ir.Value) -> ir.Value:
    return op.Unsqueeze(mask, op.constant([-1]))


# In the order of sentence-transformers. The results of several poolings are laid end to end in this order.
POOLINGS: Mapping[str, PoolingMode] = {
    "cls": PoolingMode("pooling_mode_cls_token", _write_cls),
    "max": PoolingMode("pooling_mode_max_tokens", _write_max),
    "mean": PoolingMode("pooling_mode_mean_tokens", _write_mean),
    "mean_sqrt_len_tokens": PoolingMode("pooling_mode_mean_sqrt_len_tokens", _write_mean_sqrt_len),
    "weightedmean": PoolingMode("pooling_mode_weightedmean_tokens", _write_weighted_mean),
    "lasttoken": PoolingMode("pooling_mode_lasttoken", _write_last_token),
}
