"""Functions from the raw scores of a cross-encoder to those that users get."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedder.common.checks import check_choice
from embedder.options import ACTIVATIONS


def apply_activation(
    scores: NDArray[np.float32], activation_fn: str, *, apply_softmax: bool = False
) -> NDArray[np.float32]:
    """Return the scores after an activation, float32 (pairs, labels).

    Args:
        scores: what `CrossEncoder.predict_batch` returned, float32 (pairs, labels).
        activation_fn: "identity", "sigmoid" or "softmax".
        apply_softmax: whether a softmax over the labels follows. It has no effect if there is one label.

    Raises:
        InputError: there is no such activation.

    Example:
        >>> apply_activation(np.zeros((1, 1), np.float32), "sigmoid")
        array([[0.5]], dtype=float32)
    """
    check_choice("activation_fn", activation_fn, ACTIVATIONS)
    if activation_fn == "sigmoid":
        scores = _sigmoid(scores)
    if activation_fn == "softmax" or (apply_softmax and scores.shape[1] > 1):
        scores = _softmax(scores)
    return scores


def _sigmoid(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    decayed = np.exp(-np.abs(scores))  # of a negative number, so that it never overflows
    result: NDArray[np.float32] = np.where(scores >= 0, np.float32(1), decayed) / (1 + decayed)
    return result


def _softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return result
