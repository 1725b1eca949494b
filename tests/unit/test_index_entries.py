"""The entries of an index: string ids, texts, metadata, replacing them, and vectors that are truncated."""

import enum
import math
from types import MappingProxyType

import numpy as np
import pytest

import embedder
from embedder import VectorIndex
from embedder.errors import InputError
from tests.vectors import clustered_index, ids_of, random_vectors

PRECISIONS = ["float32", "int8", "binary"]
HALF = chr(0xD800)


class Colour(str, enum.Enum):  # noqa: UP042
    """A string whose `str()` is another string."""

    RED = "red"


def test_ids_may_be_strings():
    index = VectorIndex(4)
    assert index.add(np.eye(4), ["b", "a", "", "a\0é"]).tolist() == ["b", "a", "", "a\0é"]
    assert index.ids.tolist() == ["b", "a", "", "a\0é"]
    assert index.ids.dtype == object
    assert ids_of(index.search(np.eye(4), 1)) == [["b"], ["a"], [""], ["a\0é"]]
    index.delete("a")
    index.delete(["", ""])
    assert index.ids.tolist() == ["b", "a\0é"]
    index.delete(index.ids)
    assert len(index) == 0
    assert index.ids.tolist() == []


def test_strings_of_every_kind_are_ids():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    names = ["a", "bc"]
    for ids in (
        names,
        tuple(names),
        iter(names),
        np.array(names),
        np.array(names, object),
        [np.str_("a"), np.str_("bc")],
        pandas.Series(names),
        pandas.Series(names, dtype="string"),
    ):
        index = VectorIndex(4)
        added = index.add(np.eye(4)[:2], ids)
        assert added.tolist() == names
        assert {type(id_) for id_ in index.ids} == {str}
    index.add(np.ones(4), Colour.RED)
    assert "red" in index
    assert Colour.RED in index


def test_an_index_has_ids_of_one_kind():
    numbers, strings = VectorIndex(4), VectorIndex(4)
    numbers.add(np.eye(4), [1, 2, 3, 4])
    strings.add(np.eye(4), ["1", "2", "3", "4"])
    for index, id_, message in [
        (numbers, "1", "the ids of this index are whole numbers, not strings"),
        (strings, 1, "the ids of this index are strings, not whole numbers"),
    ]:
        before = index.ids.tolist()
        for call in (
            lambda index=index, id_=id_: index.add(np.ones(4), id_),
            lambda index=index, id_=id_: index.upsert(np.ones(4), id_),
            lambda index=index, id_=id_: index.delete(id_),
            lambda index=index, id_=id_: index.get(id_),
        ):
            with pytest.raises(InputError, match=message):
                call()
        assert id_ not in index
        assert index.ids.tolist() == before
    with pytest.raises(InputError, match="the ids of this index are strings: give an id for each item"):
        strings.add(np.ones(4))
    assert strings.add([]).tolist() == []
    strings.upsert([], [])
    with pytest.raises(InputError, match="ids should be whole numbers or strings, and not both"):
        strings.add(np.ones((2, 4)), ["a", 1])
    assert len(strings) == 4


def test_an_empty_index_takes_ids_of_both_kinds(tmp_path):
    index = VectorIndex(4)
    assert index.get("a") is None
    with pytest.raises(InputError, match="id 'a' is not in the index"):
        index.delete("a")
    index.add(np.eye(4), [5, 6, 7, 8])
    index.delete([5, 6, 7, 8])
    index.add(np.eye(4)[:1], ["a"])
    index.delete("a")
    assert index.add(np.eye(4)[:2]).tolist() == [9, 10]
    index.delete([9, 10])
    index.save(tmp_path / "index")
    loaded = VectorIndex.load(tmp_path / "index")
    loaded.add(np.eye(4)[:1], ["a"])
    assert loaded.ids.tolist() == ["a"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a"], "there are 1 ids for 2 vectors"),
        (["a", "a"], "id 'a' is given twice"),
        (["a", "old"], "id 'old' is in the index already: delete it first, give another id, or use upsert"),
        (["a", HALF], r"ids\[1\] is not valid Unicode: it contains the lone surrogate U\+D800"),
        ({"a", "b"}, "ids should be whole numbers or strings, not a set: a set has no order; pass a list"),
        ({"a": 1, "b": 2}, "ids should be whole numbers or strings, not a dict: pass its values"),
        ([b"a", b"b"], r"ids should be whole numbers or strings, not \|S1"),
        ([None, None], "ids should be whole numbers or strings, not object"),
        ([["a", "b"]], "ids should be whole numbers or strings, not "),
        (np.array([["a"], ["b"]]), r"ids should be whole numbers or strings, not <U1 of shape \(2, 1\)"),
        ([True, False], r"ids\[0\] should be a whole number or a string, not True"),
        ([2, True], r"ids\[1\] should be a whole number or a string, not True"),
        (np.array([True, False]), "ids should be whole numbers or strings, not bool"),
    ],
)
def test_ids_that_are_refused(ids, message):
    index = VectorIndex(4)
    index.add(np.ones(4), "old")
    with pytest.raises(InputError, match=message):
        index.add(np.eye(4)[:2], ids)
    assert index.ids.tolist() == ["old"]


def test_in_and_get_take_one_id():
    index = VectorIndex(4)
    index.add(np.eye(4), [0, 1, 2, 3])
    assert 1 in index
    assert np.int64(1) in index
    for other in (4, -1, 2**70, "1", 1.0, True, None, [1], (1,), b"1", np.array(1)):
        assert other not in index
    assert index.get(np.int8(2)).vector.tolist() == [0, 0, 1, 0]
    assert index.get(4) is None
    assert index.get(2**70) is None
    for wrong in (1.0, True, None, [1]):
        with pytest.raises(InputError, match="an id should be a whole number or a string, not "):
            index.get(wrong)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_get_returns_the_vector_as_it_is_kept(precision, tmp_path):
    vectors = random_vectors(1, 5, 24)
    index = VectorIndex(24, precision=precision)
    index.add(3 * vectors[:3])
    index.save(tmp_path / "index")
    index = VectorIndex.load(tmp_path / "index")
    index.add(3 * vectors[3:])
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row in range(5):
        entry = index.get(row)
        assert (entry.id, entry.text, entry.metadata) == (row, None, None)
        assert (entry.vector.dtype, entry.vector.shape) == (np.float32, (24,))
        np.testing.assert_allclose(entry.vector, expected[row], atol=1e-6 if precision == "float32" else 0.01)
        entry.vector[:] = 7  # this changes a copy
        assert index.get(row).vector[0] != 7


def test_texts_among_the_items_are_kept(tiny, tmp_path):
    index = VectorIndex(model=embedder.Embedder(tiny))
    index.add(["the cat sat", "", "a dog"])
    index.add("on the mat")
    index.add("the mat", texts="another text to keep")
    index.add(np.ones((2, 8)))
    expected = ["the cat sat", "", "a dog", "on the mat", "another text to keep", None, None]
    assert [index.get(id_).text for id_ in range(7)] == expected
    index.save(tmp_path / "index")
    index = VectorIndex.load(tmp_path / "index", model=index._model)
    assert [index.get(id_).text for id_ in range(7)] == expected
    (hits,) = index.search("a dog", 7)
    assert {hit["corpus_id"]: hit.get("text") for hit in hits} == dict(enumerate(expected))
    assert "text" not in next(hit for hit in hits if hit["corpus_id"] == 5)


def test_texts_beside_vectors():
    for texts in (["a", None], ("a", None), iter(["a", None]), np.array(["a", None], object)):
        index = VectorIndex(4)
        index.add(np.eye(4)[:2], texts=texts)
        assert [index.get(id_).text for id_ in (0, 1)] == ["a", None]
    index.add(np.ones(4), texts=Colour.RED)
    assert type(index.get(2).text) is str
    assert index.get(2).text == "red"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a"], "there are 1 texts for 2 items"),
        ("ab", "there are 1 texts for 2 items"),
        (["a", 3], r"texts\[1\] should be a string or None, not 3"),
        (["a", HALF], r"texts\[1\] is not valid Unicode: it contains the lone surrogate U\+D800 at character 0"),
        ({"a", "b"}, "texts should be a list, not a set"),
        ({"a": 1}, "texts should be a list, not a dict"),
        (3, "texts should be a list, not 3"),
    ],
)
def test_texts_that_are_refused(texts, message):
    index = VectorIndex(4)
    with pytest.raises(InputError, match=message):
        index.add(np.eye(4)[:2], texts=texts)
    assert len(index) == 0


def test_what_cannot_be_kept_is_refused_before_anything_is_encoded():
    class Model:
        dimension = 4

    index = VectorIndex(model=Model())
    with pytest.raises(InputError, match="there are 1 texts for 2 items"):
        index.add(["a", "b"], texts=["a"])
    with pytest.raises(InputError, match=r"metadata\[0\] should be a mapping such as a dict, not 3"):
        index.add(["a", "b"], metadata=[3, None])
    with pytest.raises(InputError, match=r"texts\[1\] is not valid Unicode"):
        index.add(["a", HALF])


def test_a_path_that_is_not_unicode_is_not_kept():
    class Model:
        dimension = 4

        def encode_document(self, inputs, read_paths):
            assert read_paths
            return np.eye(4)[: len(inputs)]

    index = VectorIndex(model=Model())
    index.add(["caf\udce9.png", "cat.png"], read_paths=True)
    assert [index.get(id_).text for id_ in (0, 1)] == [None, "cat.png"]


VALUES = {"text": 'é\0\n"', "whole": -(2**70), "real": 1e-300, "yes": True, "no": False, "nothing": None, "": ""}


def test_metadata_are_values_of_json(tmp_path):
    metadata = VALUES | {"list": [1, [2.5, {"deep": []}], {}], "object": VALUES}
    index = VectorIndex(4)
    index.add(np.eye(4)[:3], metadata=[metadata, None, {}])
    index.save(tmp_path / "index")
    for each in (index, VectorIndex.load(tmp_path / "index")):
        assert each.get(0).metadata == metadata
        assert list(each.get(0).metadata) == list(metadata)
        assert type(each.get(0).metadata["real"]) is float
        assert (each.get(1).metadata, each.get(2).metadata) == (None, {})
        hits = {hit["corpus_id"]: hit for hit in each.search(np.ones(4))[0]}
        assert hits[0]["metadata"] == metadata
        assert "metadata" not in hits[1]
        assert hits[2]["metadata"] == {}


def test_metadata_become_plain_values():
    index = VectorIndex(4)
    given = {
        "a": np.int64(3),
        "b": np.float32(0.5),
        "c": np.bool_(True),
        "d": (1, np.str_("x")),
        Colour.RED: Colour.RED,
    }
    index.add(np.ones(4), metadata=MappingProxyType(given))
    found = index.get(0).metadata
    assert found == {"a": 3, "b": 0.5, "c": True, "d": [1, "x"], "red": "red"}
    assert [type(value) for value in found.values()] == [int, float, bool, list, str]


def test_nobody_changes_metadata_by_changing_what_they_gave_or_got():
    given = {"a": [1]}
    index = VectorIndex(4)
    index.add(np.ones(4), metadata=given)
    given["a"].append(2)
    index.get(0).metadata["a"].append(3)
    index.search(np.ones(4))[0][0]["metadata"]["b"] = 4
    index.search(np.ones(4), filter=lambda metadata: metadata.clear() or True)
    assert index.get(0).metadata == {"a": [1]}


def nested(depth):
    value = []
    for _ in range(depth - 2):
        value = [value]
    return {"a": value}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ([{}], "there are 1 metadata for 2 items"),
        ({"a": 1}, "there are 1 metadata for 2 items"),
        ([3, {}], r"metadata\[0\] should be a mapping such as a dict, not 3"),
        ([{}, [1]], r"metadata\[1\] should be a mapping such as a dict, not \[1\]"),
        ([{}, {1: 2}], r"the keys of metadata\[1\] should be strings, not 1"),
        ([{}, {"a": {None: 2}}], r"the keys of metadata\[1\]\['a'\] should be strings, not None"),
        ([{}, {"a": [0, math.nan]}], r"metadata\[1\]\['a'\]\[1\] is nan, which JSON does not have: leave it out, or"),
        ([{}, {"a": np.float32("-inf")}], r"metadata\[1\]\['a'\] is -inf, which JSON does not have"),
        ([{}, {"a": {1, 2}}], r"metadata\[1\]\['a'\] should be a value of JSON, not set: \{1, 2\}"),
        ([{}, {"a": b"b"}], r"metadata\[1\]\['a'\] should be a value of JSON, not bytes"),
        ([{}, {"a": np.ones(2)}], r"metadata\[1\]\['a'\] should be a value of JSON, not ndarray"),
        ([{}, {"a": np.datetime64("2026-01-01")}], r"metadata\[1\]\['a'\] should be a value of JSON, not date"),
        ([{}, {"a": HALF}], r"metadata\[1\]\['a'\] is not valid Unicode"),
        ([{}, {HALF: 1}], r"a key of metadata\[1\] is not valid Unicode"),
        ([{}, {"a": 2**1024}], r"metadata\[1\]\['a'\] is a number of more than 1024 bits"),
        ([{}, nested(101)], r"metadata\[1\]\['a'\].* nests more than 100 levels deep"),
        ({"a", "b"}, "metadata should be a list, not a set"),
        (3, "metadata should be a list, not 3"),
    ],
)
def test_metadata_that_are_refused(metadata, message):
    index = VectorIndex(4)
    with pytest.raises(InputError, match=message):
        index.add(np.eye(4)[:2], metadata=metadata)
    assert len(index) == 0


def test_metadata_that_contain_themselves_are_refused():
    circle = {}
    circle["a"] = circle
    with pytest.raises(InputError, match="nests more than 100 levels deep"):
        VectorIndex(4).add(np.ones(4), metadata=circle)


def test_metadata_as_deep_as_possible(tmp_path):
    index = VectorIndex(4)
    index.add(np.ones(4), metadata=nested(100))
    index.save(tmp_path / "index")
    assert VectorIndex.load(tmp_path / "index").get(0).metadata == nested(100)


def test_a_table_of_metadata():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    table = pandas.DataFrame({"page": [1, 2], "score": [0.5, 1.0]})
    index = VectorIndex(4)
    with pytest.raises(InputError, match="metadata should be a list, not a DataFrame: pass one column"):
        index.add(np.eye(4)[:2], metadata=table)
    index.add(np.eye(4)[:2], metadata=table.to_dict("records"))
    assert index.get(1).metadata == {"page": 2, "score": 1.0}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_upsert_replaces_whole_entries_and_adds_others(precision, tmp_path):
    index = VectorIndex(4, precision=precision)
    index.add(np.eye(4)[:3], ["a", "b", "c"], texts=["A", "B", "C"], metadata=[{"n": 1}, {"n": 2}, {"n": 3}])
    index.save(tmp_path / "index")
    for each in (index, VectorIndex.load(tmp_path / "index")):
        assert each.upsert(np.eye(4)[[3, 3]], ["b", "d"], texts=[None, "D"]) is None
        assert each.ids.tolist() == ["a", "c", "b", "d"]
        found = each.get("b")
        assert (found.vector.argmax(), found.text, found.metadata) == (3, None, None)
        assert each.get("d").text == "D"
        assert (each.get("a").text, each.get("a").metadata) == ("A", {"n": 1})
        assert ids_of(each.search(np.eye(4)[3], 2)) == [["b", "d"]]
        assert len(each) == 4


def test_an_upsert_that_fails_changes_nothing():
    index = VectorIndex(4)
    index.add(np.eye(4), texts=["a", "b", "c", "d"])
    before = index.search(np.ones(4))
    for items, ids, message in [
        (np.eye(4)[:2], [1, 1], "id 1 is given twice"),
        (np.eye(4)[:2], [1], "there are 1 ids for 2 vectors"),
        (np.eye(3)[:1], [1], r"vectors should be \(n, 4\), not \(1, 3\)"),
        ([[np.nan] * 4], [1], r"vectors\[0\] contains NaN"),
        (np.eye(4)[:1], ["b"], "the ids of this index are whole numbers, not strings"),
    ]:
        with pytest.raises(InputError, match=message):
            index.upsert(items, ids)
    assert index.search(np.ones(4)) == before


def test_many_upserts_do_not_fill_the_memory():
    index = VectorIndex(4)
    index.add(np.eye(4), ["a", "b", "c", "d"], texts=list("abcd"))
    for repetition in range(5000):
        index.upsert(np.full((1, 4), repetition + 1.0), ["b"], texts=[str(repetition)])
    assert index._storage.snapshot.count < 3000
    assert index.ids.tolist() == ["a", "c", "d", "b"]
    assert [index.get(id_).text for id_ in index.ids] == ["a", "c", "d", "4999"]
    index.delete(["a", "b"])
    assert "b" not in index
    assert ids_of(index.search(np.eye(4)[2], 9)) == [["c", "d"]]


def test_freeing_memory_keeps_the_rows_of_the_file(tmp_path):
    clustered_index(n=300).save(tmp_path / "index")
    index = VectorIndex.load(tmp_path / "index")
    index.delete(index.ids[:10])
    expected = index.ids.tolist()
    for _ in range(3000):
        index.upsert(np.ones((1, 24)), [7000], metadata=[{"a": 1}])
    assert index.ids.tolist() == [*expected, 7000]
    assert index._storage.snapshot.count < 3000
    assert index.get(7000).metadata == {"a": 1}
    with pytest.raises(InputError, match="id 7000 is in the index already"):
        index.add(np.ones(24), 7000)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_truncated_index_is_an_index_of_truncated_vectors(precision, tmp_path):
    vectors, queries = random_vectors(1, 40, 24), random_vectors(2, 3, 24)
    for similarity in ("cosine", "dot"):
        index = VectorIndex(24, precision=precision, similarity=similarity, truncate_dim=10)
        index.add(vectors)
        index.save(tmp_path / "index")
        expected = VectorIndex(10, precision=precision, similarity=similarity)
        expected.add(vectors[:, :10])
        for each in (index, VectorIndex.load(tmp_path / "index")):
            assert each.dimension == 10
            assert each.search(queries, 40) == expected.search(queries[:, :10], 40)
            assert each.search(queries[:, :10], 40) == each.search(queries, 40)
            with pytest.raises(InputError, match=r"vectors should be \(n, 24\) or \(n, 10\), not \(3, 11\)"):
                each.add(random_vectors(1, 3, 11))


def test_the_dimension_to_truncate_to():
    for wrong in (0, 25, 2.0, True):
        with pytest.raises(InputError, match="truncate_dim should be a whole number, at least 1 and at most 24, not"):
            VectorIndex(24, truncate_dim=wrong)
    assert VectorIndex(24, truncate_dim=24).dimension == 24
    with pytest.raises(InputError, match=r"vectors\[0\] contains NaN"):
        VectorIndex(4, truncate_dim=2).add([0.0, 1.0, 2.0, np.nan])


def test_an_index_of_truncated_vectors_takes_whole_and_truncated_models(tiny, make_artifact, tmp_path):
    whole, short = embedder.Embedder(tiny), embedder.Embedder(tiny, truncate_dim=3)
    VectorIndex(model=whole, truncate_dim=3).save(tmp_path / "one")
    VectorIndex(model=short).save(tmp_path / "two")
    found = []
    for name in ("one", "two"):
        for model in (whole, short):
            index = VectorIndex.load(tmp_path / name, model=model)
            index.add(["the cat sat", "a dog"])
            found.append([(hit["corpus_id"], hit["text"], round(hit["score"], 5)) for hit in index.search("a cat")[0]])
            index.save(tmp_path / "again")
            assert VectorIndex.load(tmp_path / "again", model=whole).dimension == 3
    assert found == [found[0]] * 4
    VectorIndex(3).save(tmp_path / "unknown")
    with pytest.raises(InputError, match="the model's vectors have length 8, but those of the index 3"):
        VectorIndex.load(tmp_path / "unknown", model=whole)
    VectorIndex(model=whole).save(tmp_path / "whole")
    with pytest.raises(InputError, match="the model's vectors have length 3, but those of the index 8"):
        VectorIndex.load(tmp_path / "whole", model=short)


def test_entries_are_equal_if_all_of_them_is():
    index = VectorIndex(2, similarity="dot")
    index.add([[1.0, 2.0]], ["a"], texts=["text"], metadata=[{"page": 1}])
    before = index.get("a")
    assert before == index.get("a")
    assert before != "a"
    index.upsert([[1.0, 3.0]], ["a"], texts=["text"], metadata=[{"page": 1}])
    assert before != index.get("a")


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_numbers_that_codes_cannot_have_become_zeros(precision):
    index = VectorIndex(2, precision=precision, similarity="dot")
    index.add([[1.9e-43, 0.0]])
    assert index.get(0).vector.tolist() == [0.0, 0.0]
