"""Sparse vectors and their comparisons give the numbers of dense arrays."""

import numpy as np
import pytest

from embedder import InputError, SparseVectors, sparse_cos_sim, sparse_dot_score
from embedder.vectors.sparse.scores import intersection, sparsity
from embedder.vectors.sparse.vectors import concatenate


def random_dense(rows, dimension=40, share=0.2, seed=0):
    generator = np.random.default_rng(seed)
    dense = generator.normal(size=(rows, dimension)).astype(np.float32)
    dense[generator.random(dense.shape) > share] = 0
    dense[::7] = 0
    return dense


@pytest.mark.parametrize("rows", [0, 1, 30])
def test_dense_and_back(rows):
    dense = random_dense(rows)
    vectors = SparseVectors.of_dense(dense)
    assert np.array_equal(vectors.to_dense(), dense)
    assert len(vectors) == rows
    assert vectors.shape == dense.shape
    assert np.array_equal(SparseVectors.of_rows(list(vectors), 40).to_dense(), dense)


@pytest.mark.parametrize("key", [slice(3, 20, 4), slice(None, None, -1), [4, 4, 1], np.arange(30) % 3 == 0, slice(0)])
def test_parts(key):
    dense = random_dense(30)
    assert np.array_equal(SparseVectors.of_dense(dense)[key].to_dense(), dense[key])


def test_single_vectors():
    vectors = SparseVectors.of_dense([[0, 2, 0], [1, 0, 3]])
    assert [row[0].tolist() for row in vectors] == [[1], [0, 2]]
    assert vectors[-1][1].tolist() == [1, 3]
    with pytest.raises(IndexError):
        vectors[2]
    with pytest.raises(ValueError, match="read-only"):
        vectors.values[0] = 1


def test_scores():
    a, b = random_dense(20, seed=1), random_dense(31, seed=2)
    ours = sparse_dot_score(SparseVectors.of_dense(a), SparseVectors.of_dense(b))
    assert np.abs(ours - a @ b.T).max() < 1e-5
    norms = [np.maximum(np.linalg.norm(dense, axis=1, keepdims=True), 1e-12) for dense in (a, b)]
    cosines = sparse_cos_sim(SparseVectors.of_dense(a), SparseVectors.of_dense(b))
    assert np.abs(cosines - (a / norms[0]) @ (b / norms[1]).T).max() < 1e-5


def test_intersection():
    a, b = random_dense(20, share=0.7, seed=1)[1:2], random_dense(31, share=0.7, seed=2)
    found = intersection(SparseVectors.of_dense(a), SparseVectors.of_dense(b)).to_dense()
    assert np.array_equal(found, np.maximum(a * b, 0))


def test_largest_and_sparsity():
    vectors = SparseVectors.of_dense([[1, -3, 2, 0], [1, 1, 1, 1], [0, 0, 0, 5]])
    assert vectors.largest(2).to_dense().tolist() == [[0, -3, 2, 0], [1, 1, 0, 0], [0, 0, 0, 5]]
    assert vectors.largest(4) is vectors
    assert sparsity(vectors) == {"active_dims": 8 / 3, "sparsity_ratio": 1 - 8 / 12}
    assert sparsity(vectors[:0]) == {"active_dims": 0.0, "sparsity_ratio": 1.0}


def test_concatenation():
    dense = random_dense(30)
    parts = [SparseVectors.of_dense(dense[:10]), SparseVectors.of_dense(dense[10:])]
    assert np.array_equal(concatenate(parts, 40).to_dense(), dense)
    assert concatenate([], 40).shape == (0, 40)


@pytest.mark.parametrize(
    ("indptr", "indices", "values", "problem"),
    [
        ([], [], [], "indptr at least one number"),
        ([0, 2], [1], [1.0], "indptr should rise from 0"),
        ([0, 2, 1, 3], [0, 1, 2], [1.0] * 3, "indptr should rise from 0"),
        ([0, 1], [5], [1.0], "not within the dimension 5"),
        ([0, 1], [-1], [1.0], "not within the dimension 5"),
        ([0, 2], [3, 1], [1.0, 1.0], "the places of a vector should rise"),
        ([0, 2], [1, 1], [1.0, 1.0], "the places of a vector should rise"),
        ([0, 1], [0.7], [1.0], "indices should be numbers that fit into int32"),
        ([0, 1], [2**32], [1.0], "indices should be numbers that fit into int32"),
        ([0, 1.5], [0], [1.0], "indptr should be numbers that fit into int64"),
        ([0, 1], [0], ["a"], "values should be numbers that fit into float32"),
        ([0, 1], [0], [[1.0], [1.0, 2.0]], "values should be an array of numbers"),
    ],
)
def test_arrays_that_do_not_fit(indptr, indices, values, problem):
    with pytest.raises(InputError, match=problem):
        SparseVectors(indptr, indices, values, 5)


def test_inputs_that_do_not_fit():
    vectors = SparseVectors.of_dense([[1, 2]])
    with pytest.raises(InputError, match="should be SparseVectors, not ndarray"):
        sparse_dot_score(vectors, np.ones((1, 2)))
    with pytest.raises(InputError, match="should be SparseVectors, not ndarray"):
        sparsity(np.ones((1, 2)))
    with pytest.raises(InputError, match="length 2 cannot be compared with vectors of length 3"):
        sparse_dot_score(vectors, SparseVectors.of_dense([[1, 2, 3]]))
    with pytest.raises(InputError, match="one vector first, not 2"):
        intersection(SparseVectors.of_dense([[1], [2]]), SparseVectors.of_dense([[1]]))
    with pytest.raises(InputError, match=r"\(n, dimension\), not \(3,\)"):
        SparseVectors.of_dense([1, 2, 3])
    with pytest.raises(InputError, match="count should be a whole number, at least 1, not -1"):
        vectors.largest(-1)
    for key in (True, None, [[0]]):
        with pytest.raises(IndexError, match="the index should be a number, a slice, or one list of numbers"):
            vectors[key]
    for dimension in (None, -1, 2.5, "2", 2**31):
        with pytest.raises(InputError, match="dimension should be a whole number"):
            SparseVectors([0], [], [], dimension)
