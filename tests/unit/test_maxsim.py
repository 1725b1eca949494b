"""MaxSim beside a loop, for any number of queries, documents and tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedder import maxsim, maxsim_pairwise
from embedder.errors import InputError
from embedder.vectors import maxsim as module

SIZES = st.lists(st.integers(0, 7), max_size=9)


def texts_of(sizes, seed, dtype=np.float32):
    generator = np.random.default_rng(seed)
    return [(10 * generator.normal(size=(size, 5))).astype(dtype) for size in sizes]


def score_in_a_loop(query, document, function):
    if not len(document):
        score = -1e9
    else:
        score = sum(max(float(a @ b) for b in document.astype(np.float64)) for a in query.astype(np.float64))
    return score / max(1, len(query)) if function == "meanmaxsim" else score


@given(
    queries=SIZES, documents=SIZES, function=st.sampled_from(module.FUNCTIONS), block=st.sampled_from((1, 30, 10**6))
)
@settings(max_examples=60, deadline=None)
def test_scores_are_those_of_a_loop(queries, documents, function, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MAX_BLOCK_VECTORS", block)
        patch.setattr(module, "_MAX_QUERY_VECTORS", max(1, block // 3))
        patch.setattr(module, "_MAX_PRODUCT_SIZE", 5 * block)
        a, b = texts_of(queries, 1), texts_of(documents, 2)
        expected = [[score_in_a_loop(query, document, function) for document in b] for query in a]
        scores = maxsim(a, b, function)
        assert (scores.shape, scores.dtype) == ((len(a), len(b)), np.float32)
        np.testing.assert_allclose(scores, np.reshape(expected, scores.shape), rtol=1e-5, atol=1e-3)
        pairs = [score_in_a_loop(query, document, function) for query, document in zip(a, b, strict=False)]
        count = len(pairs)
        np.testing.assert_allclose(maxsim_pairwise(a[:count], b[:count], function), pairs, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int8])
def test_other_dtypes_are_computed_in_float32(dtype):
    a, b = texts_of([3, 2], 1, dtype), texts_of([4, 1, 5], 2, dtype)
    expected = maxsim([query.astype(np.float32) for query in a], [document.astype(np.float32) for document in b])
    np.testing.assert_allclose(maxsim(a, b), expected, rtol=1e-6)


def test_numbers_that_float32_cannot_hold():
    assert maxsim(np.full((2, 3), 1e300), np.full((2, 3), 1e300)).tolist() == [[np.inf]]


def test_one_text_and_an_array_of_texts():
    a, b = texts_of([3], 1)[0], np.stack(texts_of([4, 4], 2))
    np.testing.assert_allclose(maxsim(a, b), maxsim([a], list(b)))
    assert maxsim_pairwise(a, b[0]).shape == (1,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: maxsim("a", []), "queries should be arrays of vectors"),
        (lambda: maxsim(3, []), "queries should be arrays of vectors"),
        (lambda: maxsim([], [np.ones(3)]), r"documents\[0\] should be numbers of the shape \(tokens, dimension\)"),
        (lambda: maxsim([np.array([["a"]])], []), r"queries\[0\] should be numbers .* not <U1 of the shape \(1, 1\)"),
        (lambda: maxsim(np.ones((2, 3)), np.ones((2, 4))), r"the same dimension, and they have \[3, 4\]"),
        (lambda: maxsim(np.ones((2, 3)), np.ones((2, 3)), "cosine"), "function should be one of maxsim, meanmaxsim"),
        (lambda: maxsim([[[1, 2], [3]]], []), r"queries\[0\] should be numbers of the shape \(tokens, dimension\): "),
        (lambda: maxsim(np.ones((2, 0)), np.ones((3, 0))), "the vectors have the dimension 0"),
        (lambda: maxsim_pairwise([np.ones((2, 3))], []), "as many documents as queries, not 0 for 1"),
        (lambda: maxsim_pairwise([], [], "cosine"), "function should be one of maxsim, meanmaxsim"),
    ],
)
def test_refused_arguments(call, message):
    with pytest.raises(InputError, match=message):
        call()
