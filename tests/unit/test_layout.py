"""Places of vectors in the plane."""

import numpy as np
import pytest

from embedder.vectors import layout
from embedder.vectors.layout import nearest_others, neighbour_layout, principal_layout
from tests.vectors import random_vectors


def test_groups_stay_together():
    group = np.repeat(np.arange(20), 10)
    vectors = random_vectors(1, 20, 32)[group] + 0.3 * random_vectors(2, 200, 32)
    points = neighbour_layout(vectors)
    assert points.shape == (200, 2)
    assert share_in_own_group(points, group) > 0.95 > share_in_own_group(principal_layout(vectors).points, group)
    np.testing.assert_array_equal(neighbour_layout(vectors), points)


def share_in_own_group(points, group, count=5):
    """Return how many of the `count` nearest points of each point are of its group, as a share."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1)[:, :count]
    return (group[nearest] == group[:, None]).mean()


def test_principal_layout_is_the_projection_with_the_largest_variance():
    vectors = random_vectors(1, 50, 6)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = principal_layout(vectors)
    centred = vectors - vectors.mean(axis=0)
    singular = np.linalg.svd(centred, compute_uv=False) ** 2
    np.testing.assert_allclose((found.points**2).sum(axis=0), singular[:2], rtol=1e-4)
    assert found.variance_share == pytest.approx(singular[:2].sum() / singular.sum(), rel=1e-4)
    np.testing.assert_allclose(principal_layout(vectors[::-1]).points[::-1], found.points, atol=1e-5)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8])
def test_few_vectors(n):
    vectors = random_vectors(2, n, 3)
    for points in (neighbour_layout(vectors), principal_layout(vectors).points):
        assert points.shape == (n, 2)
        assert np.isfinite(points).all()


@pytest.mark.parametrize("dim", [1, 2])
def test_few_dimensions(dim):
    assert np.isfinite(neighbour_layout(random_vectors(3, 20, dim))).all()


def test_equal_vectors_have_finite_places():
    vectors = np.concatenate([np.ones((30, 4), np.float32), np.zeros((2, 4), np.float32)])
    assert np.isfinite(neighbour_layout(vectors)).all()
    assert principal_layout(vectors[:30]).variance_share == 0


def test_nearest_others_leave_out_the_vector_itself(monkeypatch):
    vectors = np.float32([[1, 0], [0, 1], [1, 0.1], [0, 1]])
    cosines, rows = nearest_others(vectors, 1)
    assert rows.tolist() == [[2], [3], [0], [1]]
    np.testing.assert_allclose(cosines[1], 1, atol=1e-6)
    assert nearest_others(np.ones((9, 2), np.float32), 3)[1].shape == (9, 3)
    monkeypatch.setattr(layout, "_ROWS_PER_SEARCH", 2)
    assert nearest_others(vectors, 1)[1].tolist() == rows.tolist()


def test_progress(capsys):
    neighbour_layout(random_vectors(4, 10, 3), show_progress_bar=True)
    err = capsys.readouterr().err
    assert "Comparing: 100%" in err
    assert "Placing: 100%" in err
