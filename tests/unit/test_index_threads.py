"""An index in many threads, after a fork, and while the interpreter shuts down."""

import copy
import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedder import VectorIndex
from embedder.errors import InputError
from tests.processes import run_python
from tests.vectors import ids_of, pairs_of, random_vectors

PRECISIONS = ["float32", "int8", "binary"]


@pytest.fixture(autouse=True)
def _switch_often():
    """Let threads interrupt each other as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def run_together(*functions):
    """Call each function in its own thread. All start at the same time."""
    start = threading.Barrier(len(functions))

    def run(function):
        start.wait()
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(run, functions))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_eight_threads_add_single_vectors(precision):
    vectors = random_vectors(1, 8 * 60, 16)
    index = VectorIndex(16, precision=precision, similarity="dot")

    def add_some(thread):
        return [(row, int(index.add(vectors[row])[0])) for row in range(thread, len(vectors), 8)]

    parts = run_together(*(lambda thread=thread: add_some(thread) for thread in range(8)))
    added = [pair for part in parts for pair in part]
    assert sorted(id_ for _, id_ in added) == list(range(len(vectors)))
    assert sorted(index.ids.tolist()) == list(range(len(vectors)))
    expected = VectorIndex(16, precision=precision, similarity="dot")
    expected.add(vectors, [id_ for _, id_ in sorted(added)])
    queries = random_vectors(2, 3, 16)
    for row, other in zip(index.search(queries, 480, 1), expected.search(queries, 480, 1), strict=True):
        assert {hit["corpus_id"]: hit["score"] for hit in row} == {hit["corpus_id"]: hit["score"] for hit in other}


def test_one_id_from_eight_threads_is_added_once():
    index = VectorIndex(4)

    def add_all():
        refused = 0
        for id_ in range(50):
            try:
                index.add(np.ones(4), id_)
            except InputError as error:
                assert f"id {id_} is in the index already" in str(error)  # noqa: PT017
                refused += 1
        return refused

    assert sum(run_together(*[add_all] * 8)) == 7 * 50
    assert sorted(index.ids.tolist()) == list(range(50))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_search_and_save_while_others_add_and_delete(precision, tmp_path):
    """Vectors that are never deleted are always found. Every vector that is found has its own score."""
    vectors = random_vectors(1, 400, 16)
    query = random_vectors(2, 1, 16)
    reference = VectorIndex(16, precision=precision)
    reference.add(vectors)
    scores = dict(pairs_of(reference.search(query, 400))[0])
    index = VectorIndex(16, precision=precision)
    index.add(vectors[:100])
    index.save(tmp_path / "base")
    index = VectorIndex.load(tmp_path / "base")
    done = threading.Event()

    def change(thread):
        own_ids = np.arange(100 + 100 * thread, 200 + 100 * thread)
        for repetition in range(40):
            ids = own_ids[repetition % 7 :: 3]
            index.add(vectors[ids], ids)
            index.delete(ids[::2])
            index.delete(ids[1::2])

    def change_all():
        try:
            run_together(*(lambda thread=thread: change(thread) for thread in range(3)))
        finally:
            done.set()

    def check(found):
        assert set(range(100)) <= {id_ for id_, _ in found}
        assert len({id_ for id_, _ in found}) == len(found)
        assert all(scores[id_] == score for id_, score in found)

    def search():
        searches = 0
        while not done.is_set() or not searches:
            check(pairs_of(index.search(query, 400))[0])
            assert set(range(100)) <= set(index.ids.tolist())
            assert 100 <= len(index) <= 400
            searches += 1

    def save(name):
        saves = 0
        while not done.is_set() or not saves:
            index.save(tmp_path / name)
            loaded = VectorIndex.load(tmp_path / name)
            check(pairs_of(loaded.search(query, 400))[0])
            saves += 1

    run_together(change_all, search, search, lambda: save("saved"), lambda: save("saved"))
    assert sorted(index.ids.tolist()) == list(range(100))
    assert sorted(os.listdir(tmp_path)) == ["base", "saved"]


def test_an_upsert_is_seen_whole_or_not_at_all(monkeypatch, tmp_path):
    """Both entries always have the same version, in every result, whether or not memory is freed meanwhile."""
    monkeypatch.setattr("embedder.vectors.index.storage._MIN_DELETED_ROWS", 6)
    index = VectorIndex(4)
    index.add(np.eye(4), ["w", "x", "y", "z"], texts=["0"] * 4, metadata=[{"version": 0}] * 4)
    done = threading.Event()

    def change():
        for version in range(1, 400):
            described = {"texts": [str(version)] * 2, "metadata": [{"version": version}] * 2}
            index.upsert(np.full((2, 4), version), ["x", "y"], **described)
        done.set()

    def check(hits):
        found = {hit["corpus_id"]: (hit["text"], hit["metadata"]["version"]) for hit in hits}
        assert found["x"] == found["y"]
        assert found["w"] == found["z"] == ("0", 0)
        assert found["x"][0] == str(found["x"][1])

    def search():
        while not done.is_set():
            (hits,) = index.search(np.ones(4))
            check(hits)
            (hits,) = index.search(np.ones(4), filter=lambda metadata: metadata["version"] >= 0)
            check(hits)
            assert len(index.search(np.ones(4), filter={"version": 0})[0]) in (2, 4)

    def read():
        while not done.is_set():
            entry = index.get("x")
            assert entry.text == str(entry.metadata["version"])
            assert "y" in index
            assert sorted(index.ids) == ["w", "x", "y", "z"]

    def save():
        while not done.is_set():
            index.save(tmp_path / "index")
            check(VectorIndex.load(tmp_path / "index").search(np.ones(4))[0])

    run_together(change, search, read, save)
    assert index.get("y").text == "399"


def test_add_that_fails_in_the_middle_changes_nothing(monkeypatch):
    index = VectorIndex(4)
    index.add(np.eye(4))
    before = index.search(np.ones(4), 9)

    def fail(buffer, used, rows):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("embedder.vectors.index.columns.append_rows", fail)
        with pytest.raises(MemoryError):
            index.add(np.eye(4), [4, 5, 6, 7])
    assert index.search(np.ones(4), 9) == before
    assert index.add(np.eye(4), [4, 5, 6, 7]).tolist() == [4, 5, 6, 7]


def test_copies_and_pickles_are_independent():
    index = VectorIndex(4)
    index.add(np.eye(4))
    for copied in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        copied.add(np.ones((1, 4)))
        copied.delete(0)
        assert copied.ids.tolist() == [1, 2, 3, 4]
    assert index.ids.tolist() == [0, 1, 2, 3]
    assert ids_of(index.search(np.eye(4)[2], 1)) == [[2]]


FORKED = """
import os, threading
import numpy as np
import embedder
index = embedder.VectorIndex(4)
index.add(np.eye(4))
index.search(np.ones(4))
with index._storage._lock:  # as if another thread were in the middle of an `add`
    index._storage._row_of_id = None
    child = os.fork()
    if child == 0:
        assert index.add(np.ones(4)).tolist() == [4]
        index.delete(0)
        assert [hit["corpus_id"] for hit in index.search(np.ones(4), 1)[0]] == [4]
        assert 1 in index and index.get(4).vector[0] == 0.5
        os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert index.ids.tolist() == [0, 1, 2, 3]
"""

SHUTDOWN = """
import atexit, sys, threading
import numpy as np
import embedder
from embedder.vectors import search
search._NUMBERS_PER_BLOCK = 1000  # several blocks, which threads score side by side

vectors = np.random.default_rng(1).normal(size=(3000, 16)).astype(np.float32)
indexes = [embedder.VectorIndex(16, precision=precision) for precision in ("float32", "int8", "binary")]
for index in indexes:
    index.add(vectors)
expected = [index.search(vectors[7], 3) for index in indexes] if "warm" in sys.argv else None

def search_all():
    found = [index.search(vectors[7], 3) for index in indexes]
    assert expected in (None, found)
    assert all(row[0][0]["corpus_id"] == 7 for row in found)
    hits = embedder.semantic_search(vectors[7], vectors, top_k=1)
    assert hits[0][0]["corpus_id"] == 7
    print("done", flush=True)

def search_after_the_main_thread():
    threading.main_thread().join()
    search_all()

if "atexit" in sys.argv:
    atexit.register(search_all)
else:
    threading.Thread(target=search_after_the_main_thread).start()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_after_a_fork():
    finished = run_python("-c", FORKED)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("first", ["warm", "cold"])
@pytest.mark.parametrize("when", ["atexit", "after the main thread"])
def test_search_while_the_interpreter_shuts_down(when, first):
    finished = run_python("-c", SHUTDOWN, when, first)
    assert (finished.returncode, finished.stdout) == (0, "done\n"), finished.stderr


def test_a_shallow_copy_is_an_index_of_its_own(tmp_path):
    index = VectorIndex(4)
    index.add(random_vectors(1, 3, 4))
    index.save(tmp_path / "index")
    for original in (index, VectorIndex.load(tmp_path / "index")):
        original.add(random_vectors(2, 2, 4))
        copied = copy.copy(original)
        copied.add(random_vectors(3, 1, 4), [50])
        original.add(random_vectors(4, 1, 4), [60])
        copied.delete(0)
        assert original.ids.tolist() == [0, 1, 2, 3, 4, 60]
        assert copied.ids.tolist() == [1, 2, 3, 4, 50]
        assert original.search(random_vectors(4, 1, 4), 1)[0][0]["corpus_id"] == 60
        assert copied.search(random_vectors(3, 1, 4), 1)[0][0]["corpus_id"] == 50
