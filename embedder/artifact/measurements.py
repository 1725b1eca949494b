"""What the export measured, for people: how fast a graph is, and how close its results are to others."""

from __future__ import annotations

from embedder.common.records import frozen


@frozen
class Candidate:
    """A graph that the export timed.

    Attributes:
        name: form or dtype of the graph.
        milliseconds: time of a call on one thread, as the geometric mean over several input shapes.
    """

    name: str
    milliseconds: float


@frozen
class Parity:
    """How close the artifact's vectors are to those of the reference, measured on the export's samples.

    Attributes:
        reference: the program that gave the reference vectors.
        samples: number of texts or images.
        min_cosine: smallest cosine between the two vectors of a sample.
        max_difference: largest absolute difference of a component, divided by the norm of the reference vector.
    """

    reference: str
    samples: int
    min_cosine: float
    max_difference: float


@frozen
class Quality:
    """How close a graph's vectors are to those of the fp32 graph of the same export, on `samples` texts or images."""

    samples: int
    mean_cosine: float
    min_cosine: float


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
