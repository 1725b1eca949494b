"""What `encode` returns: vectors truncated, normalised and quantised as the request's settings say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedder.errors import ImageError
from embedder.options import EncodeSettings
from embedder.vectors.similarity import normalize

# float32 (n, dimension); with another `precision`, int8 or uint8 as `quantize_embeddings` gives it.
Embeddings: TypeAlias = "NDArray[Any]"
Vector: TypeAlias = "NDArray[np.float32]"


@dataclass(frozen=True)
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


def raise_unreadable(result: EncodeResult) -> EncodeResult:
    """Return `result` if all inputs could be read.

    Raises:
        ImageError: images could not be read. It has the vectors of all other inputs.
    """
    if result.reasons:
        raise ImageError(result.reasons, result.indices, result.embeddings)
    return result


def shorten(vectors: NDArray[np.float32], dimension: int, settings: EncodeSettings) -> NDArray[np.float32]:
    """Return the first `dimension` numbers of each of `vectors`, normalised if `settings` say so."""
    vectors = np.ascontiguousarray(vectors[:, :dimension])
    return normalize(vectors) if settings.normalize_embeddings else vectors


def quantize(vectors: NDArray[np.float32], settings: EncodeSettings) -> Embeddings:
    """Return `vectors` in the precision of `settings`."""
    if settings.precision == "float32":
        return vectors
    from embedder.vectors.quantization import quantize_embeddings  # here, as few need it

    return quantize_embeddings(vectors, settings.precision)
