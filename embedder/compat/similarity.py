"""The similarity functions of sentence-transformers. They take arrays, lists and tensors, and return tensors.

The results are those of `embedder.vectors.similarity`, in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import wraps
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.compat.tensors import as_array, as_scores
from embedder.errors import InputError
from embedder.vectors import similarity as arrays

# The functions on tensors return what `as_scores` returns.
TensorFunction = Callable[[Any, Any], Any]
ArrayFunction = Callable[[Any, Any], NDArray[np.float32]]


def _on_tensors(function: ArrayFunction) -> TensorFunction:
    @wraps(function)
    def compare(a: Any, b: Any) -> Any:
        return as_scores(function(as_array(a), as_array(b)), a, b)

    return compare


cos_sim = pytorch_cos_sim = _on_tensors(arrays.cos_sim)
dot_score = _on_tensors(arrays.dot_score)
euclidean_sim = _on_tensors(arrays.euclidean_sim)
manhattan_sim = _on_tensors(arrays.manhattan_sim)
pairwise_cos_sim = _on_tensors(arrays.pairwise_cos_sim)
pairwise_dot_score = _on_tensors(arrays.pairwise_dot_score)
pairwise_euclidean_sim = _on_tensors(arrays.pairwise_euclidean_sim)
pairwise_manhattan_sim = _on_tensors(arrays.pairwise_manhattan_sim)

_ARRAY_FUNCTIONS: dict[Any, ArrayFunction] = {
    cos_sim: arrays.cos_sim,
    dot_score: arrays.dot_score,
    euclidean_sim: arrays.euclidean_sim,
    manhattan_sim: arrays.manhattan_sim,
}


def pairwise_angle_sim(x: Any, y: Any) -> Any:
    """Return |cosine + sine| of row i of `x` with row i of `y`, for each i.

    The sine pairs the first half of the dimensions with the second half, as the loss AnglE does.

    Args:
        x: (n, dim).
        y: (n, dim).

    Returns:
        (n,).

    Raises:
        InputError: an argument has another shape or does not contain numbers, or the two shapes do not match.

    Example:
        >>> pairwise_angle_sim([[1.0, 0.0]], [[0.0, 1.0]]).tolist()
        [1.0]
    """
    rows_x, rows_y = (arrays.normalize_embeddings(as_array(rows)) for rows in (x, y))
    if rows_x.ndim != 2 or rows_x.shape != rows_y.shape:
        raise InputError(f"embeddings should be (n, dim) and (n, dim), not {rows_x.shape} and {rows_y.shape}")
    if rows_x.shape[1] % 2:
        rows_x, rows_y = (np.pad(rows, ((0, 0), (0, 1))) for rows in (rows_x, rows_y))
    (first_x, last_x), (first_y, last_y) = (np.split(rows, 2, axis=1) for rows in (rows_x, rows_y))
    cosines = (rows_x * rows_y).sum(axis=1)
    sines = (last_x * first_y - first_x * last_y).sum(axis=1)
    return as_scores(np.abs(cosines + sines), x, y)


def on_arrays(function: TensorFunction) -> ArrayFunction:
    """Return a score function on arrays for one on tensors: one of this module, or one of the caller.

    Example:
        >>> on_arrays(dot_score) is arrays.dot_score
        True
    """
    if not callable(function) or function in _ARRAY_FUNCTIONS:
        return _ARRAY_FUNCTIONS.get(function, function)

    def score(a: Any, b: Any) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = as_array(function(as_scores(a), as_scores(b)))
        return scores

    return score


class SimilarityFunction(str, Enum):  # noqa: UP042 - a StrEnum prints its value, which sentence-transformers' does not
    """The similarity functions by name.

    A member equals its name, so that evaluators of sentence-transformers take it.

    Example:
        >>> SimilarityFunction("dot") is SimilarityFunction.DOT_PRODUCT
        True
    """

    COSINE = "cosine"
    DOT_PRODUCT = "dot"
    DOT = "dot"
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    @staticmethod
    def to_similarity_fn(similarity_function: str | SimilarityFunction) -> TensorFunction:
        """Return the function that compares all rows with all rows.

        Raises:
            ValueError: there is no function of that name.
        """
        return _FUNCTIONS[SimilarityFunction(similarity_function)][0]

    @staticmethod
    def to_similarity_pairwise_fn(similarity_function: str | SimilarityFunction) -> TensorFunction:
        """Return the function that compares row i with row i.

        Raises:
            ValueError: there is no function of that name.
        """
        return _FUNCTIONS[SimilarityFunction(similarity_function)][1]

    @staticmethod
    def possible_values() -> list[str]:
        """Return the names."""
        return [function.value for function in SimilarityFunction]


_FUNCTIONS = {
    SimilarityFunction.COSINE: (cos_sim, pairwise_cos_sim),
    SimilarityFunction.DOT_PRODUCT: (dot_score, pairwise_dot_score),
    SimilarityFunction.EUCLIDEAN: (euclidean_sim, pairwise_euclidean_sim),
    SimilarityFunction.MANHATTAN: (manhattan_sim, pairwise_manhattan_sim),
}
