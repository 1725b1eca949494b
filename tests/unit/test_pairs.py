"""Bitext mining and hard negatives."""

import numpy as np
import pytest

import embedder
from embedder import bitext_mining, mine_hard_negatives
from embedder.errors import InputError
from tests.vectors import exact_cosines, ids_of, random_vectors


def translations(n=40, dim=8):
    """Return sources, and noisy copies of them in another order."""
    source = random_vectors(1, n, dim)
    order = np.random.default_rng(2).permutation(n)
    return source, (source + 0.4 * random_vectors(3, n, dim))[order]


def by_definition(source, target, k, margin):
    """Return the scores of all pairs, the best target of each source and the best source of each target."""
    cosines = exact_cosines(source, target)
    targets = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    sources = np.argsort(-cosines.T, axis=1, kind="stable")[:, :k]
    means = [np.take_along_axis(*pair, axis=1).mean(axis=1) for pair in ((cosines, targets), (cosines.T, sources))]
    mean = (means[0][:, None] + means[1]) / 2
    scores = {"ratio": cosines / mean, "distance": cosines - mean, "absolute": cosines}[margin]
    best_targets = [int(row[np.argmax(scores[i, row])]) for i, row in enumerate(targets)]
    best_sources = [int(row[np.argmax(scores[row, j])]) for j, row in enumerate(sources)]
    return scores, best_targets, best_sources


@pytest.mark.parametrize("margin", ["ratio", "distance", "absolute"])
@pytest.mark.parametrize("k", [1, 4, 100])
def test_bitext_mining_follows_its_definition(margin, k):
    source, target = translations()
    target = target[:31]
    scores, best_targets, best_sources = by_definition(source, target, k, margin)
    forward, backward = list(enumerate(best_targets)), [(i, j) for j, i in enumerate(best_sources)]
    used, unique = (set(), set()), []
    for i, j in sorted(forward + backward, key=lambda pair: -scores[pair]):
        if i not in used[0] and j not in used[1]:
            unique.append((i, j))
            used[0].add(i)
            used[1].add(j)
    expected = {
        "forward": forward,
        "backward": backward,
        "intersection": [pair for pair in forward if pair in backward],
        "max": unique,
    }
    for retrieval, pairs in expected.items():
        found = bitext_mining(source, target, k, margin, retrieval)
        assert [pair[1:] for pair in found] == [list(pair) for pair in sorted(pairs, key=lambda p: (-scores[p], p))]
        np.testing.assert_allclose(
            [pair[0] for pair in found], sorted((scores[p] for p in pairs), reverse=True), rtol=1e-5
        )


def test_threshold_and_nan():
    source, target = translations()
    found = bitext_mining(source, target)
    assert bitext_mining(source, target, threshold=found[9][0]) == found[:10]
    assert bitext_mining(source, target, threshold=99) == []
    source[3], target[4], source[5] = np.nan, np.nan, 0
    for retrieval in ("max", "forward", "backward", "intersection"):
        found = bitext_mining(source, target, 4, "distance", retrieval)
        assert all(pair[1] != 3 and pair[2] != 4 for pair in found)
    assert bitext_mining([], target) == bitext_mining(source, np.zeros((0, 8))) == []
    assert bitext_mining(np.zeros((2, 3)), np.zeros((2, 3))) == []  # 0 / 0


def test_wrong_input_of_bitext_mining():
    source, target = translations()
    for name, value in [("margin", "wide"), ("retrieval", "both")]:
        with pytest.raises(InputError, match=f"{name} should be one of .*, not '{value}'"):
            bitext_mining(source, target, **{name: value})
    with pytest.raises(InputError, match="k should be a whole number, at least 1, not 0"):
        bitext_mining(source, target, 0)
    for threshold in ("high", float("nan"), True):
        with pytest.raises(InputError, match=f"threshold should be a number or None, not {threshold!r}"):
            bitext_mining(source, target, threshold=threshold)
    with pytest.raises(InputError, match=r"not \(40, 8\) and \(40, 7\)"):
        bitext_mining(source, target[:, :7])


def test_negatives_are_the_nearest_without_the_positives():
    queries, corpus = random_vectors(1, 9, 6), random_vectors(2, 50, 6)
    positives = [[query, query + 20] if query % 2 else query for query in range(9)]
    order = np.argsort(-exact_cosines(queries, corpus), axis=1, kind="stable")
    expected = [row[~np.isin(row, known)].tolist() for row, known in zip(order, positives, strict=True)]
    found = mine_hard_negatives(queries, corpus, positives)
    assert ids_of(found) == [row[:3] for row in expected]
    assert ids_of(mine_hard_negatives(queries, corpus, positives, range_min=5, num_negatives=4)) == [
        row[5:9] for row in expected
    ]
    assert ids_of(mine_hard_negatives(queries, corpus, positives, range_max=99, num_negatives=99)) == expected
    with_positives = mine_hard_negatives(queries, corpus, positives, num_negatives=4, include_positives=True)
    assert ids_of(with_positives) == order[:, :4].tolist()
    dots = mine_hard_negatives(queries, corpus, positives, score_function=embedder.dot_score)
    assert dots[0][0]["score"] == pytest.approx(float(queries[0] @ corpus[dots[0][0]["corpus_id"]]), rel=1e-6)


@pytest.mark.parametrize("function", [embedder.cos_sim, lambda a, b: embedder.cos_sim(a, b)])
def test_margins_and_limits(function):
    queries, corpus = random_vectors(1, 9, 6), random_vectors(2, 50, 6)
    positives = [[query, query + 20] for query in range(9)]
    scores = exact_cosines(queries, corpus)
    lowest = np.array([scores[query, known].min() for query, known in enumerate(positives)])[:, None]
    for options, allowed in [
        ({"max_score": 0.3}, scores <= 0.3),
        ({"min_score": 0.2}, scores >= 0.2),
        ({"absolute_margin": 0.1}, scores + np.float32(0.1) <= lowest),
        ({"relative_margin": 0.2}, scores <= lowest - np.abs(lowest) * np.float32(0.2)),
        ({"absolute_margin": 0.1, "max_score": 0.1}, (scores + np.float32(0.1) <= lowest) & (scores <= 0.1)),
    ]:
        found = mine_hard_negatives(
            queries, corpus, positives, range_max=60, num_negatives=4, score_function=function, **options
        )
        for query, row in enumerate(found):
            expected = [at for at in np.argsort(-scores[query], kind="stable") if allowed[query, at]]
            expected = [int(at) for at in expected if at not in positives[query]]
            assert [hit["corpus_id"] for hit in row] == expected[:4]


def test_random_negatives():
    queries, corpus = random_vectors(1, 9, 6), random_vectors(2, 50, 6)
    options = {"range_min": 2, "range_max": 12, "num_negatives": 5, "sampling_strategy": "random"}
    window = ids_of(mine_hard_negatives(queries, corpus, [0] * 9, 2, 12, num_negatives=10))
    found = mine_hard_negatives(queries, corpus, [0] * 9, seed=1, **options)
    assert found == mine_hard_negatives(queries, corpus, [0] * 9, seed=1, **options)
    assert found != mine_hard_negatives(queries, corpus, [0] * 9, seed=2, **options)
    for row, among in zip(ids_of(found), window, strict=True):
        assert len(set(row)) == 5
        assert row == [at for at in among if at in row]
    all_ten = {"range_max": 10, "num_negatives": 10}
    assert mine_hard_negatives(queries, corpus, [0] * 9, **all_ten) == mine_hard_negatives(
        queries, corpus, [0] * 9, sampling_strategy="random", **all_ten
    )


def test_small_and_empty_corpora():
    vectors = random_vectors(1, 3, 4)
    assert mine_hard_negatives([], vectors, []) == []
    assert mine_hard_negatives(vectors, [], [[], [], []]) == [[], [], []]
    assert [len(row) for row in mine_hard_negatives(vectors, vectors, [0, [1, 2], []])] == [2, 1, 3]
    found = mine_hard_negatives(vectors, vectors, [0, 1, []], absolute_margin=0.0, relative_margin=0.0)
    assert len(found[2]) == 3
    vectors[1] = np.nan
    assert ids_of(mine_hard_negatives(vectors[:1], vectors, [0])) == [[2]]


def test_wrong_input_of_hard_negatives():
    vectors = random_vectors(1, 3, 4)
    with pytest.raises(InputError, match="positives should have one entry for each of 3 queries, not 2"):
        mine_hard_negatives(vectors, vectors, [0, 1])
    for container, kind in (({0: 0, 1: 1, 2: 2}, "dict"), ({0, 1, 2}, "set")):
        with pytest.raises(InputError, match=f"positives should be a list .* each query, not a {kind}: "):
            mine_hard_negatives(vectors, vectors, container)
    with pytest.raises(InputError, match="positives should be a list with an entry for each query, not int"):
        mine_hard_negatives(vectors, vectors, 0)
    assert len(mine_hard_negatives(vectors, vectors, iter([0, 1, 2]))) == 3
    for wrong in (3, -1, [0, 7], "a", 0.5):
        with pytest.raises(InputError, match=r"positives\[1\] should be rows of a corpus of 3, not"):
            mine_hard_negatives(vectors, vectors, [0, wrong, 1])
    with pytest.raises(InputError, match="num_negatives should be a whole number, at least 1, not 0"):
        mine_hard_negatives(vectors, vectors, [0, 1, 2], num_negatives=0)
    for options, message in [
        ({"range_min": -5}, "range_min should not be negative, but is -5"),
        ({"range_max": -1}, "range_max should not be negative, but is -1"),
        ({"range_min": 0.5}, "range_min should be a whole number, not 0.5"),
        ({"range_min": True}, "range_min should be a whole number, not True"),
        ({"range_min": 5, "range_max": 5}, r"range_max should be at least range_min \+ num_negatives = 8, not 5"),
        ({"range_min": 3, "range_max": 5}, r"range_max should be at least range_min \+ num_negatives = 6, not 5"),
        ({"include_positives": 1}, "include_positives should be True or False, not 1"),
        ({"max_score": "high"}, "max_score should be a number or None, not 'high'"),
        ({"score_function": "dot"}, "score_function should be a function, such as embedder.cos_sim, not 'dot'"),
        ({"absolute_margin": float("nan")}, "absolute_margin should be a number or None, not nan"),
    ]:
        with pytest.raises(InputError, match=message):
            mine_hard_negatives(vectors, vectors, [0, 1, 2], **options)
    with pytest.raises(InputError, match="sampling_strategy should be one of top, random, not 'best'"):
        mine_hard_negatives(vectors, vectors, [0, 1, 2], sampling_strategy="best")
