"""How near embeddings are, under each of the functions that a model may name.

Everything is computed in float32 at least, whatever numbers are given: float16 and int8 embeddings, or one of each,
lose nothing and cannot overflow, where torch computes in their own type. A single vector (dim,) counts as one row.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_count
from embedder.errors import InputError

# As in torch.nn.functional.normalize: what a zero vector is divided by.
SMALLEST_NORM = 1e-12
# Of squares in float32: outside of these they have lost digits, or overflowed.
_SAFE_SQUARES = (1e-25, 1e37)
# Numbers of a block that stay in a core's cache through several passes.
_BLOCK = 1 << 17
# Where the square of a distance is a smaller share than this of the squares it is the difference of, float64 has too
# few digits left for float32.
_CANCELLED = 1e-7


def as_embeddings(embeddings: ArrayLike, name: str = "embeddings") -> NDArray[np.generic]:
    """`embeddings` as an array (n, dim) in its own type, a list as float32; one vector (dim,) as one row.

    Raises:
        InputError: they are not one or two-dimensional, or not of real numbers; the message calls them `name`.
    """
    array = _as_numbers(embeddings, name)
    if array.ndim == 1 and array.size == 0 and not isinstance(embeddings, np.ndarray):
        return array.reshape(0, 0)  # an empty list is no vector, but no vectors
    rows = np.atleast_2d(array)
    if rows.ndim != 2 or array.ndim == 0:
        raise InputError(f"{name} should be (n, dim) or (dim,), not {array.shape}")
    return rows


def _as_numbers(embeddings: ArrayLike, name: str) -> NDArray[np.generic]:
    try:
        array = np.asarray(embeddings) if hasattr(embeddings, "__array__") else np.asarray(embeddings, np.float32)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name} should be numbers: {error}") from error
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} should be numbers, not {array.dtype}")
    return array


def as_pair(
    a: ArrayLike, b: ArrayLike, names: tuple[str, str] = ("embeddings", "embeddings")
) -> tuple[NDArray[np.generic], ...]:
    """Both as `as_embeddings` has them; InputError where they differ in dim. Of none, the dim does not matter."""
    rows_a, rows_b = as_embeddings(a, names[0]), as_embeddings(b, names[1])
    if not len(rows_a):
        rows_a = np.zeros((0, rows_b.shape[1]), np.float32)
    if not len(rows_b):
        rows_b = np.zeros((0, rows_a.shape[1]), np.float32)
    if rows_a.shape[1] != rows_b.shape[1]:
        raise InputError(f"embeddings should be (n, dim) and (m, dim), not {np.shape(a)} and {np.shape(b)}")
    return rows_a, rows_b


def as_float32(rows: NDArray[np.generic]) -> NDArray[np.float32]:
    """`rows` as contiguous float32, infinite where they are too large for it; themselves where they are that."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(rows, np.float32)


def norms_of(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The length of each row of `rows` (n, dim), float32 (n,)."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares: NDArray[np.float32] = np.einsum("ij,ij->i", rows, rows)
        low, high = _SAFE_SQUARES
        unsafe = np.flatnonzero(~((squares > low) & (squares < high)))
        norms: NDArray[np.float32] = np.sqrt(squares, dtype=np.float32)
        if unsafe.size:
            norms[unsafe] = np.linalg.norm(rows[unsafe].astype(np.float64), axis=1)
    return norms


def normalize(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows of `embeddings` (n, dim) at length 1; a row of zeros stays zero."""
    norms = np.maximum(norms_of(embeddings), np.float32(SMALLEST_NORM))
    return np.divide(embeddings, norms[:, None], dtype=np.float32)


def normalize_embeddings(embeddings: ArrayLike) -> NDArray[np.float32]:
    """Each vector at length 1, float32 of the same shape, (n, dim) or (dim,); a vector of zeros stays zero.

    Raises:
        InputError: they are not one or two-dimensional, or not of numbers.
    """
    rows = as_embeddings(embeddings)
    return normalize(as_float32(rows)).reshape(np.shape(embeddings))


def truncate_embeddings(embeddings: ArrayLike, truncate_dim: int | None) -> NDArray[np.generic]:
    """The first `truncate_dim` numbers of each vector of `embeddings` (n, dim) or (dim,); None leaves all of them.

    The result is a view, in the type of `embeddings`, not normalised again. A `truncate_dim` past dim changes nothing.

    Raises:
        InputError: `truncate_dim` is not a whole number of at least 1, or `embeddings` no vectors.
    """
    check_count("truncate_dim", truncate_dim)
    as_embeddings(embeddings)
    return _as_numbers(embeddings, "embeddings")[..., :truncate_dim]


def cos_sim(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """The cosine of every row of `a` (n, dim) and every row of `b` (m, dim), float32 (n, m); 0 for a row of zeros.

    Raises:
        InputError: an argument is not one or two-dimensional, or not of numbers, or the two differ in dim.
    """
    return similarity("cosine", a, b)


def dot_score(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """As `cos_sim`, with the dot product."""
    return similarity("dot", a, b)


def euclidean_sim(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """As `cos_sim`, with the negative Euclidean distance."""
    return similarity("euclidean", a, b)


def manhattan_sim(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """As `cos_sim`, with the negative sum of absolute differences."""
    return similarity("manhattan", a, b)


def pairwise_cos_sim(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """The cosine of each row of `a` (n, dim) and the row of `b` (n, dim) in the same place, float32 (n,).

    One vector (dim,) on either side is compared with every row of the other; of two vectors the result has shape ().

    Raises:
        InputError: an argument is not one or two-dimensional, or not of numbers, or their shapes do not fit.
    """
    return _pairwise(a, b, lambda x, y: np.einsum("ij,ij->i", normalize(x), normalize(y)))


def pairwise_dot_score(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """As `pairwise_cos_sim`, with the dot product."""
    return _pairwise(a, b, lambda x, y: np.einsum("ij,ij->i", x, y))


def pairwise_euclidean_sim(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """As `pairwise_cos_sim`, with the negative Euclidean distance."""
    return _pairwise(a, b, lambda x, y: -norms_of(x - y))


def pairwise_manhattan_sim(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """As `pairwise_cos_sim`, with the negative sum of absolute differences."""
    return _pairwise(a, b, lambda x, y: -np.abs(x - y).sum(axis=1))


Function = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


def _pairwise(a: ArrayLike, b: ArrayLike, function: Function) -> NDArray[np.float32]:
    rows_a, rows_b = as_embeddings(a), as_embeddings(b)
    vectors = [np.ndim(x) == 1 for x in (a, b)]
    if rows_a.shape[1] != rows_b.shape[1] or not (any(vectors) or len(rows_a) == len(rows_b)):
        raise InputError(f"embeddings should be (n, dim) and (n, dim), not {np.shape(a)} and {np.shape(b)}")
    n = len(rows_a) if vectors[1] else len(rows_b)
    scores = np.empty(n, np.float32)
    size = rows_a_block(rows_a)
    for start in range(0, n, size):
        part = slice(start, start + size)
        x, y = (as_float32(rows if one else rows[part]) for rows, one in zip((rows_a, rows_b), vectors, strict=True))
        scores[part] = function(*np.broadcast_arrays(x, y))
    return scores.reshape(()) if all(vectors) else scores


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return normalize(a) @ normalize(b).T


def _dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return a @ b.T


def _euclidean(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """|a - b|² = |a|² + |b|² - 2ab, in float64; where that leaves too few digits, from the differences themselves."""
    squares = np.empty((len(a), len(b)))
    a64 = a.astype(np.float64)
    squares_a = np.einsum("ij,ij->i", a64, a64)
    for start in range(0, len(b), rows_a_block(b)):
        part = slice(start, start + rows_a_block(b))
        b64 = b[part].astype(np.float64)
        lengths = squares_a[:, None] + np.einsum("ij,ij->i", b64, b64)
        squares[:, part] = lengths - 2 * (a64 @ b64.T)
        near = np.argwhere(squares[:, part] <= _CANCELLED * lengths)
        for pairs in np.split(near, range(len(b64), len(near), max(1, len(b64)))):
            differences = a64[pairs[:, 0]] - b64[pairs[:, 1]]
            squares[pairs[:, 0], start + pairs[:, 1]] = np.einsum("ij,ij->i", differences, differences)
    return -np.sqrt(squares, dtype=np.float64).astype(np.float32)


def _manhattan(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    scores = np.empty((len(a), len(b)), np.float32)
    size = rows_a_block(b)
    ones = np.ones(b.shape[1], np.float32)
    differences = np.empty((size, b.shape[1]), np.float32)
    for start in range(0, len(b), size):
        rows = b[start : start + size]
        room = differences[: len(rows)]
        for index, row in enumerate(a):
            np.abs(np.subtract(rows, row, out=room), out=room)
            scores[index, start : start + size] = room @ ones
    return np.negative(scores, out=scores)


def rows_a_block(rows: NDArray[np.generic]) -> int:
    """How many of `rows` (n, dim) to pass over several times at once, so that they stay in a core's cache."""
    return int(max(1, _BLOCK // max(1, rows.shape[1])))


_FUNCTIONS: dict[str, Function] = {
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
    rows_a, rows_b = as_pair(a, b)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return _FUNCTIONS[function](as_float32(rows_a), as_float32(rows_b))
