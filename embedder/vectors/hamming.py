"""Find the nearest vectors of packed bits by Hamming distance: the number of bits that differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.common.executor import shared_executor
from embedder.vectors.search import Found
from embedder.vectors.topk import TopK, candidates

# Rows of the corpus in a block. One 64-bit word of each row (128 kB in all) fits in the cache of one core.
_ROWS_PER_BLOCK = 1 << 14
_QUERIES_PER_BLOCK = 64
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
    block_rows = max(_ROWS_PER_BLOCK, 2 * width)
    threads = shared_executor().threads if len(queries) > 1 else 1
    block_queries = max(1, min(_QUERIES_PER_BLOCK, _QUERIES_PER_BLOCK * _ROWS_PER_BLOCK // block_rows))
    for start in range(0, len(queries), block_queries):
        part = slice(start, start + block_queries)
        words = as_words(queries[part]).T
        best = TopK(len(words), width)
        for at in range(0, total, block_rows):
            block = as_words(corpus[slice(at, at + block_rows) if present is None else present[at : at + block_rows]])
            found = np.empty((len(words), block.shape[1]), np.float32)

            def compare(
                queries: slice, words: NDArray[Any] = words, block: NDArray[Any] = block, found: NDArray[Any] = found
            ) -> None:
                for query in range(*queries.indices(len(words))):
                    negative_distances(words[query], block, out=found[query])

            _in_threads(threads, compare, len(words))
            query, column = candidates(found, width, best.bound)
            best.add(query, column + at, found[query, column])
        scores[part], rows[part] = best.result(total)
    return scores, rows if present is None else present[rows]


def _in_threads(threads: int, task: Callable[[slice], None], count: int) -> None:
    """Split `count` items into one slice for each thread, and call `task` with each slice."""
    size = -(-count // threads)
    if size == count:
        task(slice(0, count))
    else:
        list(shared_executor().map(task, [slice(start, start + size) for start in range(0, count, size)]))


def as_words(codes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return packed bits (n, bytes) as 64-bit words (words, n). Zeros fill up the last word of each row."""
    n, size = codes.shape
    words = np.zeros((n, -(-size // _WORD.itemsize) * _WORD.itemsize), np.uint8)
    words[:, :size] = codes
    return np.ascontiguousarray(words.view(_WORD).T)


def negative_distances(query: NDArray[np.uint64], corpus: NDArray[np.uint64], out: NDArray[np.float32]) -> None:
    """Write the negative Hamming distances between `query` (words,) and `corpus` (words, n) to `out` (n,)."""
    different = np.empty(corpus.shape[1], _WORD)
    # uint16 is faster to add up than uint32.
    counts: NDArray[Any] = np.zeros(corpus.shape[1], np.uint16 if len(corpus) < _WORDS_BEYOND_UINT16 else np.uint32)
    for word, words in zip(query, corpus, strict=True):
        counts += _bit_counts(np.bitwise_xor(words, word, out=different))
    np.negative(counts, out=out, dtype=np.float32, casting="unsafe")


def _bit_counts(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return the number of bits that are 1 in each word, (n,)."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words)
    bits = _BITS_OF_BYTE[words.view(np.uint8)].reshape(-1, _WORD.itemsize)
    counts: NDArray[np.uint8] = bits.sum(axis=1, dtype=np.uint8)
    return counts
