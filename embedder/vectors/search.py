"""Exact search for the nearest vectors of a corpus, in bounded memory.

The corpus is scored a block at a time. `embedder.vectors.scoring` says how the scores are made exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_counts, check_function
from embedder.common.executor import shared_executor
from embedder.vectors.arrays import as_float32, matching_embeddings
from embedder.vectors.scoring import PAIRS_PER_PRODUCT, Block, ScoreFunction, Scorer, Scores, make_scorer
from embedder.vectors.similarity import cos_sim
from embedder.vectors.topk import TopK, candidates

Hit = dict[str, int | float]
# Scores and ids, both (n, k).
Found = tuple[NDArray[np.float32], NDArray[np.int64]]

# Numbers of the corpus in a block, and scores of a block. They fit in the cache that the cores share. Smaller blocks
# cost more when another program uses one of the cores, because the threads of a product wait for each other.
_NUMBERS_PER_BLOCK = 1 << 22
SCORES_PER_BLOCK = 1 << 22
# From this share of candidates on, computing the whole block in float64 is faster than computing the candidates.
_DENSE_SHARE = 1 / 16


@dataclass(frozen=True)
class SearchOptions:
    """How to search. The fields are the options of `semantic_search`, and are checked when this is made."""

    top_k: int
    score_function: ScoreFunction = cos_sim
    query_chunk_size: int = 1024
    corpus_chunk_size: int = 500_000

    def __post_init__(self) -> None:
        check_counts(top_k=self.top_k, query_chunk_size=self.query_chunk_size, corpus_chunk_size=self.corpus_chunk_size)
        check_function("score_function", self.score_function)


@dataclass(frozen=True)
class Corpus:
    """The vectors to search in.

    Attributes:
        rows: (m, dim), of any numeric dtype. They may be mapped from a file.
        alive: (m,), which rows to search in. None is all.
        scales: (m,), the factor of each row's dot products. None is 1.
        longest: an upper bound of the norms of the rows, times their scales. None has them measured.
    """

    rows: NDArray[np.generic]
    alive: NDArray[np.bool_] | None = None
    scales: NDArray[np.float32] | None = None
    longest: float | None = None


def semantic_search(
    query_embeddings: ArrayLike,
    corpus_embeddings: ArrayLike,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500_000,
    top_k: int = 10,
    score_function: ScoreFunction = cos_sim,
) -> list[list[Hit]]:
    """Find the `top_k` vectors of a corpus that score highest with each query. The search is exact.

    Args:
        query_embeddings: (n, dim), or one vector (dim,).
        corpus_embeddings: (m, dim). An array may be mapped from a file: it is read a block at a time.
        query_chunk_size: the largest number of queries that are scored together.
        corpus_chunk_size: the largest number of corpus vectors that are scored together. The two chunk sizes bound
            the memory. Smaller blocks are used where they are as fast.
        top_k: how many vectors to return for each query. A smaller corpus is returned whole.
        score_function: `cos_sim`, `dot_score`, or any function that takes arrays of shape (n, dim) and (m, dim) and
            returns scores of shape (n, m), higher for nearer, such as `euclidean_sim`.

    Returns:
        A list for each query with entries {"corpus_id": row of the corpus, "score": float}, the highest score first.
        The lower corpus_id comes first among equal scores. NaN ranks below every number. For an empty corpus the
        lists are empty.

    Raises:
        InputError: the arrays have other shapes, an option is not a whole number of at least 1, or `score_function`
            returns another shape.

    Example:
        >>> semantic_search([1.0, 0.0], [[0.0, 1.0], [2.0, 0.0]], top_k=1)
        [[{'corpus_id': 1, 'score': 1.0}]]
    """
    options = SearchOptions(top_k, score_function, query_chunk_size, corpus_chunk_size)
    queries, corpus = matching_embeddings(
        query_embeddings, corpus_embeddings, ("query_embeddings", "corpus_embeddings")
    )
    return as_hits(nearest(queries, Corpus(corpus), options))


def as_hits(found: Found) -> list[list[Hit]]:
    """Return scores and ids as `semantic_search` returns them."""
    scores, ids = found
    return [
        [{"corpus_id": corpus_id, "score": score} for corpus_id, score in zip(*row, strict=True)]
        for row in zip(ids.tolist(), scores.tolist(), strict=True)
    ]


def rescore_candidates(
    ids: NDArray[np.int64], top_k: int, score: Callable[[int, NDArray[np.int64]], NDArray[np.float64]]
) -> Found:
    """Return the `top_k` best of each row of `ids` (n, k) by `score(query number, ids)`. The lower id wins ties."""
    width = min(top_k, ids.shape[1])
    scores, kept = np.empty((len(ids), width), np.float32), np.empty((len(ids), width), np.int64)
    for query, row in enumerate(ids):
        new_scores = np.asarray(score(query, row), np.float32)
        order = np.lexsort((row, -new_scores))[:width]
        scores[query], kept[query] = new_scores[order], row[order]
    return scores, kept


def nearest(queries: NDArray[np.generic], corpus: Corpus, options: SearchOptions) -> Found:
    """Find the nearest rows of `corpus` to each of `queries` (n, dim), as `semantic_search` does.

    Returns:
        Scores, float32, and row numbers, int64. Both have shape (n, min(top_k, rows that are alive)).
    """
    present = None if corpus.alive is None else np.flatnonzero(corpus.alive)
    total = len(corpus.rows) if present is None else len(present)
    width = min(options.top_k, total)
    scores, ids = np.empty((len(queries), width), np.float32), np.empty((len(queries), width), np.int64)
    if not width:
        return scores, ids
    height = min(options.corpus_chunk_size, max(_NUMBERS_PER_BLOCK // max(1, corpus.rows.shape[1]), 2 * width))
    step = min(options.query_chunk_size, max(1, SCORES_PER_BLOCK // min(height, total)))
    integers = queries.dtype.kind in "iub" and corpus.rows.dtype.kind in "iub"
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        scorer = make_scorer(as_float32(queries[part]), options.score_function, integers)
        best = TopK(len(queries[part]), width)

        def score_block(at: int, scorer: Scorer = scorer) -> tuple[int, Block, Scores]:
            where = slice(at, at + height) if present is None else present[at : at + height]
            scales = None if corpus.scales is None else corpus.scales[where]
            block = Block(as_float32(corpus.rows[where]), scales, corpus.longest)
            with np.errstate(all="ignore"):
                return at, block, scorer.score_float32(block)

        starts = range(0, total, height)
        blocks: Iterator[tuple[int, Block, Scores]]
        threads = scorer.threads if len(starts) > 1 else 1
        if threads == 1:
            blocks = map(score_block, starts)
        else:
            blocks = shared_executor().map(score_block, starts, ahead=2 * threads)
        for at, block, approximate in blocks:
            _offer(best, scorer, block, approximate, at)
        scores[part], ids[part] = best.result(total)
    return scores, ids if present is None else present[ids]


def _offer(best: TopK, scorer: Scorer, block: Block, approximate: Scores, at: int) -> None:
    """Offer the scores of `block`, the rows of the corpus from `at` on, to `best`."""
    with np.errstate(all="ignore"):
        values, max_error = approximate.values, approximate.max_error
        rows, columns = candidates(values, best.k, best.bound, max_error)
        if max_error is None:
            found = values[rows, columns]
        elif len(rows) > _DENSE_SHARE * values.size and len(rows) > PAIRS_PER_PRODUCT:
            values = scorer.score_float64(block)
            rows, columns = candidates(values, best.k, best.bound)
            found = values[rows, columns]
        else:
            found = scorer.score_pairs(block, rows, columns)
            wanted = (found > best.bound[rows]) | (best.bound[rows] == -np.inf)
            rows, columns, found = rows[wanted], columns[wanted], found[wanted]
    best.add(rows, columns + at, found)
