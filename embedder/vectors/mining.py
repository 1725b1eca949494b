"""Find the nearest pairs in a collection (paraphrases), and its groups of near vectors (communities).

Both compare the collection with itself block by block, and keep only the scores that are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_counts, check_function, check_number, shown
from embedder.common.progress import progress_bar
from embedder.common.records import frozen
from embedder.errors import InputError
from embedder.vectors.arrays import as_embeddings, as_float32, refuse_container
from embedder.vectors.near_pairs import Comparison, near_blocks
from embedder.vectors.scoring import Block, ScoreFunction, make_scorer
from embedder.vectors.search import SCORES_PER_BLOCK
from embedder.vectors.similarity import cos_sim, normalize
from embedder.vectors.topk import best_first, top_k_of_rows

if TYPE_CHECKING:
    from typing import Unpack

    from embedder.options import EncodeOptions

# The memory of a pair of rows, in bits.
_BITS_PER_PAIR = 64

# Row numbers i, row numbers j, and scores, each of shape (m,).
_Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


@frozen
class _MiningOptions:
    """The options of `paraphrase_mining_embeddings`.

    Raises:
        InputError: a number is not a whole number of at least 1.
    """

    query_chunk_size: int
    corpus_chunk_size: int
    max_pairs: int
    top_k: int
    score_function: ScoreFunction

    def __post_init__(self) -> None:
        check_counts(
            query_chunk_size=self.query_chunk_size,
            corpus_chunk_size=self.corpus_chunk_size,
            max_pairs=self.max_pairs,
            top_k=self.top_k,
        )
        check_function("score_function", self.score_function)


def paraphrase_mining(
    model: Any,
    sentences: Iterable[str],
    *,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100_000,
    max_pairs: int = 500_000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
    **options: Unpack[EncodeOptions],
) -> list[list[float | int]]:
    """Encode `sentences` and find the pairs of them that are nearest to each other.

    Args:
        model: an `Embedder`.
        sentences: the texts. If the model takes images, they may be images, as for `Embedder.encode`.
        query_chunk_size: see `paraphrase_mining_embeddings`.
        corpus_chunk_size: see `paraphrase_mining_embeddings`.
        max_pairs: see `paraphrase_mining_embeddings`.
        top_k: see `paraphrase_mining_embeddings`.
        score_function: see `paraphrase_mining_embeddings`.
        **options: the options of `Embedder.encode`. `precision` is refused, because pairs are scored in float32.

    Returns:
        A list of [score, i, j], where i < j are the numbers of two sentences. The highest score comes first.

    Raises:
        InputError: a sentence or an option cannot be used.

    Example:
        >>> paraphrase_mining(model, ["A cat sat.", "It rains.", "A cat was sitting."], top_k=1)[0][1:]
        [0, 2]
    """
    mining = _MiningOptions(query_chunk_size, corpus_chunk_size, max_pairs, top_k, score_function)
    if not callable(getattr(model, "encode", None)) or isinstance(model, str):
        raise InputError(f"model should be an Embedder, not {shown(model)}")
    precision = getattr(options.get("settings"), "precision", options.get("precision"))
    if precision not in ("float32", None):
        raise InputError(f"paraphrase_mining takes no precision, but got {precision!r}: pairs are scored in float32")
    if isinstance(sentences, str):
        raise InputError(f"sentences should be a list of texts, not one text: {shown(sentences)}")
    refuse_container(sentences, "sentences", "a list of texts", column="text")
    return _mine(as_embeddings(model.encode(sentences, **options)), mining)


def paraphrase_mining_embeddings(
    embeddings: ArrayLike,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100_000,
    max_pairs: int = 500_000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
) -> list[list[float | int]]:
    """Find the pairs of rows of `embeddings` that are nearest to each other.

    A pair is a candidate if one of its rows is among the `top_k` nearest rows of the other. The `max_pairs` candidates
    with the highest scores are returned. No pair is returned twice.

    Args:
        embeddings: (n, dim).
        query_chunk_size: the largest number of rows that are compared with other rows at a time.
        corpus_chunk_size: the largest number of other rows that they are compared with at a time. The two chunk sizes
            limit the memory. They do not change the result.
        max_pairs: the largest number of pairs to return.
        top_k: the number of nearest rows to consider for each row.
        score_function: see `semantic_search`. It must be symmetric.

    Returns:
        A list of [score, i, j], where i < j are rows. The highest score comes first. Among equal scores, the lower rows
        come first. Pairs with a score of NaN or -inf are left out. Scores are computed in float32, so the scores of
        equal rows may differ in the last digit.

    Raises:
        InputError: the embeddings have another shape, or an option is not a whole number of at least 1.

    Example:
        >>> paraphrase_mining_embeddings([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], max_pairs=1)
        [[1.0, 0, 2]]
    """
    mining = _MiningOptions(query_chunk_size, corpus_chunk_size, max_pairs, top_k, score_function)
    return _mine(as_embeddings(embeddings), mining)


def _mine(embeddings: NDArray[np.generic], options: _MiningOptions) -> list[list[float | int]]:
    """Find pairs as `paraphrase_mining_embeddings` does."""
    rows = as_float32(embeddings)
    if options.score_function is cos_sim:
        rows = normalize(rows)
    pairs = _BestPairs(options.max_pairs)
    width = max(1, min(options.corpus_chunk_size, len(rows)))
    step = min(options.query_chunk_size, max(1, SCORES_PER_BLOCK // width))
    for start in range(0, len(rows), step):
        pairs.add(*_nearest_others(rows, slice(start, start + step), pairs.bound, options))
    return pairs.result()


def _nearest_others(rows: NDArray[np.float32], part: slice, bound: np.float32, options: _MiningOptions) -> _Pairs:
    """Return the `top_k` nearest other rows of each row in `part`, in no particular order.

    Only scores above `bound` are returned.
    """
    found: list[_Pairs] = []
    for at in range(0, len(rows), options.corpus_chunk_size):
        scores = _score_block(rows[part], rows[at : at + options.corpus_chunk_size], options.score_function)
        own = np.arange(part.start - at, part.start - at + len(scores))
        inside = np.flatnonzero((own >= 0) & (own < scores.shape[1]))
        scores[inside, own[inside]] = np.nan  # a row must not form a pair with itself
        i, j, block_scores = top_k_of_rows(scores, options.top_k, bound)
        found.append((i + part.start, j + at, block_scores))
    i, j, all_scores = (np.concatenate(column) for column in zip(*found, strict=True))
    if len(found) > 1:
        order, rank = best_first(i, j, all_scores)
        order = order[rank < options.top_k]
        i, j, all_scores = i[order], j[order], all_scores[order]
    return i, j, all_scores


def _score_block(
    queries: NDArray[np.float32], corpus: NDArray[np.float32], function: ScoreFunction
) -> NDArray[np.float32]:
    """Return the scores (n, m) in a new array. The caller may change it."""
    if function is cos_sim:  # the rows have length 1 already
        return queries @ corpus.T
    with np.errstate(all="ignore"):
        return np.array(make_scorer(queries, function).score_float32(Block(corpus)).values)


class _BestPairs:
    """The pairs with the highest scores among all that are added. (i, j) and (j, i) are the same pair.

    Attributes:
        bound: only scores above it can still be among the highest.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[_Pairs] = []
        self._held = 0
        self.bound = np.float32(-np.inf)

    def add(self, i: NDArray[np.int64], j: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        """Add the pairs of `i` (m,) and `j` (m,) with their `scores` (m,). A pair may be added as (i, j) and (j, i)."""
        possible = scores > self.bound
        i, j = i[possible], j[possible]
        self._parts.append((np.minimum(i, j), np.maximum(i, j), scores[possible]))
        self._held += len(i)
        if self._held > 4 * self._limit:
            self._merge()

    def _merge(self) -> _Pairs:
        """Keep the best pairs, update the bound, and return the pairs, the best first."""
        low, high, scores = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        # (i, j) and (j, i) may have different scores, because rounding depends on the place in a matrix product. The
        # higher score is kept.
        order = np.lexsort((-scores, high, low))
        low, high, scores = low[order], high[order], scores[order]
        first = np.ones(len(order), bool)
        first[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
        low, high, scores = low[first], high[first], scores[first]
        order = np.argsort(-scores, kind="stable")[: self._limit]
        best = low[order], high[order], scores[order]
        if len(order) == self._limit:
            # A later pair with the same score may have lower rows, and is then better. So the bound is a bit lower.
            self.bound = np.nextafter(best[2][-1], np.float32(-np.inf))
        self._parts, self._held = [best], len(order)
        return best

    def result(self) -> list[list[float | int]]:
        """Return the pairs as [score, i, j], the best first."""
        if not self._parts:
            return []
        low, high, scores = self._merge()
        columns = (scores.tolist(), low.tolist(), high.tolist())
        return [[score, i, j] for score, i, j in zip(*columns, strict=True)]


def community_detection(
    embeddings: ArrayLike,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Find groups of near rows. A group has a centre, and each row of it has a cosine of at least `threshold` with it.

    Every row is tried as a centre. Rows with more near rows come first. Among equal numbers, the lower row comes first.
    A group takes the near rows that are in no earlier group. A row of an earlier group is not a centre.

    Args:
        embeddings: (n, dim). They need not have length 1.
        threshold: the smallest cosine with the centre. A cosine that is close to it is computed in float64. So copies
            of a vector have a cosine of exactly 1.
        min_community_size: the smallest number of rows in a group.
        batch_size: the largest number of rows that are compared with all others at a time.
        show_progress_bar: show progress on stderr.

    Returns:
        The groups as lists of rows, the largest group first. In each group the centre comes first. The others follow in
        the order of their cosines with it, the highest first. Among equal cosines, the lower row comes first. No row is
        in two groups. A row of zeros is in a group only if `threshold` is at most 0. A row with NaN is in no group.

    Raises:
        InputError: the embeddings have another shape, or an option is out of range.

    Example:
        >>> community_detection([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]], min_community_size=2)
        [[0, 2]]
    """
    check_counts(min_community_size=min_community_size, batch_size=batch_size)
    check_number("threshold", threshold)
    rows = as_float32(as_embeddings(embeddings))
    if len(rows) < min_community_size:
        return []
    with progress_bar(len(rows), "row", "Finding communities", shown=show_progress_bar) as bar:
        counts, members_of = _neighbours(Comparison(rows, np.float32(threshold), batch_size, bar))
    centres = np.flatnonzero(counts >= min_community_size)
    free = np.ones(len(rows), bool)
    communities = []
    for centre in centres[np.argsort(-counts[centres], kind="stable")].tolist():
        if not free[centre]:
            continue
        members = members_of(centre)
        members = members[free[members]]
        if len(members) >= min_community_size:
            free[members] = False
            communities.append(_order_by_cosine(rows, centre, members))
    return sorted(communities, key=len, reverse=True)


# The number of rows near to each row, itself included, (n,). And a function that returns the near rows of a row in
# ascending order.
_Neighbours = tuple[NDArray[np.int64], Callable[[int], NDArray[np.int64]]]


def _neighbours(comparison: Comparison) -> _Neighbours:
    """Find the near rows of each row. A pair of rows i and j is kept as the number i * n + j."""
    n, held = len(comparison.rows), 0
    pairs = [np.empty(0, np.int64)]
    for start, near in near_blocks(comparison, symmetric=True):
        i, j = np.divmod(np.flatnonzero(near), n - start)
        pairs.append((i[j >= i] + start) * n + j[j >= i] + start)
        held += len(pairs[-1])
        if held * _BITS_PER_PAIR > n * n:  # now a matrix with one bit for each pair takes less memory
            return _neighbours_as_bits(comparison)
    upper = np.concatenate(pairs)
    i, j = np.divmod(upper, max(1, n))
    both = np.concatenate([upper, (j * n + i)[i != j]])
    both.sort()
    starts = np.searchsorted(both, np.arange(n + 1, dtype=np.int64) * n)
    both %= max(1, n)
    return np.diff(starts), lambda row: both[starts[row] : starts[row + 1]]


def _neighbours_as_bits(comparison: Comparison) -> _Neighbours:
    """Return the same as `_neighbours`, but keep a matrix of n * n bits."""
    comparison.bar.reset()
    blocks = near_blocks(comparison, symmetric=False)
    bits = np.concatenate([np.packbits(near, axis=1) for _, near in blocks])
    counts = np.array([np.count_nonzero(np.unpackbits(row)) for row in bits], np.int64)
    return counts, lambda row: np.flatnonzero(np.unpackbits(bits[row]))


def _order_by_cosine(rows: NDArray[np.float32], centre: int, members: NDArray[np.intp]) -> list[int]:
    """Return `centre`, then the other members from the highest cosine with it to the lowest."""
    scorer = make_scorer(rows[centre : centre + 1], cos_sim)
    cosines = scorer.score_pairs(Block(rows), np.zeros(len(members), np.intp), members)
    cosines[members == centre] = np.inf
    ordered: list[int] = members[np.argsort(-cosines, kind="stable")].tolist()
    return ordered
