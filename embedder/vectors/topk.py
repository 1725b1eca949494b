"""The best of many scores, kept while blocks of them go by.

Sorting a block costs far more than making it, so it is not sorted: a pass over it leaves what is above a bound: the
k-th best score so far, or for want of one the k-th best of the maxima of groups of the block. Few survive.
"""

import numpy as np
from numpy.typing import NDArray

# Groups to a wanted score, of which the maxima are taken: more would bound closer, and take longer.
_GROUPS = 8
# Times as many survivors as are wanted before a bound is made closer.
_MANY = 4


class Best:
    """The k best (score, id) of each of n rows. Equal scores are ranked by id, the lowest first; NaN is never kept.

    Attributes:
        bound: float32 (n,); the k-th best score of each row, -inf while there are fewer.
    """

    def __init__(self, n: int, k: int) -> None:
        """For `n` rows, the `k` best of each."""
        self._n, self._k = n, k
        self._kept: tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.float32]] = (
            np.empty(0, np.intp),
            np.empty(0, np.int64),
            np.empty(0, np.float32),
        )
        self._pending = [self._kept]
        self._waiting = 0
        self.bound = np.full(n, -np.inf, np.float32)

    def add(self, rows: NDArray[np.intp], ids: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        """Offer scores (m,) of `rows` (m,) for `ids` (m,)."""
        self._pending.append((rows, ids, scores))
        self._waiting += len(rows)
        if self._waiting >= self._n * self._k:
            self._merge()

    def _merge(self) -> None:
        rows, ids, scores = (np.concatenate(part) for part in zip(*self._pending, strict=True))
        good = ~np.isnan(scores)
        if not good.all():
            rows, ids, scores = rows[good], ids[good], scores[good]
        order = np.lexsort((ids, -scores, rows))
        rows = rows[order]
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
        kept = rank < self._k
        order = order[kept]
        self._kept = rows[kept], ids[order], scores[order]
        last = rank == self._k - 1
        self.bound[rows[last]] = self._kept[2][rank[kept] == self._k - 1]
        self._pending, self._waiting = [self._kept], 0

    def result(self, total: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and ids (n, min(k, total)), the best first, of rows that were offered all ids below `total`.

        Ids that were not kept for want of a number as their score come last, with NaN, the lowest first.
        """
        self._merge()
        width = min(self._k, total)
        rows, kept_ids, kept_scores = self._kept
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
        scores, ids = np.full((self._n, width), np.nan, np.float32), np.full((self._n, width), -1, np.int64)
        scores[rows, rank], ids[rows, rank] = kept_scores, kept_ids
        for row in np.flatnonzero(np.isnan(scores[:, -1])) if width else ():
            found = ids[row][ids[row] >= 0]
            ids[row, len(found) :] = np.setdiff1d(np.arange(width), found)[: width - len(found)]
        return scores, ids


def lower_bound(scores: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """A number for each row of `scores` (n, m) that at least k of its scores reach, float32 (n,); -inf if fewer do.

    Of disjoint groups' maxima the k-th largest is one: k groups have a score that large.
    """
    n, m = scores.shape
    if k > m:
        return np.full(n, -np.inf, np.float32)
    groups = min(m, _GROUPS * k)
    size = m // groups
    maxima = np.fmax.reduce(scores[:, : groups * size].reshape(n, size, groups), axis=1)
    maxima[np.isnan(maxima)] = -np.inf
    bound: NDArray[np.float32] = np.partition(maxima, groups - k, axis=1)[:, groups - k]
    return bound


def candidates(
    scores: NDArray[np.float32], k: int, bound: NDArray[np.float32], slack: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where `scores` (n, m) may have one of the k best of its row: rows and columns, in that order.

    Args:
        scores: the block.
        k: how many are wanted.
        bound: (n,); what is not above it is not wanted. It is -inf where everything is.
        slack: (n,); how far a score may be from the true one. None where they are the true ones.
    """
    if slack is None:
        least = np.where(bound == -np.inf, bound, np.nextafter(bound, np.float32(np.inf)))
    else:
        least = bound - slack
    above = scores >= least[:, None]
    if np.count_nonzero(above) > _MANY * k * len(scores):
        closer = lower_bound(scores, k) - (0 if slack is None else 2 * slack)
        least = np.fmax(least, closer.astype(np.float32))
        np.greater_equal(scores, least[:, None], out=above)
    rows, columns = np.divmod(np.flatnonzero(above), scores.shape[1])
    return rows, columns


def top_k_of_rows(
    scores: NDArray[np.float32], k: int, least: np.float32
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """The k best of each row of `scores` (n, m) that are above `least`: rows, columns and scores, in no order.

    Equal scores are ranked by column, the lowest first; NaN is above nothing.
    """
    bound = np.full(len(scores), least)
    rows, columns = candidates(scores, k, bound)
    found = scores[rows, columns]
    counts = np.bincount(rows, minlength=len(scores))
    widest = counts.max(initial=0)
    if widest <= k:
        return rows, columns, found
    # Rows of unlike length side by side; in each the columns ascend, so that a stable sort leaves ties in their order.
    table = np.full((len(scores), widest), np.inf, np.float32)
    place = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    table[rows, place] = -found
    order = np.argsort(table, axis=1, kind="stable")[:, :k]
    kept = order < counts[:, None]
    at = ((np.cumsum(counts) - counts)[:, None] + order)[kept]
    return rows[at], columns[at], found[at]
