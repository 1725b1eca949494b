"""Find pairs across two collections: translations of each other, and hard negatives for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_choice, check_counts, check_flag, check_number
from embedder.errors import InputError
from embedder.vectors.arrays import as_float32, matching_embeddings, refuse_container
from embedder.vectors.scoring import Block, ScoreFunction, make_scorer
from embedder.vectors.search import Corpus, Found, Hit, SearchOptions, nearest
from embedder.vectors.similarity import cos_sim

MARGINS = ("ratio", "distance", "absolute")
RETRIEVALS = ("max", "intersection", "forward", "backward")
SAMPLING_STRATEGIES = ("top", "random")
# Candidates for each negative if a limit may drop some. sentence-transformers uses the same number.
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

    The score of a pair compares its cosine with the mean cosine of both sides to their `k` nearest on the other side:
    (mean of the source + mean of the target) / 2. Source: Artetxe and Schwenk, Margin-based Parallel Corpus Mining with
    Multilingual Sentence Embeddings (2019).

    Args:
        source_embeddings: (n, dim). They need not have length 1.
        target_embeddings: (m, dim).
        k: how many nearest vectors to average over and to choose from.
        margin: the score. "ratio" is the cosine divided by the mean, "distance" is the cosine minus the mean,
            "absolute" is the cosine.
        retrieval: which pairs to return. "forward" takes the best target of each source, "backward" the best source of
            each target, "intersection" the pairs that are in both. "max" goes through forward and backward pairs from
            the highest score on, and uses each source and each target once.
        threshold: the smallest score to return. None returns all.

    Returns:
        A list of [score, source row, target row], the highest score first, the lower rows first among equal scores.
        Pairs with a score of NaN are left out.

    Raises:
        InputError: the arrays do not match, or an option is unknown.

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
    """Return the highest score of each row among its nearest, (n,), and the id that has it, (n,)."""
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
    order = np.lexsort((targets, sources, -scores))
    order = order[~np.isnan(scores[order])]
    if threshold is not None:
        order = order[scores[order] >= threshold]
    columns = scores[order].tolist(), sources[order].tolist(), targets[order].tolist()
    return [[score, source, target] for score, source, target in zip(*columns, strict=True)]


def _use_once(pairs: list[list[float | int]]) -> list[list[float | int]]:
    """Return the pairs in their order, without those with a source or a target that an earlier pair has."""
    sources, targets, kept = set(), set(), []
    for pair in pairs:
        if pair[1] not in sources and pair[2] not in targets:
            sources.add(pair[1])
            targets.add(pair[2])
            kept.append(pair)
    return kept


@dataclass(frozen=True)
class _NegativeOptions:
    """The options of `mine_hard_negatives`, checked when this is made, except for the default of `range_max`."""

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
        """Return `range_max` or its default: enough ranks for the negatives if no limit drops any, ten times else."""
        if self.range_max is not None:
            return self.range_max
        unlimited = self.absolute_margin is None and self.relative_margin is None and self.max_score is None
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
    """Find what is near to a query without being an answer to it: hard negatives to train a model with.

    The nearest vectors of a query are taken, without its positives and without those that a limit drops. The first
    `range_min` of the rest are skipped. From there to `range_max`, `num_negatives` are chosen.

    Args:
        query_embeddings: (n, dim).
        corpus_embeddings: (m, dim). Remove duplicate texts first: a copy of an answer counts as a negative.
        positives: for each query the row of its answer in the corpus, or a list of rows.
        range_min: how many of the nearest to skip.
        range_max: how many of the nearest to look at. The default is `range_min` + `num_negatives` + the largest number
            of positives of a query, with ten times as many negatives if `max_score` or a margin is given.
        max_score: drop what scores higher than this.
        min_score: drop what scores lower than this.
        absolute_margin: drop what scores higher than the query's lowest positive minus this.
        relative_margin: drop what scores higher than the query's lowest positive minus this share of its absolute
            value.
        num_negatives: how many to choose for each query. There are fewer if not enough are left.
        sampling_strategy: "top" chooses the nearest, "random" chooses at random.
        score_function: see `semantic_search`.
        seed: the seed of "random". None gives another choice each time.
        include_positives: keep the positives among the nearest, for data to evaluate a ranking with. The margins still
            drop them.

    Returns:
        A list for each query with entries {"corpus_id": row of the corpus, "score": float}, the highest score first.

    Raises:
        InputError: the arrays do not match, a positive is no row of the corpus, or an option is out of range.

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
    """Return each positive once, as its query (k,) and its row of the corpus (k,)."""
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
    kept = ~np.isnan(scores)
    if options.max_score is not None:
        kept &= scores <= options.max_score
    if options.min_score is not None:
        kept &= scores >= options.min_score
    return kept


def _within_margins(
    scores: NDArray[np.float32], lowest: NDArray[np.float32], options: _NegativeOptions
) -> NDArray[np.bool_]:
    kept = np.ones(scores.shape, bool)
    with np.errstate(invalid="ignore"):  # `lowest` is infinite for a query without positives
        if options.absolute_margin is not None:
            kept &= ~(scores + np.float32(options.absolute_margin) > lowest)
        if options.relative_margin is not None:
            kept &= ~(scores > lowest - np.abs(lowest) * np.float32(options.relative_margin))
    return kept


def _choose(found: Found, kept: NDArray[np.bool_], last_rank: int, options: _NegativeOptions) -> list[list[Hit]]:
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
