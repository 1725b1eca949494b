"""Score queries against a block of a corpus: fast in float32 with a known error, or correctly rounded from float64.

A matrix product in float32 rounds a row differently depending on its place in the matrix. So search selects candidates
by the float32 scores, within their error, and computes the candidates again in float64, rounded to float32 once. Equal
vectors then have equal scores, and a result depends neither on block sizes nor on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.cores import usable_cores
from embedder.errors import InputError
from embedder.vectors.arrays import as_float32
from embedder.vectors.similarity import SMALLEST_NORM, cos_sim, dot_score, normalize, norms_of

ScoreFunction = Callable[[Any, Any], ArrayLike]

# Up to this many queries, one thread per block is faster than a matrix product with several threads.
_MAX_THREADED_QUERIES = 2
# Pairs that are scored together in float64. It bounds the memory of the copies.
PAIRS_PER_PRODUCT = 4096
# float32 represents every integer up to 2**24 exactly.
_LARGEST_EXACT_INTEGER = 1 << 24


@dataclass(frozen=True)
class Block:
    """Some rows of a corpus.

    Attributes:
        rows: (m, dim).
        scales: (m,), the factor of each row's dot products. None is 1.
        longest: an upper bound of the norms of the rows, times their scales. None has them measured.
    """

    rows: NDArray[np.float32]
    scales: NDArray[np.float32] | None = None
    longest: float | None = None


@dataclass(frozen=True)
class Scores:
    """Scores of a block.

    Attributes:
        values: float32 (n, m).
        max_error: (n,), the largest error of the values in each row. None means that they are exact.
    """

    values: NDArray[np.float32]
    max_error: NDArray[np.float32] | None


def relative_error(dimension: int) -> float:
    """Return the largest error of a float32 dot product, as a share of the product of both norms.

    Higham, Accuracy and Stability of Numerical Algorithms, section 3.1, gives n·u for a sum of n products. The norms
    add half of that each, and 16 covers the roundings before and after.
    """
    return (2 * dimension + 16) * 2.0**-24


def _longest_norm(block: Block) -> np.float32:
    """Return the largest norm of the block's rows, times their scales. NaN is ignored."""
    if block.longest is not None:
        return np.float32(block.longest)
    norms = norms_of(block.rows)
    return np.float32(np.fmax.reduce(norms if block.scales is None else norms * block.scales, initial=0))


@dataclass(frozen=True)
class Scorer:
    """Scores of queries with blocks of a corpus by `cos_sim` or `dot_score`.

    Attributes:
        queries: (n, dim).
        factors: the queries, scaled to length 1 for the cosine.
        cosine: whether scores are cosines.
        integers: whether the queries and the corpus were integers before they became float32.
    """

    queries: NDArray[np.float32]
    factors: NDArray[np.float32]
    cosine: bool
    integers: bool = False

    @property
    def threads(self) -> int:
        """How many blocks to score side by side. It is 1 where the matrix product uses several threads itself."""
        return usable_cores() if len(self.queries) <= _MAX_THREADED_QUERIES else 1

    def score_float32(self, block: Block) -> Scores:
        """Return the scores with `block`, computed in float32 where that has a known error."""
        relative = np.float32(relative_error(block.rows.shape[1]))
        if len(self.factors) <= _MAX_THREADED_QUERIES:
            values = np.stack([np.einsum("ij,j->i", block.rows, factors) for factors in self.factors])
        else:
            values = self.factors @ block.rows.T
        if self.cosine:
            norms = norms_of(block.rows)
            longest = np.fmax.reduce(norms, initial=np.float32(0))
            values *= np.float32(1) / np.maximum(norms, np.float32(SMALLEST_NORM))
            max_error = np.full(len(values), relative)
        else:
            if block.scales is not None:
                values *= block.scales
            longest = _longest_norm(block)
            largest_products = norms_of(self.queries) * longest
            if self.integers and block.scales is None and np.all(largest_products < _LARGEST_EXACT_INTEGER):
                return Scores(values, None)
            # Products below the smallest float32 are lost, so it is part of the error.
            max_error = relative * largest_products + np.finfo(np.float32).tiny
        if not (np.isfinite(longest) and np.isfinite(max_error[~np.isnan(max_error)]).all()):
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
        """Return the scores (m,) of queries `rows` (m,) with rows `columns` (m,) of `block`, computed in float64."""
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
    """Return what the dot products of `rows` (n, dim) are divided by for the cosine, (n,)."""
    lengths: NDArray[np.float64] = np.maximum(np.sqrt(np.einsum("ij,ij->i", rows, rows)), SMALLEST_NORM)
    return lengths


@dataclass(frozen=True)
class FunctionScorer(Scorer):
    """Scores by a function of the caller, which count as exact."""

    function: ScoreFunction = cos_sim

    @property
    def threads(self) -> int:
        """One, because the function may not be safe to call from several threads."""
        return 1

    def score_float32(self, block: Block) -> Scores:
        """Return the function's scores."""
        scores = np.asarray(self.function(self.queries, block.rows))
        shape = len(self.queries), len(block.rows)
        if scores.shape != shape:
            raise InputError(f"score_function should return scores of shape {shape}, not {scores.shape}")
        return Scores(as_float32(scores), None)

    def score_pairs(self, block: Block, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the function's scores, computed pair by pair."""
        each = zip(self.queries[rows, None], block.rows[columns, None], strict=True)
        scores = [self.function(query, row) for query, row in each]
        return np.array(scores, np.float32).reshape(len(rows))


def make_scorer(queries: NDArray[np.float32], function: ScoreFunction, integers: bool = False) -> Scorer:
    """Return the scorer of `queries` by `function`. For `integers`, see `Scorer`."""
    if function is cos_sim:
        return Scorer(queries, normalize(queries), cosine=True)
    if function is dot_score:
        return Scorer(queries, queries, cosine=False, integers=integers)
    return FunctionScorer(queries, queries, cosine=False, function=function)
