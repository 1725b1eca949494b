"""Measure the difference of vectors, and check that it is small enough."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from embedder.artifact.measurements import Parity, Quality
from numpy.typing import NDArray

from embedder_export.errors import ParityError

# float32 (n, dimension).
Vectors: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class ParityLimits:
    """Limits of the difference between the artifact's vectors and the reference's.

    Attributes:
        min_cosine: smallest cosine of the two vectors of a sample.
        max_difference: largest difference of two components, as a share of the length of the reference's vector.
    """

    min_cosine: float
    max_difference: float


TEXT_LIMITS = ParityLimits(0.99999, 1e-4)
# These are wider: they include the preparation of images, for which versions of transformers use different libraries.
IMAGE_LIMITS = ParityLimits(0.9999, 1e-2)


def compare(
    ours: Vectors, theirs: Vectors, names: Sequence[str], reference: str, limits: ParityLimits = TEXT_LIMITS
) -> Parity:
    """Check that the artifact's vectors agree with the reference's.

    Args:
        ours: the artifact's vectors, float32 (n, dimension).
        theirs: the reference's vectors, float32 (n, dimension).
        names: the names of the n samples, for the message.
        reference: the reference's name.
        limits: the limits of the difference.

    Returns:
        The measured parity, for the manifest.

    Raises:
        ParityError: the shapes differ, or a limit is exceeded. The message names the worst sample.

    Example:
        >>> vectors = np.eye(2, dtype=np.float32)
        >>> compare(vectors, vectors, ["a", "b"], "itself")
        Parity(reference='itself', samples=2, min_cosine=1.0, max_difference=0.0)
    """
    if ours.shape != theirs.shape:
        raise ParityError(
            f"the artifact's embeddings have the shape {ours.shape}, but {reference} gives {theirs.shape}"
        )
    cosine, difference = measure(ours, theirs)
    # A comparison with NaN is False, so NaN fails too.
    if not (cosine.min() >= limits.min_cosine and difference.max() <= limits.max_difference):
        worst = int(np.argmax(np.nan_to_num(difference, nan=np.inf)))
        raise ParityError(
            f"parity with {reference} fell short: smallest cosine {cosine.min():.8f} (at least {limits.min_cosine}), "
            f"largest difference {difference.max():.2e} (at most {limits.max_difference}); worst on "
            f"{names[worst]!r:.80}"
        )
    return Parity(reference, len(names), min(float(cosine.min()), 1.0), float(difference.max()))


def measure(ours: Vectors, theirs: Vectors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the cosine and the largest difference of components for each pair of rows, float64 (n,) each.

    The difference is divided by the length of the row of `theirs`.

    Args:
        ours: vectors, (n, dimension).
        theirs: vectors to compare with, (n, dimension).

    Example:
        >>> ours, theirs = np.array([[3.0, 4.0]]), np.array([[3.0, 4.5]])
        >>> [values.round(3).tolist() for values in measure(ours, theirs)]
        [[0.998], [0.092]]
    """
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = np.linalg.norm(theirs, axis=1)
    with np.errstate(invalid="ignore"):
        # The length of a zero vector is no divisor. Its differences are not divided.
        difference: NDArray[np.float64] = np.abs(ours - theirs).max(axis=1) / np.where(lengths > 0, lengths, 1)
        cosine: NDArray[np.float64] = (ours * theirs).sum(axis=1) / (np.linalg.norm(ours, axis=1) * lengths)
    cosine[(lengths == 0) & (difference == 0)] = 1
    return cosine, difference


def quality_of(ours: Vectors, exact: Vectors) -> Quality:
    """Return how close the vectors of a graph are to its fp32 vectors.

    Args:
        ours: (samples, dimension). Numbers that are not finite count as the opposite of the exact vector.
        exact: the fp32 vectors, (samples, dimension).

    Example:
        >>> quality_of(np.eye(2), np.eye(2))
        Quality(samples=2, mean_cosine=1.0, min_cosine=1.0)
    """
    cosine, _ = measure(ours, exact)
    cosine = np.minimum(np.nan_to_num(cosine, nan=-1.0), 1.0)
    return Quality(len(ours), float(cosine.mean()), float(cosine.min()))
