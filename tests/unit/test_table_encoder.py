"""`TableEncoder`: the vectors, the other columns, copies, and what it refuses."""

import pickle
import sys

import numpy as np
import pyarrow as pa
import pytest

import embedder
from embedder.errors import ArtifactError, DependencyError, InputError
from embedder.integrations.table_encoder import TableEncoder

TEXTS = ["the cat", "", "dog sat on mat", "字 é", "the cat"]
TABLE = pa.table({"id": [1, 2, None, 4, 5], "text": TEXTS, "embedding": ["an", "old", "column", None, ""]})


@pytest.fixture(autouse=True)
def _no_models_afterwards():
    yield
    embedder.release_models()


@pytest.fixture
def model(tiny):
    with embedder.Embedder(tiny) as model:
        yield model


def vectors_of(table, column="embedding"):
    return np.array(table[column].to_pylist())


def test_vectors_are_those_of_encode_and_other_columns_are_kept(tiny, model):
    found = TableEncoder(tiny).encode(TABLE)
    assert found.column_names == ["id", "text", "embedding"]
    assert found.select(["id", "text"]).equals(TABLE.select(["id", "text"]))
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 8)
    np.testing.assert_array_equal(vectors_of(found), model.encode(TEXTS))


def test_other_names_of_columns(tiny, model):
    encoder = TableEncoder(tiny, column="body", output_column="vector")
    found = encoder.encode(TABLE.rename_columns(["id", "body", "embedding"]))
    assert found.column_names == ["id", "body", "embedding", "vector"]
    np.testing.assert_array_equal(vectors_of(found, "vector"), model.encode(TEXTS))


@pytest.mark.parametrize(
    "texts",
    [
        pa.array(TEXTS, pa.large_string()),
        pa.array(TEXTS, pa.string_view()),
        pa.array(TEXTS).dictionary_encode(),
        pa.chunked_array([TEXTS[:2], [], TEXTS[2:]]),
        pa.array(["not this", *TEXTS])[1:],
    ],
)
def test_every_form_of_a_column_of_strings(tiny, model, texts):
    np.testing.assert_array_equal(vectors_of(TableEncoder(tiny).encode(pa.table({"text": texts}))), model.encode(TEXTS))


def test_record_batch(tiny, model):
    found = TableEncoder(tiny).encode(TABLE.to_batches()[0])
    np.testing.assert_array_equal(vectors_of(found), model.encode(TEXTS))


@pytest.mark.parametrize(
    ("options", "kind", "size"),
    [
        ({"truncate_dim": 3, "normalize_embeddings": True, "prompt": "query: "}, pa.float32(), 3),
        ({"precision": "binary"}, pa.int8(), 1),
        ({"precision": "ubinary", "truncate_dim": 4}, pa.uint8(), 1),
    ],
)
@pytest.mark.parametrize("count", [5, 0])
def test_options_of_encode(tiny, model, options, kind, size, count):
    encoder = TableEncoder(tiny, encode_kwargs=options)
    table = TABLE[:count]
    found = encoder.encode(table)
    assert found.schema == encoder.schema(table.schema)
    assert found.schema.field("embedding") == encoder.field() == pa.field("embedding", pa.list_(kind, size))
    np.testing.assert_array_equal(vectors_of(found).reshape(-1, size), model.encode(TEXTS[:count], **options))


def test_options_of_the_model(tiny):
    encoder = TableEncoder(tiny, model_kwargs={"truncate_dim": 4, "threads": 1})
    assert encoder.field().type == pa.list_(pa.float32(), 4)
    assert encoder.encode(TABLE).schema.field("embedding") == encoder.field()


def test_metadata_of_a_schema_are_kept(tiny):
    schema = TABLE.schema.with_metadata({"by": "a test"})
    assert TableEncoder(tiny).schema(schema).metadata == {b"by": b"a test"}
    assert TableEncoder(tiny).encode(TABLE.cast(schema)).schema.metadata == {b"by": b"a test"}


def test_pickle_keeps_the_options_and_not_the_model(tiny, model):
    options = {
        "column": "body",
        "output_column": "vector",
        "model_kwargs": {"truncate_dim": 4},
        "encode_kwargs": {"normalize_embeddings": True},
        "digest": None,
    }
    encoder = TableEncoder(tiny, **options)
    before = pickle.dumps(encoder)
    _ = encoder.embedder
    assert pickle.dumps(encoder) == before
    assert len(before) < 1000
    copied = pickle.loads(before)
    assert (copied.name, copied.options()) == (str(tiny), options)
    assert copied.embedder is encoder.embedder
    loaded = pickle.loads(pickle.dumps(TableEncoder(model)))
    assert (loaded.name, loaded.model_kwargs) == (str(tiny), {})


def test_threads_of_the_options_come_first(tiny):
    encoder = TableEncoder(tiny, column="body", model_kwargs={"truncate_dim": 4})
    assert encoder.with_threads(2).options() == {
        **encoder.options(),
        "model_kwargs": {"truncate_dim": 4, "threads": 2},
    }
    assert encoder.with_threads(2).with_threads(1).model_kwargs["threads"] == 2


def test_model_in_a_directory_has_no_options_of_the_hub(tiny, model):
    options = {"model_kwargs": {"truncate_dim": 4, "revision": "a", "local_files_only": True}, "column": "body"}
    encoder = TableEncoder("of-the-hub", **options).at(tiny)
    assert encoder.options() == {**encoder.options(), "model_kwargs": {"truncate_dim": 4}, "column": "body"}
    assert encoder.directory == tiny


def test_pinned_encoder_refuses_another_model(tiny, model, make_artifact):
    encoder = TableEncoder(tiny).pinned()
    assert encoder.digest == model.digest
    assert pickle.loads(pickle.dumps(encoder)).encode(TABLE).num_rows == 5
    other = encoder.at(make_artifact("other", max_seq_length=8))
    with pytest.raises(ArtifactError, match=r"other is another model here: its digest is .*, and the job has"):
        other.encode(TABLE)


def test_job_is_that_of_a_file(tiny, model):
    job = TableEncoder(tiny, encode_kwargs={"prompt": "query: ", "truncate_dim": 4, "precision": "binary"}).job()
    assert job == {
        "model": "tiny",
        "model_digest": model.digest,
        "dtype": "fp32",
        "prompt": "query: ",
        "dimension": 4,
        "normalize_embeddings": False,
        "precision": "binary",
        "column": "text",
        "format": "parquet",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_kwargs": {"graph": "int8"}}, "model_kwargs cannot have 'graph': known are provider, dtype"),
        ({"model_kwargs": {"token": "hf_secret"}}, "cannot have 'token': the framework would save it"),
        ({"encode_kwargs": {"read_paths": True}}, "cannot have 'read_paths': frameworks pass texts"),
        ({"encode_kwargs": {"device": "cpu"}}, "encode has no option 'device'"),
        ({"encode_kwargs": {"precision": "int8"}}, "precision 'int8' needs the ranges of all vectors"),
        ({"column": 3}, "column should be the name of a column, not 3"),
        ({"output_column": None}, "output_column should be the name of a column, not None"),
        ({"column": "embedding"}, "column 'embedding': the vectors are written to this column. Choose another name"),
        ({"model": 3}, "model should be a name, a path or an Embedder, not 3"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_loaded(options, message):
    with pytest.raises(InputError, match=message):
        TableEncoder(**options)


def test_options_that_need_the_model_are_refused_with_the_field(tiny):
    with pytest.raises(InputError, match="truncate_dim"):
        TableEncoder(tiny, encode_kwargs={"truncate_dim": 9}).field()
    with pytest.raises(InputError, match="unknown prompt_name 'missing'"):
        TableEncoder(tiny, encode_kwargs={"prompt_name": "missing"}).field()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            pa.table({"id": [1]}),
            "the table: the column 'text' is missing. Its columns are 'id'. Choose one with column=",
        ),
        (pa.table({"text": [1]}), "the table: the column 'text' should have strings, but its type is int64"),
        (pa.table([["a"], ["b"]], ["text", "text"]), "the table has the column 'text' twice. Rename one"),
        (pa.table({"text": ["a", None]}), "row 2 of the table: the column 'text' is null"),
        (
            pa.table({"id": [7, 8], "text": ["a", None], "ratio": [0.1, 0.2], "key": ["x", "y"]}),
            r"row 2 of the table \(id 8, key 'y'\): the column 'text' is null",
        ),
        (
            pa.table({"text": pa.array([b"\xff"]).cast(pa.binary()).view(pa.string())}),
            "the table has a text that is not UTF-8: invalid start byte",
        ),
    ],
)
def test_tables_that_cannot_be_encoded(tiny, table, message):
    with pytest.raises(InputError, match=message):
        TableEncoder(tiny).encode(table)


def test_missing_pyarrow_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DependencyError, match=r'TableEncoder needs pyarrow.*pip install "embedder-onnx\[parquet\]"'):
        TableEncoder()
