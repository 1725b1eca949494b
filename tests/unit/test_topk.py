"""`TopK` keeps the k best scores, also while they have errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.vectors.topk import TopK, candidates
from tests.vectors import best_by_sorting

SCORES = st.sampled_from([-np.inf, -2.0, -1e-40, -0.0, 0.0, 1e-40, 1.0, 1.0, 2.0, 2.1, 2.2, np.inf, np.nan])


def add(best, scores, start, max_error=None):
    """Add a block of scores, as a search does."""
    rows, columns = candidates(scores, best.k, best.bound, best.margin(max_error))
    best.add(rows, columns + start, scores[rows, columns], max_error)


def pairs(found):
    """Return (id, score) of each score. NaN is equal to None then."""
    scores, ids = found
    return [
        [(id_, None if np.isnan(score) else score) for id_, score in zip(*row, strict=True)]
        for row in zip(ids.tolist(), scores.tolist(), strict=True)
    ]


@given(data=st.data())
@pytest.mark.parametrize("error", [0, 0.125])
def test_the_k_best_equal_a_full_sort(error, data):
    """With an error, the scores that are added are wrong by up to it, and are scored again when they are resolved."""
    n, m, k = (data.draw(st.integers(1, most)) for most in (3, 40, 12))
    exact = np.array([data.draw(st.lists(SCORES, min_size=m, max_size=m)) for _ in range(n)], np.float32)
    wrong = exact + np.float32(error) * np.random.default_rng(0).uniform(-1, 1, exact.shape).astype(np.float32)
    best, size = TopK(n, k), data.draw(st.integers(1, 40))
    for start in range(0, m, size):
        if error and data.draw(st.booleans()):
            add(best, wrong[:, start : start + size], start, np.full(n, error, np.float32))
        else:
            add(best, exact[:, start : start + size], start)
    best.resolve(lambda rows, ids: exact[rows, ids])
    expected = [[(i, None if np.isnan(x) else x) for i, x in row] for row in best_by_sorting(exact, k)]
    assert pairs(best.result(m)) == expected


def test_parts_of_a_corpus_are_merged():
    scores = np.random.default_rng(0).integers(0, 9, (3, 90)).astype(np.float32)
    best = TopK(3, 5)
    for start in (0, 30, 60):
        part = TopK(3, 5, best.bound)
        add(part, scores[:, start : start + 30], start)
        best.update(part)
    assert pairs(best.result(90)) == best_by_sorting(scores, 5)


def test_excess_counts_what_errors_keep():
    best = TopK(1, 2)
    add(best, np.array([[4.0, 3.0, 2.5, 1.0, 0.0]], np.float32), 0, np.array([0.5], np.float32))
    assert best.excess == 1
    best.resolve(lambda _, ids: np.array([4.0, 2.6, 2.7], np.float32)[ids])
    assert best.excess == 0
    assert pairs(best.result(5)) == [[(0, 4.0), (2, pytest.approx(2.7))]]


def test_copies_are_few_candidates():
    rows, columns = candidates(np.ones((2, 100), np.float32), 3, np.full(2, -np.inf, np.float32))
    assert list(zip(rows, columns, strict=True)) == [(row, column) for row in range(2) for column in range(3)]
