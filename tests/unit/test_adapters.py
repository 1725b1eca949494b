import sys

import numpy as np
import pytest

from embedder import FaissIndex, UsearchIndex, VectorIndex
from embedder.errors import DependencyError, InputError
from tests.vectors import clustered, ids_of, pairs_of, random_vectors

VECTORS, IDS = clustered(1, 500, 16, 50), np.arange(500) * 3
QUERIES = 3 * random_vectors(2, 20, 16)
ADAPTERS = [FaissIndex, UsearchIndex]


def recall(found, expected):
    pairs = zip(ids_of(found), ids_of(expected), strict=True)
    return np.mean([len(set(one) & set(other)) / len(other) for one, other in pairs])


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_same_three_calls(adapter, similarity):
    vectors = VECTORS if similarity == "cosine" else VECTORS * (1 + IDS[:, None] % 4)
    index, exact = adapter(16, similarity=similarity), VectorIndex(16, similarity=similarity)
    for each in (index, exact):
        each.add(vectors[:300], IDS[:300])
        each.add(vectors[300:], IDS[300:])
        each.delete(IDS[::5])
    assert len(index) == len(exact) == 400
    found, expected = index.search(QUERIES, 7), exact.search(QUERIES, 7)
    assert recall(found, expected) > (0.9 if adapter is UsearchIndex else 0.999)
    assert recall(found[:1], index.search(QUERIES[0], 7)) == 1
    scores = dict(pair for row in pairs_of(exact.search(QUERIES, 400))[:1] for pair in row)
    for id_, score in pairs_of(found)[0]:
        assert score == pytest.approx(scores[id_], rel=1e-4, abs=1e-5)
    exact.delete(exact.ids[7:])
    index.delete(np.setdiff1d(np.delete(IDS, np.s_[::5]), exact.ids))
    assert [len(row) for row in index.search(QUERIES, 99)] == [7] * 20


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_saved_and_loaded(adapter, tmp_path):
    index = adapter(16)
    assert index.search(QUERIES, 3) == [[]] * 20
    index.add(VECTORS, IDS)
    index.save(tmp_path / "index")
    loaded = adapter.load(tmp_path / "index")
    assert loaded.search(QUERIES, 3) == index.search(QUERIES, 3)
    loaded.delete(0)
    assert len(loaded) == 499


@pytest.mark.parametrize("factory", ["IVF8,Flat", "HNSW16", "SQ8"])
def test_other_kinds_of_faiss(factory):
    index, exact = FaissIndex(16, factory=factory), FaissIndex(16)
    for each in (index, exact):
        each.add(VECTORS, IDS)
    assert recall(index.search(QUERIES), exact.search(QUERIES)) > 0.3
    if factory == "HNSW16":
        with pytest.raises(InputError, match="faiss cannot delete from an index of this kind"):
            index.delete(0)
    else:
        index.delete(0)
        assert len(index) == 499


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_wrong_input(adapter):
    with pytest.raises(InputError, match="similarity should be one of cosine, dot, not 'euclidean'"):
        adapter(16, similarity="euclidean")
    with pytest.raises(InputError, match="dimension should be a whole number, at least 1, not 0"):
        adapter(0)
    index = adapter(16)
    index.add(VECTORS[:5], IDS[:5])
    with pytest.raises(InputError, match="there are 4 ids for 5 vectors"):
        index.add(VECTORS[:5], IDS[:4])
    for call in (lambda vectors: index.add(vectors, IDS[:5]), index.search):
        with pytest.raises(InputError, match=r"vectors should be \(n, 16\), not \(5, 15\)"):
            call(VECTORS[:5, :15])
    with pytest.raises(InputError, match="ids should be whole numbers, not float64"):
        index.delete([0.5])
    with pytest.raises(InputError, match="top_k should be a whole number, at least 1, not 0"):
        index.search(QUERIES, 0)


def test_ids_that_there_are_not_or_twice():
    index = UsearchIndex(16)
    index.add(VECTORS[:5], IDS[:5])
    with pytest.raises(InputError, match="id 1 is not in the index"):
        index.delete([0, 1])
    assert len(index) == 5
    for ids in ([0, 100], [100, 100]):
        with pytest.raises(InputError, match=r"id \d+ is in the index already, or twice among the ids"):
            index.add(VECTORS[:2], ids)
    with pytest.raises(InputError, match="usearch has ids from 0 on, not -3"):
        index.add(VECTORS[:2], [5, -3])
    index = FaissIndex(16)
    index.add(VECTORS[:5], IDS[:5])
    with pytest.raises(InputError, match="2 of 3 ids were not in the index"):
        index.delete([0, 1, 2])
    with pytest.raises(InputError, match="faiss has no factory 'Cube'"):
        FaissIndex(16, factory="Cube")


@pytest.mark.parametrize(("adapter", "name"), [(FaissIndex, "faiss"), (UsearchIndex, "usearch")])
def test_not_installed(adapter, name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, f"{name}.index", None)
    with pytest.raises(DependencyError, match=rf"{name} is not installed: pip install 'embedder\[{name}\]'"):
        adapter(16)
    assert len(VectorIndex(16)) == 0
