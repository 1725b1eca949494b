"""A filter of `VectorIndex.search`: which entries pass, and that the best of them are found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder import VectorIndex
from embedder.errors import InputError
from tests.vectors import clustered, ids_of, random_vectors

PRECISIONS = ["float32", "int8", "binary"]


def metadata_of(row):
    return {"row": row, "group": "even" if row % 2 == 0 else "odd", "tags": [row % 3], "half": row / 2}


@pytest.mark.parametrize("loaded", [0, 150, 300])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_search_finds_the_best_of_those_that_pass(precision, loaded, tmp_path):
    """The result is that of an index which has only the entries that pass."""
    vectors, queries = clustered(1, 300, 24, 30), random_vectors(2, 5, 24)
    metadata = [metadata_of(row) for row in range(300)]
    index = VectorIndex(24, precision=precision)
    index.add(vectors[:loaded], metadata=metadata[:loaded])
    index.save(tmp_path / "index")
    index = VectorIndex.load(tmp_path / "index")
    index.add(vectors[loaded:], metadata=metadata[loaded:])
    deleted = np.arange(0, 300, 7)
    index.delete(deleted)
    for filter_, passes in [
        ({"group": "odd"}, lambda row: row % 2),
        ({"group": "odd", "tags": [1]}, lambda row: row % 2 and row % 3 == 1),
        ({"half": 20}, lambda row: row == 40),
        ({"group": "none"}, lambda row: False),
        ({}, lambda row: True),
        (lambda metadata: metadata["row"] > 100, lambda row: row > 100),
    ]:
        kept = [row for row in range(300) if passes(row) and row not in deleted]
        expected = VectorIndex(24, precision=precision)
        expected.add(vectors[kept], kept, metadata=[metadata[row] for row in kept])
        for top_k in (1, 10, 400):
            assert index.search(queries, top_k, filter=filter_) == expected.search(queries, top_k)


def found(index, filter_):
    return sorted(ids_of(index.search(np.ones(2), 99, filter=filter_))[0])


# Metadata that contain the keys and values of others in places where they do not count.
TRICKY = [
    {"a": 1},
    {"a": 12},
    {"a": 1.0},
    {"a": True},
    {"a": "1"},
    {"a": None},
    {"b": {"a": 1}},
    {"b": '"a":1'},
    {'"a': 1},
    {"a": [1]},
    {"a": {"x": 1, "y": 2}},
    {"a": {"y": 2.0, "x": 1}},
    {"a": "é\n"},
    {"a": -0.0},
    {"a": False},
    {"a": 2**70},
    {"a": 2.0**70},
    {"a": 1e300},
    {"a": ""},
    {"b,": 1, "a": "}"},
    {},
    None,
]


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"a": 1}, [0, 2]),
        ({"a": np.float32(1)}, [0, 2]),
        ({"a": True}, [3]),
        ({"a": "1"}, [4]),
        ({"a": None}, [5]),
        ({"b": {"a": 1.0}}, [6]),
        ({"b": '"a":1'}, [7]),
        ({'"a': 1}, [8]),
        ({"a": [1]}, [9]),
        ({"a": (1.0,)}, [9]),
        ({"a": [True]}, []),
        ({"a": [1, 1]}, []),
        ({"a": {"x": 1, "y": 2}}, [10, 11]),
        ({"a": {"x": 1}}, []),
        ({"a": "é\n"}, [12]),
        ({"a": 0}, [13]),
        ({"a": 0.0}, [13]),
        ({"a": False}, [14]),
        ({"a": 2**70}, [15, 16]),
        ({"a": 2.0**70}, [15, 16]),
        ({"a": 2**70 + 1}, []),
        ({"a": 10**300}, []),
        ({"a": 1e300}, [17]),
        ({"a": 2**1023}, []),
        ({"a": ""}, [18]),
        ({"b,": 1, "a": "}"}, [19]),
        ({"b,": 1, "a": "{"}, []),
        ({"c": None}, []),
        ({}, list(range(len(TRICKY)))),
    ],
)
def test_equal_values_pass(wanted, expected, in_file, tmp_path):
    index = VectorIndex(2)
    index.add(random_vectors(1, len(TRICKY), 2), metadata=TRICKY)
    if in_file:
        index.save(tmp_path / "index")
        index = VectorIndex.load(tmp_path / "index")
    assert found(index, wanted) == expected


scalars = st.sampled_from([0, 1, -1, 1.0, 0.5, True, False, None, "", "a", '"', "a\\", ":", ",", "}", "1", "é", "\0"])
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.sampled_from(["a", "b"]), scalars, max_size=2)
keys = st.sampled_from(["a", "b", 'a"', "a\\", ":", ""])
objects = st.dictionaries(keys, values, max_size=3)


def equals(one, other):
    """Return whether two values of JSON are equal, in the simplest way."""
    if isinstance(one, dict) and isinstance(other, dict):
        return set(one) == set(other) and all(equals(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(equals(*pair) for pair in zip(one, other, strict=True))
    return one == other and isinstance(one, bool) == isinstance(other, bool)


@given(metadata=st.lists(st.none() | objects, min_size=1, max_size=8), wanted=objects)
def test_a_mapping_is_passed_by_equal_values_alone(metadata, wanted):
    index = VectorIndex(2)
    index.add(np.ones((len(metadata), 2)), metadata=metadata)
    expected = [
        row
        for row, each in enumerate(metadata)
        if all(key in (each or {}) and equals(each[key], value) for key, value in wanted.items())
    ]
    assert found(index, wanted) == expected


def test_a_function_sees_each_entry_once_and_an_empty_dict_if_there_is_nothing():
    seen = []
    index = VectorIndex(2)
    index.add(np.ones((2, 2)))
    index.add(np.ones((3, 2)), metadata=[{"a": 1}, None, {"a": 2}])
    index.delete(0)
    hits = index.search(np.ones((4, 2)), filter=lambda metadata: seen.append(metadata) or "a" not in metadata)
    assert seen == [{}, {"a": 1}, {}, {"a": 2}]
    assert ids_of(hits) == [[1, 3]] * 4


def test_an_index_without_metadata():
    index = VectorIndex(2)
    index.add(np.ones((3, 2)))
    assert found(index, {"a": 1}) == []
    assert found(index, {}) == [0, 1, 2]
    assert found(index, lambda metadata: metadata == {}) == [0, 1, 2]
    assert VectorIndex(2).search(np.ones(2), filter={"a": 1}) == [[]]
    assert VectorIndex(2).search(np.ones(2), filter=lambda metadata: True) == [[]]


def test_a_filter_that_raises_an_error():
    index = VectorIndex(2)
    index.add(np.ones((3, 2)), metadata=[{"a": 1}, {}, {"a": 3}])
    with pytest.raises(KeyError, match="a"):
        index.search(np.ones(2), filter=lambda metadata: metadata["a"] == 1)
    assert found(index, {"a": 1}) == [0]
    index.add(np.ones(2))
    assert len(index) == 4


def test_a_filter_may_use_the_index():
    index = VectorIndex(2)
    index.add(np.ones((3, 2)), metadata=[{"a": 1}, {}, {"a": 3}])

    def passes(metadata):
        index.upsert(np.ones((1, 2)), [0])
        return "a" in metadata and 2 in index

    assert found(index, passes) == [0, 2]
    assert found(index, passes) == [2]


@pytest.mark.parametrize(
    ("filter_", "message"),
    [
        ("a", "filter should be a mapping or a function, not 'a'"),
        ([("a", 1)], "filter should be a mapping or a function"),
        ({1: 2}, "the keys of filter should be strings, not 1"),
        ({"a": {1, 2}}, r"filter\['a'\] should be a value of JSON, not set"),
        ({"a": float("nan")}, r"filter\['a'\] is nan, which JSON does not have"),
    ],
)
def test_filters_that_are_refused(filter_, message):
    with pytest.raises(InputError, match=message):
        VectorIndex(2).search(np.ones(2), filter=filter_)


@pytest.mark.slow
def test_many_rows_are_filtered_in_chunks(tmp_path):
    n = 40_000
    index = VectorIndex(2)
    index.add(random_vectors(1, n, 2), metadata=[{"row": row, "group": row // 7} for row in range(n)])
    index.save(tmp_path / "index")
    for each in (index, VectorIndex.load(tmp_path / "index")):
        each.delete([7 * 3000, 5])
        for group in (0, 3000, n // 7):
            expected = [row for row in range(7 * group, min(n, 7 * group + 7)) if row not in (5, 21_000)]
            assert found(each, {"group": group}) == expected
            assert found(each, lambda metadata, group=group: metadata["group"] == group) == expected
