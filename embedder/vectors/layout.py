"""Place vectors in the plane, so that a person can look at them.

`neighbour_layout` minimises the loss of PaCMAP (Wang, Huang, Rudin and Shaposhnik, "Understanding How Dimension
Reduction Tools Work", 2021) by gradient descent over all points at once. Three kinds of pairs act on each point. Near
neighbours attract it. A few points of middle distance attract it weakly, which arranges the groups. Random points push
it away.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.progress import progress_bar
from embedder.common.records import frozen
from embedder.vectors.arrays import as_embeddings, as_float32
from embedder.vectors.search import Corpus, SearchOptions, nearest
from embedder.vectors.similarity import cos_sim, normalize

NEIGHBOUR_COUNT = 10
# The layout of so few points has no neighbours worth the name.
MIN_NEIGHBOUR_POINTS = 8
_MIDDLE_COUNT, _FAR_COUNT = 5, 20
# A point of middle distance is the second nearest of this many random points.
_MIDDLE_CANDIDATES = 6
_SEED = 0
# The rows that are compared with all rows between two updates of the progress bar.
_ROWS_PER_SEARCH = 4096
# The steps of the three phases: arrange the groups, then the neighbours in them, then only the neighbours.
_PHASES = (100, 100, 250)
_FIRST_MIDDLE_WEIGHT, _MIDDLE_WEIGHT = 1000.0, 3.0
# The spread of the points before the first step, relative to their principal components.
_INITIAL_SCALE = 0.01
# The constants of Adam, the rule for the size of a step.
_STEP_SIZE, _MEAN_DECAY, _SQUARE_DECAY, _EPSILON = 1.0, 0.9, 0.999, 1e-7


@frozen
class PrincipalLayout:
    """A projection on the two directions in which the vectors differ most.

    Attributes:
        points: float64 (n, 2).
        variance_share: the share of the vectors' variance that the two directions hold, from 0 to 1.
    """

    points: NDArray[np.float64]
    variance_share: float


def principal_layout(embeddings: ArrayLike) -> PrincipalLayout:
    """Project the vectors, scaled to length 1, on their two principal components.

    The sign of each direction is such that its largest coordinate is positive, so the result is the same on all
    machines, up to rounding.

    Args:
        embeddings: (n, dim).

    Example:
        >>> principal_layout([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]).points.shape
        (3, 2)
    """
    rows = normalize(as_float32(as_embeddings(embeddings)))
    if not len(rows):
        return PrincipalLayout(np.empty((0, 2)), 0.0)
    return _project(rows.astype(np.float64))


def _project(rows: NDArray[np.float64]) -> PrincipalLayout:
    """Project rows (n, dim) on their two principal components."""
    centred = rows - rows.mean(axis=0)
    values, directions = np.linalg.eigh(centred.T @ centred)
    axes = directions[:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1, 1)
    points = np.zeros((len(rows), 2))
    points[:, : axes.shape[1]] = centred @ axes
    total = values.sum()
    return PrincipalLayout(points, float(values[::-1][:2].sum() / total) if total > 0 else 0.0)


def neighbour_layout(embeddings: ArrayLike, show_progress_bar: bool = False) -> NDArray[np.float64]:
    """Place the vectors so that each is near the vectors that have the highest cosines with it.

    It begins with the principal components and uses a fixed sequence of random numbers, so equal vectors give an equal
    layout. Distances between far groups mean little. Fewer than 8 vectors get their principal components.

    Args:
        embeddings: (n, dim).
        show_progress_bar: show progress on stderr.

    Returns:
        The points, float64 (n, 2).

    Example:
        >>> neighbour_layout(np.eye(9)).shape
        (9, 2)
    """
    rows = normalize(as_float32(as_embeddings(embeddings)))
    points = principal_layout(rows).points
    if len(rows) < MIN_NEIGHBOUR_POINTS:
        return points
    pairs = _choose_pairs(rows, show_progress_bar)
    scale = _INITIAL_SCALE / max(float(points.std()), 1e-12)
    coordinates = (points.T * scale).astype(np.float32)
    mean, square = np.zeros_like(coordinates), np.zeros_like(coordinates)
    with progress_bar(sum(_PHASES), "step", "Placing", shown=show_progress_bar) as bar:
        for step, weights in enumerate(_weights(), 1):
            gradient = _gradient(coordinates, pairs, weights)
            mean += (1 - _MEAN_DECAY) * (gradient - mean)
            square += (1 - _SQUARE_DECAY) * (gradient**2 - square)
            size = _STEP_SIZE * np.sqrt(1 - _SQUARE_DECAY**step) / (1 - _MEAN_DECAY**step)
            coordinates -= np.float32(size) * mean / (np.sqrt(square) + np.float32(_EPSILON))
            bar.update(1)
    # A screen is wider than high, so the longest extent of the layout becomes horizontal.
    return _project(coordinates.T.astype(np.float64)).points


@frozen
class _Pairs:
    """The points that act on each point: int64 (k, n) of each kind. A column is of a point."""

    near: NDArray[np.int64]
    middle: NDArray[np.int64]
    far: NDArray[np.int64]


def _choose_pairs(rows: NDArray[np.float32], show_progress_bar: bool) -> _Pairs:
    """Choose the near neighbours by cosine, and the others at random."""
    n, random = len(rows), np.random.default_rng(_SEED)
    near = nearest_others(rows, min(NEIGHBOUR_COUNT, n - 1), show_progress_bar)[1].T.copy()
    middle = np.empty((_MIDDLE_COUNT, n), np.int64)
    for number in range(_MIDDLE_COUNT):
        candidates = random.integers(0, n, (_MIDDLE_CANDIDATES, n))
        cosines = np.stack([np.einsum("ij,ij->i", rows, rows[chosen]) for chosen in candidates])
        second = np.argsort(-cosines, axis=0, kind="stable")[1]
        middle[number] = candidates[second, np.arange(n)]
    return _Pairs(near, middle, random.integers(0, n, (_FAR_COUNT, n)))


def nearest_others(
    rows: NDArray[np.float32], count: int, show_progress_bar: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the cosines and the rows of the `count` nearest other rows of each row, both (n, count), nearest first.

    Example:
        >>> nearest_others(np.float32([[1, 0], [0, 1], [1, 0.1]]), 1)[1].tolist()
        [[2], [2], [0]]
    """
    corpus, options = Corpus(rows), SearchOptions(count + 1, cos_sim)
    found = []
    with progress_bar(len(rows), "row", "Comparing", shown=show_progress_bar) as bar:
        for start in range(0, len(rows), _ROWS_PER_SEARCH):
            found.append(nearest(rows[start : start + _ROWS_PER_SEARCH], corpus, options))
            bar.update(len(found[-1][0]))
    scores, ids = (np.concatenate(part) for part in zip(*found, strict=True))
    # A row is normally its own nearest. Among many copies of it, it may be absent: then the last one is left out.
    own = ids == np.arange(len(rows))[:, None]
    own[~own.any(axis=1), -1] = True
    return scores[~own].reshape(len(rows), count), ids[~own].reshape(len(rows), count)


def _weights() -> Iterator[tuple[float, float, float]]:
    """Yield the weights of near, middle and far pairs for each step."""
    first, second, third = _PHASES
    for step in range(first):
        share = step / first
        yield 2.0, (1 - share) * _FIRST_MIDDLE_WEIGHT + share * _MIDDLE_WEIGHT, 1.0
    yield from [(3.0, _MIDDLE_WEIGHT, 1.0)] * second
    yield from [(1.0, 0.0, 1.0)] * third


def _gradient(points: NDArray[np.float32], pairs: _Pairs, weights: tuple[float, float, float]) -> NDArray[np.float32]:
    """Return the gradient of the loss, (2, n).

    With d = 1 + the squared distance of a pair, its loss is d / (10 + d) if it is near, d / (10,000 + d) if it is of
    middle distance, and 1 / (1 + d) if it is far, each times its weight.
    """
    near, middle, far = weights
    gradient = _pull(points, pairs.near, 20 * near, 10) + _pull(points, pairs.far, -2 * far, 1)
    return gradient + _pull(points, pairs.middle, 20_000 * middle, 10_000) if middle else gradient


def _pull(points: NDArray[np.float32], others: NDArray[np.int64], factor: float, offset: float) -> NDArray[np.float32]:
    """Return the gradient of the pairs of each point with its `others` (k, n): factor * difference / (offset + d)²."""
    differences = [coordinates - coordinates[others] for coordinates in points]
    strength = differences[0] ** 2
    strength += differences[1] ** 2
    strength += np.float32(1 + offset)
    np.square(strength, out=strength)
    np.divide(np.float32(factor), strength, out=strength)
    gradient = np.empty_like(points)
    for axis, pull in enumerate(differences):
        pull *= strength
        pull.sum(axis=0, out=gradient[axis])
        gradient[axis] -= np.bincount(others.ravel(), pull.ravel(), points.shape[1])
    return gradient
