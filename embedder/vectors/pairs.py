"""Find pairs across two collections: translations of each other, and hard negatives for training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_choice, check_counts, check_flag, check_number
from embedder.common.records import frozen
from embedder.errors import InputError
from embedder.vectors.arrays import as_float32, matching_embeddings, refuse_container
from embedder.vectors.scoring import Block, ScoreFunction, make_scorer
from embedder.vectors.search import Corpus, Found, Hit, SearchOptions, nearest
from embedder.vectors.similarity import cos_sim

MARGINS = ("ratio", "distance", "absolute")
RETRIEVALS = ("max", "intersection", "forward", "backward")
SAMPLING_STRATEGIES = ("top", "random")
# The number of candidates for each negative, if a limit may drop some of them. sentence-transformers has the same.
_CANDIDATES_PER_NEGATIVE = 10


def bitext_mining(
    source_embeddings: ArrayLike,
    target_embeddings: ArrayLike,
    k: int = 4,
    margin: str = "ratio",
    retrieval: str = "max",
    threshold: float | None = None,
) -> list[list[float | int]]:
    """Find pairs of a source and a target that are translations of each other.

    The score of a pair compares its cosine with the cosines to other vectors nearby. Each source has a mean cosine to
    its `k` nearest targets. Each target has a mean cosine to its `k` nearest sources. The mean of a pair is
    (mean of its source + mean of its target) / 2. `margin` says how it enters the score.

    Source: Artetxe and Schwenk, Margin-based Parallel Corpus Mining with Multilingual Sentence Embeddings (2019),
    https://arxiv.org/abs/1811.01136.

    Args:
        source_embeddings: (n, dim). They need not have length 1.
        target_embeddings: (m, dim). They need not have length 1.
        k: the number of nearest vectors that give the mean, and that may form a pair.
        margin: the score of a pair. "ratio" is its cosine divided by its mean. "distance" is its cosine minus its mean.
            "absolute" is its cosine.
        retrieval: the pairs to return. "forward" takes the best target of each source. "backward" takes the best source
            of each target. "intersection" takes the pairs that are in both. "max" takes the forward and the backward
            pairs from the highest score to the lowest, and skips a pair if its source or its target is used already.
        threshold: the smallest score to return. None returns all pairs.

    Returns:
        A list of [score, source row, target row], the highest score first. Among equal scores, the lower rows come
        first. Pairs with a score of NaN are left out.

    Raises:
        InputError: the arrays do not match, `k` is not a whole number of at least 1, or an option is unknown.

    Example:
        >>> bitext_mining([[1.0, 0.0], [0.0, 1.0]], [[0.1, 1.0], [1.0, 0.1]], k=1, margin="absolute")[0][1:]
        [0, 1]
    """
    check_counts(k=k)
    check_choice("margin", margin, MARGINS)
    check_choice("retrieval", retrieval, RETRIEVALS)
    if threshold is not None:
        check_number("threshold", threshold, "a number or None")
    names = ("source_embeddings", "target_embeddings")
    source, target = matching_embeddings(source_embeddings, target_embeddings, names)
    if not (len(source) and len(target)):
        return []
    forward = nearest(source, Corpus(target), SearchOptions(k))
    backward = nearest(target, Corpus(source), SearchOptions(k))
    source_means, target_means = forward[0].mean(axis=1), backward[0].mean(axis=1)
    forward_scores, best_targets = _best_by_margin(forward, source_means, target_means, margin)
    backward_scores, best_sources = _best_by_margin(backward, target_means, source_means, margin)
    sources, targets = np.arange(len(source)), np.arange(len(target))
    if retrieval == "forward":
        scores, pairs = forward_scores, (sources, best_targets)
    elif retrieval == "backward":
        scores, pairs = backward_scores, (best_sources, targets)
    elif retrieval == "intersection":
        mutual = best_sources[best_targets] == sources
        scores, pairs = forward_scores[mutual], (sources[mutual], best_targets[mutual])
    else:
        scores = np.concatenate([forward_scores, backward_scores])
        pairs = np.concatenate([sources, best_sources]), np.concatenate([best_targets, targets])
    ranked = _rank(scores, *pairs, threshold)
    return _use_once(ranked) if retrieval == "max" else ranked


def _best_by_margin(
    found: Found, own_means: NDArray[np.float32], other_means: NDArray[np.float32], margin: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the highest score of each row, (n,), and the id of the vector on the other side, (n,).

    Args:
        found: the cosines and ids of the nearest vectors of each row.
        own_means: (n,), the mean cosine of each row.
        other_means: (m,), the mean cosine of each vector on the other side.
        margin: see `bitext_mining`.
    """
    cosines, ids = found
    means = (own_means[:, None] + other_means[ids]) / 2
    scores = cosines
    if margin != "absolute":
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = (np.divide if margin == "ratio" else np.subtract)(cosines, means, dtype=np.float32)
    best = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1)
    rows = np.arange(len(ids))
    return scores[rows, best], ids[rows, best]


def _rank(
    scores: NDArray[np.float32], sources: NDArray[np.int64], targets: NDArray[np.int64], threshold: float | None
) -> list[list[float | int]]:
    """Return the pairs as [score, source, target], the highest score first, without scores below `threshold`."""
    order = np.lexsort((targets, sources, -scores))
    order = order[~np.isnan(scores[order])]
    if threshold is not None:
        order = order[scores[order] >= threshold]
    columns = scores[order].tolist(), sources[order].tolist(), targets[order].tolist()
    return [[score, source, target] for score, source, target in zip(*columns, strict=True)]


def _use_once(pairs: list[list[float | int]]) -> list[list[float | int]]:
    """Return the pairs in their order. A pair is skipped if an earlier one has its source or its target."""
    sources, targets, kept = set(), set(), []
    for pair in pairs:
        if pair[1] not in sources and pair[2] not in targets:
            sources.add(pair[1])
            targets.add(pair[2])
            kept.append(pair)
    return kept


@frozen
class _NegativeOptions:
    """The options of `mine_hard_negatives`.

    Raises:
        InputError: an option has the wrong type, or is out of range.
    """

    range_min: int
    range_max: int | None
    max_score: float | None
    min_score: float | None
    absolute_margin: float | None
    relative_margin: float | None
    num_negatives: int
    sampling_strategy: str
    score_function: ScoreFunction
    seed: int | None
    include_positives: bool

    def __post_init__(self) -> None:
        check_counts(num_negatives=self.num_negatives)
        _check_rank("range_min", self.range_min)
        if self.range_max is not None:
            _check_rank("range_max", self.range_max)
            if self.range_max - self.range_min < self.num_negatives:
                raise InputError(
                    f"range_max should be at least range_min + num_negatives = {self.range_min + self.num_negatives}, "
                    f"not {self.range_max}"
                )
        check_flag("include_positives", self.include_positives)
        check_choice("sampling_strategy", self.sampling_strategy, SAMPLING_STRATEGIES)
        for name in ("max_score", "min_score", "absolute_margin", "relative_margin"):
            if (value := getattr(self, name)) is not None:
                check_number(name, value, "a number or None")

    def last_rank(self, most_positives: int) -> int:
        """Return `range_max`, or its default.

        Args:
            most_positives: the largest number of positives that a query has.
        """
        if self.range_max is not None:
            return self.range_max
        unlimited = self.absolute_margin is None and self.relative_margin is None and self.max_score is None
        # A limit drops some candidates, so that more of them are needed.
        candidates = self.num_negatives * (1 if unlimited else _CANDIDATES_PER_NEGATIVE)
        return self.range_min + candidates + most_positives


def _check_rank(name: str, value: object) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise InputError(f"{name} should be a whole number, not {value!r:.80}")
    if value < 0:
        raise InputError(f"{name} should not be negative, but is {value}")


def mine_hard_negatives(
    query_embeddings: ArrayLike,
    corpus_embeddings: ArrayLike,
    positives: Sequence[int | Sequence[int]],
    range_min: int = 0,
    range_max: int | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    num_negatives: int = 3,
    sampling_strategy: str = "top",
    score_function: ScoreFunction = cos_sim,
    seed: int | None = None,
    include_positives: bool = False,
) -> list[list[Hit]]:
    """Find hard negatives to train a model with. A hard negative is near to a query, but does not answer it.

    The corpus is sorted by its score with the query. The positives of the query are removed, and so are the vectors
    that a limit drops. The first `range_min` of the rest are skipped. `num_negatives` of the vectors from there to rank
    `range_max` are chosen.

    Args:
        query_embeddings: (n, dim).
        corpus_embeddings: (m, dim). Remove duplicate texts first, because a copy of an answer counts as a negative.
        positives: for each query, the row of its answer in the corpus, or a list of rows.
        range_min: the number of nearest vectors to skip.
        range_max: the last rank to choose from. The default is `range_min` + `num_negatives` + the largest number of
            positives of a query. If `max_score` or a margin is given, `num_negatives` counts ten times in this sum.
        max_score: drop vectors with a higher score.
        min_score: drop vectors with a lower score.
        absolute_margin: drop vectors with a score above lowest - `absolute_margin`. Here, lowest is the lowest score of
            the query with a positive.
        relative_margin: drop vectors with a score above lowest - `relative_margin` * abs(lowest).
        num_negatives: the number of negatives to choose for each query. There are fewer if fewer are left.
        sampling_strategy: "top" chooses the nearest. "random" chooses at random.
        score_function: see `semantic_search`.
        seed: the seed of "random". None chooses differently in each call.
        include_positives: do not remove the positives, for data to evaluate a ranking with. The margins still drop
            them.

    Returns:
        A list for each query with entries {"corpus_id": row of the corpus, "score": float}, the highest score first.

    Raises:
        InputError: the arrays do not match, a positive is not a row of the corpus, or an option is out of range.

    Example:
        >>> mine_hard_negatives([1.0, 0.0], [[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], [0], num_negatives=1)
        [[{'corpus_id': 2, 'score': 1.0}]]
    """
    options = _NegativeOptions(
        range_min=range_min,
        range_max=range_max,
        max_score=max_score,
        min_score=min_score,
        absolute_margin=absolute_margin,
        relative_margin=relative_margin,
        num_negatives=num_negatives,
        sampling_strategy=sampling_strategy,
        score_function=score_function,
        seed=seed,
        include_positives=include_positives,
    )
    names = ("query_embeddings", "corpus_embeddings")
    queries, corpus = matching_embeddings(query_embeddings, corpus_embeddings, names)
    rows, columns = _check_positives(positives, len(queries), len(corpus))
    if not len(queries) or not len(corpus):
        return [[] for _ in range(len(queries))]
    most_positives = int(np.bincount(rows).max(initial=0))
    last_rank = options.last_rank(most_positives)
    found = nearest(queries, Corpus(corpus), SearchOptions(last_rank + most_positives, score_function))
    scores, ids = found
    kept = _within_limits(scores, options)
    if not include_positives:
        kept &= ~np.isin(np.arange(len(queries))[:, None] * len(corpus) + ids, rows * len(corpus) + columns)
    if absolute_margin is not None or relative_margin is not None:
        scorer = make_scorer(as_float32(queries), score_function)
        positive_scores = scorer.score_pairs(Block(as_float32(corpus[columns])), rows, np.arange(len(rows)))
        lowest = np.full(len(queries), np.inf, np.float32)
        np.minimum.at(lowest, rows, positive_scores)
        kept &= _within_margins(scores, lowest[:, None], options)
    return _choose(found, kept, last_rank, options)


def _check_positives(
    positives: Sequence[int | Sequence[int]], query_count: int, corpus_count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each positive once: the number of its query (k,) and its row of the corpus (k,).

    Raises:
        InputError: there is not one entry for each query, or a positive is not a row of the corpus.
    """
    expected = "a list with an entry for each query"
    refuse_container(positives, "positives", expected, column="positive")
    try:
        entries = list(positives)
    except TypeError:
        raise InputError(f"positives should be {expected}, not {type(positives).__name__}") from None
    if len(entries) != query_count:
        raise InputError(f"positives should have one entry for each of {query_count} queries, not {len(entries)}")
    rows, columns = [], []
    for query, entry in enumerate(entries):
        for row in dict.fromkeys(np.atleast_1d(np.asarray(entry)).tolist()):
            if not isinstance(row, int) or not 0 <= row < corpus_count:
                raise InputError(f"positives[{query}] should be rows of a corpus of {corpus_count}, not {entry!r:.80}")
            rows.append(query)
            columns.append(row)
    return np.array(rows, np.int64), np.array(columns, np.int64)


def _within_limits(scores: NDArray[np.float32], options: _NegativeOptions) -> NDArray[np.bool_]:
    """Return true for scores (n, k) that `max_score` and `min_score` keep."""
    kept = ~np.isnan(scores)
    if options.max_score is not None:
        kept &= scores <= options.max_score
    if options.min_score is not None:
        kept &= scores >= options.min_score
    return kept


def _within_margins(
    scores: NDArray[np.float32], lowest: NDArray[np.float32], options: _NegativeOptions
) -> NDArray[np.bool_]:
    """Return true for scores (n, k) that the margins keep. `lowest` (n, 1) is the lowest score with a positive."""
    kept = np.ones(scores.shape, bool)
    with np.errstate(invalid="ignore"):  # `lowest` is infinite for a query without positives
        if options.absolute_margin is not None:
            kept &= ~(scores + np.float32(options.absolute_margin) > lowest)
        if options.relative_margin is not None:
            kept &= ~(scores > lowest - np.abs(lowest) * np.float32(options.relative_margin))
    return kept


def _choose(found: Found, kept: NDArray[np.bool_], last_rank: int, options: _NegativeOptions) -> list[list[Hit]]:
    """Choose negatives among the found vectors. `kept` (n, k) is false for those that were dropped."""
    scores, ids = found
    random = np.random.default_rng(options.seed) if options.sampling_strategy == "random" else None
    chosen: list[list[Hit]] = []
    for query, row in enumerate(kept):
        places = np.flatnonzero(row)[options.range_min : last_rank]
        if random is not None and len(places) > options.num_negatives:
            places = np.sort(random.choice(places, options.num_negatives, replace=False))
        places = places[: options.num_negatives]
        chosen.append([{"corpus_id": int(ids[query, at]), "score": float(scores[query, at])} for at in places])
    return chosen
