"""Turn what callers add to an index or search for into vectors. The model encodes texts and images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.common.checks import check_flag
from embedder.common.containers import is_file
from embedder.errors import InputError
from embedder.vectors.arrays import as_embeddings, as_float32, check_finite, refuse_container, to_array

_MODEL_HINT = "VectorIndex(model=...), or VectorIndex.load(path, model=...)"


def to_vectors(listed: Any, encode: Callable[..., Any] | None, read_paths: bool) -> NDArray[np.generic]:
    """Return items as vectors (n, dim).

    Args:
        listed: what `list_items` returned: vectors, texts or images. Arrays of numbers are always vectors.
        encode: the method of the model that encodes texts and images. None if the index has no model.
        read_paths: whether a string that names an image file is this image.

    Raises:
        InputError: an item is neither a vector, a text nor an image. Or it is a text or an image, but the index has no
            model.
    """
    check_flag("read_paths", read_paths)
    if not len(listed):
        return np.empty((0, 0), np.float32)
    if not _is_numeric(listed[0]):
        if encode is None:
            raise InputError(_missing_model(listed[0]))
        options = {"read_paths": True} if read_paths else {}
        vectors = as_embeddings(encode(listed if isinstance(listed, list) else listed.tolist(), **options), "vectors")
        if len(vectors) != len(listed):
            raise InputError(f"the model returned {len(vectors)} vectors for {len(listed)} items")
        return vectors
    if encode is not None and isinstance(listed[0], np.ndarray) and listed[0].ndim > 1:
        raise InputError(
            f"items[0] should be a vector, not an array of shape {listed[0].shape}. To add images as arrays, encode "
            "them first: index.add(model.encode_document(images))"
        )
    return as_embeddings(listed, "vectors")


def truncate(rows: NDArray[np.generic], full_dimension: int, dimension: int) -> NDArray[np.float32]:
    """Return the first `dimension` numbers of each of `rows` as float32 (n, dimension).

    Raises:
        InputError: rows are neither (n, full_dimension) nor (n, dimension). Or they contain NaN or an infinity.
    """
    vectors = as_float32(rows)
    if not len(vectors):
        vectors = vectors.reshape(0, dimension)
    if vectors.shape[1] not in (full_dimension, dimension):
        expected = f"(n, {dimension})" if full_dimension == dimension else f"(n, {full_dimension}) or (n, {dimension})"
        raise InputError(f"vectors should be {expected}, not {vectors.shape}")
    check_finite(vectors, "vectors")
    return as_float32(vectors[:, :dimension])


def list_items(items: Any) -> Any:
    """Return `items` as a list or an array. A single item becomes a list of one.

    Args:
        items: vectors (n, dim) or (dim,), or one or several texts or images.

    Raises:
        InputError: it is a container that is not a list of items.
    """
    refuse_container(items, "items", "vectors or texts")
    if isinstance(items, list | np.ndarray):
        return np.atleast_1d(items) if isinstance(items, np.ndarray) else items
    if hasattr(items, "__array__"):  # a Series, an array of pyarrow, a tensor
        return np.atleast_1d(to_array(items, "items"))
    if isinstance(items, str) or is_file(items):
        return [items]
    try:
        iterator = iter(items)
    except TypeError:
        return [items]
    return list(iterator)


def count_items(listed: Any) -> int:
    """Return the number of items in what `list_items` returned. Numbers are one vector."""
    if not len(listed):
        return 0
    return 1 if isinstance(listed[0], int | float | np.number | np.bool_) else len(listed)


def _is_numeric(item: Any) -> bool:
    """Return whether `item` is a number or a vector. The model does not encode it then."""
    if isinstance(item, str | bytes | bytearray | memoryview):
        return False
    return isinstance(item, int | float | np.number | np.bool_ | list | tuple) or hasattr(item, "__array__")


def _missing_model(item: object) -> str:
    """Return the message for a text or an image that is given to an index without a model."""
    if isinstance(item, str):
        return f"texts need a model: {_MODEL_HINT}"
    return (
        f"items[0] should be a vector or a text, not {type(item).__name__}: {item!r:.80}. Images need a model: "
        f"{_MODEL_HINT}"
    )
