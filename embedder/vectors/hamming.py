"""Find the nearest vectors of packed bits by Hamming distance: the number of bits that differ."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.common.executor import shared_executor
from embedder.vectors.search import Found, check_row_count
from embedder.vectors.simd import hamming_distances, has_simd
from embedder.vectors.topk import TopK, candidates

# A thread searches in this many parts of the corpus, one after the other. More parts share out the work more evenly,
# but each begins without a bound.
_TASKS_PER_THREAD = 2
_MIN_ROWS_PER_TASK = 1 << 14
# Bytes of the corpus that are compared at a time. They fit in the cache of one core.
_BYTES_PER_PIECE = 3 << 18
_QUERIES_PER_BLOCK = 128
# The distances that are searched through at a time, by NumPy and by NumKong. Between two searches, NumPy goes through
# several pieces: each call of NumPy waits for other threads, so few calls are fast.
_NUMPY_DISTANCES = 1 << 21
_NUMKONG_DISTANCES = 1 << 19
# Up to this many queries, NumPy is faster than NumKong, which first arranges the corpus in its own way.
_MAX_NUMPY_QUERIES = 1
# For more queries than this, NumPy is faster if the words of a piece are first laid beside each other.
_MAX_SCATTERED_QUERIES = 2
_WORD = np.dtype(np.uint64)
# A row of this many 64-bit words has more bits than a uint16 can count.
_WORDS_BEYOND_UINT16 = 1024
# The number of bits that are 1 in each possible byte. NumPy before 2.0 needs it, because it has no bitwise_count.
_BITS_OF_BYTE = np.array([number.bit_count() for number in range(256)], np.uint8)


def nearest_bits(
    queries: NDArray[np.uint8], corpus: NDArray[np.uint8], top_k: int, alive: NDArray[np.bool_] | None = None
) -> Found:
    """Find the rows of a corpus that have the smallest Hamming distance to each query.

    Args:
        queries: (n, bytes), packed bits.
        corpus: (m, bytes), packed bits.
        top_k: the number of rows to return for each query.
        alive: (m,), true for the rows to search in. None means all rows.

    Returns:
        The negative distances, float32, and the row numbers, int64. Both have the shape (n, min(top_k, alive rows)).
        The nearest row comes first. Among equal distances, the lower row number comes first.
    """
    present = None if alive is None else np.flatnonzero(alive)
    total = len(corpus) if present is None else len(present)
    width = min(top_k, total)
    scores, rows = np.empty((len(queries), width), np.float32), np.empty((len(queries), width), np.int64)
    if not width:
        return scores, rows
    check_row_count(total)
    threads = shared_executor().threads
    task_rows = max(_MIN_ROWS_PER_TASK, -(-total // (_TASKS_PER_THREAD * threads)))
    for start in range(0, len(queries), _QUERIES_PER_BLOCK):
        part = slice(start, start + _QUERIES_PER_BLOCK)
        best = TopK(len(queries[part]), width)

        def search_rows(rows: range, queries: NDArray[np.uint8] = queries[part], best: TopK = best) -> TopK:
            return _nearest_rows(queries, corpus, present, rows, TopK(len(queries), width, best.bound))

        tasks = (range(start, min(start + task_rows, total)) for start in range(0, total, task_rows))
        for found in shared_executor().map(search_rows, tasks, ahead=2 * threads):
            best.update(found)
        scores[part], rows[part] = best.result(total)
    return scores, rows if present is None else present[rows]


def _nearest_rows(
    queries: NDArray[np.uint8], corpus: NDArray[np.uint8], present: NDArray[np.intp] | None, rows: range, best: TopK
) -> TopK:
    """Add the scores of some rows to `best`.

    Args:
        queries: (n, bytes).
        corpus: (m, bytes).
        present: the numbers of the rows to search in. None means all rows.
        rows: where in `present`, or in the corpus, to search.
        best: takes the scores. Their ids are the numbers in `rows`.
    """
    few_rows = max(1, _BYTES_PER_PIECE // max(1, corpus.shape[1]))
    compare: Callable[[NDArray[np.uint8]], NDArray[Any]]
    if has_simd() and len(queries) > _MAX_NUMPY_QUERIES:
        block_rows = max(1, min(few_rows, len(rows), _NUMKONG_DISTANCES // len(queries)))
        compare = partial(hamming_distances, queries)
    else:
        block_rows = min(len(rows), few_rows * max(1, _NUMPY_DISTANCES // (few_rows * len(queries))))
        compare = _NumPyComparison(queries, block_rows, few_rows).distances
    scores = np.empty((len(queries), block_rows), np.float32)
    for start in range(rows.start, rows.stop, block_rows):
        part = slice(start, min(start + block_rows, rows.stop))
        distances = compare(corpus[part if present is None else present[part]])
        found = scores[:, : distances.shape[1]]
        np.negative(distances, out=found, dtype=np.float32, casting="unsafe")
        query, column = candidates(found, best.k, best.bound)
        best.add(query, column + start, found[query, column])
    return best


class _NumPyComparison:
    """Compares queries with blocks of a corpus. All use the same buffers, because new memory is slow at first."""

    def __init__(self, queries: NDArray[np.uint8], block_rows: int, piece_rows: int) -> None:
        """Take `queries` (n, bytes). Blocks have up to `block_rows` rows. `piece_rows` are compared at a time."""
        self._queries = _as_words(queries)
        n, words = self._queries.shape
        self._piece_rows = min(piece_rows, block_rows)
        self._words = np.empty((words, self._piece_rows), _WORD)
        self._different = np.empty((words, self._piece_rows), _WORD)
        self._bits = np.empty((words, self._piece_rows), np.uint8)
        # uint16 is faster to add up than uint32.
        self._distances = np.empty((n, block_rows), np.uint16 if words < _WORDS_BEYOND_UINT16 else np.uint32)

    def distances(self, corpus: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the Hamming distances (n, m) to `corpus` (m, bytes). The next call overwrites them."""
        found = self._distances[:, : len(corpus)]
        for start in range(0, len(corpus), self._piece_rows):
            part = slice(start, start + self._piece_rows)
            self._compare(_as_words(corpus[part]).T, found[:, part])
        return found

    def _compare(self, words: NDArray[np.uint64], out: NDArray[Any]) -> None:
        """Write the distances to some rows, which are `words` (words, m), to `out` (n, m)."""
        m = words.shape[1]
        different, bits = self._different[:, :m], self._bits[:, :m]
        if len(self._queries) > _MAX_SCATTERED_QUERIES:
            self._words[:, :m] = words
            words = self._words[:, :m]
        for query, counts in zip(self._queries, out, strict=True):
            np.bitwise_xor(words, query[:, None], out=different)
            _count_bits(different, out=bits)
            np.add.reduce(bits, axis=0, dtype=counts.dtype, out=counts)


def _as_words(codes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return packed bits (n, bytes) as 64-bit words (n, words). Zeros fill up the last word of each row."""
    n, size = codes.shape
    words = -(-size // _WORD.itemsize)
    if size == words * _WORD.itemsize and codes.flags.c_contiguous:
        return codes.view(_WORD)
    padded = np.zeros((n, words * _WORD.itemsize), np.uint8)
    padded[:, :size] = codes
    return padded.view(_WORD)


def _count_bits(words: NDArray[np.uint64], out: NDArray[np.uint8]) -> None:
    """Write the number of bits that are 1 in each word to `out`."""
    if hasattr(np, "bitwise_count"):
        np.bitwise_count(words, out=out)
    else:
        bits = _BITS_OF_BYTE[np.ascontiguousarray(words).view(np.uint8)].reshape(*words.shape, _WORD.itemsize)
        bits.sum(axis=-1, dtype=np.uint8, out=out)
