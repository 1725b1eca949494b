"""Embeddings in fewer bits, and search over them.

An int8 vector has a quarter of the size of a float32 one, a binary one a thirty-second. What is found by them is scored
again with the query as it was before it lost its bits: that brings back most of what they cost.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.common.checks import check_choice, check_counts
from embedder.errors import InputError
from embedder.vectors.hamming import nearest_bits
from embedder.vectors.search import Hit, as_hits, nearest, rescored
from embedder.vectors.similarity import as_embeddings, dot_score, rows_a_block

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
_QUANTIZED = PRECISIONS[1:]
_BITS = ("binary", "ubinary")
# What "int8" and "binary" have less than "uint8" and "ubinary".
_OFFSET = 128


def quantize_embeddings(
    embeddings: ArrayLike,
    precision: str,
    ranges: ArrayLike | None = None,
    calibration_embeddings: ArrayLike | None = None,
) -> NDArray[np.generic]:
    """Embeddings (n, dim) in another precision, byte for byte as sentence-transformers has them.

    int8 and uint8 divide what lies between the least and the largest value of each dimension into 255 steps; what is
    outside gets the first or the last. The bits of "binary" and "ubinary" say which numbers are above 0, the first in
    the highest bit; what the last byte has more than there are dimensions is 0.

    Args:
        embeddings: (n, dim), of floating-point numbers.
        precision: "float32", "int8", "uint8", "binary" or "ubinary".
        ranges: (2, dim), the least and the largest values, for int8 and uint8.
        calibration_embeddings: (m, dim), to take the ranges of where none are given. Without either they are those of
            `embeddings`, which had better be a hundred or more then; and each call has ranges of its own.

    Returns:
        float32, int8 or uint8 of shape (n, dim); int8 ("binary") or uint8 ("ubinary") of shape (n, ceil(dim / 8)).

    Raises:
        InputError: the precision is unknown; arrays have other shapes or types, or are quantised already; or int8 or
            uint8 has nothing for a number: it is NaN, or a range is infinite.
    """
    check_choice("precision", precision, PRECISIONS)
    rows = _unquantized(embeddings, "embeddings")
    if precision == "float32":
        return rows.astype(np.float32)
    if precision in _BITS:
        bits = np.packbits(rows > 0, axis=-1)
        return bits if precision == "ubinary" else _with_other_sign(bits).view(np.int8)
    bounds = _ranges(rows, ranges, calibration_embeddings)
    quantized = np.empty(rows.shape, precision)
    step = rows_a_block(rows)
    for start in range(0, len(rows), step):
        levels = _levels(rows[start : start + step], bounds, start)
        quantized[start : start + step] = levels - _OFFSET if precision == "int8" else levels
    return quantized


def _unquantized(embeddings: ArrayLike, name: str) -> NDArray[np.float32]:
    """As an array of the type that NumPy gives a list, float64: so has the reference, and its bytes depend on it."""
    try:
        rows = np.asarray(embeddings)
    except ValueError as error:
        raise InputError(f"{name} should be numbers: {error}") from error
    if rows.ndim != 2:
        raise InputError(f"{name} should be (n, dim), not {rows.shape}")
    if rows.dtype.kind not in "fiub" or rows.dtype in (np.int8, np.uint8):
        raise InputError(f"{name} should be floating-point numbers, not {rows.dtype}")
    return rows


def _with_other_sign(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Less 128 as int8, of uint8; or back: either changes the highest bit."""
    return codes ^ np.uint8(_OFFSET)


def _ranges(rows: NDArray[np.float32], ranges: ArrayLike | None, calibration: ArrayLike | None) -> NDArray[np.floating]:
    """The least and the largest value of each dimension, (2, dim)."""
    if ranges is None:
        source = rows if calibration is None else _unquantized(calibration, "calibration_embeddings")
        if source.shape[1] != rows.shape[1] or (calibration is not None and not len(source)):
            raise InputError(f"calibration_embeddings should be (m, {rows.shape[1]}), not {source.shape}")
        return np.stack([source.min(axis=0), source.max(axis=0)]) if len(source) else np.zeros((2, rows.shape[1]))
    bounds = _unquantized(ranges, "ranges")
    if bounds.shape != (2, rows.shape[1]):
        raise InputError(f"ranges should be (2, {rows.shape[1]}), not {bounds.shape}")
    return bounds


def _levels(rows: NDArray[np.float32], bounds: NDArray[np.floating], start: int) -> NDArray[np.floating]:
    """Whole numbers from 0 to 255, still as floating-point numbers; `start` is the number of the first of `rows`."""
    with np.errstate(all="ignore"):
        steps = np.asarray((bounds[1] - bounds[0]) / 255)
        steps[steps == 0] = 1
        levels: NDArray[np.floating] = np.clip(np.floor((rows - bounds[0]) / steps), 0, 255)
    lost = np.argwhere(np.isnan(levels))
    if lost.size:
        row, column = lost[0]
        raise InputError(
            f"embeddings[{start + row}, {column}] cannot be quantised: it is {rows[row, column]}, "
            f"in the range of {bounds[0, column]} to {bounds[1, column]}"
        )
    return levels


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
    """The vectors of a quantised corpus that are nearest to each query, as sentence-transformers finds them by faiss.

    Queries are quantised as the corpus was, and compared with all of it: by the dot product of int8 and uint8, by the
    number of bits that differ of the others. Of the `top_k` * `rescore_multiplier` nearest, those are returned whose
    dot product with the query before it was quantised is largest, a bit being 0 or 1.

    Args:
        query_embeddings: (n, dim), or one vector (dim,): unquantised, or as the corpus, and then not scored again.
        corpus_embeddings: (m, dim) or (m, ceil(dim / 8)), by `quantize_embeddings`; may be mapped from a file.
        corpus_precision: "int8", "uint8", "binary" or "ubinary".
        top_k: how many are wanted; all are given where the corpus has fewer.
        ranges: those that the corpus was quantised by, for int8 and uint8.
        calibration_embeddings: what they were taken of. One of the two is needed for unquantised queries.
        rescore: whether to score again.
        rescore_multiplier: how many times as many as are wanted are scored again.

    Returns:
        As `semantic_search`, the best first, and of equal ones the lowest corpus_id. Not scored again, the score is the
        dot product, or the number of bits that differ, of which the fewest are best.

    Raises:
        InputError: as `quantize_embeddings`; or a number is not at least 1, or queries and corpus do not fit.
    """
    check_choice("corpus_precision", corpus_precision, _QUANTIZED)
    check_counts(top_k=top_k, rescore_multiplier=rescore_multiplier)
    dtype = np.dtype(np.int8 if corpus_precision in ("int8", "binary") else np.uint8)
    corpus = as_embeddings(corpus_embeddings, "corpus_embeddings")
    if corpus.dtype != dtype:
        raise InputError(f"corpus_embeddings should be {dtype} for {corpus_precision!r}, not {corpus.dtype}")
    queries = as_embeddings(query_embeddings, "query_embeddings")
    codes = queries
    if queries.dtype != dtype:
        if corpus_precision not in _BITS and ranges is None and calibration_embeddings is None:
            raise InputError("queries are quantised as the corpus was: give its ranges, or its calibration_embeddings")
        codes = quantize_embeddings(queries, corpus_precision, ranges, calibration_embeddings)
    if codes.shape[1] != corpus.shape[1]:
        raise InputError(f"query_embeddings {queries.shape} and corpus_embeddings {corpus.shape} do not fit")
    again = rescore and queries is not codes
    wanted = top_k * rescore_multiplier if again else top_k
    if corpus_precision in _BITS:
        scores, ids = nearest_bits(codes.view(np.uint8), corpus.view(np.uint8), wanted)
        scores = -scores
    else:
        scores, ids = nearest(codes, corpus, wanted, dot_score)
    if again:
        exact = queries.astype(np.float64)
        scores, ids = rescored(
            ids, top_k, lambda query, rows: _numbers(corpus[rows], corpus_precision, queries.shape[1]) @ exact[query]
        )
    return as_hits(scores, ids)


def _numbers(codes: NDArray[np.generic], precision: str, dimension: int) -> NDArray[np.float64]:
    """Codes as the numbers that a query is multiplied by."""
    if precision not in _BITS:
        return codes.astype(np.float64)
    bits = codes.view(np.uint8)
    if precision == "binary":
        bits = _with_other_sign(bits)
    return np.unpackbits(bits, axis=1, count=dimension).astype(np.float64)
