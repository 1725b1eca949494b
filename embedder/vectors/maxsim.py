"""MaxSim: compare texts that have a vector for each token.

The score of a query and a document is sum_i max_j q_i · d_j, over the tokens i of the query and the tokens j of the
document (Khattab and Zaharia, 2020: https://arxiv.org/abs/2004.12832). Blocks of documents are compared side by side.
So the memory does not grow with the number of documents.

A block is a stack of small matrix products. OpenBLAS, which NumPy uses, computes each in one thread. The threads of a
large product wait for each other: on two cores that other programs shared, 2,000 documents took 42 ms so, and 270 ms or
more with large products. All products of a call have the same shape, so that equal documents have equal scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedder.common.checks import check_choice, shown
from embedder.common.executor import shared_executor
from embedder.common.records import frozen
from embedder.errors import InputError

# The vectors of texts: for each text an array (tokens, dimension). One such array alone is one text.
TokenVectors: TypeAlias = "NDArray[Any] | Sequence[NDArray[Any]]"

FUNCTIONS = ("maxsim", "meanmaxsim")
# The score of a document without a vector, as in sentence-transformers. It is below every real score.
EMPTY_DOCUMENT_SCORE = -1e9
# Most vectors of a block of documents. With their products they take some MB.
_MAX_BLOCK_VECTORS = 8192
# Most vectors of a block of queries.
_MAX_QUERY_VECTORS = 64
# OpenBLAS computes a product of at most this many multiplications in one thread.
_MAX_PRODUCT_SIZE = 262_144
# Vectors of documents in a product: a multiple of the first number, which all kernels compute in the same way.
_MIN_PRODUCT_ROWS, _MAX_PRODUCT_ROWS = 16, 64


@frozen
class _QueryBlock:
    """Some queries, whose vectors are compared with documents together.

    Attributes:
        rows: which of the queries they are.
        columns: their vectors, float32 (dimension, vectors).
        starts: where the vectors of each query start.
    """

    rows: slice
    columns: NDArray[np.float32]
    starts: list[int]


def maxsim(queries: TokenVectors, documents: TokenVectors, function: str = "maxsim") -> NDArray[np.float32]:
    """Compare every query with every document.

    Args:
        queries: for each query its vectors, numbers (tokens, dimension); or those of one query.
        documents: the same for documents.
        function: "maxsim", or "meanmaxsim": the score divided by the number of the query's vectors.

    Returns:
        float32 (queries, documents). The score of a document without a vector is -1e9, that of a query without one 0.

    Raises:
        InputError: an array has another shape, does not contain numbers, or has another dimension.

    Example:
        >>> query = np.eye(2, dtype=np.float32)
        >>> maxsim(query, [query, np.float32([[0.0, 0.5]])]).tolist()
        [[2.0, 0.5]]
    """
    check_choice("function", function, FUNCTIONS)
    a, b = as_token_vectors("queries", queries), as_token_vectors("documents", documents)
    check_dimensions([*a, *b])
    scores = np.zeros((len(a), len(b)), np.float32)
    sizes = np.array([len(vectors) for vectors in b], np.int64)
    filled = np.flatnonzero(sizes)
    blocks = [_query_block(a, rows) for rows in _blocks([len(vectors) for vectors in a], _MAX_QUERY_VECTORS)]

    def score(part: slice) -> None:
        places = filled[part]
        documents = [b[place] for place in places]
        for block in blocks:
            scores[block.rows, places] = _block_scores(block, documents)

    if blocks:
        parts = list(_blocks(sizes[filled].tolist(), _MAX_BLOCK_VECTORS))
        for _ in shared_executor().map(score, parts):
            pass
    scores[:, sizes == 0] = EMPTY_DOCUMENT_SCORE
    return _per_token(scores, a) if function == "meanmaxsim" else scores


def maxsim_pairwise(queries: TokenVectors, documents: TokenVectors, function: str = "maxsim") -> NDArray[np.float32]:
    """Compare query i with document i, for each i.

    Args:
        queries: as in `maxsim`.
        documents: as in `maxsim`, as many as queries.
        function: as in `maxsim`.

    Returns:
        float32 (queries,).

    Raises:
        InputError: as in `maxsim`; or there are not as many documents as queries.

    Example:
        >>> query = np.eye(2, dtype=np.float32)
        >>> maxsim_pairwise([query], [np.float32([[0.0, 0.5]])]).tolist()
        [0.5]
    """
    check_choice("function", function, FUNCTIONS)
    a, b = as_token_vectors("queries", queries), as_token_vectors("documents", documents)
    if len(a) != len(b):
        raise InputError(f"there should be as many documents as queries, not {len(b):,} for {len(a):,}")
    scores = [maxsim(query, document, function) for query, document in zip(a, b, strict=True)]
    return np.concatenate(scores).reshape(-1) if scores else np.zeros(0, np.float32)


def as_token_vectors(name: str, texts: Any) -> list[NDArray[Any]]:
    """Return the vectors of texts as a list of arrays (tokens, dimension). One array (tokens, dimension) is one text.

    Args:
        name: the name of the argument, for errors.
        texts: a list of arrays; one array; or an array (texts, tokens, dimension).

    Raises:
        InputError: `texts` is something else.

    Example:
        >>> [vectors.shape for vectors in as_token_vectors("queries", np.ones((3, 8)))]
        [(3, 8)]
    """
    if isinstance(texts, np.ndarray) and texts.dtype != object:
        texts = [texts] if texts.ndim == 2 else texts
    if isinstance(texts, str | bytes) or not isinstance(texts, Sequence | np.ndarray):
        raise InputError(f"{name} should be arrays of vectors (tokens, dimension), not {shown(texts)}")
    found = [_as_array(f"{name}[{index}]", vectors) for index, vectors in enumerate(texts)]
    for index, vectors in enumerate(found):
        if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
            raise InputError(
                f"{name}[{index}] should be numbers of the shape (tokens, dimension), not {vectors.dtype} of the shape "
                f"{vectors.shape}"
            )
    return found


def _as_array(name: str, vectors: Any) -> NDArray[Any]:
    try:
        return np.asarray(vectors)
    except ValueError as error:
        raise InputError(f"{name} should be numbers of the shape (tokens, dimension): {error}") from error


def check_dimensions(texts: Sequence[NDArray[Any]]) -> None:
    """Raise InputError unless all vectors have the same dimension, which is not 0.

    Example:
        >>> check_dimensions([np.ones((3, 8)), np.ones((0, 8))])
    """
    dimensions = {vectors.shape[1] for vectors in texts}
    if len(dimensions) > 1:
        raise InputError(f"all vectors should have the same dimension, and they have {sorted(dimensions)}")
    if dimensions == {0}:
        raise InputError("the vectors have the dimension 0, so there is nothing to compare")


def _query_block(queries: list[NDArray[Any]], rows: slice) -> _QueryBlock:
    part = queries[rows]
    with np.errstate(over="ignore"):  # a number that is too large becomes infinity
        joined = np.concatenate(part).astype(np.float32, copy=False)
    return _QueryBlock(rows, np.ascontiguousarray(joined.T), _starts(part).tolist())


def _block_scores(block: _QueryBlock, documents: list[NDArray[Any]]) -> NDArray[np.float32]:
    """Return the scores of a block of queries with documents that have vectors: float32 (queries, documents)."""
    dimension, width = block.columns.shape
    starts = _starts(documents)
    count = int(starts[-1]) + len(documents[-1])
    rows = _MAX_PRODUCT_SIZE // max(1, dimension * width) // _MIN_PRODUCT_ROWS * _MIN_PRODUCT_ROWS
    size = min(max(rows, _MIN_PRODUCT_ROWS), _MAX_PRODUCT_ROWS)
    stack = np.zeros((-(-count // size), size, dimension), np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        np.concatenate(documents, out=stack.reshape(-1, dimension)[:count], casting="unsafe")
        products = np.matmul(stack, block.columns).reshape(len(stack) * size, width)[:count]
        best = np.maximum.reduceat(products, starts, axis=0)
        ends = [*block.starts[1:], width]
        return np.stack([best[:, start:end].sum(axis=1) for start, end in zip(block.starts, ends, strict=True)])


def _per_token(scores: NDArray[np.float32], queries: list[NDArray[Any]]) -> NDArray[np.float32]:
    counts = np.array([max(1, len(vectors)) for vectors in queries], np.float32)
    return scores / counts[:, np.newaxis]


def _blocks(sizes: Sequence[int], most: int) -> Iterator[slice]:
    """Yield slices of texts that have at most `most` vectors together. A text with more is alone in its block."""
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > most:
            yield slice(start, index)
            start, total = index, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))


def _starts(texts: list[NDArray[Any]]) -> NDArray[np.intp]:
    """Return where the vectors of each text start if those of all texts follow one another."""
    sizes = np.array([len(vectors) for vectors in texts], np.intp)
    return np.cumsum(sizes) - sizes
