"""Score queries against vectors of 8-bit integers ("codes") with NumKong, if it is installed."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.common.executor import shared_executor
from embedder.common.records import frozen
from embedder.vectors.arrays import as_float32
from embedder.vectors.scoring import (
    CODE_DTYPES,
    LARGEST_CODE,
    Block,
    ScoreFunction,
    Scorer,
    Scores,
    make_scorer,
    relative_error,
)
from embedder.vectors.simd import MAX_DIMENSION, MAX_PAIRWISE, dot_products, multiplies_faster
from embedder.vectors.similarity import dot_score, norms_of

# The dot products in a block, and the most rows of a block: few where NumKong packs them, and many where it does not.
_PRODUCTS_PER_BLOCK = 1 << 20
_MAX_PACKED_ROWS = 1 << 14
_MAX_ROWS = 1 << 16
# A query is coded with codes from -127 to 127. A second code has 1/254 of the step of the first.
_LARGEST_QUERY_CODE = 127
_STEPS_PER_CODE = 254


@frozen
class QueryCodes:
    """Queries as vectors of 8-bit integers.

    Attributes:
        codes: (n, dim), the queries themselves. Or (2 * n, dim), if `steps` is not None: then query i is nearly
            `steps`[i] * (`codes`[i] + `codes`[n + i] / 254).
        steps: float32 (n,), or None.
        rest_norms: float32 (n,), the norm of what the codes leave out of each query, or 0.
    """

    codes: NDArray[Any]
    steps: NDArray[np.float32] | None
    rest_norms: NDArray[np.float32]


def encode_queries(queries: NDArray[np.float32]) -> QueryCodes:
    """Return finite `queries` (n, dim) as two int8 codes for each number, with a step for each query."""
    exact = queries.astype(np.float64)
    largest = np.abs(exact).max(axis=1, initial=0)
    steps = np.where(largest > 0, largest / _LARGEST_QUERY_CODE, 1).astype(np.float32)
    # A step that is 0 in float32 would divide by 0.
    steps = np.maximum(steps, np.finfo(np.float32).tiny)
    scaled = exact / steps[:, None]
    first = np.rint(scaled).clip(-_LARGEST_QUERY_CODE, _LARGEST_QUERY_CODE)
    second = np.rint((scaled - first) * _STEPS_PER_CODE).clip(-_LARGEST_QUERY_CODE, _LARGEST_QUERY_CODE)
    rest = exact - (first + second / _STEPS_PER_CODE) * steps[:, None]
    return QueryCodes(np.concatenate([first, second]).astype(np.int8), steps, norms_of(as_float32(rest)))


@frozen
class CodeScorer(Scorer):
    """Scores queries against int8 or uint8 codes by their dot products.

    Attributes:
        query_codes: the queries in the dtype of the codes.
    """

    query_codes: QueryCodes = field(kw_only=True)

    @property
    def threads(self) -> int:
        """The number of blocks to score at the same time. A call of NumKong uses one thread."""
        return shared_executor().threads

    @property
    def block_rows(self) -> int:
        """The number of rows in a block."""
        count = len(self.query_codes.codes)
        return min(_MAX_ROWS if count <= MAX_PAIRWISE else _MAX_PACKED_ROWS, _PRODUCTS_PER_BLOCK // max(1, count))

    def score_float32(self, block: Block) -> Scores:
        """Return the scores with `block`. If their error is unknown, they come from float64."""
        n, dimension = self.queries.shape
        steps = self.query_codes.steps
        products = dot_products(self.query_codes.codes, block.rows)
        values = products[:n].astype(np.float32)
        if steps is None and block.scales is None:
            return Scores(values, None)
        if steps is not None:
            values += products[n:] * np.float32(1 / _STEPS_PER_CODE)
            values *= steps[:, None]
        max_norm = np.float32(LARGEST_CODE * math.sqrt(dimension))
        if block.scales is not None:
            values *= block.scales
            max_norm = np.float32(max_norm * block.scales.max(initial=0))
        if block.max_norm is not None:
            max_norm = np.float32(block.max_norm)
        relative = np.float32(relative_error(dimension))
        max_error = (relative * norms_of(self.queries) + self.query_codes.rest_norms) * max_norm
        return self.checked(block, Scores(values, max_error + np.finfo(np.float32).tiny), max_norm)


def choose_scorer(queries: NDArray[np.generic], function: ScoreFunction, dtype: np.dtype[Any]) -> Scorer:
    """Return the scorer that compares `queries` (n, dim) with a corpus of `dtype` by `function`."""
    as_floats, integers = as_float32(queries), queries.dtype.kind in "iub" and dtype.kind in "iub"
    usable = function is dot_score and dtype in CODE_DTYPES and 0 < queries.shape[1] <= MAX_DIMENSION
    if usable and queries.dtype == dtype and multiplies_faster(len(queries)):
        codes = QueryCodes(queries, None, np.zeros(len(queries), np.float32))
    elif usable and dtype == np.int8 and np.isfinite(as_floats).all() and multiplies_faster(2 * len(queries)):
        codes = encode_queries(as_floats)
    else:
        return make_scorer(as_floats, function, integers)
    return CodeScorer(as_floats, as_floats, cosine=False, integers=integers, query_codes=codes)
