"""docs/vector-stores.md: each recipe finds the same, also after a crash, and what the page says of each store holds."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import embedder
from tests.pages import assert_same, code_blocks

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/vector-stores.md"
FIRST, *RECIPES = [block for block in code_blocks(PAGE) if block.language == "python"]
INSTALLS = [block.code for block in code_blocks(PAGE) if block.language == "console"]
# Before this line, a recipe writes. After it, it may be another process.
BOUNDARY = "# Open it again, in any process.\n"
# Each recipe by the module that it imports first, apart from NumPy.
NAMES = ("lancedb", "qdrant_client", "chromadb", "duckdb", "sqlite_vec", "faiss", "usearch")
BY_NAME = dict(zip(NAMES, RECIPES, strict=True))
# The lines that a recipe goes on after, without the model.
PROGRAM = """
import os
import types

import numpy as np

import embedder

with open("examples/collection.txt", encoding="utf-8") as lines:
    records = [{{"id": number, "text": line.rstrip("\\n")}} for number, line in enumerate(lines)]
model = types.SimpleNamespace(dimension=384)
{recipe}
os._exit(9)  # as if the process were killed: nothing is closed
"""
VECTORS = np.eye(4, 8, dtype=np.float32)


@pytest.fixture(scope="module")
def prepared(minilm, tmp_path_factory):
    """The directory in which the first lines of the page have run, and the variables that they have left."""
    directory = tmp_path_factory.mktemp("notes")
    (directory / "artifacts").mkdir()
    (directory / "artifacts" / minilm.name).symlink_to(minilm)
    (directory / "examples").symlink_to(ROOT / "examples")
    variables = {"__name__": "__main__"}
    with contextlib.chdir(directory):
        exec(compile(FIRST.code, str(PAGE), "exec"), variables)
    return directory, variables


@pytest.fixture
def place(prepared, tmp_path, monkeypatch):
    """A working directory with the files of the first lines, and the variables."""
    directory, variables = prepared
    for name in ("notes.npy", "notes.parquet"):
        shutil.copy2(directory / name, tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return dict(variables)


def printed(code, variables):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, str(PAGE), "exec"), variables)
    return output.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_recipe_finds_the_same_after_its_writer_was_killed(name, place):
    pytest.importorskip(name)
    write, read = BY_NAME[name].code.split(BOUNDARY)
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(recipe=write)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 9, answer.stderr
    imports = "".join(line for line in write.splitlines(True) if re.match(r"(import|from) ", line))
    functions = "".join(re.findall(r"^def .*?\n\n\n", write, re.MULTILINE | re.DOTALL))
    assert_same(printed(imports + functions + read, place), FIRST.output)


def test_every_recipe_has_an_install_line():
    packages = ("lancedb", "qdrant-client", "chromadb", "duckdb", "sqlite-vec apsw", "faiss-cpu", "usearch")
    assert [f'pip install "embedder-onnx[cpu,parquet]" {package}' for package in packages] == INSTALLS


def test_lancedb_replaces_by_merging_and_filters_before_the_search(tmp_path):
    pytest.importorskip("lancedb")
    import lancedb
    import pyarrow

    def rows(ids, vectors):
        lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.ravel(vectors)), 8)
        return pyarrow.table({"id": ids, "embedding": lists})

    table = lancedb.connect(tmp_path).create_table("notes", rows([0, 1, 2, 3], VECTORS))
    merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    merge.execute(rows([1, 9], VECTORS[[0, 1]]))
    assert table.count_rows() == 5
    found = table.search(VECTORS[0]).distance_type("dot").where("id > 1").limit(3).to_list()
    assert sorted(row["id"] for row in found) == [2, 3, 9]
    nearest = table.search(VECTORS[1]).limit(1).to_list()
    assert nearest[0]["id"] == 9


def test_lancedb_keeps_float16_and_compares_bits(tmp_path):
    pytest.importorskip("lancedb")
    import lancedb
    import pyarrow

    def rows(vectors):
        lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.ravel(vectors)), vectors.shape[1])
        return pyarrow.table({"id": range(len(vectors)), "embedding": lists})

    database = lancedb.connect(tmp_path)
    half = database.create_table("half", rows(VECTORS.astype(np.float16)))
    assert half.schema.field("embedding").type.value_type == pyarrow.float16()
    assert half.search(VECTORS[2]).limit(1).to_list()[0]["id"] == 2
    bits = np.array([[0, 0], [255, 255], [15, 0]], np.uint8)
    table = database.create_table("bits", rows(bits))
    found = table.search(bits[2]).distance_type("hamming").limit(3).to_list()
    assert [(row["id"], row["_distance"]) for row in found] == [(2, 0), (0, 4), (1, 12)]


def test_qdrant_replaces_filters_and_refuses_a_second_process(tmp_path):
    pytest.importorskip("qdrant_client")
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(tmp_path))
    size = models.VectorParams(size=8, distance=models.Distance.DOT)
    client.create_collection("notes", vectors_config=size)
    for vectors in (VECTORS, VECTORS[::-1]):
        client.upload_collection("notes", vectors=vectors, payload=[{"part": n} for n in range(4)], ids=range(4))
    assert client.count("notes").count == 4
    condition = models.FieldCondition(key="part", range=models.Range(lt=2))
    points = client.query_points("notes", VECTORS[3], query_filter=models.Filter(must=[condition]), limit=3).points
    assert [(point.id, point.score) for point in points] == [(0, 1.0), (1, 0.0)]
    with pytest.raises(RuntimeError, match="already accessed by another instance"):
        QdrantClient(path=str(tmp_path))
    client.close()


def test_chroma_ignores_an_id_that_is_there_and_upsert_replaces(tmp_path):
    pytest.importorskip("chromadb")
    import chromadb

    client = chromadb.PersistentClient(str(tmp_path))
    notes = client.create_collection("notes", embedding_function=None, configuration={"hnsw": {"space": "ip"}})
    notes.add(ids=["a"], embeddings=VECTORS[:1])
    notes.add(ids=["a"], embeddings=VECTORS[1:2])
    np.testing.assert_array_equal(notes.get(include=["embeddings"])["embeddings"], VECTORS[:1])
    notes.upsert(ids=["a"], embeddings=VECTORS[1:2])
    np.testing.assert_array_equal(notes.get(include=["embeddings"])["embeddings"], VECTORS[1:2])
    assert notes.query(query_embeddings=[3 * VECTORS[1]], n_results=1)["distances"] == [[-2.0]]  # 1 - inner product
    default = client.create_collection("default", embedding_function=None)
    assert default.configuration["hnsw"]["space"] == "l2"


def test_duckdb_replaces_with_a_primary_key_and_reads_float16(minilm, tmp_path):
    duckdb = pytest.importorskip("duckdb")
    texts = [{"id": n, "text": text} for n, text in enumerate(["the cat sat", "a dog", "long words"])]
    path = tmp_path / "notes.parquet"
    embedder.encode_to_file(texts, path, model=minilm)
    with duckdb.connect(tmp_path / "notes.duckdb") as connection:
        connection.execute("CREATE TABLE notes (id BIGINT PRIMARY KEY, text VARCHAR, embedding FLOAT[384])")
        for verb in ("INSERT", "INSERT OR REPLACE"):
            connection.execute(f"{verb} INTO notes FROM '{path}'")
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (3,)
        other = "import sys, duckdb; duckdb.connect(sys.argv[1])"
        answer = subprocess.run(
            [sys.executable, "-c", other, tmp_path / "notes.duckdb"], capture_output=True, text=True
        )
        assert "Conflicting lock" in answer.stderr


def test_duckdb_reads_float16_as_float32(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    import pyarrow
    import pyarrow.parquet as pq

    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(VECTORS.astype(np.float16).ravel()), 8)
    pq.write_table(pyarrow.table({"embedding": lists}), tmp_path / "half.parquet")
    found = duckdb.sql(f"SELECT embedding::FLOAT[8] AS embedding FROM '{tmp_path}/half.parquet'").fetchall()
    np.testing.assert_array_equal([vector for (vector,) in found], VECTORS)


@pytest.fixture
def vec0():
    """A table of sqlite-vec with four vectors."""
    pytest.importorskip("sqlite_vec")
    apsw = pytest.importorskip("apsw")
    import sqlite_vec

    connection = apsw.Connection(":memory:")
    connection.enable_load_extension(True)
    connection.load_extension(sqlite_vec.loadable_path())
    connection.execute(
        "CREATE VIRTUAL TABLE notes USING vec0(id INTEGER PRIMARY KEY, embedding FLOAT[8], part INTEGER)"
    )
    rows = [(number, vector.tobytes(), number) for number, vector in enumerate(VECTORS)]
    connection.executemany("INSERT INTO notes VALUES (?, ?, ?)", rows)
    return connection


def test_sqlite_vec_updates_but_does_not_replace(vec0):
    with pytest.raises(Exception, match="UNIQUE constraint failed"):
        vec0.execute("INSERT OR REPLACE INTO notes VALUES (1, ?, 1)", [VECTORS[0].tobytes()])
    vec0.execute("UPDATE notes SET embedding = ? WHERE id = 3", [VECTORS[0].tobytes()])
    question = "SELECT id, distance FROM notes WHERE embedding MATCH ? AND k = 2"
    assert sorted(vec0.execute(question, [VECTORS[0].tobytes()])) == [(0, 0.0), (3, 0.0)]


def test_sqlite_vec_filters_declared_columns_before_the_search(vec0):
    question = "SELECT id FROM notes WHERE embedding MATCH ? AND k = 1 AND {} > 1"
    found = [vec0.execute(question.format(name), [VECTORS[0].tobytes()]).fetchall() for name in ("id", "part")]
    assert len(found[0]) == 0
    assert len(found[1]) == 1


def test_usearch_refuses_a_key_that_is_there_a_mapped_index_and_compares_bits(tmp_path):
    pytest.importorskip("usearch")
    embedder.UsearchIndex(8)
    from usearch.index import Index

    index = Index(ndim=8, metric="ip", dtype="f32")
    index.add(np.arange(4), VECTORS)
    with pytest.raises(RuntimeError, match="Duplicate keys"):
        index.add(1, VECTORS[0])
    index.remove(1)
    index.add(1, VECTORS[1])
    assert index.search(VECTORS[1], 1).to_list() == [(1, 0.0)]  # 1 - inner product
    index.save(tmp_path / "notes.usearch")
    mapped = Index.restore(tmp_path / "notes.usearch", view=True)
    with pytest.raises(RuntimeError, match="immutable"):
        mapped.add(9, VECTORS[0])
    bits = Index(ndim=16, metric="hamming", dtype="b1")
    bits.add(np.arange(2), np.array([[0, 0], [255, 1]], np.uint8))
    assert bits.search(np.array([255, 0], np.uint8), 2).to_list() == [(1, 1.0), (0, 8.0)]


def test_faiss_removes_and_filters():
    pytest.importorskip("faiss")
    import faiss

    index = faiss.index_factory(8, "IVF1,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(VECTORS)
    index.add(VECTORS)
    parameters = faiss.SearchParametersIVF(sel=faiss.IDSelectorBatch(np.array([1, 2])))
    _, ids = index.search(VECTORS[:1], 4, params=parameters)
    assert sorted(ids[0].tolist()) == [-1, -1, 1, 2]
    assert index.remove_ids(np.array([1])) == 1
    assert index.ntotal == 3


def test_adding_to_a_mapped_index_of_faiss_fails_or_ends_the_process(tmp_path):
    pytest.importorskip("faiss")
    program = """
import sys, faiss, numpy
index = faiss.index_factory(8, "IVF1,PQ8x4np", faiss.METRIC_INNER_PRODUCT)
vectors = numpy.random.default_rng(0).standard_normal((640, 8), numpy.float32)
index.train(vectors)
index.add(vectors)
faiss.write_index(index, sys.argv[1])
faiss.read_index(sys.argv[1], faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY).add(vectors)
print("added")
"""
    words = [sys.executable, "-c", program, tmp_path / "notes.faiss"]
    answer = subprocess.run(words, capture_output=True, text=True)
    assert answer.returncode != 0
    assert answer.stdout == ""
    assert "read-only OnDiskInvertedLists" in answer.stderr
