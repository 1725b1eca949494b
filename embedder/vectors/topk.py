"""Select the k best of many scores, block by block.

Sorting a block of scores takes far longer than computing it. So each block is first compared with a bound, in one pass.
Only the few scores above the bound are kept. The bound of a row is its k-th best score so far. While a row has fewer
than k scores, `lower_bound` gives a bound from the block itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

# `lower_bound` makes this many groups for each wanted score. More groups give a closer bound, but take longer.
_GROUPS_PER_SCORE = 8
# If the bound leaves more candidates than this for each wanted score, `candidates` computes a closer bound.
_MAX_CANDIDATES_PER_SCORE = 4
# A key has the score in its upper half and the id in its lower half.
MAX_IDS = 1 << 32
_ID_BITS = np.uint64(32)
_ID_MASK = np.uint64(MAX_IDS - 1)
# The key of no score. It is worse than every other key.
_NO_KEY = np.uint64(2**64 - 1)
_SIGN_BIT = np.uint32(1 << 31)

# Scores (m,) of pairs: each is of the row in the first argument (m,) with the id in the second argument (m,).
PairScorer = Callable[[NDArray[np.intp], NDArray[np.int64]], NDArray[np.float32]]


class TopK:
    """The k best scores of each of n rows, with their ids. Among equal scores, the lower id is better. NaN is left out.

    Scores may have an error. Then every score that may be among the k best is kept, until `resolve` scores it exactly.

    Attributes:
        k: the number of scores to keep for each row.
        bound: float32 (n,). At least k scores of the row reach it. It is -inf while the row has fewer than k scores.
        max_error: float32 (n,), the largest error of the kept scores of each row.
    """

    def __init__(self, n: int, k: int, bound: NDArray[np.float32] | None = None) -> None:
        """Begin without scores. If at least k scores of each row are elsewhere, they reach `bound` (n,)."""
        self.k = k
        self.bound = np.full(n, -np.inf, np.float32) if bound is None else bound.copy()
        self.max_error = np.zeros(n, np.float32)
        # The kept scores of each row as keys: (n, w), in no particular order. A smaller key is a better score.
        self._keys = np.empty((n, 0), np.uint64)
        self._pending: list[tuple[NDArray[np.intp], NDArray[np.uint64]]] = []
        self._pending_count = 0

    def add(
        self,
        rows: NDArray[np.intp],
        ids: NDArray[np.int64],
        scores: NDArray[np.float32],
        max_error: NDArray[np.float32] | None = None,
    ) -> None:
        """Add scores to choose from.

        Args:
            rows: (m,), the row of each score.
            ids: (m,), the id of each score, from 0 to below 2**32. Ids of later calls are not lower.
            scores: (m,).
            max_error: (n,), the largest error of the scores of each row. None means that they are exact.
        """
        if max_error is not None:
            self.max_error = np.fmax(self.max_error, max_error)
        if len(rows):
            valid = ~np.isnan(scores)
            self._append(rows[valid], _keys_of(scores[valid], ids[valid].astype(np.uint64)))

    def update(self, other: TopK) -> None:
        """Add what another one has kept for the same rows."""
        other._merge()
        rows, place = np.nonzero(other._keys != _NO_KEY)
        self._append(rows, other._keys[rows, place])

    def _append(self, rows: NDArray[np.intp], keys: NDArray[np.uint64]) -> None:
        self._pending.append((rows, keys))
        self._pending_count += len(rows)
        if self._pending_count >= len(self._keys) * self.k:
            self._merge()

    def _merge(self) -> None:
        """Keep the scores that may be among the k best of the kept and the pending scores, and update the bound."""
        if self._pending:
            rows, keys = (np.concatenate(part) for part in zip(*self._pending, strict=True))
            self._keys = np.concatenate([self._keys, _as_table(rows, keys, len(self._keys))], axis=1)
        self._pending, self._pending_count = [], 0
        if self._keys.shape[1] < self.k:
            return
        self._keys.sort(axis=1)
        np.fmax(self.bound, _scores_of(self._keys[:, self.k - 1]), out=self.bound)
        width = self.k
        if self.max_error.any():
            worst = _keys_of(self.bound - 2 * self.max_error, _ID_MASK)
            self._keys[self._keys > worst[:, None]] = _NO_KEY
            width = max(width, int((self._keys != _NO_KEY).sum(axis=1).max(initial=0)))
        self._keys = self._keys[:, :width].copy()

    def margin(self, max_error: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        """Return how far below `bound` a score can be and still be among the k best, float32 (n,). None means 0.

        Args:
            max_error: (n,), the largest error of the score. None means that it is exact.
        """
        if max_error is None and not self.max_error.any():
            return None
        return 2 * (self.max_error if max_error is None else np.fmax(self.max_error, max_error))

    @property
    def excess(self) -> int:
        """The number of scores that are kept only because of errors."""
        return int(np.count_nonzero(self._keys[:, self.k :] != _NO_KEY))

    def resolve(self, score: PairScorer) -> None:
        """Score what is kept exactly, and keep the k best."""
        self._merge()
        if not self.max_error.any():
            return
        rows, place = np.nonzero(self._keys != _NO_KEY)
        ids = (self._keys[rows, place] & _ID_MASK).astype(np.int64)
        self._keys = np.empty((len(self._keys), 0), np.uint64)
        self.bound.fill(-np.inf)
        self.max_error.fill(0)
        self.add(rows, ids, score(rows, ids))
        self._merge()

    def result(self, total: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the scores, float32, and their ids, int64. Both have the shape (n, min(k, total)), the best first.

        Each id from 0 to `total` - 1 must have been added to each row, with an exact score. Ids with a NaN score come
        last, in ascending order.
        """
        self._merge()
        n, width = len(self._keys), min(self.k, total)
        keys = np.concatenate([self._keys, np.full((n, width), _NO_KEY)], axis=1)
        keys.sort(axis=1)
        scores, ids = _scores_of(keys[:, :width]), (keys[:, :width] & _ID_MASK).astype(np.int64)
        for row in np.flatnonzero(np.isnan(scores[:, -1])) if width else ():
            found = ids[row][~np.isnan(scores[row])]
            ids[row, len(found) :] = np.setdiff1d(np.arange(width), found)[: width - len(found)]
        return scores, ids


def _keys_of(scores: NDArray[np.float32], ids: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """Return a key for each score and its id. A higher score has a smaller key, then a lower id. NaN is not allowed."""
    bits = (scores + np.float32(0)).view(np.uint32)  # -0.0 becomes 0.0
    # The bits of positive numbers are in the order of the numbers, those of negative numbers in the opposite order.
    order = np.where(bits & _SIGN_BIT, bits, ~bits & ~_SIGN_BIT)
    return (order.astype(np.uint64) << _ID_BITS) | ids


def _scores_of(keys: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Return the score of each key. The score of `_NO_KEY` is NaN."""
    order = (keys >> _ID_BITS).astype(np.uint32)
    return np.where(order & _SIGN_BIT, order, ~order & ~_SIGN_BIT).view(np.float32)


def _as_table(rows: NDArray[np.intp], keys: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """Return a table with a line for each of n rows, which has the row's keys. `_NO_KEY` fills up the shorter lines."""
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    place = np.arange(len(rows)) - np.searchsorted(rows, np.arange(n))[rows]
    table = np.full((n, place.max(initial=-1) + 1), _NO_KEY)
    table[rows, place] = keys[order]
    return table


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
    scores: NDArray[np.float32], k: int, bound: NDArray[np.float32], margin: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find the scores that may be among the k best of their row.

    Args:
        scores: (n, m), a block of scores.
        k: the number of scores that are wanted for each row.
        bound: (n,). Only scores above the bound of their row are candidates. A bound of -inf excludes none.
        margin: (n,). Scores that are at most this far below the bound are candidates too. None means that all scores
            are exact.

    Returns:
        The rows and the columns of the candidates, sorted by row, then by column.
    """
    if margin is None:
        least = np.where(bound == -np.inf, bound, np.nextafter(bound, np.float32(np.inf)))
    else:
        least = bound - margin
    above = scores >= least[:, None]
    if np.count_nonzero(above) > _MAX_CANDIDATES_PER_SCORE * k * len(scores):
        closer = lower_bound(scores, k) - (0 if margin is None else margin)
        least = np.fmax(least, closer.astype(np.float32))
        np.greater_equal(scores, least[:, None], out=above)
        if margin is None:  # copies may still be many: of the scores equal to the bound, the first k are enough
            equal = scores == least[:, None]
            above &= ~equal | (np.cumsum(equal, axis=1, dtype=np.int32) <= k)
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
