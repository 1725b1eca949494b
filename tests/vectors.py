"""Embeddings for the tests of kernels and indexes, and the results that they should have."""

import numpy as np
from hypothesis import strategies as st

from embedder import VectorIndex


def random_vectors(seed: int, n: int, dim: int, dtype: type = np.float32) -> np.ndarray:
    """Return normally distributed vectors (n, dim). For int8 they are multiplied by 100 and clipped."""
    vectors = np.random.default_rng(seed).normal(size=(n, dim))
    return (100 * vectors).clip(-127, 127).astype(dtype) if dtype == np.int8 else vectors.astype(dtype)


def clustered(seed: int, n: int, dim: int, groups: int, spread: float = 0.5) -> np.ndarray:
    """Return vectors (n, dim) of length 1 around random centres."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(groups, dim))[random.integers(0, groups, n)] + spread * random.normal(size=(n, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@st.composite
def hard_vectors(draw, min_rows: int = 0, max_rows: int = 40, dim: int | None = None) -> np.ndarray:
    """Draw rows that are hard to search in: copies of up to six rows. Some are zeros, and some are scaled."""
    dim = dim or draw(st.integers(1, 9))
    different = random_vectors(draw(st.integers(0, 99)), draw(st.integers(1, 6)), dim)
    chosen = st.lists(st.integers(0, len(different) - 1), min_size=min_rows, max_size=max_rows)
    rows = different[draw(chosen)].reshape(-1, dim)
    scales = draw(st.lists(st.sampled_from([0, 1, 1, 2, -1, 1e-20]), min_size=len(rows), max_size=len(rows)))
    return rows * np.array(scales, np.float32).reshape(-1, 1)


def clustered_index(precision: str = "float32", n: int = 300) -> VectorIndex:
    """Return an index of `n` clustered vectors of 24 numbers. The ids are -50, -43, -36 and so on."""
    index = VectorIndex(24, precision=precision)
    index.add(clustered(1, n, 24, 30), np.arange(n) * 7 - 50)
    return index


def described_index(precision: str = "float32") -> VectorIndex:
    """Return an index of four truncated vectors that has string ids, texts and metadata. Its file never changes."""
    vectors = [[1, 2, 3, 9], [-4, 5, 0, 9], [0, 0, 0, 9], [2, -1, 3, 9]]
    index = VectorIndex(4, precision=precision, similarity="dot", truncate_dim=3)
    metadata = [{"page": 1, "tags": ["a", None], "é": {"x": -0.5}}, {}, None, {"page": 2, "done": False}]
    index.add(vectors, ["b", "a", "", "é\0"], texts=["a text", "", None, "Füße\n\0"], metadata=metadata)
    return index


def best_by_sorting(scores: np.ndarray, k: int) -> list[list[tuple[int, float]]]:
    """Return the k best (column, score) of each row by a full sort.

    The highest score comes first. Among equal scores, the lower column comes first. NaN comes last.
    """
    order = np.argsort(-np.asarray(scores), axis=1, kind="stable")[:, :k]
    return [
        [(int(column), float(row[column])) for column in columns] for row, columns in zip(scores, order, strict=True)
    ]


def exact_cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return all cosines, computed in float64 and rounded to float32."""
    a, b = (np.asarray(x, np.float32).astype(np.float64) for x in (a, b))
    a, b = (x / np.maximum(np.sqrt(np.einsum("ij,ij->i", x, x)), 1e-12)[:, None] for x in (a, b))
    return np.einsum("id,jd->ij", a, b).astype(np.float32)


def pairs_of(hits: list) -> list[list[tuple[int, float]]]:
    """Return (id, score) of each hit of each query."""
    return [[(hit["corpus_id"], hit["score"]) for hit in row] for row in hits]


def ids_of(hits: list) -> list[list[int]]:
    """Return the id of each hit of each query."""
    return [[hit["corpus_id"] for hit in row] for row in hits]
