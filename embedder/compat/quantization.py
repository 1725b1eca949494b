"""`quantize_embeddings` of `sentence_transformers.quantization`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedder.compat.refusals import UTIL, refuse_import
from embedder.compat.tensors import as_array
from embedder.vectors import quantization

__all__ = ["quantize_embeddings"]


def quantize_embeddings(embeddings: Any, precision: str, ranges: Any = None, calibration_embeddings: Any = None) -> Any:
    """Quantise embeddings, as `embedder.quantize_embeddings` does. It takes arrays, lists and tensors of torch.

    Returns:
        An array; an empty list for an empty list.

    Example:
        >>> quantize_embeddings([[0.1] * 8], "ubinary").tolist()
        [[255]]
    """
    if isinstance(embeddings, list) and not embeddings:
        return []
    return quantization.quantize_embeddings(
        as_array(embeddings), precision, as_array(ranges), as_array(calibration_embeddings)
    )


if not TYPE_CHECKING:

    def __getattr__(name):  # noqa: ANN001, ANN202
        raise refuse_import(__name__, name, UTIL)
