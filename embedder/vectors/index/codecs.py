"""How an index keeps vectors and compares them: one class for each precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedder.vectors.hamming import nearest_bits
from embedder.vectors.index.columns import Columns
from embedder.vectors.index.storage import Part, Snapshot
from embedder.vectors.search import Corpus, Found, SearchOptions, nearest, rescore_candidates
from embedder.vectors.similarity import dot_score

# The largest code of int8.
_LARGEST_CODE = 127
# After rounding, the norm of a vector of length 1 is still below this.
_MAX_UNIT_NORM = 1.0001


class Codec(Protocol):
    """Encodes vectors into the columns of an index, and searches in these columns."""

    def encode(self, vectors: NDArray[np.float32]) -> Columns:
        """Return `vectors` (n, dim) as columns of n rows each."""

    def decode(self, snapshot: Snapshot, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors (k, dim) in the rows with the numbers `rows` (k,), as exactly as they are kept."""

    def search(self, snapshot: Snapshot, queries: NDArray[np.float32], top_k: int, multiplier: int) -> Found:
        """Return the scores and the rows of the `top_k` vectors that are nearest to each of `queries` (n, dim).

        Args:
            snapshot: the rows to search in.
            queries: (n, dim).
            top_k: the number of vectors to return for each query.
            multiplier: a codec that first finds candidates finds `top_k * multiplier` of them, and then scores them.
        """


def make_codec(precision: str, dimension: int, unit_norm: bool) -> Codec:
    """Return the codec of `precision`. `unit_norm` says that every vector has length 1."""
    if precision == "float32":
        return _Float32Codec(_MAX_UNIT_NORM if unit_norm else None)
    return _Int8Codec(dimension) if precision == "int8" else _BinaryCodec(dimension)


class _Float32Codec:
    """Keeps vectors as they are. Search is exact."""

    def __init__(self, max_norm: float | None) -> None:
        self._max_norm = max_norm

    def encode(self, vectors: NDArray[np.float32]) -> Columns:
        return {"vectors": vectors}

    def decode(self, snapshot: Snapshot, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return snapshot.take("vectors", rows)

    def search(self, snapshot: Snapshot, queries: NDArray[np.float32], top_k: int, multiplier: int) -> Found:
        options = SearchOptions(top_k, dot_score)

        def find(part: Part) -> Found:
            return nearest(queries, Corpus(part.columns["vectors"], part.alive, max_norm=self._max_norm), options)

        return _search_parts(snapshot, top_k, find)


class _Int8Codec:
    """Keeps a vector as int8 codes and a scale. The number with the largest absolute value has the code 127 or -127."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension

    def encode(self, vectors: NDArray[np.float32]) -> Columns:
        scales = np.abs(vectors).max(axis=1, initial=0) / np.float32(_LARGEST_CODE)
        scales[scales < np.finfo(np.float32).smallest_normal] = 0  # too coarse: a code would exceed 127
        codes = np.rint(vectors / np.where(scales > 0, scales, 1)[:, None]).astype(np.int8)
        return {"codes": codes, "scales": scales.astype(np.float32)}

    def decode(self, snapshot: Snapshot, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = snapshot.take("codes", rows) * snapshot.take("scales", rows)[:, None]
        return vectors

    def search(self, snapshot: Snapshot, queries: NDArray[np.float32], top_k: int, multiplier: int) -> Found:
        options = SearchOptions(top_k, dot_score)

        def find(part: Part) -> Found:
            scales = part.columns["scales"]
            max_norm = float(scales.max(initial=0)) * _LARGEST_CODE * math.sqrt(self._dimension) * _MAX_UNIT_NORM
            return nearest(queries, Corpus(part.columns["codes"], part.alive, scales, max_norm), options)

        return _search_parts(snapshot, top_k, find)


class _BinaryCodec:
    """Keeps bits and int8 codes. The bits find candidates, and the int8 codes score them."""

    def __init__(self, dimension: int) -> None:
        self._int8 = _Int8Codec(dimension)

    def encode(self, vectors: NDArray[np.float32]) -> Columns:
        return self._int8.encode(vectors) | {"bits": np.packbits(vectors > 0, axis=1)}

    def decode(self, snapshot: Snapshot, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._int8.decode(snapshot, rows)

    def search(self, snapshot: Snapshot, queries: NDArray[np.float32], top_k: int, multiplier: int) -> Found:
        bits, count = np.packbits(queries > 0, axis=1), top_k * multiplier
        _, rows = _search_parts(
            snapshot, count, lambda part: nearest_bits(bits, part.columns["bits"], count, part.alive)
        )
        exact = queries.astype(np.float64)

        def score(query: int, found: NDArray[np.int64]) -> NDArray[np.float64]:
            codes = snapshot.take("codes", found).astype(np.float64)
            scores: NDArray[np.float64] = (codes @ exact[query]) * snapshot.take("scales", found)
            return scores

        return rescore_candidates(rows, top_k, score)


def _search_parts(snapshot: Snapshot, top_k: int, find: Callable[[Part], Found]) -> Found:
    """Search each part by `find`. Return the scores and rows of the `top_k` best of all parts.

    Among equal scores, the lower row comes first.
    """
    found = [(part, *find(part)) for part in snapshot.parts]
    scores = np.concatenate([scores for _, scores, _ in found], axis=1)
    rows = np.concatenate([rows + part.start for part, _, rows in found], axis=1)
    order = np.lexsort((rows, -scores), axis=1)[:, :top_k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
