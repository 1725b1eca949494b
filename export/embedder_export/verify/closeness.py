"""Measure how close a graph's results on sample inputs are to those of the fp32 graph: vectors, or scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedder_export.verify.compare import measure

# A graph other than fp32 is written by default only if its vectors have this mean and this smallest cosine to fp32.
MIN_MEAN_COSINE, MIN_COSINE = 0.997, 0.985
# The same for the rank correlation of scores with those of fp32.
MIN_SPEARMAN = 0.999
# Results of a graph, float32 (n, size).
Values: TypeAlias = NDArray[Any]


class Closeness(Protocol):
    """Compares the results of a graph with those of the fp32 graph for the same inputs."""

    def errors(self, values: Values) -> NDArray[np.float64]:
        """Return the error of each input, float64 (n,)."""

    def share_of_limits(self, values: Values) -> float:
        """Return the error as a share of the error that the limits of a written graph allow."""

    def cost(self, values: Values) -> float:
        """Return one number for the errors of all inputs. The errors of several causes nearly add up in it."""

    def describe(self, values: Values) -> str:
        """Describe the errors in words."""

    def subset(self, indices: Sequence[int]) -> "Closeness":
        """Return what compares the results for some of the inputs."""


@dataclass(frozen=True)
class VectorCloseness:
    """Compares vectors by their cosine.

    Attributes:
        expected: the fp32 graph's vectors, float32 (n, dimension).
    """

    expected: Values

    def errors(self, values: Values) -> NDArray[np.float64]:
        """Return 1 - cosine of each vector."""
        cosine, _ = measure(values, self.expected)
        errors: NDArray[np.float64] = 1 - np.nan_to_num(cosine, nan=-1.0)
        return errors

    def share_of_limits(self, values: Values) -> float:
        """Return the larger one of two shares: of the mean's limit and of the smallest cosine's limit."""
        return max(self._shares(values))

    def cost(self, values: Values) -> float:
        """Return the two shares together."""
        return sum(self._shares(values))

    def describe(self, values: Values) -> str:
        """Return the mean and the smallest cosine."""
        cosine = 1 - self.errors(values)
        return f"a mean cosine to fp32 of {cosine.mean():.4f}, and a smallest of {cosine.min():.4f}"

    def subset(self, indices: Sequence[int]) -> "VectorCloseness":
        """Return what compares the vectors of some inputs."""
        return VectorCloseness(self.expected[list(indices)])

    def _shares(self, values: Values) -> tuple[float, float]:
        errors = self.errors(values)
        return float(errors.mean() / (1 - MIN_MEAN_COSINE)), float(errors.max() / (1 - MIN_COSINE))


@dataclass(frozen=True)
class TokenCloseness(VectorCloseness):
    """Compares texts that have a vector for each token, by the mean cosine of a text's tokens.

    Attributes:
        expected: the fp32 graph's vectors: for each text float32 (tokens, dimension), as an array of objects.
    """

    def errors(self, values: Values) -> NDArray[np.float64]:
        """Return 1 - the mean cosine of the tokens of each text."""
        found = [
            VectorCloseness(theirs).errors(ours).mean() if len(theirs) else 0.0
            for ours, theirs in zip(values, self.expected, strict=True)
        ]
        return np.array(found)

    def subset(self, indices: Sequence[int]) -> "TokenCloseness":
        """Return what compares the vectors of some texts."""
        return TokenCloseness(self.expected[list(indices)])


@dataclass(frozen=True)
class ScoreCloseness:
    """Compares scores by their rank correlation, and the scores of single pairs by their difference.

    Attributes:
        expected: the fp32 graph's scores, float32 (n, labels).
        spread: standard deviation of each label's scores in fp32, float64 (labels,).
    """

    expected: Values
    spread: NDArray[np.float64]

    @classmethod
    def of(cls, expected: Values) -> "ScoreCloseness":
        """Return what compares with the scores `expected`."""
        spread = expected.astype(np.float64).std(axis=0)
        return cls(expected, np.where(spread > 0, spread, 1))

    def errors(self, values: Values) -> NDArray[np.float64]:
        """Return the largest difference of a pair's scores, in standard deviations of all pairs' scores."""
        difference = np.abs(values.astype(np.float64) - self.expected) / self.spread
        errors: NDArray[np.float64] = np.nan_to_num(difference, nan=np.inf).max(axis=1)
        return errors

    def share_of_limits(self, values: Values) -> float:
        """Return the share of the limit of the rank correlation."""
        return (1 - spearman(values, self.expected)) / (1 - MIN_SPEARMAN)

    def cost(self, values: Values) -> float:
        """Return the mean square of the errors. Errors that do not correlate add up in it."""
        return float(np.square(self.errors(values)).mean())

    def describe(self, values: Values) -> str:
        """Return the rank correlation."""
        return f"a Spearman correlation with the scores of fp32 of {spearman(values, self.expected):.5f}"

    def subset(self, indices: Sequence[int]) -> "ScoreCloseness":
        """Return what compares the scores of some pairs."""
        return ScoreCloseness(self.expected[list(indices)], self.spread)


def spearman(ours: Values, theirs: Values) -> float:
    """Return the rank correlation of two scores (Spearman, 1904): the smallest one of all labels.

    It is 1 if all scores of a label are equal in both, and -1 if a score is not finite.

    Args:
        ours: scores, (n, labels).
        theirs: other scores of the same inputs, (n, labels).

    Example:
        >>> round(spearman(np.array([[0.1], [0.5], [0.4]]), np.array([[1.0], [2.0], [3.0]])), 6)
        0.5
    """
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return -1.0
    return min(_rank_correlation(one, other) for one, other in zip(ours.T, theirs.T, strict=True))


def _rank_correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    a, b = (_ranks(values) - (len(values) - 1) / 2 for values in (one, other))
    if np.array_equal(a, b):
        return 1.0
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return max(float(a @ b / lengths), -1.0) if lengths else -1.0


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the rank of each value, from 0. Equal values share their mean rank."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") - 1) / 2
