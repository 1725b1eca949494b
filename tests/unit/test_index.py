"""An index in memory: adding, deleting and searching, with vectors and with texts."""

from pathlib import Path

import numpy as np
import pytest

import embedder
from embedder import VectorIndex
from embedder.errors import InputError
from tests.vectors import clustered, clustered_index, ids_of, pairs_of, random_vectors

PRECISIONS = ["float32", "int8", "binary"]


def test_float32_index_is_exact():
    vectors, queries = clustered(1, 300, 24, 30), random_vectors(2, 5, 24)
    for similarity, function in [("cosine", embedder.cos_sim), ("dot", embedder.dot_score)]:
        index = VectorIndex(24, similarity=similarity)
        index.add(3 * vectors)
        found = index.search(queries if similarity == "dot" else 5 * queries, 12)
        expected = embedder.semantic_search(queries, 3 * vectors, top_k=12, score_function=function)
        assert ids_of(found) == ids_of(expected)
        for row, other in zip(pairs_of(found), pairs_of(expected), strict=True):
            np.testing.assert_allclose([score for _, score in row], [score for _, score in other], rtol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_quantised_indexes_find_most_of_the_nearest(precision, similarity):
    lengths = 1 + np.arange(2000)[:, None] % 5
    vectors, queries = clustered(1, 2000, 64, 100), clustered(1, 2000, 64, 100)[:40] + 0.05 * random_vectors(2, 40, 64)
    vectors = vectors * lengths if similarity == "dot" else vectors
    exact, index = (VectorIndex(64, precision=p, similarity=similarity) for p in ("float32", precision))
    for each in (exact, index):
        each.add(vectors)
    found, expected = index.search(queries, rescore_multiplier=20), exact.search(queries)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids_of(found), ids_of(expected), strict=True)])
    assert recall > (0.97 if precision != "binary" or similarity == "cosine" else 0.5)
    scores = {id_: score for row in pairs_of(expected[:1]) for id_, score in row}
    assert all(abs(score - scores[id_]) < 0.05 for id_, score in pairs_of(found)[0] if id_ in scores)


def test_ids_of_added_and_deleted_vectors():
    index = VectorIndex(3)
    assert index.search([1.0, 0.0, 0.0]) == [[]]
    assert index.add(random_vectors(1, 2, 3)).tolist() == [0, 1]
    assert index.add(random_vectors(2, 1, 3)[0], 2**62).tolist() == [2**62]
    assert index.add(random_vectors(2, 1, 3)[0]).tolist() == [2**62 + 1]
    index.delete(1)
    index.delete([2**62 + 1, 2**62 + 1, 0])
    assert index.ids.tolist() == [2**62]
    assert index.add(random_vectors(1, 1, 3), [1]).tolist() == [1]
    assert index.add([]).tolist() == []
    index.delete([])
    index.add(random_vectors(3, 1, 3), 2**63 - 1)
    with pytest.raises(InputError, match=f"there are no ids left after {2**63 - 1}: give ids that are free"):
        index.add(random_vectors(3, 1, 3))
    index.delete(2**63 - 1)
    assert repr(index) == "VectorIndex(2 vectors, dimension=3, precision='float32', similarity='cosine')"


def test_equal_scores_keep_the_order_in_which_vectors_were_added():
    for precision in PRECISIONS:
        index = VectorIndex(8, precision=precision)
        index.add(np.ones((5, 8)), [9, 3, 7, 1, 5])
        assert ids_of(index.search(np.ones(8), 3)) == [[9, 3, 7]]


def test_texts_with_a_model_and_without(tiny, make_artifact, tmp_path):
    model = embedder.Embedder(tiny)
    index = VectorIndex(model=model)
    index.add(["the cat sat", "a dog", "on the mat"], [5, 6, 7])
    index.add("a cat", 8)
    index.add(np.array(["a mat", "more words"]))
    assert len(index) == 6
    assert ids_of(index.search("the cat sat", 1)) == [[5]]
    assert ids_of(index.search(["a dog", "a cat"], 1)) == [[6], [8]]
    assert index.search(("a dog",), 2) == index.search(model.encode_query("a dog"), 2)
    index.save(tmp_path / "index")
    loaded = VectorIndex.load(tmp_path / "index", model=model)
    assert loaded.search("a dog") == index.search("a dog")
    plain = VectorIndex.load(tmp_path / "index")
    assert plain.search(model.encode_query("a dog")) == index.search("a dog")
    with pytest.raises(InputError, match=r"texts need a model: VectorIndex\(model=...\)"):
        plain.search("a dog")
    other = embedder.Embedder(make_artifact("other", source=embedder.artifact.manifest.Source("other", None, "1" * 64)))
    with pytest.raises(
        InputError,
        match=r"were made by tiny, weights 0{16}\. They cannot be compared with those of other, weights 1{16}",
    ):
        VectorIndex.load(tmp_path / "index", model=other)
    plain.save(tmp_path / "again")
    with pytest.raises(InputError, match="were made by tiny"):
        VectorIndex.load(tmp_path / "again", model=other)


def test_wrong_options(tiny):
    with pytest.raises(InputError, match="precision should be one of float32, int8, binary, not 'int4'"):
        VectorIndex(3, precision="int4")
    with pytest.raises(InputError, match="similarity should be one of cosine, dot, not 'euclidean'"):
        VectorIndex(3, similarity="euclidean")
    with pytest.raises(InputError, match="an index needs a dimension, or a model that has one"):
        VectorIndex()
    with pytest.raises(InputError, match="model should be an Embedder, not 'all-MiniLM-L6-v2'"):
        VectorIndex(model="all-MiniLM-L6-v2")
    with pytest.raises(InputError, match="dimension should be a whole number, at least 1 and at most 16777216, not 0"):
        VectorIndex(0)
    with pytest.raises(InputError, match="the model's vectors have length 8, but those of the index 7"):
        VectorIndex(7, model=embedder.Embedder(tiny))


def test_wrong_input_changes_nothing():
    index = clustered_index()
    before = index.search(random_vectors(5, 2, 24), 400)
    vectors = random_vectors(1, 3, 24)
    damaged = vectors.copy()
    damaged[1, 3] = np.nan
    for items, ids, message in [
        (vectors[:, :20], None, r"vectors should be \(n, 24\), not \(3, 20\)"),
        (damaged, None, r"vectors\[1\] contains NaN or an infinity"),
        (vectors.astype(np.float64) * 1e300, None, r"vectors\[0\] contains NaN or an infinity"),
        (vectors[None], None, r"vectors should be \(n, dim\) or \(dim,\), not \(1, 3, 24\)"),
        (vectors, [1, 2], "there are 2 ids for 3 vectors"),
        (vectors, [1, 2, 1], "id 1 is given twice"),
        (vectors, [1, 2, -50], "id -50 is in the index already: delete it first, give another id, or use upsert"),
        (vectors, [1.0, 2.0, 3.0], r"ids should be whole numbers or strings, not float64 of shape \(3,\)"),
        (vectors, [[1], [2, 3]], "ids should be whole numbers or strings: "),
        (vectors, ["a", "b", "c"], "the ids of this index are whole numbers, not strings"),
        (vectors, ["a", 1, 2], "ids should be whole numbers or strings, and not both"),
        (vectors, np.array([1, 2, 2**63], np.uint64), "ids should be below"),
        (["a text"], None, "texts need a model"),
        (["a text", 3], None, "texts need a model"),
        ([object()], None, r"items\[0\] should be a vector or a text, not object: .* Images need a model: Vector"),
        ([b"bytes"], None, r"items\[0\] should be a vector or a text, not bytes"),
        (Path("cat.png"), None, r"items\[0\] should be a vector or a text, not PosixPath"),
        ([[1.0] * 24, "a text"], None, "vectors should be numbers"),
        ([[1.0] * 24, [1.0] * 23], None, "vectors should be numbers: "),
        ([None], None, r"items\[0\] should be a vector or a text, not NoneType"),
    ]:
        with pytest.raises(InputError, match=message):
            index.add(items, ids)
    with pytest.raises(InputError, match="id 4 is not in the index"):
        index.delete([-50, 4])
    for name in ("top_k", "rescore_multiplier"):
        with pytest.raises(InputError, match=f"{name} should be a whole number, at least 1, not 0"):
            index.search(vectors, **{name: 0})
    assert index.search(random_vectors(5, 2, 24), 400) == before
