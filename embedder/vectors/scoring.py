"""Score queries against a block of a corpus, in float32 with a known error or in float64.

In a float32 matrix product, the rounding of a row depends on the row's place in the matrix. So search works in two
steps. It selects candidates by their float32 scores, within the error of these scores. Then it scores the candidates in
float64 and rounds once. So equal vectors have equal scores, and block sizes and threads do not change the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.executor import shared_executor
from embedder.common.records import frozen
from embedder.errors import InputError
from embedder.vectors.arrays import as_float32, rows_per_block
from embedder.vectors.similarity import MIN_NORM, cos_sim, dot_score, normalize, norms_of

ScoreFunction = Callable[[Any, Any], ArrayLike]

# Up to this many queries, one thread per block is faster than a matrix product with several threads.
_MAX_THREADED_QUERIES = 2
# The number of pairs that are scored together in float64. Their copies fit in the cache of one core.
PAIRS_PER_PRODUCT = 256
# The numbers of the corpus in one block (16 MB of float32). They fit in the cache that the cores share. Smaller blocks
# are slower if another program uses one of the cores, because the threads of a matrix product wait for each other at
# the end of each block.
NUMBERS_PER_BLOCK = 1 << 22
# If a block has fewer different rows than this share, it is scored by them.
_MAX_DIFFERENT_SHARE = 1 / 16
# The dtypes of vectors of 8-bit integers, and a number that none of them exceeds.
CODE_DTYPES = (np.dtype(np.int8), np.dtype(np.uint8))
LARGEST_CODE = 255
# float32 represents every integer up to 2**24 exactly.
_LARGEST_EXACT_INTEGER = 1 << 24


@frozen
class Block:
    """Some rows of a corpus.

    Attributes:
        rows: (m, dim). They are scored as float32.
        scales: see `search.Corpus`.
        max_norm: see `search.Corpus`.
    """

    rows: NDArray[Any]
    scales: NDArray[np.float32] | None = None
    max_norm: float | None = None


@frozen
class Scores:
    """Scores of a block.

    Attributes:
        values: float32 (n, m).
        max_error: (n,), the largest error of the values in each row. None means that they are exact.
    """

    values: NDArray[np.float32]
    max_error: NDArray[np.float32] | None


def relative_error(dimension: int) -> float:
    """Return the largest error of a float32 dot product, as a share of the product of the two norms.

    A sum of n products has a relative error of at most n * u, where u is 2**-24. Source: Higham, Accuracy and Stability
    of Numerical Algorithms, section 3.1. Each of the two norms adds at most n * u / 2. The constant 16 covers the few
    other roundings.
    """
    return (2 * dimension + 16) * 2.0**-24


@frozen
class Scorer:
    """Scores queries against blocks of a corpus by `cos_sim` or `dot_score`.

    Attributes:
        queries: (n, dim).
        factors: (n, dim), the queries. For the cosine, each is scaled to length 1.
        cosine: true if scores are cosines, false if they are dot products.
        integers: true if the queries and the corpus were integers before the conversion to float32.
    """

    queries: NDArray[np.float32]
    factors: NDArray[np.float32]
    cosine: bool
    integers: bool = False

    @property
    def threads(self) -> int:
        """The number of blocks to score at the same time. It is 1 if the matrix product uses several threads itself."""
        return shared_executor().threads if len(self.queries) <= _MAX_THREADED_QUERIES else 1

    @property
    def block_rows(self) -> int:
        """The number of rows in a block."""
        return int(NUMBERS_PER_BLOCK // max(1, self.queries.shape[1]))

    def score_float32(self, block: Block) -> Scores:
        """Return the scores with `block`, computed in float32. If their error is unknown, they come from float64."""
        exact = self._is_exact(block)
        with_norms = self.cosine or not (exact or block.max_norm is not None)
        values, norms = self._multiply(block.rows, with_norms)
        if exact:
            return Scores(values, None)
        relative = np.float32(relative_error(block.rows.shape[1]))
        if self.cosine:
            max_norm = np.fmax.reduce(norms, initial=np.float32(0))
            values *= np.float32(1) / np.maximum(norms, np.float32(MIN_NORM))
            max_error = np.full(len(values), relative)
        else:
            if block.scales is not None:
                values *= block.scales
                norms = norms * block.scales if with_norms else norms
            max_norm = np.float32(np.fmax.reduce(norms, initial=0) if block.max_norm is None else block.max_norm)
            largest_products = norms_of(self.queries) * max_norm
            if self.integers and block.scales is None and np.all(largest_products < _LARGEST_EXACT_INTEGER):
                return Scores(values, None)
            # A product below the smallest float32 becomes 0, so the smallest float32 is part of the error.
            max_error = relative * largest_products + np.finfo(np.float32).tiny
        return self.checked(block, Scores(values, max_error), max_norm)

    def _is_exact(self, block: Block) -> bool:
        """Return whether float32 represents every sum of products of 8-bit integers exactly."""
        if not self.integers or block.scales is not None or block.rows.dtype not in CODE_DTYPES:
            return False
        sums = np.abs(self.queries).sum(axis=1, dtype=np.float64) * LARGEST_CODE
        return bool(np.all(sums < _LARGEST_EXACT_INTEGER))

    def _multiply(self, rows: NDArray[Any], with_norms: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the products (n, m) of `factors` with `rows` (m, dim), and the norms of the rows, if asked for."""
        if len(self.factors) > _MAX_THREADED_QUERIES:
            rows = as_float32(rows)
            return self.factors @ rows.T, norms_of(rows if with_norms else rows[:0])
        values = np.empty((len(self.factors), len(rows)), np.float32)
        norms = np.empty(len(rows) if with_norms else 0, np.float32)
        # Rows that are converted are used while they are in a cache. In smaller pieces, threads wait for each other.
        size = len(rows) if rows.dtype == np.float32 else 4 * rows_per_block(rows)
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            floats = as_float32(rows[part])
            for factors, products in zip(self.factors, values, strict=True):
                np.einsum("ij,j->i", floats, factors, out=products[part])
            if with_norms:
                norms[part] = norms_of(floats)
        return values, norms

    def checked(self, block: Block, scores: Scores, max_norm: np.float32) -> Scores:
        """Return `scores`. If their error is unknown, score `block` in float64 instead."""
        assert scores.max_error is not None
        if np.isfinite(max_norm) and np.isfinite(scores.max_error[~np.isnan(scores.max_error)]).all():
            return scores
        return Scores(self.score_float64(block), None)

    def score_float64(self, block: Block) -> NDArray[np.float32]:
        """Return the scores (n, m) with `block`, computed in float64."""
        different, places = _different_rows(as_float32(block.rows))
        queries, rows = self.queries.astype(np.float64), different.astype(np.float64)
        scores = queries @ rows.T
        if self.cosine:
            scores /= _divisors(queries)[:, None]
            scores /= _divisors(rows)
        if block.scales is not None:
            return (scores * block.scales if places is None else scores[:, places] * block.scales).astype(np.float32)
        rounded = scores.astype(np.float32)
        return rounded if places is None else np.take(rounded, places, axis=1)

    def score_pairs(self, block: Block, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the scores (m,) of pairs, computed in float64. Do not call it in a thread of the shared executor.

        Pair i consists of the query `rows`[i] and the row `columns`[i] of `block`.
        """
        scores = np.empty(len(rows), np.float32)
        divisors = _divisors(self.queries.astype(np.float64)) if self.cosine else None

        def score(start: int) -> None:
            part = slice(start, start + PAIRS_PER_PRODUCT)
            i, j = rows[part], columns[part]
            with np.errstate(all="ignore"):
                b = as_float32(block.rows[j]).astype(np.float64)
                products = np.einsum("ij,ij->i", self.queries[i].astype(np.float64), b)
                if divisors is not None:
                    products = products / divisors[i] / _divisors(b)
                scores[part] = products if block.scales is None else products * block.scales[j]

        starts = range(0, len(rows), PAIRS_PER_PRODUCT)
        for _ in map(score, starts) if len(starts) == 1 else shared_executor().map(score, starts):
            pass
        return scores


def _different_rows(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.intp] | None]:
    """Find the different rows among `rows` (m, dim), if most rows are copies of a few.

    Returns:
        The different rows, and the place of each row in them, (m,). If there are too many different rows, or they are
        hard to tell apart, all rows and None.
    """
    # Equal rows have equal sums. The weights make it unlikely that other rows have the same sum.
    sums = np.einsum("ij,j->i", rows, np.sin(np.arange(1, rows.shape[1] + 1), dtype=np.float32))
    _, first, places = np.unique(sums, return_index=True, return_inverse=True)
    if len(first) > len(rows) * _MAX_DIFFERENT_SHARE:
        return rows, None
    different = rows[first]
    for start in range(0, len(rows), rows_per_block(rows)):
        part = slice(start, start + rows_per_block(rows))
        if not np.array_equal(rows[part].view(np.uint32), np.take(different, places[part], axis=0).view(np.uint32)):
            return rows, None
    return different, places


def _divisors(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the norms (n,) of `rows` (n, dim), at least `MIN_NORM`. A dot product divided by them is a cosine."""
    norms: NDArray[np.float64] = np.maximum(np.sqrt(np.einsum("ij,ij->i", rows, rows)), MIN_NORM)
    return norms


@frozen
class FunctionScorer(Scorer):
    """Scores queries by a function of the caller. Its scores are taken as exact."""

    function: ScoreFunction = cos_sim

    @property
    def threads(self) -> int:
        """The number of blocks to score at the same time: 1, because the function may not be safe in threads."""
        return 1

    def score_float32(self, block: Block) -> Scores:
        """Return the function's scores with `block`.

        Raises:
            InputError: the function returns another shape than (n, m).
        """
        scores = np.asarray(self.function(self.queries, as_float32(block.rows)))
        shape = len(self.queries), len(block.rows)
        if scores.shape != shape:
            raise InputError(f"score_function should return scores of shape {shape}, not {scores.shape}")
        return Scores(as_float32(scores), None)

    def score_pairs(self, block: Block, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the scores (m,) of pairs. The function is called once for each pair."""
        pairs = zip(self.queries[rows, None], as_float32(block.rows[columns])[:, None], strict=True)
        scores = [self.function(query, row) for query, row in pairs]
        return np.array(scores, np.float32).reshape(len(rows))


def make_scorer(queries: NDArray[np.float32], function: ScoreFunction, integers: bool = False) -> Scorer:
    """Return a scorer that compares `queries` (n, dim) by `function`. For `integers`, see `Scorer`."""
    if function is cos_sim:
        return Scorer(queries, normalize(queries), cosine=True)
    if function is dot_score:
        return Scorer(queries, queries, cosine=False, integers=integers)
    return FunctionScorer(queries, queries, cosine=False, function=function)
