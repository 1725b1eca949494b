"""Similarity functions, normalisation and truncation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import embedder
from embedder.errors import InputError
from tests.vectors import hard_vectors, random_vectors

ALL_PAIRS = [embedder.cos_sim, embedder.dot_score, embedder.euclidean_sim, embedder.manhattan_sim]
PAIRWISE = [
    embedder.pairwise_cos_sim,
    embedder.pairwise_dot_score,
    embedder.pairwise_euclidean_sim,
    embedder.pairwise_manhattan_sim,
]


def by_formula(function, a, b):
    """Return the scores by the formula of the function, in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    if function is embedder.cos_sim:
        norms = [np.maximum(np.linalg.norm(x, axis=1), 1e-12) for x in (a, b)]
        return a @ b.T / np.outer(*norms)
    if function is embedder.dot_score:
        return a @ b.T
    differences = a[:, None] - b[None]
    order = 2 if function is embedder.euclidean_sim else 1
    return -np.linalg.norm(differences, ord=order, axis=-1)


@pytest.mark.parametrize(("function", "pairwise"), list(zip(ALL_PAIRS, PAIRWISE, strict=True)))
@given(data=st.data())
def test_scores_are_those_of_the_formula(function, pairwise, data):
    a = data.draw(hard_vectors(max_rows=12))
    b = data.draw(hard_vectors(max_rows=12, dim=a.shape[1]))
    scores = function(a, b)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, by_formula(function, a, b), rtol=1e-5, atol=1e-6)
    n = min(len(a), len(b))
    found = pairwise(a[:n], b[:n])
    assert found.shape == (n,)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.diagonal(scores)[:n], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", ALL_PAIRS)
@pytest.mark.parametrize("types", [(np.float16, np.float32), (np.int8, np.int8), (np.int8, np.float64), (bool, "u1")])
def test_all_dtypes_are_converted_to_float32(function, types):
    a, b = (random_vectors(seed, 5, 300, np.int8).astype(dtype) for seed, dtype in enumerate(types))
    scores = function(a, b)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, by_formula(function, a, b), rtol=1e-4)


@pytest.mark.parametrize(("function", "pairwise"), list(zip(ALL_PAIRS, PAIRWISE, strict=True)))
def test_lists_and_single_vectors(function, pairwise):
    a, b = random_vectors(1, 3, 4), random_vectors(2, 3, 4)
    np.testing.assert_array_equal(function(a.tolist(), list(b)), function(a, b))
    np.testing.assert_array_equal(function(a[0], b), function(a[:1], b))
    assert function([], b).shape == (0, 3)
    assert function(a, []).shape == (3, 0)
    assert pairwise(a[0], b[0]).shape == ()
    np.testing.assert_allclose(pairwise(a[0], b), function(a[0], b)[0], rtol=1e-6)
    np.testing.assert_allclose(pairwise(b, a[0]), function(a[0], b)[0], rtol=1e-6)


def test_blocks_do_not_change_the_result(monkeypatch):
    a, b = random_vectors(1, 7, 5), random_vectors(2, 50, 5)
    whole = [function(a, b) for function in ALL_PAIRS] + [function(b[:7], a) for function in PAIRWISE]
    monkeypatch.setattr("embedder.vectors.arrays._CACHED_NUMBERS", 11)
    parts = [function(a, b) for function in ALL_PAIRS] + [function(b[:7], a) for function in PAIRWISE]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_the_distance_of_a_vector_to_its_copy_is_zero():
    a = 1000 + random_vectors(3, 30, 384)
    assert not np.diagonal(embedder.euclidean_sim(a, a)).any()


def test_normalize():
    vectors = np.array([[3, 4], [0, 0], [1e-30, 0], [3e30, 4e30]], np.float32)
    np.testing.assert_allclose(embedder.normalize_embeddings(vectors), [[0.6, 0.8], [0, 0], [1e-18, 0], [0.6, 0.8]])
    np.testing.assert_allclose(embedder.normalize_embeddings([3.0, 4.0]), [0.6, 0.8])
    assert embedder.normalize_embeddings(np.zeros((0, 3))).shape == (0, 3)
    assert embedder.normalize_embeddings(vectors[:2].astype(np.float16)).dtype == np.float32


def test_truncate():
    vectors = random_vectors(1, 3, 8, np.float16)
    assert embedder.truncate_embeddings(vectors, None).shape == (3, 8)
    assert embedder.truncate_embeddings(vectors, 99).shape == (3, 8)
    np.testing.assert_array_equal(embedder.truncate_embeddings(vectors, 3), vectors[:, :3])
    np.testing.assert_array_equal(embedder.truncate_embeddings(vectors[0], 3), vectors[0, :3])
    assert embedder.truncate_embeddings(vectors, 3).dtype == np.float16
    with pytest.raises(InputError, match="truncate_dim should be a whole number, at least 1, not 0"):
        embedder.truncate_embeddings(vectors, 0)


@pytest.mark.parametrize("function", [*ALL_PAIRS, *PAIRWISE])
def test_wrong_input(function):
    vectors = random_vectors(1, 3, 4)
    with pytest.raises(InputError, match=r"not \(3, 4\) and \(3, 5\)"):
        function(vectors, random_vectors(1, 3, 5))
    with pytest.raises(InputError, match=r"should be \(n, dim\) or \(dim,\), not \(1, 3, 4\)"):
        function(vectors[None], vectors)
    with pytest.raises(InputError, match=r"should be \(n, dim\) or \(dim,\), not \(\)"):
        function(1.0, vectors)
    with pytest.raises(InputError, match="should be numbers, not complex128"):
        function(vectors.astype(complex), vectors)
    with pytest.raises(InputError, match="should be numbers: "):
        function([[1.0], [1.0, 2.0]], vectors)


@pytest.mark.parametrize("function", PAIRWISE)
def test_pairwise_functions_need_equal_numbers_of_rows(function):
    with pytest.raises(InputError, match=r"should be \(n, dim\) and \(n, dim\), not \(3, 4\) and \(2, 4\)"):
        function(random_vectors(1, 3, 4), random_vectors(1, 2, 4))
