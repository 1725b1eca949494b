"""Exact search for the nearest vectors of a corpus, in bounded memory.

The corpus is scored block by block. `embedder.vectors.scoring` explains how the scores become exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_counts, check_function
from embedder.common.executor import shared_executor
from embedder.common.records import frozen
from embedder.vectors.arrays import as_float32, matching_embeddings
from embedder.vectors.scoring import PAIRS_PER_PRODUCT, Block, ScoreFunction, Scorer, Scores, make_scorer
from embedder.vectors.similarity import cos_sim
from embedder.vectors.topk import TopK, candidates

# A vector that was found: {"corpus_id": int, "score": float}.
Hit = dict[str, int | float]
# The scores and the ids (or row numbers) of the vectors that were found. Both have the shape (n, k).
Found = tuple[NDArray[np.float32], NDArray[np.int64]]

# The numbers of the corpus in one block (16 MB of float32), and the scores of one block. Both fit in the cache that the
# cores share. Smaller blocks are slower if another program uses one of the cores, because the threads of a matrix
# product wait for each other at the end of each block.
_NUMBERS_PER_BLOCK = 1 << 22
SCORES_PER_BLOCK = 1 << 22
# If more than this share of a block are candidates, scoring the whole block in float64 is faster.
_MAX_CANDIDATE_SHARE = 1 / 16


@frozen
class SearchOptions:
    """The options of `semantic_search`.

    Raises:
        InputError: an option is not a whole number of at least 1.
    """

    top_k: int
    score_function: ScoreFunction = cos_sim
    query_chunk_size: int = 1024
    corpus_chunk_size: int = 500_000

    def __post_init__(self) -> None:
        check_counts(top_k=self.top_k, query_chunk_size=self.query_chunk_size, corpus_chunk_size=self.corpus_chunk_size)
        check_function("score_function", self.score_function)


@frozen
class Corpus:
    """The vectors to search in.

    Attributes:
        rows: (m, dim), of any numeric dtype. They may be mapped from a file.
        alive: (m,), true for the rows to search in. None means all rows.
        scales: (m,). The dot product with a row is multiplied by the row's scale. None means that all scales are 1.
        max_norm: no row has a larger norm than this after it is multiplied by its scale. With None, search computes
            the norms.
    """

    rows: NDArray[np.generic]
    alive: NDArray[np.bool_] | None = None
    scales: NDArray[np.float32] | None = None
    max_norm: float | None = None


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
        corpus_embeddings: (m, dim). An array that is mapped from a file is read block by block.
        query_chunk_size: the largest number of queries that are scored together.
        corpus_chunk_size: the largest number of corpus vectors that are scored together. The two chunk sizes limit
            the memory. Blocks may be smaller than this.
        top_k: the number of vectors to return for each query. A smaller corpus is returned whole.
        score_function: `cos_sim`, `dot_score`, or another function, such as `euclidean_sim`. It takes two arrays of
            the shapes (n, dim) and (m, dim). It returns scores of the shape (n, m), where nearer vectors have higher
            scores.

    Returns:
        A list for each query with entries {"corpus_id": row of the corpus, "score": float}, the highest score first.
        Among equal scores, the lower corpus_id comes first. NaN comes after every number. For an empty corpus the
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
    """Return the scores and ids in the form that `semantic_search` returns."""
    scores, ids = found
    return [
        [{"corpus_id": corpus_id, "score": score} for corpus_id, score in zip(*row, strict=True)]
        for row in zip(ids.tolist(), scores.tolist(), strict=True)
    ]


def rescore_candidates(
    ids: NDArray[np.int64], top_k: int, score: Callable[[int, NDArray[np.int64]], NDArray[np.float64]]
) -> Found:
    """Score the candidates of each query again, and keep the best.

    Args:
        ids: (n, k), the candidates of each query.
        top_k: the number of candidates to keep for each query.
        score: a function that takes the number of a query and its candidates (k,), and returns their scores (k,).

    Returns:
        Scores, float32, and ids, int64. Both have the shape (n, min(top_k, k)). The highest score comes first. Among
        equal scores, the lower id comes first.
    """
    width = min(top_k, ids.shape[1])
    scores, kept = np.empty((len(ids), width), np.float32), np.empty((len(ids), width), np.int64)
    for query, row in enumerate(ids):
        new_scores = np.asarray(score(query, row), np.float32)
        order = np.lexsort((row, -new_scores))[:width]
        scores[query], kept[query] = new_scores[order], row[order]
    return scores, kept


def nearest(queries: NDArray[np.generic], corpus: Corpus, options: SearchOptions) -> Found:
    """Find the rows of `corpus` that are nearest to each of `queries` (n, dim), as `semantic_search` does.

    Returns:
        Scores, float32, and row numbers, int64. Both have the shape (n, min(top_k, alive rows)).
    """
    present = None if corpus.alive is None else np.flatnonzero(corpus.alive)
    total = len(corpus.rows) if present is None else len(present)
    width = min(options.top_k, total)
    scores, ids = np.empty((len(queries), width), np.float32), np.empty((len(queries), width), np.int64)
    if not width:
        return scores, ids
    block_rows = min(options.corpus_chunk_size, max(_NUMBERS_PER_BLOCK // max(1, corpus.rows.shape[1]), 2 * width))
    block_queries = min(options.query_chunk_size, max(1, SCORES_PER_BLOCK // min(block_rows, total)))
    integers = queries.dtype.kind in "iub" and corpus.rows.dtype.kind in "iub"
    for start in range(0, len(queries), block_queries):
        part = slice(start, start + block_queries)
        scorer = make_scorer(as_float32(queries[part]), options.score_function, integers)
        best = TopK(len(queries[part]), width)

        def score_block(at: int, scorer: Scorer = scorer) -> tuple[int, Block, Scores]:
            where = slice(at, at + block_rows) if present is None else present[at : at + block_rows]
            scales = None if corpus.scales is None else corpus.scales[where]
            block = Block(as_float32(corpus.rows[where]), scales, corpus.max_norm)
            with np.errstate(all="ignore"):
                return at, block, scorer.score_float32(block)

        starts = range(0, total, block_rows)
        blocks: Iterator[tuple[int, Block, Scores]]
        threads = scorer.threads if len(starts) > 1 else 1
        if threads == 1:
            blocks = map(score_block, starts)
        else:
            blocks = shared_executor().map(score_block, starts, ahead=2 * threads)
        for at, block, approximate in blocks:
            _add_scores(best, scorer, block, approximate, at)
        scores[part], ids[part] = best.result(total)
    return scores, ids if present is None else present[ids]


def _add_scores(best: TopK, scorer: Scorer, block: Block, approximate: Scores, at: int) -> None:
    """Add the scores of `block` to `best`. `at` is the row number of the block's first row in the corpus."""
    with np.errstate(all="ignore"):
        values, max_error = approximate.values, approximate.max_error
        rows, columns = candidates(values, best.k, best.bound, max_error)
        if max_error is None:
            found = values[rows, columns]
        elif len(rows) > _MAX_CANDIDATE_SHARE * values.size and len(rows) > PAIRS_PER_PRODUCT:
            values = scorer.score_float64(block)
            rows, columns = candidates(values, best.k, best.bound)
            found = values[rows, columns]
        else:
            found = scorer.score_pairs(block, rows, columns)
            wanted = (found > best.bound[rows]) | (best.bound[rows] == -np.inf)
            rows, columns, found = rows[wanted], columns[wanted], found[wanted]
    best.add(rows, columns + at, found)
