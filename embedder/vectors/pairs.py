"""Pairs across two collections: translations of each other, and what only looks like an answer."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_choice, check_counts
from embedder.errors import InputError
from embedder.vectors.search import Block, Hit, ScoreFunction, nearest, scorer
from embedder.vectors.similarity import as_float32, as_pair, cos_sim

MARGINS = ("ratio", "distance", "absolute")
RETRIEVALS = ("max", "intersection", "forward", "backward")
STRATEGIES = ("top", "random")
# As sentence-transformers has it, for those that a margin or a limit drops.
_SPARE = 10


def bitext_mining(
    source_embeddings: ArrayLike,
    target_embeddings: ArrayLike,
    k: int = 4,
    margin: str = "ratio",
    retrieval: str = "max",
    threshold: float | None = None,
) -> list[list[float | int]]:
    """Pairs of a source and a target that are translations of each other, by how far their cosine stands out.

    Artetxe and Schwenk, Margin-based Parallel Corpus Mining with Multilingual Sentence Embeddings (2019): a cosine is
    compared with the mean of those that both have with their `k` nearest on the other side, (x's mean + y's mean) / 2.

    Args:
        source_embeddings: (n, dim); they need not have length 1.
        target_embeddings: (m, dim).
        k: how many nearest to take the mean over, and to choose from.
        margin: the score is the cosine divided by the mean ("ratio"), or less it ("distance"), or alone ("absolute").
        retrieval: each source with the target that scores highest ("forward"), or each target with such a source
            ("backward"); the pairs that are both ("intersection"); or of all of these the highest first, each source
            and each target once ("max").
        threshold: the least score; None is any.

    Returns:
        A list of [score, source's row, target's row], the highest score first, of equal ones the lowest rows. What has
        NaN as its score is left out.

    Raises:
        InputError: arrays do not fit, or an option is not one of those.
    """
    check_counts(k=k)
    check_choice("margin", margin, MARGINS)
    check_choice("retrieval", retrieval, RETRIEVALS)
    source, target = as_pair(source_embeddings, target_embeddings, ("source_embeddings", "target_embeddings"))
    if not (len(source) and len(target)):
        return []
    forward, backward = nearest(source, target, k), nearest(target, source, k)
    means = forward[0].mean(axis=1), backward[0].mean(axis=1)
    ahead_scores, ahead = _best(forward, means[0], means[1], margin)
    back_scores, back = _best(backward, means[1], means[0], margin)
    sources, targets = np.arange(len(source)), np.arange(len(target))
    if retrieval == "forward":
        scores, pairs = ahead_scores, (sources, ahead)
    elif retrieval == "backward":
        scores, pairs = back_scores, (back, targets)
    elif retrieval == "intersection":
        mutual = back[ahead] == sources
        scores, pairs = ahead_scores[mutual], (sources[mutual], ahead[mutual])
    else:
        scores = np.concatenate([ahead_scores, back_scores])
        pairs = np.concatenate([sources, back]), np.concatenate([ahead, targets])
    ranked = _ranked(scores, *pairs, threshold)
    return _once_each(ranked) if retrieval == "max" else ranked


def _best(
    found: tuple[NDArray[np.float32], NDArray[np.int64]],
    own: NDArray[np.float32],
    others: NDArray[np.float32],
    margin: str,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The highest score of each row among its nearest (n, k), (n,); and which one has it, (n,)."""
    cosines, ids = found
    means = (own[:, None] + others[ids]) / 2
    scores = cosines
    if margin != "absolute":
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = (np.divide if margin == "ratio" else np.subtract)(cosines, means, dtype=np.float32)
    best = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1)
    rows = np.arange(len(ids))
    return scores[rows, best], ids[rows, best]


def _ranked(
    scores: NDArray[np.float32], sources: NDArray[np.int64], targets: NDArray[np.int64], threshold: float | None
) -> list[list[float | int]]:
    order = np.lexsort((targets, sources, -scores))
    order = order[~np.isnan(scores[order])]
    if threshold is not None:
        order = order[scores[order] >= threshold]
    columns = scores[order].tolist(), sources[order].tolist(), targets[order].tolist()
    return [[score, source, target] for score, source, target in zip(*columns, strict=True)]


def _once_each(pairs: list[list[float | int]]) -> list[list[float | int]]:
    sources, targets, kept = set(), set(), []
    for pair in pairs:
        if pair[1] not in sources and pair[2] not in targets:
            sources.add(pair[1])
            targets.add(pair[2])
            kept.append(pair)
    return kept


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
) -> list[list[Hit]]:
    """What is near to a query without being an answer to it: negatives to train a model with.

    Of what is nearest to the query the positives are dropped, and what the margins and limits say; of what is left the
    first `range_min` are skipped, and `num_negatives` taken from there up to `range_max`.

    Args:
        query_embeddings: (n, dim).
        corpus_embeddings: (m, dim); equal texts should be in it once, as a copy of an answer counts as a negative.
        positives: for each query the row of its answer in the corpus, or several.
        range_min: how many of the nearest to skip.
        range_max: how far down the nearest are looked at; None is `range_min` + `num_negatives` + the most positives
            that a query has, and ten times as many negatives where `max_score` or a margin drops some.
        max_score: drop what scores above it.
        min_score: drop what scores below it.
        absolute_margin: drop what scores above that much less than the query's lowest-scoring positive.
        relative_margin: the same, as a share of that positive's score, without its sign.
        num_negatives: how many are wanted for each query; there are fewer where no more are left.
        sampling_strategy: "top" takes the nearest, "random" any.
        score_function: as `semantic_search` has it.
        seed: what "random" starts from; None is another one each time.

    Returns:
        For each query a list of {"corpus_id": row, "score": a float}, the highest first.

    Raises:
        InputError: arrays do not fit, a positive is no row of the corpus, or an option is out of range.
    """
    queries, corpus = as_pair(query_embeddings, corpus_embeddings, ("query_embeddings", "corpus_embeddings"))
    rows, columns = _checked_positives(positives, len(queries), len(corpus))
    most = int(np.bincount(rows).max(initial=0))
    check_counts(num_negatives=num_negatives)
    if range_max is None:
        dropping = not (absolute_margin is None and relative_margin is None and max_score is None)
        range_max = range_min + num_negatives * (_SPARE if dropping else 1) + most
    _check_range(range_min, range_max, num_negatives)
    check_choice("sampling_strategy", sampling_strategy, STRATEGIES)
    if not len(queries) or not len(corpus):
        return [[] for _ in range(len(queries))]
    scores, ids = nearest(queries, corpus, range_max + most, score_function)
    known = np.isin(np.arange(len(queries))[:, None] * len(corpus) + ids, rows * len(corpus) + columns)
    kept = ~known & ~np.isnan(scores)
    if absolute_margin is not None or relative_margin is not None:
        block = Block(as_float32(corpus[columns]))
        found = scorer(as_float32(queries), score_function).pairs(block, rows, np.arange(len(rows)))
        lowest = np.full(len(queries), np.inf, np.float32)
        np.minimum.at(lowest, rows, found)
        kept &= _below(scores, lowest[:, None], absolute_margin, relative_margin)
    if max_score is not None:
        kept &= scores <= max_score
    if min_score is not None:
        kept &= scores >= min_score
    random = np.random.default_rng(seed) if sampling_strategy == "random" else None
    chosen = [_chosen(np.flatnonzero(row)[range_min:range_max], num_negatives, random) for row in kept]
    return [
        [{"corpus_id": int(ids[query, at]), "score": float(scores[query, at])} for at in row]
        for query, row in enumerate(chosen)
    ]


def _check_range(least: int, most: int, wanted: int) -> None:
    if not 0 <= least <= most - wanted:
        raise InputError(
            f"range_min and range_max should leave room for num_negatives: not {least}, {most} and {wanted}"
        )


def _checked_positives(
    positives: Sequence[int | Sequence[int]], queries: int, corpus: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each positive once: its query, and its row of the corpus."""
    if len(positives) != queries:
        raise InputError(f"positives should have one entry for each of {queries} queries, not {len(positives)}")
    rows, columns = [], []
    for query, several in enumerate(positives):
        for row in dict.fromkeys(np.atleast_1d(np.asarray(several)).tolist()):
            if not isinstance(row, int) or not 0 <= row < corpus:
                raise InputError(f"positives[{query}] should be rows of a corpus of {corpus}, not {several!r}")
            rows.append(query)
            columns.append(row)
    return np.array(rows, np.int64), np.array(columns, np.int64)


def _below(
    scores: NDArray[np.float32], lowest: NDArray[np.float32], absolute: float | None, relative: float | None
) -> NDArray[np.bool_]:
    below = np.ones(scores.shape, bool)
    with np.errstate(invalid="ignore"):  # of a query without a positive the lowest score is infinite
        if absolute is not None:
            below &= ~(scores + np.float32(absolute) > lowest)
        if relative is not None:
            below &= ~(scores > lowest - np.abs(lowest) * np.float32(relative))
    return below


def _chosen(places: NDArray[np.intp], wanted: int, random: np.random.Generator | None) -> list[int]:
    if random is not None and len(places) > wanted:
        places = np.sort(random.choice(places, wanted, replace=False))
    chosen: list[int] = places[:wanted].tolist()
    return chosen
