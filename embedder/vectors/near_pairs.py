"""Find which rows are near: compare all rows with each other, block by block."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from embedder.common.progress import Bar
from embedder.common.records import frozen
from embedder.vectors.scoring import Block, make_scorer, relative_error
from embedder.vectors.search import SCORES_PER_BLOCK
from embedder.vectors.similarity import cos_sim, normalize
from embedder.vectors.sketches import make_sketches, possible_pairs

# If more than this share of a block's scores are uncertain, scoring the whole block in float64 is faster.
_MAX_UNCERTAIN_SHARE = 1 / 32
# If sketches leave more than this share of a tile's pairs, computing all its scores is faster.
_MAX_POSSIBLE_SHARE = 1 / 256
# The pairs of a block of `community_detection`, each of one byte.
_PAIRS_PER_BLOCK = 1 << 24


@frozen
class Comparison:
    """Rows to compare with each other, and how.

    Attributes:
        rows: (n, dim).
        threshold: the smallest cosine of near rows.
        batch_size: the largest number of rows that are compared with all others at a time.
        bar: counts the rows that are compared.
    """

    rows: NDArray[np.float32]
    threshold: np.float32
    batch_size: int
    bar: Bar


def near_blocks(comparison: Comparison, symmetric: bool) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Compare rows block by block. Yield the number of a block's first row, and a matrix that is true for near rows.

    The matrix has a row for each row of the block. Its columns are all rows. If `symmetric`, the columns begin with the
    block's first row, because an earlier block was compared with the rows before it.
    """
    n = len(comparison.rows)
    compare = _Tiles(comparison)
    step = min(comparison.batch_size, max(1, _PAIRS_PER_BLOCK // max(1, n)))
    width = max(1, SCORES_PER_BLOCK // step)
    for start in range(0, n, step):
        first = start if symmetric else 0
        part = slice(start, start + step)
        near = np.empty((min(step, n - start), n - first), bool)
        for left in range(first, n, width):
            near[:, left - first : left - first + width] = compare.near(part, slice(left, left + width))
        yield start, near
        comparison.bar.update(len(near))


class _Tiles:
    """Compares some rows with some others. While few pairs can be near, sketches rule out the rest."""

    def __init__(self, comparison: Comparison) -> None:
        self._rows, self._threshold = comparison.rows, comparison.threshold
        self._unit = normalize(comparison.rows)
        self._max_error = np.float32(relative_error(comparison.rows.shape[1]))
        self._sketches = make_sketches(self._unit)

    def near(self, part: slice, others: slice) -> NDArray[np.bool_]:
        """Return whether each of the rows `part` is near to each of the rows `others`, as a matrix."""
        if self._sketches is not None:
            a, b = self._sketches[part], self._sketches[others]
            places = possible_pairs(a, b, self._threshold - self._max_error)
            if len(places) <= len(a) * len(b) * _MAX_POSSIBLE_SHARE:
                return self._near_among(part, others, places)
            self._sketches = None  # the threshold is low: most tiles will have many possible pairs
        return self._near_of_all(part, others)

    def _near_among(self, part: slice, others: slice, places: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return the same if only the pairs with the numbers `places` can be near."""
        near = np.zeros((len(self._rows[part]), len(self._rows[others])), bool)
        scorer, block = make_scorer(self._rows[part], cos_sim), Block(self._rows[others])
        near.ravel()[places] = scorer.score_pairs(block, *np.divmod(places, near.shape[1])) >= self._threshold
        return near

    def _near_of_all(self, part: slice, others: slice) -> NDArray[np.bool_]:
        scores = self._unit[part] @ self._unit[others].T
        near = scores >= self._threshold - self._max_error
        places = np.flatnonzero(near)
        uncertain = places[scores.ravel()[places] < self._threshold + self._max_error]
        scorer, block = make_scorer(self._rows[part], cos_sim), Block(self._rows[others])
        if len(uncertain) > near.size * _MAX_UNCERTAIN_SHARE:
            near = scorer.score_float64(block) >= self._threshold
        elif len(uncertain):
            exact = scorer.score_pairs(block, *np.divmod(uncertain, near.shape[1]))
            near.ravel()[uncertain] = exact >= self._threshold
        return near
