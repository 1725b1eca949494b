"""Embeddings that are hard to search in: with ties, copies, rows of zeros, and numbers of any size."""

import numpy as np
from hypothesis import strategies as st


def random_vectors(seed: int, n: int, dim: int, dtype: type = np.float32) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, dim))
    return (100 * vectors).clip(-127, 127).astype(dtype) if dtype == np.int8 else vectors.astype(dtype)


def clustered(seed: int, n: int, dim: int, groups: int, spread: float = 0.5) -> np.ndarray:
    """Vectors of length 1 around random centres."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(groups, dim))[random.integers(0, groups, n)] + spread * random.normal(size=(n, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@st.composite
def hard_vectors(draw, min_rows: int = 0, max_rows: int = 40, dim: int | None = None) -> np.ndarray:
    """Up to six different rows, repeated. Some are zeros, some are scaled."""
    dim = dim or draw(st.integers(1, 9))
    different = random_vectors(draw(st.integers(0, 99)), draw(st.integers(1, 6)), dim)
    chosen = st.lists(st.integers(0, len(different) - 1), min_size=min_rows, max_size=max_rows)
    rows = different[draw(chosen)].reshape(-1, dim)
    scales = draw(st.lists(st.sampled_from([0, 1, 1, 2, -1, 1e-20]), min_size=len(rows), max_size=len(rows)))
    return rows * np.array(scales, np.float32).reshape(-1, 1)


def best_by_sorting(scores: np.ndarray, k: int) -> list[list[tuple[int, float]]]:
    """Sort everything: the highest score first, the lower column first among equals, NaN last."""
    order = np.argsort(-np.asarray(scores), axis=1, kind="stable")[:, :k]
    return [
        [(int(column), float(row[column])) for column in columns] for row, columns in zip(scores, order, strict=True)
    ]


def exact_cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (np.asarray(x, np.float32).astype(np.float64) for x in (a, b))
    a, b = (x / np.maximum(np.sqrt(np.einsum("ij,ij->i", x, x)), 1e-12)[:, None] for x in (a, b))
    return np.einsum("id,jd->ij", a, b).astype(np.float32)


def pairs_of(hits: list) -> list[list[tuple[int, float]]]:
    return [[(hit["corpus_id"], hit["score"]) for hit in row] for row in hits]


def ids_of(hits: list) -> list[list[int]]:
    return [[hit["corpus_id"] for hit in row] for row in hits]
