"""Select the k best of many scores, block by block.

Sorting a block of scores takes far longer than computing it. So each block is first compared with a bound, in one pass.
Only the few scores above the bound are sorted. The bound of a row is its k-th best score so far. While a row has fewer
than k scores, `lower_bound` gives a bound from the block itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# `lower_bound` makes this many groups for each wanted score. More groups give a closer bound, but take longer.
_GROUPS_PER_SCORE = 8
# If the bound leaves more candidates than this for each wanted score, `candidates` computes a closer bound.
_MAX_CANDIDATES_PER_SCORE = 4


class TopK:
    """The k best scores of each of n rows, with their ids. Among equal scores, the lower id is better. NaN is left out.

    Attributes:
        k: the number of scores to keep for each row.
        bound: float32 (n,), the k-th best score of each row. It is -inf while the row has fewer than k scores.
    """

    def __init__(self, n: int, k: int) -> None:
        self._n, self.k = n, k
        self._kept: tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.float32]] = (
            np.empty(0, np.intp),
            np.empty(0, np.int64),
            np.empty(0, np.float32),
        )
        self._pending = [self._kept]
        self._pending_count = 0
        self.bound = np.full(n, -np.inf, np.float32)

    def add(self, rows: NDArray[np.intp], ids: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        """Add scores to choose from. `rows`, `ids` and `scores` have the shape (m,) and describe one score each."""
        self._pending.append((rows, ids, scores))
        self._pending_count += len(rows)
        if self._pending_count >= self._n * self.k:
            self._merge()

    def _merge(self) -> None:
        """Keep the k best of the kept and the pending scores, and update the bound."""
        rows, ids, scores = (np.concatenate(part) for part in zip(*self._pending, strict=True))
        valid = ~np.isnan(scores)
        if not valid.all():
            rows, ids, scores = rows[valid], ids[valid], scores[valid]
        order, rank = best_first(rows, ids, scores)
        rows = rows[order]
        kept = rank < self.k
        order = order[kept]
        self._kept = rows[kept], ids[order], scores[order]
        last = rank == self.k - 1
        self.bound[rows[last]] = self._kept[2][rank[kept] == self.k - 1]
        self._pending, self._pending_count = [self._kept], 0

    def result(self, total: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the scores, float32, and their ids, int64. Both have the shape (n, min(k, total)), the best first.

        Each id from 0 to `total` - 1 must have been added to each row. Ids with a NaN score come last, in ascending
        order.
        """
        self._merge()
        width = min(self.k, total)
        rows, kept_ids, kept_scores = self._kept
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
        scores, ids = np.full((self._n, width), np.nan, np.float32), np.full((self._n, width), -1, np.int64)
        scores[rows, rank], ids[rows, rank] = kept_scores, kept_ids
        for row in np.flatnonzero(np.isnan(scores[:, -1])) if width else ():
            found = ids[row][ids[row] >= 0]
            ids[row, len(found) :] = np.setdiff1d(np.arange(width), found)[: width - len(found)]
        return scores, ids


def best_first(
    rows: NDArray[np.intp], ids: NDArray[np.int64], scores: NDArray[np.float32]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Sort scores by row, then from the best, then by id. All arguments have the shape (m,).

    Returns:
        The order that sorts them, and the rank of each sorted score in its row. Both have the shape (m,).
    """
    order = np.lexsort((ids, -scores, rows))
    ordered = rows[order]
    return order, np.arange(len(rows)) - np.searchsorted(ordered, ordered)


def lower_bound(scores: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Return a bound, float32 (n,), for each row of `scores` (n, m). At least k scores of the row reach the bound.

    Each row is split into groups. The bound is the k-th largest of the groups' maxima, so k groups contain a score that
    reaches it. The bound is -inf if the row has fewer than k scores.
    """
    n, m = scores.shape
    if k > m:
        return np.full(n, -np.inf, np.float32)
    groups = min(m, _GROUPS_PER_SCORE * k)
    size = m // groups
    maxima = np.fmax.reduce(scores[:, : groups * size].reshape(n, size, groups), axis=1)
    maxima[np.isnan(maxima)] = -np.inf
    bound: NDArray[np.float32] = np.partition(maxima, groups - k, axis=1)[:, groups - k]
    return bound


def candidates(
    scores: NDArray[np.float32], k: int, bound: NDArray[np.float32], max_error: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find the scores that may be among the k best of their row.

    Args:
        scores: (n, m), a block of scores.
        k: the number of scores that are wanted for each row.
        bound: (n,). Only scores above the bound of their row are candidates. A bound of -inf excludes none.
        max_error: (n,), the largest error of the scores in each row. None means that they are exact.

    Returns:
        The rows and the columns of the candidates, sorted by row, then by column.
    """
    if max_error is None:
        least = np.where(bound == -np.inf, bound, np.nextafter(bound, np.float32(np.inf)))
    else:
        least = bound - max_error
    above = scores >= least[:, None]
    if np.count_nonzero(above) > _MAX_CANDIDATES_PER_SCORE * k * len(scores):
        closer = lower_bound(scores, k) - (0 if max_error is None else 2 * max_error)
        least = np.fmax(least, closer.astype(np.float32))
        np.greater_equal(scores, least[:, None], out=above)
    rows, columns = np.divmod(np.flatnonzero(above), scores.shape[1])
    return rows, columns


def top_k_of_rows(
    scores: NDArray[np.float32], k: int, bound: np.float32
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return the k best scores above `bound` in each row of `scores` (n, m), as rows, columns and scores.

    Among equal scores, the lower column is better. NaN is left out. The result is in no particular order.
    """
    rows, columns = candidates(scores, k, np.full(len(scores), bound))
    found = scores[rows, columns]
    counts = np.bincount(rows, minlength=len(scores))
    widest = counts.max(initial=0)
    if widest <= k:
        return rows, columns, found
    # The table has a line for each row, with its candidates in the order of their columns. So a stable sort puts the
    # lower column first among equal scores.
    table = np.full((len(scores), widest), np.inf, np.float32)
    place = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    table[rows, place] = -found
    order = np.argsort(table, axis=1, kind="stable")[:, :k]
    kept = order < counts[:, None]
    at = ((np.cumsum(counts) - counts)[:, None] + order)[kept]
    return rows[at], columns[at], found[at]
