"""Quantise embeddings to fewer bits, and search in them.

An int8 vector takes 1/4 of the memory of a float32 vector. A binary vector takes 1/32. Search first finds candidates
by the quantised vectors. Then it scores the candidates again with the unquantised query. This restores most of the
accuracy that quantisation loses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_choice, check_counts
from embedder.common.records import frozen
from embedder.errors import InputError
from embedder.options import PRECISIONS
from embedder.vectors.arrays import as_embeddings, as_numbers, rows_per_block
from embedder.vectors.hamming import nearest_bits
from embedder.vectors.search import Corpus, Found, Hit, SearchOptions, as_hits, nearest, rescore_candidates
from embedder.vectors.similarity import dot_score

_QUANTIZED_PRECISIONS = PRECISIONS[1:]
_BIT_PRECISIONS = ("binary", "ubinary")
# The codes of "int8" are those of "uint8" minus this number. "binary" and "ubinary" differ in the same way.
_SIGNED_OFFSET = 128
# The number of steps that int8 and uint8 have between the smallest and the largest value.
_STEPS = 255


def quantize_embeddings(
    embeddings: ArrayLike,
    precision: str,
    ranges: ArrayLike | None = None,
    calibration_embeddings: ArrayLike | None = None,
) -> NDArray[np.generic]:
    """Quantise embeddings to `precision`. The result has the same bytes as with sentence-transformers 6.2.

    "int8" and "uint8" divide the range of each dimension into 255 steps. A value outside of the range gets the first or
    the last step. "binary" and "ubinary" have one bit for each dimension. The bit is 1 if the value is above 0. The
    first dimension is in the highest bit of the first byte. Zeros fill up the last byte.

    Args:
        embeddings: (n, dim) or (dim,), floating-point numbers.
        precision: "float32", "int8", "uint8", "binary" or "ubinary".
        ranges: (2, dim), the smallest and the largest value of each dimension, for "int8" and "uint8".
        calibration_embeddings: (m, dim). The ranges are taken from these embeddings. Without them and without
            `ranges`, the ranges are taken from `embeddings`. Then each call has its own ranges, and `embeddings` should
            have at least 100 rows.

    Returns:
        float32, int8 or uint8 in the shape of `embeddings`. For "binary" (int8) and "ubinary" (uint8), the last
        dimension is ceil(dim / 8).

    Raises:
        InputError: the precision is unknown, or an array has another shape or dtype. Or the ranges of "int8" or "uint8"
            would be taken from a single embedding. Or a value is NaN, or its range is infinite.

    Example:
        >>> quantize_embeddings([[0.5, -1.0, 2.0]], "ubinary").tolist()
        [[160]]
    """
    check_choice("precision", precision, PRECISIONS)
    given = _as_unquantized(embeddings, "embeddings")
    rows = np.atleast_2d(given)
    if precision == "float32":
        return given.astype(np.float32)
    if precision in _BIT_PRECISIONS:
        bits = np.packbits(given > 0, axis=-1)
        return bits if precision == "ubinary" else _flip_sign_bit(bits).view(np.int8)
    bounds = _find_ranges(rows, ranges, calibration_embeddings)
    quantized = np.empty(rows.shape, precision)
    step = rows_per_block(rows)
    for start in range(0, len(rows), step):
        levels = _levels_of(rows[start : start + step], bounds, start)
        quantized[start : start + step] = levels - _SIGNED_OFFSET if precision == "int8" else levels
    return quantized.reshape(given.shape)


def _as_unquantized(embeddings: ArrayLike, name: str) -> NDArray[Any]:
    """Return `embeddings` as an array in NumPy's own dtype. A list becomes float64, as in sentence-transformers."""
    rows = as_numbers(embeddings, name)
    if rows.size == 0 and rows.ndim == 1:
        rows = rows.reshape(0, 0)
    if rows.ndim not in (1, 2):
        raise InputError(f"{name} should be (n, dim) or (dim,), not {rows.shape}")
    if rows.dtype in (np.int8, np.uint8):
        raise InputError(f"{name} should be floating-point numbers, not {rows.dtype}: they are quantised already")
    return rows


def _flip_sign_bit(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert "ubinary" bytes to "binary" bytes, or back. Both directions only flip the highest bit."""
    return codes ^ np.uint8(_SIGNED_OFFSET)


def _find_ranges(rows: NDArray[Any], ranges: ArrayLike | None, calibration: ArrayLike | None) -> NDArray[np.float32]:
    """Return the smallest and the largest value of each dimension, (2, dim)."""
    dimension = rows.shape[1]
    if ranges is not None:
        bounds = _as_unquantized(ranges, "ranges")
        if bounds.shape != (2, dimension):
            raise InputError(f"ranges should be (2, {dimension}), not {bounds.shape}")
    elif calibration is not None:
        source = np.atleast_2d(_as_unquantized(calibration, "calibration_embeddings"))
        if source.shape[1] != dimension or not len(source):
            raise InputError(f"calibration_embeddings should be (m, {dimension}), not {source.shape}")
        bounds = np.stack([source.min(axis=0), source.max(axis=0)])
    elif len(rows) == 1:
        raise InputError(
            "int8 and uint8 ranges cannot be taken from a single embedding: give ranges or calibration_embeddings"
        )
    else:
        bounds = np.stack([rows.min(axis=0), rows.max(axis=0)]) if len(rows) else np.zeros((2, dimension))
    with np.errstate(over="ignore"):
        return bounds.astype(np.float32)


def _step_sizes(bounds: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the size of a step in each dimension, (dim,). It is 1 if all values of a dimension are equal."""
    steps = np.asarray((bounds[1] - bounds[0]) / _STEPS)
    steps[steps == 0] = 1
    return steps


def _levels_of(rows: NDArray[Any], bounds: NDArray[np.float32], start: int) -> NDArray[Any]:
    """Return the step of each value: whole numbers from 0 to 255 in a floating-point dtype.

    Args:
        rows: (n, dim), a block of the embeddings.
        bounds: (2, dim), the smallest and the largest value of each dimension.
        start: the row number of the block's first row, for the error message.
    """
    with np.errstate(all="ignore"):
        levels: NDArray[Any] = np.clip(np.floor((rows - bounds[0]) / _step_sizes(bounds)), 0, _STEPS)
    invalid = np.argwhere(np.isnan(levels))
    if invalid.size:
        row, column = invalid[0]
        raise InputError(
            f"embeddings[{start + row}, {column}] cannot be quantised: it is {rows[row, column]}, "
            f"in the range of {bounds[0, column]} to {bounds[1, column]}"
        )
    return levels


@frozen
class _QuantizedCorpus:
    """A quantised corpus.

    Attributes:
        codes: (m, dim) int8 or uint8, or (m, ceil(dim / 8)) packed bits.
        precision: the precision of the codes.
        ranges: (2, dim), the ranges of "int8" and "uint8" codes.
    """

    codes: NDArray[np.generic]
    precision: str
    ranges: NDArray[np.float32]

    @property
    def has_bits(self) -> bool:
        return self.precision in _BIT_PRECISIONS

    def search(self, queries: NDArray[np.generic], top_k: int) -> Found:
        """Find the codes that are nearest to each quantised query, the nearest first.

        The scores of bits are Hamming distances. Other scores are dot products of codes.
        """
        if self.has_bits:
            scores, ids = nearest_bits(queries.view(np.uint8), self.codes.view(np.uint8), top_k)
            return -scores, ids
        return nearest(queries, Corpus(self.codes), SearchOptions(top_k, dot_score))

    def restore(self, ids: NDArray[np.int64], dimension: int) -> NDArray[np.float64]:
        """Return approximate vectors (k, dim) of the codes in the rows `ids` (k,).

        A bit becomes 0 or 1. An int8 or uint8 code becomes the smallest value of its step.
        """
        codes = self.codes[ids]
        if self.has_bits:
            bits = codes.view(np.uint8)
            bits = _flip_sign_bit(bits) if self.precision == "binary" else bits
            return np.unpackbits(bits, axis=1, count=dimension).astype(np.float64)
        levels = codes.astype(np.float64) + (_SIGNED_OFFSET if self.precision == "int8" else 0)
        restored: NDArray[np.float64] = levels * _step_sizes(self.ranges) + self.ranges[0]
        return restored


def semantic_search_quantized(
    query_embeddings: ArrayLike,
    corpus_embeddings: ArrayLike,
    corpus_precision: str,
    top_k: int = 10,
    ranges: ArrayLike | None = None,
    calibration_embeddings: ArrayLike | None = None,
    rescore: bool = True,
    rescore_multiplier: int = 2,
) -> list[list[Hit]]:
    """Find the vectors of a quantised corpus that are nearest to each query.

    Search has two steps, as in `semantic_search_faiss` and `semantic_search_usearch` of sentence-transformers 6.2:

    1. Quantise the queries like the corpus, and compare them with the whole corpus. "int8" and "uint8" use the dot
       product of the codes. "binary" and "ubinary" use the Hamming distance. The nearest `top_k` * `rescore_multiplier`
       vectors become candidates.
    2. Restore the vectors of the candidates. A bit becomes 0 or 1. An int8 or uint8 code becomes the smallest value of
       its step. Score each candidate by the dot product of the unquantised query with the restored vector. Return the
       best `top_k`.

    Args:
        query_embeddings: (n, dim), or one vector (dim,). Queries that are quantised already skip step 2.
        corpus_embeddings: (m, dim) or (m, ceil(dim / 8)), from `quantize_embeddings`. May be mapped from a file.
        corpus_precision: "int8", "uint8", "binary" or "ubinary".
        top_k: the number of vectors to return for each query. A smaller corpus is returned whole.
        ranges: (2, dim), the ranges of the corpus, for "int8" and "uint8".
        calibration_embeddings: (m, dim), the embeddings that gave the corpus its ranges. For "int8" and "uint8",
            unquantised queries need this or `ranges`.
        rescore: whether to do step 2.
        rescore_multiplier: the number of candidates for each vector to return.

    Returns:
        A list for each query with entries {"corpus_id": row of the corpus, "score": float}, the best first. Among equal
        scores, the lower corpus_id comes first. Without step 2, the score is the dot product of the codes or the
        Hamming distance. The smallest Hamming distance is the best.

    Raises:
        InputError: see `quantize_embeddings`. Or an option is not a whole number of at least 1. Or the queries do not
            match the corpus.

    Example:
        >>> corpus = quantize_embeddings([[1.0, -1.0], [-1.0, 1.0]], "ubinary")
        >>> semantic_search_quantized([[0.5, -2.0]], corpus, "ubinary", top_k=1)
        [[{'corpus_id': 0, 'score': 0.5}]]
    """
    check_choice("corpus_precision", corpus_precision, _QUANTIZED_PRECISIONS)
    check_counts(top_k=top_k, rescore_multiplier=rescore_multiplier)
    dtype = np.dtype(np.int8 if corpus_precision in ("int8", "binary") else np.uint8)
    codes = as_embeddings(corpus_embeddings, "corpus_embeddings")
    if codes.dtype != dtype:
        raise InputError(f"corpus_embeddings should be {dtype} for {corpus_precision!r}, not {codes.dtype}")
    queries = as_embeddings(query_embeddings, "query_embeddings")
    quantized, bounds = queries, np.empty((2, 0), np.float32)
    if queries.dtype != dtype:
        if corpus_precision not in _BIT_PRECISIONS:
            if ranges is None and calibration_embeddings is None:
                raise InputError(
                    f"{corpus_precision} queries are quantised with the ranges of the corpus: give ranges, or "
                    "calibration_embeddings"
                )
            bounds = _find_ranges(queries, ranges, calibration_embeddings)
        quantized = quantize_embeddings(queries, corpus_precision, bounds if bounds.size else None)
    if quantized.shape[1] != codes.shape[1]:
        raise InputError(f"query_embeddings {queries.shape} and corpus_embeddings {codes.shape} do not match")
    corpus = _QuantizedCorpus(codes, corpus_precision, bounds)
    if not rescore or quantized is queries:
        return as_hits(corpus.search(quantized, top_k))
    _, ids = corpus.search(quantized, top_k * rescore_multiplier)
    exact = queries.astype(np.float64)
    dimension = queries.shape[1]
    return as_hits(rescore_candidates(ids, top_k, lambda query, rows: corpus.restore(rows, dimension) @ exact[query]))
