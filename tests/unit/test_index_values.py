"""An index whose digest is right and whose values are not: a clear error at load, never a wrong result."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from embedder import VectorIndex
from embedder.errors import ArtifactError, InputError
from embedder.vectors.index.file_format import read_index, write_index
from embedder.vectors.index.header import MAX_DIMENSION, Header, sections_of
from tests.vectors import described_index, random_vectors

PRECISIONS = ["float32", "int8", "binary"]


def write(path, precision="float32", similarity="cosine", **changes):
    """Write an index of four vectors. `changes` are functions that change a section."""
    index = VectorIndex(8, precision=precision, similarity=similarity)
    index.add(random_vectors(1, 4, 8))
    index.save(path)
    return rewrite(path, changes)


def rewrite(path, changes):
    """Change the sections of an index by functions."""
    header, sections, _ = read_index(path)
    for name, change in changes.items():
        sections[name] = np.array(sections[name])
        change(sections[name])
    write_index(path, header, {name: [rows] for name, rows in sections.items()})
    return path


def put(value, *place):
    return lambda section: section.__setitem__(place, value)


DAMAGE = {
    "NaN": ({"vectors": put(np.nan, 2, 3)}, "the vector in row 2 contains NaN or an infinity"),
    "infinity": ({"vectors": put(np.inf, 2, 3)}, "the vector in row 2 contains NaN or an infinity"),
    "long": ({"vectors": put(1.1, 1, 0)}, "the vector in row 1 is longer than 1"),
    "NaN, dot": ({"similarity": "dot", "vectors": put(np.nan, 2, 3)}, "the vector in row 2 contains NaN or an inf"),
    "infinity, dot": ({"similarity": "dot", "vectors": put(-np.inf, 0, 0)}, "the vector in row 0 contains NaN or an"),
    "NaN scale": ({"precision": "int8", "scales": put(np.nan, 1)}, "the scale in row 1 is nan"),
    "negative scale": ({"precision": "binary", "scales": put(-0.5, 1)}, r"the scale in row 1 is -0\.5"),
    "infinite scale": (
        {"precision": "int8", "similarity": "dot", "scales": put(np.inf, 3)},
        "the scale in row 3 is inf",
    ),
    "large scale": ({"precision": "int8", "scales": put(0.5, 3)}, r"the scale in row 3 is 0\.5"),
    "code": ({"precision": "int8", "codes": put(-128, 3, 3)}, "a code is below -127"),
    "ids": ({"ids": put(0, 3)}, "it has the id 0 twice"),
}


def put_bytes(content, at):
    return lambda section: section.__setitem__(slice(at, at + len(content)), list(content))


# The ids are "b", "a", "" and "é\0". The second text is empty, and the third entry has no text and no metadata.
DAMAGED_STRINGS = {
    "negative end": ({"ids_ends": put(-1, 0)}, "the end of row 0 of ids is wrong"),
    "smallest end": ({"ids_ends": put(-(2**63), 0)}, "the end of row 0 of ids is wrong"),
    "large end": ({"texts_ends": put(2**62, 3)}, "the end of row 3 of texts is wrong"),
    "falling end": ({"texts_ends": put(6, 1)}, "the end of row 1 of texts is wrong"),
    "last end": ({"texts_ends": put(16, 3)}, "texts has bytes that belong to no row"),
    "no zero byte": ({"texts_bytes": put(1, 6)}, "row 0 of texts does not end in a zero byte"),
    "end in a string": ({"texts_ends": put(3, 0)}, "row 0 of texts does not end in a zero byte"),
    "not UTF-8": ({"texts_bytes": put(0xFF, 2)}, "texts is not UTF-8"),
    "cut character": ({"texts_bytes": put(0, 10)}, "texts is not UTF-8"),
    "surrogate": ({"texts_bytes": put_bytes(b"\xed\xa0\x80", 0)}, "texts is not UTF-8"),
    "no id": ({"ids_ends": put(2, 1)}, "row 1 has no id"),
    "repeated id": ({"ids_bytes": put(ord("b"), 2)}, "it has the id 'b' twice"),
    "no object": (
        {"metadata_bytes": put_bytes(b"[]", 45)},
        r"the metadata in row 1 are not as embedder writes them: '\[",
    ),
    "no JSON": ({"metadata_bytes": put(ord("x"), 0)}, "the metadata in row 0 are not as embedder writes them: 'x"),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("damage", DAMAGED_STRINGS)
def test_strings_that_add_would_not_store(damage, precision, tmp_path):
    changes, message = DAMAGED_STRINGS[damage]
    path = tmp_path / "index"
    described_index(precision).save(path)
    with pytest.raises(ArtifactError, match=f"index is damaged: {message}"):
        VectorIndex.load(rewrite(path, changes))


FOREIGN_METADATA = [
    "1",
    "{}{}",
    '{"a": 1}',
    '{"a":1,"a":1}',
    '{"a":1.50}',
    '{"a":NaN}',
    '{"a":1e999}',
    '{"a":"\\u0061"}',
    '{"a":"\\ud800"}',
    '{"a":' * 101 + "1" + "}" * 101,
    '{"a":' * 9999 + "1" + "}" * 9999,
    "[" * 9999 + "]" * 9999,
]


@pytest.mark.parametrize("text", FOREIGN_METADATA, ids=lambda text: text[:16])
def test_metadata_in_another_form(text, tmp_path):
    path = tmp_path / "index"
    VectorIndex(1).save(path)
    header, sections, _ = read_index(path)
    content = np.frombuffer(text.encode() + b"\0", np.uint8)
    sections = {
        "ids": [np.zeros(1)],
        "vectors": [np.ones((1, 1))],
        "metadata_ends": [len(content)],
        "metadata_bytes": [content],
    }
    write_index(path, replace(header, count=1, strings={"metadata": len(content)}), sections)
    with pytest.raises(ArtifactError, match="index is damaged: the metadata in row 0 are not as embedder writes them"):
        VectorIndex.load(path)


@pytest.mark.parametrize("damage", DAMAGE)
def test_values_that_add_would_not_store(damage, tmp_path):
    options, message = DAMAGE[damage]
    with pytest.raises(ArtifactError, match=f"index is damaged: {message}"):
        VectorIndex.load(write(tmp_path / "index", **options))


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [[[0] * 8], [[1e-20] + [0] * 7], [[3e38] * 8, [-3e38] * 8], np.eye(8)], ids=str)
def test_whatever_add_stores_is_loaded(rows, precision, similarity, tmp_path):
    index = VectorIndex(8, precision=precision, similarity=similarity)
    index.add(rows)
    index.save(tmp_path / "index")
    assert VectorIndex.load(tmp_path / "index").ids.tolist() == index.ids.tolist()


def test_values_are_checked_only_once(tmp_path, monkeypatch):
    path = write(tmp_path / "index")
    monkeypatch.setattr("embedder.common.digests._MIN_AGE_NS", -(10**18))
    VectorIndex.load(path)
    monkeypatch.setattr("embedder.vectors.index.file_format.find_bad_values", None)
    assert len(VectorIndex.load(path)) == 4


def seal(path, header, body=b""):
    """Write a file with this header and the right digest."""
    text = json.dumps(header).encode()
    text += b" " * (-(16 + len(text)) % 64)
    content = b"\x89EMBIDX\n" + len(text).to_bytes(8, "little") + text + body
    path.write_bytes(content + hashlib.sha256(content).digest())
    return path


HEADER = {
    "format_version": 3,
    "dimension": 8,
    "full_dimension": 8,
    "precision": "float32",
    "similarity": "cosine",
    "count": 0,
    "strings": {},
    "model": None,
    "extra": {},
}
ODD = [None, True, -1, 2**31, 2**62, 2**63, 2**64, 10**400, 0.5, "", "x", [], {}, [[]], ["a"], {"a": 1}]


@pytest.mark.parametrize("value", [2**62, 2**63, MAX_DIMENSION + 1, 0, -1])
def test_dimension_that_no_vector_has(value, tmp_path):
    with pytest.raises(ArtifactError, match=r"dimension should be from 1 to 16,777,216, not "):
        VectorIndex.load(seal(tmp_path / "index", HEADER | {"dimension": value}))
    with pytest.raises(InputError, match="dimension should be a whole number, at least 1 and at most 16777216, not"):
        VectorIndex(value)


@pytest.mark.parametrize("name", HEADER)
def test_no_value_of_the_header_raises_another_error(name, tmp_path):
    for value in ODD:
        path = seal(tmp_path / "index", HEADER | {name: value})
        try:
            VectorIndex.load(path)
        except ArtifactError:
            continue


def test_largest_dimension(tmp_path):
    header = HEADER | {"dimension": MAX_DIMENSION, "full_dimension": MAX_DIMENSION}
    assert VectorIndex.load(seal(tmp_path / "index", header)).dimension == MAX_DIMENSION
    assert list(sections_of(Header(3, 1, 1, "binary", "dot", 0, {}, None))) == ["ids", "bits", "codes", "scales"]
