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
from embedder.errors import InputError
from embedder.vectors.arrays import as_float32, matching_embeddings
from embedder.vectors.code_scoring import choose_scorer
from embedder.vectors.scoring import (
    CODE_DTYPES,
    NUMBERS_PER_BLOCK,
    Block,
    ScoreFunction,
    Scorer,
    Scores,
)
from embedder.vectors.similarity import cos_sim
from embedder.vectors.topk import MAX_IDS, TopK, candidates

# A vector that was found: {"corpus_id": int, "score": float}.
Hit = dict[str, int | float]
# The scores and the ids (or row numbers) of the vectors that were found. Both have the shape (n, k).
Found = tuple[NDArray[np.float32], NDArray[np.int64]]

# The scores of one block. They fit in the cache that the cores share.
SCORES_PER_BLOCK = 1 << 22
# If errors make more than this share of a block candidates, and more than this many, scoring the whole block in float64
# is faster. Besides, there are up to two candidates for each wanted score, without any error.
_MAX_CANDIDATE_SHARE = 1 / 32
_MIN_CROWD = 4096
_MAX_CANDIDATES_PER_SCORE = 2


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


def check_row_count(count: int) -> None:
    """Raise InputError if a corpus has too many rows for `TopK`."""
    if count > MAX_IDS:
        raise InputError(f"a corpus has at most {MAX_IDS:,} rows, not {count:,}: search it in parts")


def nearest(queries: NDArray[np.generic], corpus: Corpus, options: SearchOptions) -> Found:
    """Find the rows of `corpus` that are nearest to each of `queries` (n, dim), as `semantic_search` does.

    Returns:
        Scores, float32, and row numbers, int64. Both have the shape (n, min(top_k, alive rows)).

    Raises:
        InputError: the corpus has more than 2**32 rows.
    """
    present = None if corpus.alive is None else np.flatnonzero(corpus.alive)
    total = len(corpus.rows) if present is None else len(present)
    width = min(options.top_k, total)
    scores, ids = np.empty((len(queries), width), np.float32), np.empty((len(queries), width), np.int64)
    if not width:
        return scores, ids
    check_row_count(total)
    block_rows = max(NUMBERS_PER_BLOCK // max(1, corpus.rows.shape[1]), 2 * width)
    block_scores = min(block_rows, options.corpus_chunk_size, total)
    block_queries = min(options.query_chunk_size, max(1, SCORES_PER_BLOCK // block_scores))
    for start in range(0, len(queries), block_queries):
        part = slice(start, start + block_queries)
        scorer = choose_scorer(queries[part], options.score_function, corpus.rows.dtype)
        scores[part], ids[part] = _Search(scorer, corpus, present, width).run(options.corpus_chunk_size)
    return scores, ids


class _Search:
    """The search for the k nearest rows of some queries."""

    def __init__(self, scorer: Scorer, corpus: Corpus, present: NDArray[np.intp] | None, k: int) -> None:
        """Search in the rows of `corpus` with the numbers `present`, or in all rows if it is None."""
        self._scorer, self._corpus, self._present = scorer, corpus, present
        self._best = TopK(len(scorer.queries), k)
        # While many scores are too near to each other for float32: how near, (n,).
        self._crowd: NDArray[np.float32] | None = None

    def run(self, max_block_rows: int) -> Found:
        """Return the scores and the row numbers. At most `max_block_rows` rows are scored together."""
        total = len(self._corpus.rows) if self._present is None else len(self._present)
        block_rows = min(max_block_rows, max(1, self._scorer.block_rows, 2 * self._best.k))
        parts = [slice(start, start + block_rows) for start in range(0, total, block_rows)]
        threads = self._scorer.threads if len(parts) > 1 else 1
        blocks: Iterator[tuple[slice, Block, Scores]]
        blocks = map(self._score, parts) if threads == 1 else shared_executor().map(self._score, parts, 2 * threads)
        with np.errstate(all="ignore"):
            for part, block, scores in blocks:
                self._add(part.start, block, scores)
            self._best.resolve(self._score_pairs)
        values, ids = self._best.result(total)
        return values, ids if self._present is None else self._present[ids]

    def _score(self, part: slice) -> tuple[slice, Block, Scores]:
        where = part if self._present is None else self._present[part]
        rows = self._corpus.rows[where]
        scales = None if self._corpus.scales is None else self._corpus.scales[where]
        # Codes of one byte take less memory, and a scorer may use them as they are.
        block = Block(rows if rows.dtype in CODE_DTYPES else as_float32(rows), scales, self._corpus.max_norm)
        with np.errstate(all="ignore"):
            if self._crowd is not None:
                return part, block, Scores(self._scorer.score_float64(block), None)
            return part, block, self._scorer.score_float32(block)

    def _add(self, start: int, block: Block, scores: Scores) -> None:
        """Add the scores of `block`. Its first row has the number `start` among the rows to search in."""
        best, margin = self._best, self._best.margin(scores.max_error)
        rows, columns = candidates(scores.values, best.k, best.bound, margin)
        limit = max(_MIN_CROWD, _MAX_CANDIDATE_SHARE * scores.values.size)
        if margin is not None and len(rows) > limit + _MAX_CANDIDATES_PER_SCORE * best.k * len(scores.values):
            self._crowd = margin
            best.resolve(self._score_pairs)
            scores = Scores(self._scorer.score_float64(block), None)
            rows, columns = candidates(scores.values, best.k, best.bound)
        elif self._crowd is not None:
            least, most = (best.bound - self._crowd)[:, None], (best.bound + self._crowd)[:, None]
            near = np.count_nonzero((scores.values >= least) & (scores.values <= most))
            self._crowd = self._crowd if near > limit else None
        best.add(rows, columns + start, scores.values[rows, columns], scores.max_error)
        if best.excess > limit:
            self._crowd = margin
            best.resolve(self._score_pairs)

    def _score_pairs(self, rows: NDArray[np.intp], places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the scores of queries with rows to search in, computed in float64."""
        columns = places if self._present is None else self._present[places]
        return self._scorer.score_pairs(Block(self._corpus.rows, self._corpus.scales), rows, columns)
