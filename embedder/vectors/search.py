"""Exact search: the nearest of a corpus to each query, in bounded memory.

The scores of a block of the corpus are one matrix product in float32, small enough to stay in the cache while it is
looked through. Such a product rounds a row differently by where it stands, so whatever may be among the best by it,
within its error, is computed again in float64 and rounded to float32 once. Hence equal vectors have equal scores, and a
result depends neither on the sizes of the chunks nor on the machine's number of threads.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_counts
from embedder.common.cores import usable_cores
from embedder.errors import InputError
from embedder.vectors.similarity import SMALLEST_NORM, as_float32, as_pair, cos_sim, dot_score, normalize, norms_of
from embedder.vectors.topk import Best, candidates

ScoreFunction = Callable[[Any, Any], ArrayLike]
Hit = dict[str, int | float]
# Scores (n, m), and how far they may be from the exact ones (n,); None where they are exact.
Rough = tuple[NDArray[np.float32], NDArray[np.float32] | None]
_Result = TypeVar("_Result")

# Numbers of the corpus in a block, and scores of it: few enough to stay in a cache that the cores share, and so many
# that a product's threads seldom wait for each other, which takes long where another program has one of the cores.
_BLOCK_NUMBERS = 1 << 22
BLOCK_SCORES = 1 << 22
# Queries that are so few that a thread for each of some blocks takes less time than a product that shares its threads:
# memory bounds both, and the former wait for nothing.
_FEW = 2
# Rows whose scores are computed again at once.
_PAIRS = 4096
# Whole numbers up to here, and hence sums of them that stay below, float32 has all of.
_WHOLE = 1 << 24
# The share of a block from which on computing all of it again takes less time than those that are wanted.
_DENSE = 1 / 16


def semantic_search(
    query_embeddings: ArrayLike,
    corpus_embeddings: ArrayLike,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500_000,
    top_k: int = 10,
    score_function: ScoreFunction = cos_sim,
) -> list[list[Hit]]:
    """The `top_k` vectors of a corpus that score highest with each query, exactly.

    Args:
        query_embeddings: (n, dim), or one vector (dim,).
        corpus_embeddings: (m, dim); an array may be mapped from a file, and is read a block at a time.
        query_chunk_size: most queries that are scored at once.
        corpus_chunk_size: most vectors of the corpus that they are scored with at once. Memory stays below what scores
            of such a chunk take; less is used where less is as fast.
        top_k: how many are wanted; all are given where the corpus has fewer.
        score_function: `cos_sim`, `dot_score`, or any function of (n, dim) and (m, dim) that gives scores (n, m), of
            which higher is nearer, such as `euclidean_sim`.

    Returns:
        For each query a list of {"corpus_id": its row, "score": a float}, the highest first. Equal scores are ranked by
        corpus_id, the lowest first. NaN ranks below every number: a vector that holds one is found only when nothing
        else is left. Of an empty corpus each list is empty.

    Raises:
        InputError: embeddings are not such arrays, or a number is not at least 1, or scores have another shape.
    """
    scores, ids = nearest(
        query_embeddings, corpus_embeddings, top_k, score_function, query_chunk_size, corpus_chunk_size
    )
    return as_hits(scores, ids)


def as_hits(scores: NDArray[np.float32], ids: NDArray[np.int64]) -> list[list[Hit]]:
    """Scores and ids (n, k) as `semantic_search` returns them."""
    return [
        [{"corpus_id": corpus_id, "score": score} for corpus_id, score in zip(*row, strict=True)]
        for row in zip(ids.tolist(), scores.tolist(), strict=True)
    ]


def rescored(
    ids: NDArray[np.int64], top_k: int, score: Callable[[int, NDArray[np.int64]], NDArray[np.float64]]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `top_k` best of each row of `ids` (n, k) by `score(row's number, row)`; of equal ones the lowest id."""
    width = min(top_k, ids.shape[1])
    scores, kept = np.empty((len(ids), width), np.float32), np.empty((len(ids), width), np.int64)
    for query, row in enumerate(ids):
        again = np.asarray(score(query, row), np.float32)
        order = np.lexsort((row, -again))[:width]
        scores[query], kept[query] = again[order], row[order]
    return scores, kept


def nearest(
    queries: ArrayLike,
    corpus: ArrayLike,
    top_k: int,
    score_function: ScoreFunction = cos_sim,
    query_chunk_size: int = 1024,
    corpus_chunk_size: int = 500_000,
    alive: NDArray[np.bool_] | None = None,
    scales: NDArray[np.float32] | None = None,
    longest: float | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """As `semantic_search`: scores float32 and corpus ids int64, both (n, min(top_k, m)).

    `alive` (m,) says which rows of the corpus count; None is all. `scales` (m,) is what the dot products with each row
    are multiplied by; None is 1. `longest` is a length that no row, times its scale, exceeds; None has them measured.
    """
    check_counts(top_k=top_k, query_chunk_size=query_chunk_size, corpus_chunk_size=corpus_chunk_size)
    rows, columns = as_pair(queries, corpus, ("query_embeddings", "corpus_embeddings"))
    present = None if alive is None else np.flatnonzero(alive)
    total = len(columns) if present is None else len(present)
    width = min(top_k, total)
    scores, ids = np.empty((len(rows), width), np.float32), np.empty((len(rows), width), np.int64)
    if not width:
        return scores, ids
    height = min(corpus_chunk_size, max(_BLOCK_NUMBERS // max(1, columns.shape[1]), 2 * width))
    step = min(query_chunk_size, max(1, BLOCK_SCORES // min(height, total)))
    whole = rows.dtype.kind in "iub" and columns.dtype.kind in "iub"
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        score = scorer(as_float32(rows[part]), score_function, whole)
        best = Best(len(rows[part]), width)

        def scored(at: int, score: Scorer = score) -> tuple[int, Block, Rough]:
            where = slice(at, at + height) if present is None else present[at : at + height]
            block = Block(as_float32(columns[where]), None if scales is None else scales[where], longest)
            with np.errstate(all="ignore"):
                return at, block, score.roughly(block)

        for at, block, rough in _in_order(scored, range(0, total, height), score.threads):
            _offer(best, score, block, rough, at, width)
        scores[part], ids[part] = best.result(total)
    return scores, ids if present is None else present[ids]


def _in_order(call: Callable[[int], _Result], items: Iterable[int], threads: int) -> Iterator[_Result]:
    """What `call` gives for each item, in their order; in so many threads, which are a few items ahead."""
    if threads == 1:
        yield from map(call, items)
        return
    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(threads, "embedder") as pool:
        for item in items:
            waiting.append(pool.submit(call, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _offer(best: Best, score: "Scorer", block: "Block", rough: Rough, at: int, k: int) -> None:
    """Offer what the queries score with `block`, the rows of the corpus from `at` on."""
    with np.errstate(all="ignore"):
        scores, slack = rough
        rows, columns = candidates(scores, k, best.bound, slack)
        if slack is None:
            found = scores[rows, columns]
        elif len(rows) > _DENSE * scores.size and len(rows) > _PAIRS:
            scores = score.exactly(block)
            rows, columns = candidates(scores, k, best.bound)
            found = scores[rows, columns]
        else:
            found = score.pairs(block, rows, columns)
            wanted = (found > best.bound[rows]) | (best.bound[rows] == -np.inf)
            rows, columns, found = rows[wanted], columns[wanted], found[wanted]
    best.add(rows, columns + at, found)


@dataclass(frozen=True)
class Block:
    """Rows of a corpus (m, dim), what their dot products are multiplied by (m,), and how long they are at most."""

    rows: NDArray[np.float32]
    scales: NDArray[np.float32] | None = None
    longest: float | None = None


def relative_error(dimension: int) -> float:
    """How far a product of rows in float32 may be off, as a share of the product of their lengths.

    Higham, Accuracy and Stability of Numerical Algorithms, 3.1: n·u for a sum of n products. Here it is that of the
    product, and half of it for each of two lengths; and what is rounded before and after.
    """
    return (2 * dimension + 16) * 2.0**-24


def _longest(block: Block) -> np.float32:
    """The length of its longest row, NaN aside."""
    if block.longest is not None:
        return np.float32(block.longest)
    norms = norms_of(block.rows)
    return np.float32(np.fmax.reduce(norms if block.scales is None else norms * block.scales, initial=0))


@dataclass(frozen=True)
class Scorer:
    """Scores of queries (n, dim) with blocks of a corpus: roughly and fast, or exactly.

    For `cos_sim` and `dot_score`; another function's scores are taken as they are.
    """

    queries: NDArray[np.float32]
    # The queries, or for the cosine what they are at length 1.
    factors: NDArray[np.float32]
    cosine: bool
    # Whether the queries and the corpus are of whole numbers.
    whole: bool = False

    @property
    def threads(self) -> int:
        """How many blocks to score at once: one, where the product of a block has threads of its own."""
        return usable_cores() if len(self.queries) <= _FEW else 1

    def roughly(self, block: Block) -> Rough:
        """Scores (n, m), and how far they may be from the exact ones (n,); None where they are exact."""
        relative = np.float32(relative_error(block.rows.shape[1]))
        if len(self.factors) <= _FEW:
            scores = np.stack([np.einsum("ij,j->i", block.rows, factors) for factors in self.factors])
        else:
            scores = self.factors @ block.rows.T
        if self.cosine:
            norms = norms_of(block.rows)
            longest = np.fmax.reduce(norms, initial=np.float32(0))
            scores *= np.float32(1) / np.maximum(norms, np.float32(SMALLEST_NORM))
            slack = np.full(len(scores), relative)
        else:
            if block.scales is not None:
                scores *= block.scales
            longest = _longest(block)
            products = norms_of(self.queries) * longest
            if self.whole and block.scales is None and np.all(products < _WHOLE):
                return scores, None
            # What is smaller than float32 holds is lost.
            slack = relative * products + np.finfo(np.float32).tiny
        if not (np.isfinite(longest) and np.isfinite(slack[~np.isnan(slack)]).all()):
            return self.exactly(block), None
        return scores, slack

    def exactly(self, block: Block) -> NDArray[np.float32]:
        """Scores (n, m), computed in float64."""
        queries, rows = self.queries.astype(np.float64), block.rows.astype(np.float64)
        scores = queries @ rows.T
        if self.cosine:
            scores /= _lengths(queries)[:, None]
            scores /= _lengths(rows)
        if block.scales is not None:
            scores *= block.scales
        return scores.astype(np.float32)

    def pairs(self, block: Block, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
        """The scores of queries `rows` (m,) with rows `columns` (m,) of `block`, computed in float64."""
        scores = np.empty(len(rows), np.float32)
        lengths = _lengths(self.queries.astype(np.float64)) if self.cosine else None
        for start in range(0, len(rows), _PAIRS):
            i, j = rows[start : start + _PAIRS], columns[start : start + _PAIRS]
            b = block.rows[j].astype(np.float64)
            products = np.einsum("ij,ij->i", self.queries[i].astype(np.float64), b)
            if lengths is not None:
                products = products / lengths[i] / _lengths(b)
            scores[start : start + _PAIRS] = products if block.scales is None else products * block.scales[j]
        return scores


def _lengths(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """What rows are divided by for the cosine."""
    lengths: NDArray[np.float64] = np.maximum(np.sqrt(np.einsum("ij,ij->i", rows, rows)), SMALLEST_NORM)
    return lengths


@dataclass(frozen=True)
class OtherScorer(Scorer):
    """Scores by a function that is given."""

    function: ScoreFunction = cos_sim

    @property
    def threads(self) -> int:
        """One, as the function may not be made for more."""
        return 1

    def roughly(self, block: Block) -> Rough:
        """As the function has them, which counts as exact."""
        scores = np.asarray(self.function(self.queries, block.rows))
        shape = len(self.queries), len(block.rows)
        if scores.shape != shape:
            raise InputError(f"score_function should give scores of shape {shape}, not {scores.shape}")
        return as_float32(scores), None

    def pairs(self, block: Block, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
        """As the function has them, one by one."""
        each = zip(self.queries[rows, None], block.rows[columns, None], strict=True)
        scores = [self.function(query, row) for query, row in each]
        return np.array(scores, np.float32).reshape(len(rows))


def scorer(queries: NDArray[np.float32], function: ScoreFunction, whole: bool = False) -> Scorer:
    """What scores `queries` by `function`; `whole` says whether they and the corpus are of whole numbers."""
    if function is cos_sim:
        return Scorer(queries, normalize(queries), cosine=True)
    if function is dot_score:
        return Scorer(queries, queries, cosine=False, whole=whole)
    return OtherScorer(queries, queries, cosine=False, function=function)
