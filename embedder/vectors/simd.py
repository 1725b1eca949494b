"""Compare packed bits and 8-bit integers with NumKong, a library of SIMD kernels, where it is installed.

All results are exact integers, so NumKong and NumPy agree. embedder takes NumPy, without a message, if NumKong is too
old or broken, or if the CPU has no AVX2. On such CPUs NumPy is faster, or NumKong was not measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.common.load_once import LoadOnce

# Up to this many vectors of 8-bit integers, comparing pair by pair is faster than packing the corpus.
MAX_PAIRWISE = 2
# Without the instructions called VNNI (of 512 bits), NumPy multiplies more vectors than this as fast, in float32.
_MAX_WITHOUT_VNNI = 64
# A dot product of two vectors of 8-bit integers with this many dimensions is below 2**31.
MAX_DIMENSION = 1 << 15


def _load() -> Any:
    """Return the module `numkong`, or None if it cannot be used here."""
    try:
        import numkong

        usable = numkong.get_capabilities()["haswell"] and _is_right(numkong)
    except Exception:  # too old, or its library cannot be loaded
        return None
    return numkong if usable else None


_numkong = LoadOnce(_load)


def has_simd() -> bool:
    """Return whether NumKong is used."""
    return _numkong.get() is not None


def multiplies_faster(count: int) -> bool:
    """Return whether NumKong is used, and multiplies `count` vectors of 8-bit integers faster than NumPy."""
    return has_simd() and (count <= _MAX_WITHOUT_VNNI or bool(_numkong.get().get_capabilities().get("icelake")))


def hamming_distances(queries: NDArray[np.uint8], corpus: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return the Hamming distances (n, m) of packed bits (n, bytes) and (m, bytes). Call it only if `has_simd()`."""
    return _hamming_distances(_numkong.get(), queries, corpus)


def dot_products(queries: NDArray[Any], corpus: NDArray[Any]) -> NDArray[Any]:
    """Return the dot products (n, m) of 8-bit integers (n, dim) and (m, dim). Call it only if `has_simd()`.

    Both have the dtype int8, or both uint8. There are at most `MAX_DIMENSION` dimensions.

    Returns:
        Whole numbers, as int32, uint32 or float64.
    """
    return _dot_products(_numkong.get(), queries, corpus)


def _hamming_distances(library: Any, queries: NDArray[np.uint8], corpus: NDArray[np.uint8]) -> NDArray[np.uint32]:
    queries, corpus = np.ascontiguousarray(queries), np.ascontiguousarray(corpus)
    return np.asarray(library.hammings_packed(queries, library.hammings_pack(corpus, dtype="uint1")))


def _dot_products(library: Any, queries: NDArray[Any], corpus: NDArray[Any]) -> NDArray[Any]:
    queries, corpus = np.ascontiguousarray(queries), np.ascontiguousarray(corpus)
    if len(queries) <= MAX_PAIRWISE:
        return np.asarray(library.cdist(queries, corpus, "dot"))
    return np.asarray(library.dots_packed(queries, library.dots_pack(corpus)))


def _is_right(library: Any) -> bool:
    """Return whether the library's results are those of NumPy for a few vectors, among them the largest numbers."""
    numbers = np.arange(5 * 67).reshape(5, 67) % 251
    numbers[0], numbers[1] = 255, 128
    unsigned = numbers.astype(np.uint8)
    bits = np.unpackbits(unsigned, axis=1)
    if not np.array_equal(_hamming_distances(library, unsigned, unsigned), (bits[:, None] != bits).sum(axis=2)):
        return False
    for codes, exact in ((unsigned, numbers), (unsigned.view(np.int8), unsigned.view(np.int8).astype(int))):
        for n in (1, len(codes)):
            if not np.array_equal(_dot_products(library, codes[:n], codes), exact[:n] @ exact.T):
                return False
    return True
