"""Compare vectors: measure how near they are, and check that they are near enough."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from embedder.artifact.manifest import Parity
from numpy.typing import NDArray

from embedder_export.errors import ParityError

Vectors: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class ParityLimits:
    """How near vectors must be to the reference's.

    Attributes:
        min_cosine: of two vectors of one sample.
        max_difference: of two numbers in the same place, as a share of the length of the reference's vector.
    """

    min_cosine: float
    max_difference: float


TEXT_LIMITS = ParityLimits(0.99999, 1e-4)
# They include the preparation of images, which versions of transformers do with different libraries.
IMAGE_LIMITS = ParityLimits(0.9999, 1e-2)


def compare(
    ours: Vectors, theirs: Vectors, names: Sequence[str], reference: str, limits: ParityLimits = TEXT_LIMITS
) -> Parity:
    """Return the parity of `ours` with `theirs`, both float32 (n, dim).

    Args:
        ours: the artifact's vectors.
        theirs: the reference's.
        names: of the samples, for the message.
        reference: its name.
        limits: how near they must be.

    Raises:
        ParityError: they are not near enough. The message names the worst sample.
    """
    if ours.shape != theirs.shape:
        raise ParityError(f"the artifact's embeddings have the shape {ours.shape}, those of {reference} {theirs.shape}")
    cosine, difference = measure(ours, theirs)
    # NaN compares as False, so it fails too.
    if not (cosine.min() >= limits.min_cosine and difference.max() <= limits.max_difference):
        worst = int(np.argmax(np.nan_to_num(difference, nan=np.inf)))
        raise ParityError(
            f"parity with {reference} fell short: smallest cosine {cosine.min():.8f} (at least {limits.min_cosine}), "
            f"largest difference {difference.max():.2e} (at most {limits.max_difference}); worst on "
            f"{names[worst]!r:.80}"
        )
    return Parity(reference, len(names), min(float(cosine.min()), 1.0), float(difference.max()))


def measure(ours: Vectors, theirs: Vectors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the cosine of each row of `ours` and `theirs`, and the largest difference of two of its numbers.

    The difference is a share of the length of the row of `theirs`. Of unit vectors it is the difference itself.

    Example:
        >>> ours, theirs = np.array([[3.0, 4.0]]), np.array([[3.0, 4.5]])
        >>> [values.round(3).tolist() for values in measure(ours, theirs)]
        [[0.998], [0.092]]
    """
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = np.linalg.norm(theirs, axis=1)
    with np.errstate(invalid="ignore"):
        # A zero vector has no length to divide by. Its differences are taken as they are.
        difference: NDArray[np.float64] = np.abs(ours - theirs).max(axis=1) / np.where(lengths > 0, lengths, 1)
        cosine: NDArray[np.float64] = (ours * theirs).sum(axis=1) / (np.linalg.norm(ours, axis=1) * lengths)
    cosine[(lengths == 0) & (difference == 0)] = 1
    return cosine, difference
