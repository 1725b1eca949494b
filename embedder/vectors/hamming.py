"""The nearest of packed bits, by how many of them differ."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.common.cores import usable_cores
from embedder.vectors.topk import Best, candidates

# Rows of a block, of which a word each stays in the cache; and queries that are looked at in turn.
_ROWS = 1 << 14
_QUERIES = 64
_WORD = np.dtype(np.uint64)
# As many words as have more bits than 16 bits can count.
_MANY_WORDS = 1024
# NumPy has counted bits since version 2.0; before that they are looked up.
_COUNTS = np.array([number.bit_count() for number in range(256)], np.uint8)


def nearest_bits(
    queries: NDArray[np.uint8], corpus: NDArray[np.uint8], top_k: int, alive: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The rows of `corpus` (m, bytes) that differ from each of `queries` (n, bytes) in the fewest bits.

    Returns:
        The negative numbers of bits, float32, and the rows, int64, both of shape (n, min(top_k, m)), the nearest first;
        of equal ones the lowest row. Rows of which `alive` (m,) is false do not count.
    """
    present = None if alive is None else np.flatnonzero(alive)
    total = len(corpus) if present is None else len(present)
    width = min(top_k, total)
    scores, rows = np.empty((len(queries), width), np.float32), np.empty((len(queries), width), np.int64)
    if not width:
        return scores, rows
    height = max(_ROWS, 2 * width)
    step = max(1, min(_QUERIES, _QUERIES * _ROWS // height))
    with ThreadPoolExecutor(usable_cores(), "embedder") as pool:
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            words = as_words(queries[part]).T
            best = Best(len(words), width)
            for at in range(0, total, height):
                block = as_words(corpus[slice(at, at + height) if present is None else present[at : at + height]])
                found = np.empty((len(words), block.shape[1]), np.float32)
                list(pool.map(negative_distances, words, [block] * len(words), found))
                query, column = candidates(found, width, best.bound)
                best.add(query, column + at, found[query, column])
            scores[part], rows[part] = best.result(total)
    return scores, rows if present is None else present[rows]


def as_words(codes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Packed bits (n, bytes) as 64-bit words (words, n), the last one filled up by 0."""
    n, size = codes.shape
    words = np.zeros((n, -(-size // _WORD.itemsize) * _WORD.itemsize), np.uint8)
    words[:, :size] = codes
    return np.ascontiguousarray(words.view(_WORD).T)


def negative_distances(query: NDArray[np.uint64], corpus: NDArray[np.uint64], out: NDArray[np.float32]) -> None:
    """Write to `out` (n,) in how many bits `query` (words,) and each column of `corpus` (words, n) differ, negated."""
    different = np.empty(corpus.shape[1], _WORD)
    # Small numbers add up faster.
    counts: NDArray[Any] = np.zeros(corpus.shape[1], np.uint16 if len(corpus) < _MANY_WORDS else np.uint32)
    for word, words in zip(query, corpus, strict=True):
        counts += _bit_counts(np.bitwise_xor(words, word, out=different))
    np.negative(counts, out=out, dtype=np.float32, casting="unsafe")


def _bit_counts(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words)
    counts: NDArray[np.uint8] = _COUNTS[words.view(np.uint8)].reshape(-1, _WORD.itemsize).sum(axis=1, dtype=np.uint8)
    return counts
