"""The file of an index: its format, its versions, damage, and saves that fail."""

import hashlib
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from embedder import VectorIndex
from embedder.errors import ArtifactError, FormatError
from embedder.vectors.index import file_format
from embedder.vectors.index.header import INDEX_FORMAT_VERSION, upgrade
from tests.processes import run_python
from tests.tiny import flip_a_bit
from tests.vectors import clustered_index, described_index, ids_of, pairs_of, random_vectors

PRECISIONS = ["float32", "int8", "binary"]
ROOT = Path(__file__).parents[2]
DAMAGED = "is damaged: |is not an index of embedder: |has format version "
GOLDEN = ROOT / "tests/golden"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_loaded_index_is_mapped_and_can_be_saved_over_itself(precision, tmp_path):
    index, queries = clustered_index(precision), random_vectors(5, 3, 24)
    path = tmp_path / "index"
    index.save(path)
    loaded = VectorIndex.load(path)
    sections = loaded._storage.snapshot.loaded.columns
    assert all(isinstance(base(section), np.memmap) for section in sections.values())
    assert not any(section.flags.writeable for section in sections.values())
    assert loaded.search(queries, 99) == index.search(queries, 99)
    loaded.delete(loaded.ids[::3])
    loaded.add(random_vectors(6, 10, 24))
    loaded.save(path)
    again = VectorIndex.load(path)
    assert again.search(queries, 99) == loaded.search(queries, 99)
    assert os.listdir(tmp_path) == ["index"]


def base(array):
    """Return the memory-mapped array that `array` is a view of, or its last base."""
    while array.base is not None and not isinstance(array, np.memmap):
        array = array.base
    return array


def test_an_empty_index_is_saved(tmp_path):
    VectorIndex(5, precision="binary", similarity="dot").save(tmp_path / "index")
    loaded = VectorIndex.load(tmp_path / "index")
    assert (len(loaded), loaded.dimension, loaded.precision, loaded.similarity) == (0, 5, "binary", "dot")
    loaded.add(random_vectors(1, 2, 5))
    assert len(loaded.search(random_vectors(1, 2, 5))[0]) == 2


def test_the_file_has_the_documented_format(tmp_path):
    """Another program can read the file with the documentation of `file_format`."""
    path = tmp_path / "index"
    index = VectorIndex(3)
    vectors = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]], np.float32)
    index.add(vectors, [7, -1])
    index.save(path)
    content = path.read_bytes()
    assert content[:8] == b"\x89EMBIDX\n"
    length = int.from_bytes(content[8:16], "little")
    assert json.loads(content[16 : 16 + length]) == {
        "format_version": 3,
        "dimension": 3,
        "full_dimension": 3,
        "precision": "float32",
        "similarity": "cosine",
        "count": 2,
        "strings": {},
        "model": None,
        "extra": {},
    }
    start = 16 + length
    assert start % 64 == 0
    assert np.frombuffer(content, "<i8", 2, start).tolist() == [7, -1]
    np.testing.assert_allclose(np.frombuffer(content, "<f4", 6, start + 64), [0.6, 0.8, 0.0, 0.0, 0.0, 1.0], rtol=1e-6)
    assert len(content) == start + 128 + 32
    assert content[-32:] == hashlib.sha256(content[:-32]).digest()


def test_the_strings_in_the_file_have_the_documented_format(tmp_path):
    path = tmp_path / "index"
    described_index().save(path)
    content = path.read_bytes()
    length = int.from_bytes(content[8:16], "little")
    header = json.loads(content[16 : 16 + length])
    metadata = (
        '{"page":1,"tags":["a",null],"é":{"x":-0.5}}\0{}\0{"page":2,"done":false}\0'.encode()  # the third has none
    )
    assert header == {
        "format_version": 3,
        "dimension": 3,
        "full_dimension": 4,
        "precision": "float32",
        "similarity": "dot",
        "count": 4,
        "strings": {"ids": 9, "texts": 17, "metadata": len(metadata)},
        "model": None,
        "extra": {},
    }
    sections = []
    at = 16 + length
    for size in (48, 32, 9, 32, 17, 32, len(metadata)):
        sections.append(content[at : at + size])
        at += size + -size % 64
    assert at + 32 == len(content)
    assert np.frombuffer(sections[0], "<f4").tolist() == [1, 2, 3, -4, 5, 0, 0, 0, 0, 2, -1, 3]
    assert [np.frombuffer(section, "<i8").tolist() for section in sections[1::2]] == [
        [2, 4, 5, 9],
        [7, 8, 8, 17],
        [45, 48, 48, len(metadata)],
    ]
    assert sections[2::2] == ["b\0a\0\0é\0\0".encode(), "a text\0\0Füße\n\0\0".encode(), metadata]


@pytest.mark.slow
@pytest.mark.parametrize("make", [clustered_index, described_index])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_flipped_bit_is_detected(precision, make, tmp_path):
    path, damaged = tmp_path / "index", tmp_path / "altered"
    (make(precision, 3) if make is clustered_index else make(precision)).save(path)
    content = path.read_bytes()
    for at in range(len(content)):
        damaged.write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :])
        with pytest.raises(ArtifactError, match=DAMAGED):
            VectorIndex.load(damaged)


def test_every_truncation_is_detected(tmp_path):
    path, damaged = tmp_path / "index", tmp_path / "altered"
    described_index("int8").save(path)
    content = path.read_bytes()
    for size in range(len(content)):
        damaged.write_bytes(content[:size])
        with pytest.raises(ArtifactError, match=DAMAGED):
            VectorIndex.load(damaged)
    damaged.write_bytes(content + b"\0")
    with pytest.raises(ArtifactError, match=r"is damaged: it has \d+ bytes, but by its header it should have \d+"):
        VectorIndex.load(damaged)


def test_an_intact_file_is_read_again_only_after_a_change(tmp_path, monkeypatch):
    path = tmp_path / "index"
    clustered_index().save(path)
    os.utime(path, (1, 1))
    monkeypatch.setattr("embedder.common.digests._MIN_AGE_NS", -(10**18))
    VectorIndex.load(path)
    with monkeypatch.context() as patch:
        patch.setattr(file_format, "_check_digest", None)
        VectorIndex.load(path)
    flip_a_bit(path)
    with pytest.raises(ArtifactError, match="is damaged: its sha256 is"):
        VectorIndex.load(path)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"format_version": 4}, FormatError, "has format version 4, and this embedder reads versions up to 3: upgrade"),
        ({"format_version": 0}, ArtifactError, "format_version should be a whole number, at least 1, not 0"),
        ({"format_version": "1"}, ArtifactError, "format_version should be a whole number, at least 1, not '1'"),
        ({"format_version": True}, ArtifactError, "format_version should be a whole number, at least 1, not True"),
        ({"count": -1}, ArtifactError, r"its header cannot be read \(count should be at least 0, not -1\)"),
        ({"count": 2.0}, ArtifactError, "count should be an int, not 2.0"),
        ({"count": 10**30}, ArtifactError, "bytes, but by its header it should have"),
        ({"dimension": 0}, ArtifactError, "dimension should be from 1 to 16,777,216, not 0"),
        ({"dimension": True}, ArtifactError, "dimension should be an int, not True"),
        ({"precision": "int4"}, ArtifactError, "precision should be one of float32, int8, binary, not 'int4'"),
        ({"similarity": []}, ArtifactError, r"similarity should be a str, not \[\]"),
        ({"similarity": "far"}, ArtifactError, "similarity should be one of cosine, dot, not 'far'"),
        ({"model": 3}, ArtifactError, "model should be a dict, not 3"),
        ({"model": {"name": "a", "weights": "b"}}, ArtifactError, r"model\.dtype is missing"),
        ({"full_dimension": 23}, ArtifactError, "full_dimension should be from 24 to 16,777,216, not 23"),
        (
            {"full_dimension": 2**24 + 1},
            ArtifactError,
            "full_dimension should be from 24 to 16,777,216, not 16,777,217",
        ),
        ({"strings": []}, ArtifactError, r"strings should be a dict, not \[\]"),
        ({"strings": {"texts": "x"}}, ArtifactError, r"strings\['texts'\] should be an int, not 'x'"),
        ({"strings": {"texts": -1}}, ArtifactError, r"strings\['texts'\] should be at least 0, not -1"),
        (
            {"strings": {"titles": 1}},
            ArtifactError,
            "strings should have names among ids, texts, metadata, not 'titles'",
        ),
        ({"strings": {"texts": 10**30}}, ArtifactError, "bytes, but by its header it should have"),
        ({"extra": 3}, ArtifactError, "extra should be a dict, not 3"),
        ({"more": 3}, ArtifactError, "more is unknown"),
        ({"format_version": 1, "model": 3}, ArtifactError, "its header cannot be read"),
    ],
)
def test_wrong_headers(changes, error, message, tmp_path):
    path = tmp_path / "index"
    clustered_index(n=3).save(path)
    change_header(path, changes)
    with pytest.raises(error, match=message):
        VectorIndex.load(path)


def change_header(path, changes):
    """Change the JSON of the header, and write the digest that belongs to the changed file."""
    content = path.read_bytes()
    length = int.from_bytes(content[8:16], "little")
    text = json.dumps(json.loads(content[16 : 16 + length]) | changes).encode()
    text += b" " * (-(16 + len(text)) % 64)
    changed = content[:8] + len(text).to_bytes(8, "little") + text + content[16 + length : -32]
    path.write_bytes(changed + hashlib.sha256(changed).digest())


def test_unknown_keys_under_extra_are_ignored(tmp_path):
    path = tmp_path / "index"
    index = clustered_index(n=3)
    index.save(path)
    change_header(path, {"extra": {"from the future": [1, 2]}})
    queries = random_vectors(5, 3, 24)
    assert VectorIndex.load(path).search(queries) == index.search(queries)


def test_a_header_that_is_cut_off(tmp_path):
    (tmp_path / "index").write_bytes(b"\x89EMBIDX\n" + (1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(ArtifactError, match=f"is damaged: its header should have {1 << 40} bytes, but 2 can be read"):
        VectorIndex.load(tmp_path / "index")


# The ids and scores of the three nearest vectors of each query, from the program that wrote the first golden files.
GOLDEN_IDS = [[15, 1, 4], [15, 1, 4]]
GOLDEN_SCORES = {
    "float32": [
        [0.4045793414115906, 0.13942179083824158, -0.19196674227714539],
        [0.39965638518333435, 0.22531990706920624, -0.041050951927900314],
    ],
    "int8": [[0.40563520789146423, 0.1396353393793106, -0.19116465032100677]],
    "binary": [[0.40563520789146423, 0.1396353393793106, -0.19116465032100677]],
}


@pytest.mark.parametrize("version", range(1, INDEX_FORMAT_VERSION + 1))
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_version_is_read(version, precision, tmp_path):
    index = VectorIndex.load(GOLDEN / f"index-v{version}-{precision}.index")
    assert index.ids.tolist() == [3, 1, 4, 15, 9]
    assert (index.dimension, index.precision, index.similarity) == (8, precision, "cosine")
    queries = np.random.default_rng(6).normal(size=(2, 8))
    found = index.search(queries, 3)
    assert ids_of(found) == GOLDEN_IDS
    for row, scores in zip(pairs_of(found), GOLDEN_SCORES[precision], strict=False):
        np.testing.assert_allclose([score for _, score in row], scores, atol=1e-6)
    index.save(tmp_path / "index")
    current = GOLDEN / f"index-v{INDEX_FORMAT_VERSION}-{precision}.index"
    assert (tmp_path / "index").read_bytes() == current.read_bytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_strings_are_read(precision, tmp_path):
    """Version 3 adds ids that are strings, texts, metadata and vectors that are truncated."""
    path = GOLDEN / f"index-v3-described-{precision}.index"
    index = VectorIndex.load(path)
    assert index.ids.tolist() == ["b", "a", "", "é\0"]
    assert [index.get(id_).text for id_ in index.ids] == ["a text", "", None, "Füße\n\0"]
    assert index.get("b").metadata == {"page": 1, "tags": ["a", None], "é": {"x": -0.5}}
    assert [index.get(id_).metadata for id_ in index.ids[1:]] == [{}, None, {"page": 2, "done": False}]
    (hits,) = index.search([1, 0, 0, 7], 4)
    assert [hit["corpus_id"] for hit in hits] == ["é\0", "b", "", "a"]
    np.testing.assert_allclose([hit["score"] for hit in hits], [2, 1, 0, -4], atol=0.02)
    assert {"text": "a text", "metadata": {"page": 1, "tags": ["a", None], "é": {"x": -0.5}}}.items() <= hits[1].items()
    for same in (index, described_index(precision)):
        same.save(tmp_path / "index")
        assert (tmp_path / "index").read_bytes() == path.read_bytes()


def test_upgrades_of_the_header():
    old = {"format_version": 1, "dimension": 3, "precision": "int8", "similarity": "dot", "count": 0}
    for model, expected in [
        (None, None),
        ("org/name, weights 0123", {"name": "org/name", "weights": "0123", "dtype": None}),
        ("a, weights b, weights 0123", {"name": "a, weights b", "weights": "0123", "dtype": None}),
        ("a name", {"name": "a name", "weights": "", "dtype": None}),
    ]:
        upgraded = upgrade(old | {"model": model})
        added = {"full_dimension": 3, "strings": {}, "extra": {}}
        assert upgraded == old | {"format_version": 3, "model": expected} | added


def test_files_that_are_not_an_index(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be read: No such file or directory"):
        VectorIndex.load(tmp_path / "none")
    with pytest.raises(ArtifactError, match="cannot be read: it is a directory"):
        VectorIndex.load(tmp_path)
    (tmp_path / "text").write_text("a text, and no index at all")
    with pytest.raises(ArtifactError, match="is not an index of embedder: it begins with b'a text, '"):
        VectorIndex.load(tmp_path / "text")
    nested = b"\x89EMBIDX\n" + (99_999).to_bytes(8, "little") + b"[" * 99_999
    (tmp_path / "nested").write_bytes(nested)
    with pytest.raises(ArtifactError, match="its header cannot be read"):
        VectorIndex.load(tmp_path / "nested")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "index"
    clustered_index(n=3).save(path)
    content = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        clustered_index(n=9).save(path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["index"]


KILLED = """
import os, signal, sys
import numpy as np
import embedder
from embedder.vectors.index import file_format
path, point = sys.argv[1:]
index = embedder.VectorIndex.load(path)
ids = [str(number) for number in range(1000)]
index.upsert(np.ones((1000, 4)), ids, texts=ids, metadata=[{"id": id_} for id_ in ids])
def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
if point == "writing":
    file_format._write = lambda stream, header, sections: (stream.write(bytes(5000)), stream.flush(), die())
elif point == "written":
    os.fsync = die
else:
    file_format.Path.replace = die
index.save(path)
"""


@pytest.mark.parametrize("point", ["writing", "written", "moving"])
def test_a_killed_save_leaves_the_old_file(point, tmp_path):
    path = tmp_path / "index"
    described_index().save(path)
    expected = VectorIndex.load(path).search(random_vectors(5, 3, 4))
    killed = run_python("-c", KILLED, path, point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(os.listdir(tmp_path)) == 2
    index = VectorIndex.load(path)
    assert index.search(random_vectors(5, 3, 4)) == expected
    index.save(path)
    assert os.listdir(tmp_path) == ["index"]
    assert VectorIndex.load(path).search(random_vectors(5, 3, 4)) == expected
