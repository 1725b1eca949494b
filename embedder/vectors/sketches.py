"""Rule out most pairs of vectors that are not near, before their cosines are computed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_COMPONENTS = 63
# For fewer vectors, or shorter ones, sketches take longer than they save.
_MIN_ROWS, _MIN_DIMENSION = 1 << 14, 4 * (_COMPONENTS + 1)
_ROWS_PER_BLOCK = 1 << 12
# More than the rounding of the sketches and of their dot products.
_MARGIN = np.float32(1e-5)


def make_sketches(unit: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Return sketches (n, 64) of vectors of length 1, (n, dim). None if they would not make a comparison faster.

    A sketch has the first principal components of the vector, and the length of the rest of it. By the inequality of
    Cauchy and Schwarz, the dot product of two rests is at most the product of their lengths. So the dot product of two
    sketches is at least the cosine of the vectors. See `possible_pairs`.
    """
    if len(unit) < _MIN_ROWS or unit.shape[1] < _MIN_DIMENSION or not np.isfinite(unit).all():
        return None
    axes = np.linalg.eigh((unit.T @ unit).astype(np.float64))[1][:, -_COMPONENTS:]
    sketches = np.empty((len(unit), axes.shape[1] + 1), np.float32)
    for start in range(0, len(unit), _ROWS_PER_BLOCK):
        rows = unit[start : start + _ROWS_PER_BLOCK].astype(np.float64)  # the length of a short rest needs the digits
        kept = rows @ axes
        rest = np.einsum("ij,ij->i", rows, rows) - np.einsum("ij,ij->i", kept, kept)
        sketches[start : start + _ROWS_PER_BLOCK, :-1] = kept
        sketches[start : start + _ROWS_PER_BLOCK, -1] = np.sqrt(np.maximum(rest, 0))
    return sketches


def possible_pairs(a: NDArray[np.float32], b: NDArray[np.float32], threshold: np.float32) -> NDArray[np.intp]:
    """Return the pairs of sketches whose vectors may have a cosine of at least `threshold`.

    Args:
        a: sketches (n, 64).
        b: sketches (m, 64).
        threshold: the smallest cosine.

    Returns:
        The numbers i * m + j of the pairs of `a[i]` and `b[j]`, in ascending order. All others have a lower cosine.
    """
    return np.flatnonzero(a @ b.T >= threshold - _MARGIN)
