"""How near two sets of embeddings are, under each of the functions that a model may name."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.errors import InputError

# As in torch.nn.functional.normalize: what a zero vector is divided by.
_SMALLEST_NORM = np.float32(1e-12)


def normalize(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows of `embeddings` (n, dim) at length 1; a row of zeros stays zero."""
    norms = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    scaled: NDArray[np.float32] = embeddings / np.maximum(norms, _SMALLEST_NORM)
    return scaled


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return normalize(a) @ normalize(b).T


def _dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return a @ b.T


def _euclidean(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return _rows([-np.linalg.norm(b - row, axis=-1) for row in a], len(b))


def _manhattan(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return _rows([-np.abs(b - row).sum(axis=-1) for row in a], len(b))


def _rows(rows: list[NDArray[np.float32]], width: int) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(len(rows), width)


_FUNCTIONS: dict[str, Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]] = {
    "cosine": _cosine,
    "dot": _dot,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
}


def similarity(function: str, a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Every row of `a` (n, dim) against every row of `b` (m, dim), as float32 of shape (n, m); higher is nearer.

    A single vector (dim,) counts as one row. The distances, euclidean and manhattan, are negated.

    Raises:
        InputError: an argument is not one or two-dimensional or not of numbers, or the two differ in dim.
    """
    try:
        rows_a, rows_b = (np.atleast_2d(np.asarray(x, np.float32)) for x in (a, b))
    except (ValueError, TypeError) as error:
        raise InputError(f"embeddings should be numbers: {error}") from error
    if rows_a.ndim != 2 or rows_b.ndim != 2 or rows_a.shape[1] != rows_b.shape[1]:
        raise InputError(f"embeddings should be (n, dim) and (m, dim), not {np.shape(a)} and {np.shape(b)}")
    return _FUNCTIONS[function](rows_a, rows_b)
