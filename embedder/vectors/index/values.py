"""Check the values in the file of an index. A right digest only says that the file is as its writer made it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.vectors.arrays import rows_per_block

# Codes are symmetric: a vector and its negative have the same scale.
_SMALLEST_CODE = -127
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
# The norm of a vector of length 1 in float32 differs from 1 by less than this.
_NORM_TOLERANCE = 1e-3


def find_bad_values(similarity: str, sections: dict[str, NDArray[Any]]) -> str | None:
    """Say what is wrong with the values of an index. Return None if `add` could have stored them.

    Args:
        similarity: how vectors are compared, "cosine" or "dot".
        sections: the sections of the file by name, as `sections_of` describes them.

    Example:
        >>> find_bad_values("dot", {"ids": np.array([7, 7])})
        'it has the id 7 twice'
    """
    max_norm = 1 + _NORM_TOLERANCE if similarity == "cosine" else math.inf
    return (
        _bad_ids(sections["ids"])
        or _bad_vectors(sections.get("vectors"), max_norm)
        or _bad_codes(sections.get("codes"), sections.get("scales"), max_norm)
    )


def _bad_ids(ids: NDArray[np.int64]) -> str | None:
    ordered = np.sort(ids)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    return f"it has the id {repeated[0]} twice" if len(repeated) else None


def _bad_vectors(vectors: NDArray[np.float32] | None, max_norm: float) -> str | None:
    if vectors is None:
        return None
    size = rows_per_block(vectors)
    for start in range(0, len(vectors), size):
        block = vectors[start : start + size]
        # NaN or infinite if a number is. Large finite numbers can make it infinite too.
        squares = np.einsum("ij,ij->i", block, block)
        if not np.isfinite(squares).all() and not np.isfinite(block).all():
            row = int(np.argmin(np.isfinite(block).all(axis=1)))
            return f"the vector in row {start + row} contains NaN or an infinity"
        if squares.max(initial=0) > max_norm**2:
            return f"the vector in row {start + int(np.argmax(squares))} is longer than 1"
    return None


def _bad_codes(codes: NDArray[np.int8] | None, scales: NDArray[np.float32] | None, max_norm: float) -> str | None:
    if codes is None or scales is None:
        return None
    good = (scales >= 0) & (scales <= min(max_norm, _LARGEST_FLOAT) / -_SMALLEST_CODE)
    if not good.all():
        row = int(np.argmin(good))
        return f"the scale in row {row} is {scales[row]}"
    if codes.min(initial=0) < _SMALLEST_CODE:
        return f"a code is below {_SMALLEST_CODE}"
    return None
