"""What a collection holds twice, and what groups it falls into: paraphrases and communities.

Both look through all scores of a collection with itself, a block of rows at a time, and keep the few that matter.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_counts
from embedder.common.progress import progress_bar
from embedder.errors import InputError
from embedder.vectors.search import BLOCK_SCORES, Block, ScoreFunction, relative_error, scorer
from embedder.vectors.similarity import as_embeddings, as_float32, cos_sim, normalize
from embedder.vectors.topk import top_k_of_rows

# Bits that a pair of rows takes.
_BITS = 64
# The share of a block, inverse, from which on computing all of it again takes less time than what is unsure.
_MANY_UNSURE = 32


def paraphrase_mining(
    model: Any,
    sentences: Iterable[str],
    show_progress_bar: bool = False,
    batch_size: int | None = None,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100_000,
    max_pairs: int = 500_000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
    truncate_dim: int | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> list[list[float | int]]:
    """The pairs of `sentences` that are nearest to each other, by the embeddings that `model`, an `Embedder`, gives.

    As `paraphrase_mining_embeddings`; the options that it does not have are those of `Embedder.encode`.
    """
    embeddings = model.encode(
        sentences,
        show_progress_bar=show_progress_bar,
        batch_size=batch_size,
        truncate_dim=truncate_dim,
        prompt_name=prompt_name,
        prompt=prompt,
    )
    return paraphrase_mining_embeddings(
        embeddings, query_chunk_size, corpus_chunk_size, max_pairs, top_k, score_function
    )


def paraphrase_mining_embeddings(
    embeddings: ArrayLike,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100_000,
    max_pairs: int = 500_000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
) -> list[list[float | int]]:
    """The pairs of rows of `embeddings` (n, dim) that are nearest to each other.

    A pair counts where one of the two has the other among its `top_k` + 1 nearest, itself included, of a chunk of the
    corpus, and its score is above -1 (so NaN never counts). It counts for each of the two of which that holds, and of
    all that count the best `max_pairs` - 1 are kept: as in sentence-transformers, which hence gives some half as many
    pairs as that. Of equal scores the lower rows are kept.

    Args:
        embeddings: (n, dim).
        query_chunk_size: most rows that are scored at once.
        corpus_chunk_size: most rows that they are scored with at once.
        max_pairs: how many are looked for, as said above.
        top_k: how many of a row's nearest may be its pairs.
        score_function: as `semantic_search` has it.

    Returns:
        A list of [score, i, j] with i < j, the highest score first; of equal scores, the lowest i and j. They are taken
        from products in float32 as they are, so the scores of copies may differ in the last digit.

    Raises:
        InputError: embeddings are not such an array, or a number is not at least 1.
    """
    check_counts(
        query_chunk_size=query_chunk_size, corpus_chunk_size=corpus_chunk_size, max_pairs=max_pairs, top_k=top_k
    )
    rows = as_float32(as_embeddings(embeddings))
    if score_function is cos_sim:
        rows = normalize(rows)
    pairs = _Pairs(max_pairs - 1)
    for corpus_start in range(0, len(rows), corpus_chunk_size):
        corpus = rows[corpus_start : corpus_start + corpus_chunk_size]
        step = min(query_chunk_size, max(1, BLOCK_SCORES // len(corpus)))
        for start in range(0, len(rows), step):
            scores = _scores(rows[start : start + step], corpus, score_function)
            i, j, found = top_k_of_rows(scores, top_k + 1, pairs.least)
            pairs.add(i + start, j + corpus_start, found)
    return pairs.result()


def _scores(queries: NDArray[np.float32], corpus: NDArray[np.float32], function: ScoreFunction) -> NDArray[np.float32]:
    if function is cos_sim:  # the rows have length 1 already
        return queries @ corpus.T
    return scorer(queries, function).roughly(Block(corpus))[0]


class _Pairs:
    """The best `most` of the (score, i, j) that are offered.

    Attributes:
        least: what a score has to be above.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._parts: list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]] = []
        self._held = 0
        self.least = np.float32(-1)

    def add(self, i: NDArray[np.intp], j: NDArray[np.intp], scores: NDArray[np.float32]) -> None:
        """Offer scores (m,) of the pairs of `i` (m,) and `j` (m,), of which those of a row with itself do not count."""
        others = i != j
        self._parts.append((i[others], j[others], scores[others]))
        self._held += len(self._parts[-1][0])
        if self._held > 2 * self._most + len(scores):
            self._drop()

    def _drop(self) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
        i, j, scores = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        if len(scores) > self._most:
            kept = _largest(scores, i, j, self._most)
            i, j, scores = i[kept], j[kept], scores[kept]
            self.least = scores.min(initial=np.inf)
        self._parts, self._held = [(i, j, scores)], len(scores)
        return i, j, scores

    def result(self) -> list[list[float | int]]:
        """Those kept as [score, i, j], each pair once."""
        if not self._parts:
            return []
        i, j, scores = self._drop()
        low, high = np.minimum(i, j), np.maximum(i, j)
        # A pair found from both sides may have two scores, as a product's rounding depends on where a row stands.
        order = np.lexsort((scores, high, low))
        low, high, scores = low[order], high[order], scores[order]
        first = np.ones(len(order), bool)
        first[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
        low, high, scores = low[first], high[first], scores[first]
        order = np.argsort(-scores, kind="stable")
        columns = (scores[order].tolist(), low[order].tolist(), high[order].tolist())
        return [[score, one, other] for score, one, other in zip(*columns, strict=True)]


def _largest(scores: NDArray[np.float32], i: NDArray[np.intp], j: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """Where the `most` largest are; of equal ones, those of the lowest i and j."""
    if not most:
        return np.empty(0, np.intp)
    last = np.partition(scores, len(scores) - most)[len(scores) - most]
    above, ties = np.flatnonzero(scores > last), np.flatnonzero(scores == last)
    ties = ties[np.lexsort((np.maximum(i[ties], j[ties]), np.minimum(i[ties], j[ties])))]
    return np.concatenate([above, ties[: most - len(above)]])


def community_detection(
    embeddings: ArrayLike,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Groups of rows of `embeddings` (n, dim) that have a cosine of at least `threshold` with one of them, its centre.

    Every row is tried as a centre. Of groups that overlap the larger keeps what they share, and of equally large ones
    that of the lower centre; what is left of the other is a group if it is large enough.

    Args:
        embeddings: (n, dim); they need not have length 1.
        threshold: the least cosine. Cosines near it are computed in float64, so copies of a vector have a cosine of 1.
        min_community_size: the least size of a group; n where there are fewer rows.
        batch_size: most rows that are scored with all others at once.
        show_progress_bar: show progress on stderr.

    Returns:
        The groups, the largest first; each a list of rows, the centre first (where a larger group has not taken it) and
        then by their cosine with it, of equal ones the lowest row. No row is in two of them. A row of zeros is in none,
        unless `threshold` is at most 0; neither is one that holds a NaN.

    Raises:
        InputError: embeddings are not such an array, or a number is out of range.
    """
    check_counts(min_community_size=min_community_size, batch_size=batch_size)
    if not isinstance(threshold, int | float | np.number) or np.isnan(threshold):
        raise InputError(f"threshold should be a number, not {threshold!r}")
    rows = as_float32(as_embeddings(embeddings))
    least = min(min_community_size, len(rows))
    with progress_bar(len(rows), "row", "Finding communities") if show_progress_bar else nullcontext() as bar:
        counts, members_of = _neighbours(rows, np.float32(threshold), batch_size, bar)
    centres = np.flatnonzero(counts >= max(1, least))
    free = np.ones(len(rows), bool)
    communities = []
    for centre in centres[np.argsort(-counts[centres], kind="stable")].tolist():
        members = members_of(centre)
        members = members[free[members]]
        if len(members) >= least:
            free[members] = False
            communities.append(_by_cosine(rows, centre, members))
    return sorted(communities, key=len, reverse=True)


def _neighbours(
    rows: NDArray[np.float32], threshold: np.float32, batch_size: int, bar: Any
) -> tuple[NDArray[np.int64], Callable[[int], NDArray[np.int64]]]:
    """To how many rows each is near, itself included, (n,); and what gives the numbers of those, ascending."""
    n, held = len(rows), 0
    pairs = [np.empty(0, np.int64)]
    for start, near in _near_blocks(rows, threshold, batch_size, bar, symmetric=True):
        i, j = np.divmod(np.flatnonzero(near), n - start)
        pairs.append((i[j >= i] + start) * n + j[j >= i] + start)
        held += len(pairs[-1])
        if held * _BITS > n * n:  # then pairs take more than bits
            return _neighbours_as_bits(rows, threshold, batch_size, bar)
    upper = np.concatenate(pairs)
    i, j = np.divmod(upper, max(1, n))
    both = np.concatenate([upper, (j * n + i)[i != j]])
    both.sort()
    starts = np.searchsorted(both, np.arange(n + 1, dtype=np.int64) * n)
    both %= max(1, n)
    return np.diff(starts), lambda row: both[starts[row] : starts[row + 1]]


def _neighbours_as_bits(
    rows: NDArray[np.float32], threshold: np.float32, batch_size: int, bar: Any
) -> tuple[NDArray[np.int64], Callable[[int], NDArray[np.int64]]]:
    """As `_neighbours`, in n * n / 8 bytes."""
    if bar is not None:
        bar.reset()
    blocks = _near_blocks(rows, threshold, batch_size, bar, symmetric=False)
    bits = np.concatenate([np.packbits(near, axis=1) for _, near in blocks])
    counts = np.array([np.count_nonzero(np.unpackbits(row)) for row in bits], np.int64)
    return counts, lambda row: np.flatnonzero(np.unpackbits(bits[row]))


def _near_blocks(
    rows: NDArray[np.float32], threshold: np.float32, batch_size: int, bar: Any, symmetric: bool
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Which rows are near to those from a number on: the number, and a block of booleans.

    A symmetric block has what comes before it left out: the blocks before it have paired it with that already.
    """
    unit = normalize(rows)
    step = min(batch_size, max(1, BLOCK_SCORES // max(1, len(rows))))
    slack = np.float32(relative_error(rows.shape[1]))
    for start in range(0, len(rows), step):
        first = start if symmetric else 0
        scores = unit[start : start + step] @ unit[first:].T
        near = scores >= threshold - slack
        places = np.flatnonzero(near)
        unsure = places[scores.ravel()[places] < threshold + slack]
        exact, others = scorer(rows[start : start + step], cos_sim), Block(rows[first:])
        if len(unsure) > near.size // _MANY_UNSURE:
            near = exact.exactly(others) >= threshold
        elif len(unsure):
            near.ravel()[unsure] = exact.pairs(others, *np.divmod(unsure, near.shape[1])) >= threshold
        yield start, near
        if bar is not None:
            bar.update(len(near))


def _by_cosine(rows: NDArray[np.float32], centre: int, members: NDArray[np.intp]) -> list[int]:
    exact = scorer(rows[centre : centre + 1], cos_sim)
    cosines = exact.pairs(Block(rows), np.zeros(len(members), np.intp), members)
    cosines[members == centre] = np.inf
    ordered: list[int] = members[np.argsort(-cosines, kind="stable")].tolist()
    return ordered
