"""What `encode` returns: vectors truncated, normalised and quantised as the request's settings say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedder.errors import ImageError, InputError
from embedder.options import RANGED_PRECISIONS, EncodeSettings
from embedder.vectors.similarity import normalize

# float32 (n, dimension); with another `precision`, int8 or uint8 as `quantize_embeddings` gives it.
Embeddings: TypeAlias = "NDArray[Any]"
Vector: TypeAlias = "NDArray[np.float32]"


@dataclass(frozen=True, eq=False)  # NumPy compares arrays number by number, so == on results would raise
class EncodeResult:
    """Vectors of the inputs that could be read, and what was wrong with the others.

    Attributes:
        embeddings: (k, dimension), in the caller's order.
        indices: int64 (k,), the index of each vector's input.
        reasons: why an image could not be read, by the index of the input.

    Example:
        >>> result = model.encode_readable(paths)  # doctest: +SKIP
        >>> [paths[index] for index in result.reasons]  # doctest: +SKIP
        ['damaged.jpg']
    """

    embeddings: Embeddings
    indices: NDArray[np.int64]
    reasons: dict[int, str]


def readable(embeddings: Embeddings, errors: dict[int, str], start: int = 0) -> EncodeResult:
    """Return `embeddings`, of the inputs from index `start` on, without the rows of the images in `errors`."""
    indices = np.arange(start, start + len(embeddings), dtype=np.int64)
    if errors:
        indices = np.delete(indices, [index - start for index in errors])
        embeddings = embeddings[indices - start]
    return EncodeResult(embeddings, indices, errors)


def raise_unreadable(result: EncodeResult, settings: EncodeSettings) -> EncodeResult:
    """Return `result`. If images could not be read, raise unless `settings.errors` is "skip".

    Raises:
        ImageError: images could not be read. It has the vectors of all others.
    """
    if result.reasons and settings.errors == "raise":
        raise ImageError(result.reasons, result.indices, result.embeddings)
    return result


def shorten(vectors: NDArray[np.float32], dimension: int, settings: EncodeSettings) -> NDArray[np.float32]:
    """Return the first `dimension` numbers of each of `vectors`, normalised if `settings` say so."""
    vectors = np.ascontiguousarray(vectors[:, :dimension])
    return normalize(vectors) if settings.normalize_embeddings else vectors


def check_ranges(count: int, settings: EncodeSettings) -> None:
    """Raise InputError if `settings` ask for a precision that needs more than `count` vectors.

    One vector has no ranges: the smallest value of a dimension is its largest. sentence-transformers refuses it too.
    """
    if count == 1 and settings.precision in RANGED_PRECISIONS:
        raise InputError(
            f"precision {settings.precision!r} needs the ranges of several vectors, and there is one. Call "
            "quantize_embeddings with ranges= or calibration_embeddings=, or choose binary or ubinary"
        )


def quantize(result: EncodeResult, settings: EncodeSettings) -> EncodeResult:
    """Return `result` with the vectors in the precision of `settings`.

    Raises:
        InputError: as `check_ranges`.
    """
    if settings.precision == "float32":
        return result
    from embedder.vectors.quantization import quantize_embeddings  # here, as few need it

    check_ranges(len(result.embeddings), settings)
    return replace(result, embeddings=quantize_embeddings(result.embeddings, settings.precision))
