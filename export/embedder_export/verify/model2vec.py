"""Use model2vec as a reference: compute its vectors for a checkpoint in its layout."""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from embedder.common.panics import panics_as_exceptions

from embedder_export.checkpoint.checkpoint import Checkpoint
from embedder_export.errors import NoReferenceError, library_failure
from embedder_export.packages import is_installed
from embedder_export.verify.compare import Vectors
from embedder_export.verify.reference import Reference


def model2vec_reference(checkpoint: Checkpoint, *, is_required: bool) -> Reference | None:
    """Load the checkpoint with model2vec.

    model2vec cuts a text at a number of characters before it cuts it at a number of tokens. That saves it time. The
    artifact cuts at the number of tokens alone, and so does this reference.

    Args:
        checkpoint: the checkpoint to load, in model2vec's layout.
        is_required: whether a missing model2vec is an error.

    Returns:
        The reference, or None if model2vec is not installed. Its `encode` raises CheckpointError if model2vec fails.

    Raises:
        NoReferenceError: model2vec is required, and not installed.
        CheckpointError: model2vec cannot load the checkpoint.

    Example:
        >>> model2vec_reference(checkpoint, is_required=False).encode(["a text"], None).shape  # doctest: +SKIP
        (1, 256)
    """
    if not is_installed("model2vec"):
        if is_required:
            raise NoReferenceError(
                f"{checkpoint.name} is a model of model2vec, which is not installed. Run: pip install model2vec"
            )
        return None
    from model2vec import StaticModel

    try:
        with panics_as_exceptions():
            model = StaticModel.from_pretrained(checkpoint.directory)
    except Exception as error:  # the library raises any class; this block holds only its call
        raise library_failure(f"model2vec cannot load {checkpoint.name}", error) from error
    model.median_token_length = sys.maxsize  # no text is cut by its characters then
    model.embedding = model.embedding.astype(np.float32)  # a table in float16 would give means in float16

    def encode(texts: Sequence[Any], prompt: str | None) -> Vectors:
        try:
            with panics_as_exceptions():
                return np.asarray(model.encode([(prompt or "") + text for text in texts]), np.float32)
        except Exception as error:  # as above
            raise library_failure(f"model2vec fails on {checkpoint.name}", error) from error

    return Reference(f"model2vec {version('model2vec')}", encode)
