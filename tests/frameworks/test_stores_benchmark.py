"""`make bench-stores`: each store loads vectors and finds them after it was opened again; the tables are complete."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
COUNT, QUERIES = 1000, 20
# The packages that a store needs, if they are not in every environment for development.
PACKAGES = {
    "duckdb": ["duckdb"],
    "duckdb-vss": ["duckdb", "duckdb_extension_vss"],
    "sqlite-vec": ["apsw", "sqlite_vec"],
    "sqlite-vec-bits": ["apsw", "sqlite_vec"],
    "qdrant": ["qdrant_client"],
    "chroma": ["chromadb"],
    "lancedb": ["lancedb"],
    "lancedb-ivf-pq": ["lancedb"],
    "lancedb-hnsw": ["lancedb"],
}
STORES = [
    "npy",
    "index",
    "index-int8",
    "index-binary",
    "faiss",
    "faiss-rescored",
    "usearch-f16",
    "usearch-i8",
    *PACKAGES,
]


@pytest.fixture(scope="module")
def modules():
    """The modules `stores`, `store_vectors` and `store_worker`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield [importlib.import_module(name) for name in ("stores", "store_vectors", "store_worker")]


@pytest.fixture(scope="module")
def work(modules, tmp_path_factory):
    """A directory with vectors that lie around centres, as files, and with queries."""
    _, store_vectors, _ = modules
    random = np.random.default_rng(0)
    centres = random.standard_normal((COUNT // 50, 384), np.float32)
    vectors = np.repeat(centres, 50, axis=0) + 0.7 * random.standard_normal((COUNT, 384), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    directory = tmp_path_factory.mktemp("stores")
    queries = vectors[:: COUNT // QUERIES] + 0.01 * random.standard_normal((QUERIES, 384), np.float32)
    np.save(directory / "queries.npy", queries / np.linalg.norm(queries, axis=1, keepdims=True))
    store_vectors.write_vectors(directory / str(COUNT), vectors, np.load(directory / "queries.npy"))
    return directory


def test_stores_have_labels_and_are_tested(modules):
    stores, _, store_worker = modules
    assert sorted(store_worker.STORES) == sorted(stores.STORES) == sorted(STORES)


@pytest.mark.parametrize("name", STORES)
def test_store_finds_the_nearest_vectors(name, modules, work, tmp_path):
    for package in PACKAGES.get(name, []):
        pytest.importorskip(package)
    stores, _, store_worker = modules
    make, settings = store_worker.STORES[name]
    load, reopen = make(**settings)
    load(work / str(COUNT), tmp_path)
    result = store_worker.searched(reopen, tmp_path, np.load(work / "queries.npy"), tmp_path / "found.npy")
    assert result["queries"] == QUERIES
    expected = 1.0 if stores.STORES[name].method.startswith("exact") else 0.4 if name == "faiss" else 0.9
    assert stores.recall(tmp_path / "found.npy", work / str(COUNT) / "exact.npy") >= expected


@pytest.mark.slow
def test_tables_are_written_and_a_second_run_measures_only_what_is_missing(modules, work, tmp_path, monkeypatch):
    stores, _, _ = modules
    for names in (["npy"], ["npy", "index-int8"]):
        words = ["--work", str(work), "--output", str(tmp_path / "table.md"), "--sizes", str(COUNT), "--stores", *names]
        monkeypatch.setattr(sys, "argv", ["stores.py", *words])
        stores.main()
        assert len((work / "figures.jsonl").read_text(encoding="utf-8").splitlines()) == len(names)
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert text.count("| embedder, `VectorIndex`, int8 |") == 2
    assert "| exact, in the mapped .npy | 0.0 |" in text
    assert "- Versions: " in text


def test_a_store_that_is_too_slow_is_named_in_the_tables(modules, work):
    stores, _, _ = modules
    figures = {("npy", 100_000): stores.measured("npy", COUNT, work, limit_s=0.01)}
    assert figures == {("npy", 100_000): {"limit_s": 0.01}}
    figures["npy", 100_000]["limit_s"] = 300
    assert "| >300 s |" in "\n".join(stores.main_table(figures))
    assert "| >300 s |" in "\n".join(stores.growth_table(figures))


def test_more_vectors_than_texts_lie_between_real_ones(modules):
    _, store_vectors, _ = modules
    random = np.random.default_rng(0)
    real = random.standard_normal((60, 8), np.float32)
    real /= np.linalg.norm(real, axis=1, keepdims=True)
    vectors = store_vectors.enlarged(real, 200)
    np.testing.assert_array_equal(vectors[:60], real)
    np.testing.assert_array_equal(store_vectors.enlarged(real, 40), real[:40])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert (vectors[60:] @ real.T).max(axis=1).min() > 0.5


def test_texts_are_real_and_different(modules, data):
    _, store_vectors, _ = modules
    texts = store_vectors.corpus_texts()
    assert len(texts) == len(set(texts)) == store_vectors.REAL_COUNT
    queries = store_vectors.query_texts()
    assert len(queries) == store_vectors.QUERY_COUNT
    assert not set(queries) & set(texts)
