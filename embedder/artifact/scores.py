"""The part of the manifest that only models for the task "rank" have: what their scores mean, and how good they are."""

from __future__ import annotations

from embedder.common.records import frozen

# Functions from the scores of the graph to those that users get by default.
ACTIVATIONS = ("identity", "sigmoid")
# How a pair with too many tokens is cut: tokens are taken from the end of the longer text, one at a time.
TRUNCATIONS = ("longest_first",)


@frozen
class ScoreParity:
    """How close the artifact's scores are to those of the reference, measured on the export's pairs of texts.

    Attributes:
        reference: the program that gave the reference scores.
        samples: number of pairs.
        spearman: smallest rank correlation of the two scores of the pairs, over the labels.
        max_difference: largest absolute difference of two scores, divided by the range of the reference's scores.
    """

    reference: str
    samples: int
    spearman: float
    max_difference: float


@frozen
class ScoreQuality:
    """How close a graph's scores are to those of the fp32 graph of the same export.

    Attributes:
        samples: number of pairs.
        spearman: smallest rank correlation of the two scores of the pairs, over the labels.
        max_difference: largest absolute difference of two scores, divided by the range of the fp32 graph's scores.
    """

    samples: int
    spearman: float
    max_difference: float


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
        if self.activation_fn not in ACTIVATIONS:
            raise ValueError(f"activation_fn: {self.activation_fn!r:.80} is none of {', '.join(ACTIVATIONS)}")
        if self.truncation not in TRUNCATIONS:
            raise ValueError(f"truncation: {self.truncation!r:.80} is not {', '.join(TRUNCATIONS)}")


def default_activation(label_count: int) -> str:
    """Return the activation of a checkpoint that names none, as sentence-transformers chooses it.

    Example:
        >>> default_activation(1)
        'sigmoid'
    """
    return "sigmoid" if label_count == 1 else "identity"
