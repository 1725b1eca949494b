"""The model of an index: what describes it, and whether it made the vectors of a file."""

from __future__ import annotations

import logging
import os
from typing import Any

from embedder.common.checks import shown
from embedder.errors import InputError
from embedder.vectors.index.header import INDEX_SIMILARITIES, Header, ModelDescription

_logger = logging.getLogger(__name__)


def describe(model: Any) -> ModelDescription | None:
    """Return the description of `model`, or None if it has no manifest."""
    manifest = getattr(model, "manifest", None)
    if manifest is None:
        return None
    dtype = getattr(model, "dtype", None)
    source = manifest.source
    return ModelDescription(source.model, source.weights_sha256[:16], dtype if isinstance(dtype, str) else None)


def compare_models(path: str | os.PathLike[str], made_by: ModelDescription, given: ModelDescription | None) -> None:
    """Compare the given model with the model that made the vectors of `path`. Log a warning if the dtypes differ.

    Raises:
        InputError: the models differ in their names or their weights.
    """
    if given is None:
        return
    if not made_by.same_weights(given):
        raise InputError(f"the vectors of {path} were made by {made_by}. They cannot be compared with those of {given}")
    if None not in (made_by.dtype, given.dtype) and made_by.dtype != given.dtype:
        _logger.warning(
            "The vectors of %s were made with dtype %s, but this model runs in %s. Their cosines differ slightly. To "
            "get the same vectors, use Embedder(..., dtype=%r)",
            path,
            made_by.dtype,
            given.dtype,
            made_by.dtype,
        )


def common_dimension(dimension: int | None, model: Any) -> int:
    """Return the length of vectors of this dimension, and of those of `model`. One of the two may be None.

    Raises:
        InputError: both are None, they differ, or `model` is not a model.
    """
    if dimension is None and model is None:
        raise InputError("an index needs a dimension, or a model that has one")
    if model is not None and not hasattr(model, "dimension"):
        raise InputError(f"model should be an Embedder, not {shown(model)}")
    if model is not None and dimension not in (None, model.dimension):
        raise InputError(f"the model's vectors have length {model.dimension}, but those of the index {dimension}")
    return int(model.dimension if dimension is None else dimension)


def full_dimension(header: Header, model: Any) -> int:
    """Return the length of the vectors that an index takes after it was loaded with `model`.

    If it is above `header.dimension`, the index truncates the vectors. A model with the same weights makes vectors that
    can be truncated, whether or not the file says so.
    """
    made_by, given = header.model, describe(model)
    dimension: int = getattr(model, "dimension", header.full_dimension)
    truncates = made_by is not None and given is not None and made_by.same_weights(given)
    fits = dimension == header.dimension or (truncates and dimension > header.dimension)
    return dimension if fits else header.full_dimension


def similarity_of(model: Any) -> str:
    """Return the function that `model` compares its vectors by, if an index has it, or "cosine"."""
    name = getattr(model, "similarity_fn_name", None)
    return name if name in INDEX_SIMILARITIES else "cosine"
