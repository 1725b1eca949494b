"""Make the results of `encode`: truncate, normalise and quantise vectors, and leave out unreadable images."""

from __future__ import annotations

from dataclasses import field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedder.common.records import frozen
from embedder.common.warn import warn_caller
from embedder.errors import CutTextWarning, ImageError, InputError
from embedder.options import RANGED_PRECISIONS, EncodeSettings
from embedder.vectors.similarity import normalize

# float32 (n, dimension). With another `precision`: the int8 or uint8 array that `quantize_embeddings` returns.
Embeddings: TypeAlias = "NDArray[Any]"

_CHUNKS_HINT = "model.chunks(text) cuts a text into chunks that the model reads whole"


@frozen
class EncodeResult:
    """The vectors of the inputs that could be read, and the reasons why the other inputs could not.

    Attributes:
        embeddings: float32 (k, dimension), in the caller's order; with `precision`, the quantised vectors.
        indices: int64 (k,), the index of the input of each vector.
        reasons: why an image could not be read, by the index of the input.
        cut: int64, the indices of the texts that the model did not read to their end. Empty without `warn_if_cut`.

    Example:
        >>> result = model.encode_readable(paths)  # doctest: +SKIP
        >>> [paths[index] for index in result.reasons]  # doctest: +SKIP
        ['damaged.jpg']
    """

    embeddings: Embeddings
    indices: NDArray[np.int64]
    reasons: dict[int, str]
    cut: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    # Results compare by identity, because == of two arrays is an array.
    __eq__ = object.__eq__
    __hash__ = object.__hash__


def drop_unreadable(
    embeddings: Embeddings, reasons: dict[int, str], cut: NDArray[np.bool_] | None = None, start: int = 0
) -> EncodeResult:
    """Return the rows of `embeddings` without the rows of unreadable images.

    Args:
        embeddings: (n, dimension), a row for each input.
        reasons: why an image could not be read, by the index of the input.
        cut: whether each input is a text that was cut, bool (n,). None if no text was.
        start: index of the input of the first row.

    Example:
        >>> drop_unreadable(np.eye(2, dtype=np.float32), {5: "cat.png is truncated"}, start=4).indices
        array([4])
    """
    indices = np.arange(start, start + len(embeddings), dtype=np.int64)
    if reasons:
        indices = np.delete(indices, [index - start for index in reasons])
        embeddings = embeddings[indices - start]
    cut_indices = np.flatnonzero([] if cut is None else cut) + start
    return EncodeResult(embeddings, indices, reasons, cut_indices)


def raise_unreadable(result: EncodeResult, settings: EncodeSettings) -> EncodeResult:
    """Return `result` if all images could be read, or if `settings.errors` is "skip".

    Raises:
        ImageError: images could not be read. The error holds the vectors of the other inputs.

    Example:
        >>> result = drop_unreadable(np.zeros((2, 8), np.float32), {1: "cat.png is truncated"})
        >>> raise_unreadable(result, EncodeSettings(errors="skip")).reasons
        {1: 'cat.png is truncated'}
    """
    if result.reasons and settings.errors == "raise":
        raise ImageError(result.reasons, result.indices, result.embeddings)
    return result


@frozen
class CutTexts:
    """How many of some inputs were cut.

    Attributes:
        count: number of texts that were cut.
        first: index of the first one. None if no text was cut.
        total: number of inputs.

    Example:
        >>> CutTexts().add(np.array([2, 5]), 10).add(np.array([11]), 3)
        CutTexts(count=3, first=2, total=13)
    """

    count: int = 0
    first: int | None = None
    total: int = 0

    def add(self, cut: NDArray[np.int64], inputs: int) -> CutTexts:
        """Return the sum of this and of more inputs.

        Args:
            cut: the indices of those that were cut.
            inputs: number of inputs.
        """
        first = int(cut[0]) if self.first is None and len(cut) else self.first
        return CutTexts(self.count + len(cut), first, self.total + inputs)

    def warn(self, max_seq_length: int, name: str, hint: str = _CHUNKS_HINT) -> None:
        """Give a CutTextWarning if texts were cut.

        Args:
            max_seq_length: the limit of the model.
            name: the word for the inputs, such as "texts" or "pairs".
            hint: what to do about it.
        """
        if self.count:
            warn_caller(
                f"cut after {max_seq_length:,} tokens: {self.count:,} of {self.total:,} {name}, the first is "
                f"{name}[{self.first}]. {hint}",
                CutTextWarning,
            )


def truncate(vectors: NDArray[np.float32], dimension: int, settings: EncodeSettings) -> NDArray[np.float32]:
    """Return the first `dimension` numbers of each vector, normalised if `settings.normalize_embeddings`.

    Args:
        vectors: float32 (n, the model's dimension).
        dimension: how many numbers of each vector to keep.
        settings: the options of the request.

    Example:
        >>> truncate(np.float32([[3, 4, 9]]), 2, EncodeSettings()).tolist()
        [[3.0, 4.0]]
    """
    if dimension < vectors.shape[1]:
        vectors = np.ascontiguousarray(vectors[:, :dimension])
    return normalize(vectors) if settings.normalize_embeddings else vectors


def check_ranges(count: int, settings: EncodeSettings) -> None:
    """Raise InputError for a single vector (`count` is 1) in precision "int8" or "uint8".

    These precisions need the range of each dimension. In a single vector, the smallest value of a dimension is also the
    largest one. sentence-transformers refuses this too.

    Example:
        >>> check_ranges(2, EncodeSettings(precision="int8"))
    """
    if count == 1 and settings.precision in RANGED_PRECISIONS:
        raise InputError(
            f"precision {settings.precision!r} needs the ranges of several vectors, and there is one. Call "
            "quantize_embeddings with ranges= or calibration_embeddings=, or choose binary or ubinary"
        )


def quantize(vectors: NDArray[np.float32], settings: EncodeSettings) -> Embeddings:
    """Return `vectors`, quantised to `settings.precision`.

    Raises:
        InputError: `check_ranges` refuses the number of vectors.

    Example:
        >>> quantize(np.eye(8, dtype=np.float32), EncodeSettings(precision="ubinary")).shape
        (8, 1)
    """
    if settings.precision == "float32":
        return vectors
    from embedder.vectors.quantization import quantize_embeddings  # imported here, as few calls need it

    check_ranges(len(vectors), settings)
    return quantize_embeddings(vectors, settings.precision)
