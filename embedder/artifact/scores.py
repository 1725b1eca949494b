"""The part of the manifest that only models for the task "rank" have: what their scores mean."""

from __future__ import annotations

from embedder.artifact.measurements import ScoreParity
from embedder.common.records import frozen, require

# Functions that a model may have for its scores. Users may choose from more, `options.ACTIVATIONS`.
_OWN_ACTIVATIONS = ("identity", "sigmoid")
# How a pair with too many tokens is cut: tokens are taken from the end of the longer text, one at a time.
_TRUNCATIONS = ("longest_first",)


@frozen
class ScoreSettings:
    """What the scores of a pair mean, and how a pair is cut. The graph's scores have no activation.

    Attributes:
        activation_fn: function that the scores go through by default, "identity" or "sigmoid".
        label_names: a name for each label, in the order of the scores; empty if the checkpoint names none.
        truncation: how a pair with more than `max_seq_length` tokens is cut. "longest_first" takes tokens from the end
            of the longer text, one at a time.
        parity: how close the scores are to the reference's.
    """

    activation_fn: str
    label_names: tuple[str, ...]
    truncation: str
    parity: ScoreParity | None

    def __post_init__(self) -> None:
        require(
            self.activation_fn in _OWN_ACTIVATIONS,
            f"activation_fn: {self.activation_fn!r:.80} is none of {', '.join(_OWN_ACTIVATIONS)}",
        )
        require(
            self.truncation in _TRUNCATIONS, f"truncation: {self.truncation!r:.80} is not {', '.join(_TRUNCATIONS)}"
        )


def default_activation(label_count: int) -> str:
    """Return the activation of a checkpoint that names none, as sentence-transformers chooses it.

    Example:
        >>> default_activation(1)
        'sigmoid'
    """
    return "sigmoid" if label_count == 1 else "identity"
