"""`FaissIndex` and `UsearchIndex`, and the order in which their libraries are imported."""

import copy
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest

from embedder import FaissIndex, UsearchIndex, VectorIndex
from embedder.common import cpp_runtime
from embedder.errors import ArtifactError, DependencyError, InputError, SettingError
from tests.processes import run_python
from tests.vectors import clustered, ids_of, pairs_of, random_vectors

VECTORS, IDS = clustered(1, 500, 16, 50), np.arange(500) * 3
QUERIES = 3 * random_vectors(2, 20, 16)
ADAPTERS = [FaissIndex, UsearchIndex]

pytestmark = pytest.mark.skipif(
    find_spec("faiss") is None or find_spec("usearch") is None, reason="faiss and usearch are not installed"
)


def recall(found, expected):
    """Return the share of the expected ids that were found."""
    pairs = zip(ids_of(found), ids_of(expected), strict=True)
    return np.mean([len(set(one) & set(other)) / len(other) for one, other in pairs])


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_add_delete_and_search(adapter, similarity):
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
    scores = dict(pairs_of(exact.search(QUERIES, 400))[0])
    for id_, score in pairs_of(found)[0]:
        assert score == pytest.approx(scores[id_], rel=1e-4, abs=1e-5)
    exact.delete(exact.ids[7:])
    index.delete(np.setdiff1d(np.delete(IDS, np.s_[::5]), exact.ids))
    assert [len(row) for row in index.search(QUERIES, 99)] == [7] * 20


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_saved_and_loaded(adapter, similarity, tmp_path):
    index = adapter(16, similarity=similarity)
    assert index.search(QUERIES, 3) == [[]] * 20
    index.add(VECTORS, IDS)
    index.save(tmp_path / "index")
    assert os.listdir(tmp_path) == ["index"]
    for options in ({}, {"similarity": similarity}):
        loaded = adapter.load(tmp_path / "index", **options)
        assert (loaded.dimension, loaded.similarity) == (16, similarity)
        assert loaded.search(QUERIES, 3) == index.search(QUERIES, 3)
    loaded.delete(0)
    assert len(loaded) == 499
    loaded.save(tmp_path / "index")
    assert len(adapter.load(tmp_path / "index")) == 499
    other = {"cosine": "dot", "dot": "cosine"}[similarity]
    with pytest.raises(InputError, match=f"index was saved with similarity '{similarity}', not '{other}'"):
        adapter.load(tmp_path / "index", similarity=other)
    with pytest.raises(InputError, match="similarity should be one of cosine, dot, not 'far'"):
        adapter.load(tmp_path / "index", similarity="far")


def test_faiss_reads_our_files_and_we_read_its_files(tmp_path):
    import faiss

    index = FaissIndex(16, similarity="dot")
    index.add(VECTORS, IDS)
    index.save(tmp_path / "ours")
    assert faiss.read_index(str(tmp_path / "ours")).ntotal == 500
    faiss.write_index(index.index, str(tmp_path / "theirs"))
    with pytest.raises(InputError, match='theirs does not record its similarity: give similarity="cosine" or similar'):
        FaissIndex.load(tmp_path / "theirs")
    loaded = FaissIndex.load(tmp_path / "theirs", similarity="dot")
    assert loaded.search(QUERIES) == index.search(QUERIES)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ArtifactError, match="none cannot be read: No such file or directory"):
        FaissIndex.load(tmp_path / "none")
    with pytest.raises(ArtifactError, match=r"none cannot be read: No such file"):
        UsearchIndex.load(tmp_path / "none")
    (tmp_path / "text").write_text("a text, and no index at all")
    with pytest.raises(ArtifactError, match=r"faiss cannot read .*text"):
        FaissIndex.load(tmp_path / "text", similarity="dot")
    with pytest.raises(ArtifactError, match=r"usearch cannot read .*text"):
        UsearchIndex.load(tmp_path / "text")
    (tmp_path / "note").write_bytes(b"{}" + (2).to_bytes(8, "little") + b"\x89EMBFAISS\n")
    with pytest.raises(ArtifactError, match=r"note is damaged: its similarity cannot be read \('similarity'\)"):
        FaissIndex.load(tmp_path / "note")
    for adapter in ADAPTERS:
        index = adapter(16)
        index.add(VECTORS, IDS)
        with pytest.raises(OSError, match="nowhere is not a directory"):
            index.save(tmp_path / "nowhere" / "index")


def test_a_metric_that_is_neither_cosine_nor_dot_product(tmp_path):
    from usearch.index import Index

    Index(ndim=16, metric="l2sq").save(str(tmp_path / "index"))
    with pytest.raises(ArtifactError, match=r"index has the metric .*, and UsearchIndex takes only cos and ip"):
        UsearchIndex.load(tmp_path / "index")


@pytest.mark.parametrize("factory", ["IVF8,Flat", "HNSW16", "SQ8"])
def test_other_kinds_of_faiss_indexes(factory):
    index, exact = FaissIndex(16, factory=factory), FaissIndex(16)
    for each in (index, exact):
        each.add(VECTORS, IDS)
    assert recall(index.search(QUERIES), exact.search(QUERIES)) > 0.3
    if factory == "HNSW16":
        with pytest.raises(InputError, match=r"faiss cannot delete from an index of this kind\. Make another index"):
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
    for name in ("similarity", "dimension", "index"):
        with pytest.raises(SettingError, match=f"{adapter.__name__}.{name} cannot be set: "):
            setattr(index, name, "dot")


def test_what_the_libraries_refuse():
    index = FaissIndex(4, factory="IVF100,Flat")
    with pytest.raises(InputError, match=r"faiss cannot train the index on 4 vectors: .*Number of training points"):
        index.add(np.eye(4), range(4))
    assert len(index) == 0
    with pytest.raises(InputError, match="dtype should be one of f32, f16, bf16, i8, not 'int8'"):
        UsearchIndex(4, dtype="int8")
    for options in ({"connections": 5}, {"metric": "l2sq"}, {"connectivity": -1}):
        with pytest.raises(InputError, match=f"usearch refuses the options {options}: "):
            UsearchIndex(4, **options)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_vectors_that_are_not_finite(adapter):
    index = adapter(2)
    for value in (np.nan, np.inf):
        with pytest.raises(InputError, match=r"vectors\[1\] contains NaN or an infinity"):
            index.add([[1.0, 0.0], [value, 0.0]], [1, 2])
        with pytest.raises(InputError, match=r"vectors\[0\] contains NaN or an infinity"):
            index.search([value, 0.0])
    assert len(index) == 0


@pytest.mark.parametrize("duplicate", [lambda index: pickle.loads(pickle.dumps(index)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_pickles_and_copies(adapter, similarity, duplicate):
    index = adapter(16, similarity=similarity)
    assert len(duplicate(index)) == 0
    index.add(VECTORS, IDS)
    found = duplicate(index)
    assert (type(found), found.dimension, found.similarity) == (adapter, 16, similarity)
    assert found.search(QUERIES) == index.search(QUERIES)
    found.delete(IDS[:100])
    assert (len(found), len(index)) == (400, 500)


def test_ids_that_are_missing_or_given_twice():
    index = UsearchIndex(16)
    index.add(VECTORS[:5], IDS[:5])
    with pytest.raises(InputError, match="id 1 is not in the index"):
        index.delete([0, 1])
    assert len(index) == 5
    for ids, message in [
        ([0, 100], "id 0 is in the index already: delete it first, or give another id"),
        ([100, 100], "id 100 is given twice"),
        ([5, -3], "usearch takes no negative ids, but got -3"),
    ]:
        with pytest.raises(InputError, match=message):
            index.add(VECTORS[:2], ids)
    index = FaissIndex(16)
    index.add(VECTORS[:5], IDS[:5])
    with pytest.raises(InputError, match="2 of 3 ids are not in the index"):
        index.delete([0, 1, 2])
    with pytest.raises(InputError, match="faiss has no factory 'Cube'"):
        FaissIndex(16, factory="Cube")


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_threads_add_search_and_delete_at_the_same_time(adapter):
    index = adapter(16)
    index.add(VECTORS[:50], IDS[:50])

    def use(thread):
        for row in range(50 + thread, 500, 4):
            index.add(VECTORS[row], IDS[row])
            assert ids_of(index.search(VECTORS[row], 1)) == [[IDS[row]]]
            if row % 3 == 0:
                index.delete(IDS[row])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(4)))
    assert len(index) == 50 + sum(row % 3 != 0 for row in range(50, 500))
    assert ids_of(index.search(VECTORS[:50], 1)) == [[id_] for id_ in IDS[:50]]


@pytest.mark.parametrize(("adapter", "name"), [(FaissIndex, "faiss"), (UsearchIndex, "usearch")])
def test_not_installed(adapter, name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, f"{name}.index", None)
    message = rf'{adapter.__name__} needs {name}, .*\. Run: pip install "embedder-onnx\[{name}\]"'
    with pytest.raises(DependencyError, match=message):
        adapter(16)
    assert len(VectorIndex(16)) == 0


USE_INDEXES = """
import numpy as np
for index in indexes:
    index.add(np.eye(64), range(64))
    assert index.search(np.eye(64)[5], 1)[0][0]["corpus_id"] == 5
print("done")
"""


@pytest.mark.parametrize(
    "code",
    [
        "from embedder import FaissIndex, UsearchIndex\nindexes = [UsearchIndex(64), FaissIndex(64)]",
        "from embedder import FaissIndex, UsearchIndex\nindexes = [FaissIndex(64), UsearchIndex(64)]",
        "from embedder import FaissIndex, UsearchIndex\nindexes = [UsearchIndex(64), FaissIndex(64, factory='HNSW8')]",
        "import faiss, usearch\nfrom embedder import FaissIndex, UsearchIndex\n"
        "indexes = [UsearchIndex(64), FaissIndex(64)]",
        "import embedder, usearch, faiss\nindexes = [embedder.UsearchIndex(64), embedder.FaissIndex(64)]",
        "from embedder import FaissIndex, UsearchIndex\nindexes = [UsearchIndex(64)]\nimport faiss, onnxruntime\n"
        "indexes.append(FaissIndex(64))",
    ],
)
def test_import_orders_that_work(code):
    finished = run_python("-c", code + USE_INDEXES)
    assert (finished.returncode, finished.stdout) == (0, "done\n"), finished.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has process-wide unique symbols")
@pytest.mark.parametrize("first", ["import usearch", "import usearch.index, faiss"])
def test_import_order_that_would_crash_is_refused(first):
    finished = run_python("-c", f"{first}\nimport embedder\nembedder.FaissIndex(64)\nembedder.Embedder")
    assert finished.returncode == 1, finished.stderr
    assert (
        "would crash this process, because usearch was imported before it, and usearch brings another C++ runtime. "
        "Start a new process, and import embedder before usearch"
    ) in finished.stderr
    assert "embedder.errors.DependencyError: " in finished.stderr


def test_faiss_is_refused_only_if_usearch_was_imported_first(monkeypatch):
    monkeypatch.setattr(cpp_runtime, "initialise_cpp_runtime", lambda: False)
    monkeypatch.setitem(sys.modules, "usearch.compiled", object())
    with pytest.raises(DependencyError, match="faiss would crash this process, because usearch was imported before it"):
        FaissIndex(16)
    monkeypatch.delitem(sys.modules, "usearch.compiled")
    assert len(FaissIndex(16)) == 0


def test_cpp_runtime_of_this_process_works():
    assert cpp_runtime.initialise_cpp_runtime()


@pytest.mark.parametrize(("name", "value"), [("_LIBRARY", "libnone.so"), ("_CLASSIC_LOCALE", "no_such_function")])
def test_system_without_the_cpp_library(name, value, monkeypatch):
    monkeypatch.setattr(cpp_runtime, name, value)
    assert cpp_runtime.initialise_cpp_runtime()
    cpp_runtime.check_cpp_runtime("faiss")


def test_systems_other_than_linux_need_no_check(monkeypatch):
    monkeypatch.setattr(cpp_runtime.sys, "platform", "darwin")
    monkeypatch.setattr(cpp_runtime, "ctypes", None)
    assert cpp_runtime.initialise_cpp_runtime()
