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
from embedder.vectors.arrays import as_float32
from embedder.vectors.similarity import MIN_NORM, cos_sim, dot_score, normalize, norms_of

ScoreFunction = Callable[[Any, Any], ArrayLike]

# Up to this many queries, one thread per block is faster than a matrix product with several threads.
_MAX_THREADED_QUERIES = 2
# The number of pairs that are scored together in float64. It limits the memory of their copies.
PAIRS_PER_PRODUCT = 4096
# float32 represents every integer up to 2**24 exactly.
_LARGEST_EXACT_INTEGER = 1 << 24


@frozen
class Block:
    """Some rows of a corpus.

    Attributes:
        rows: (m, dim).
        scales: see `search.Corpus`.
        max_norm: see `search.Corpus`.
    """

    rows: NDArray[np.float32]
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


def _max_norm(block: Block) -> np.float32:
    """Return the largest norm of the scaled rows of `block`, or an upper bound of it. NaN is ignored."""
    if block.max_norm is not None:
        return np.float32(block.max_norm)
    norms = norms_of(block.rows)
    return np.float32(np.fmax.reduce(norms if block.scales is None else norms * block.scales, initial=0))


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

    def score_float32(self, block: Block) -> Scores:
        """Return the scores with `block`, computed in float32. If their error is unknown, they come from float64."""
        relative = np.float32(relative_error(block.rows.shape[1]))
        if len(self.factors) <= _MAX_THREADED_QUERIES:
            values = np.stack([np.einsum("ij,j->i", block.rows, factors) for factors in self.factors])
        else:
            values = self.factors @ block.rows.T
        if self.cosine:
            norms = norms_of(block.rows)
            max_norm = np.fmax.reduce(norms, initial=np.float32(0))
            values *= np.float32(1) / np.maximum(norms, np.float32(MIN_NORM))
            max_error = np.full(len(values), relative)
        else:
            if block.scales is not None:
                values *= block.scales
            max_norm = _max_norm(block)
            largest_products = norms_of(self.queries) * max_norm
            if self.integers and block.scales is None and np.all(largest_products < _LARGEST_EXACT_INTEGER):
                return Scores(values, None)
            # A product below the smallest float32 becomes 0, so the smallest float32 is part of the error.
            max_error = relative * largest_products + np.finfo(np.float32).tiny
        if not (np.isfinite(max_norm) and np.isfinite(max_error[~np.isnan(max_error)]).all()):
            return Scores(self.score_float64(block), None)
        return Scores(values, max_error)

    def score_float64(self, block: Block) -> NDArray[np.float32]:
        """Return the scores (n, m) with `block`, computed in float64."""
        queries, rows = self.queries.astype(np.float64), block.rows.astype(np.float64)
        scores = queries @ rows.T
        if self.cosine:
            scores /= _divisors(queries)[:, None]
            scores /= _divisors(rows)
        if block.scales is not None:
            scores *= block.scales
        return scores.astype(np.float32)

    def score_pairs(self, block: Block, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the scores (m,) of pairs, computed in float64.

        Pair i consists of the query `rows`[i] and the row `columns`[i] of `block`.
        """
        scores = np.empty(len(rows), np.float32)
        divisors = _divisors(self.queries.astype(np.float64)) if self.cosine else None
        for start in range(0, len(rows), PAIRS_PER_PRODUCT):
            i, j = rows[start : start + PAIRS_PER_PRODUCT], columns[start : start + PAIRS_PER_PRODUCT]
            b = block.rows[j].astype(np.float64)
            products = np.einsum("ij,ij->i", self.queries[i].astype(np.float64), b)
            if divisors is not None:
                products = products / divisors[i] / _divisors(b)
            scores[start : start + PAIRS_PER_PRODUCT] = products if block.scales is None else products * block.scales[j]
        return scores


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
        scores = np.asarray(self.function(self.queries, block.rows))
        shape = len(self.queries), len(block.rows)
        if scores.shape != shape:
            raise InputError(f"score_function should return scores of shape {shape}, not {scores.shape}")
        return Scores(as_float32(scores), None)

    def score_pairs(self, block: Block, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the scores (m,) of pairs. The function is called once for each pair."""
        pairs = zip(self.queries[rows, None], block.rows[columns, None], strict=True)
        scores = [self.function(query, row) for query, row in pairs]
        return np.array(scores, np.float32).reshape(len(rows))


def make_scorer(queries: NDArray[np.float32], function: ScoreFunction, integers: bool = False) -> Scorer:
    """Return a scorer that compares `queries` (n, dim) by `function`. For `integers`, see `Scorer`."""
    if function is cos_sim:
        return Scorer(queries, normalize(queries), cosine=True)
    if function is dot_score:
        return Scorer(queries, queries, cosine=False, integers=integers)
    return FunctionScorer(queries, queries, cosine=False, function=function)
