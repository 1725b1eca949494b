"""Parquet in and out: the types of its columns, its metadata, and what does not fit."""

import datetime
import json
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import embedder
from embedder.cli.main import main
from embedder.errors import DependencyError, InputError
from embedder.files import parquet
from tests.tiny import add_image_graph, write_tiny_artifact

TEXTS = ["the cat", "", "dog sat on mat", "字 é"]
TABLE = pa.table(
    {
        "id": pa.array([1, 2, None, 4], pa.int64()),
        "text": TEXTS,
        "when": pa.array([datetime.datetime(2024, 1, day, microsecond=7) for day in (1, 2, 3, 4)], pa.timestamp("ns")),
        "blob": [b"\xff", None, b"", b"\x00"],
        "kind": pa.array(["a", "b", "a", None]).dictionary_encode(),
        "nested": [{"a": [1]}, None, {"a": []}, {"a": [2, 3]}],
        "embedding": ["an", "old", "column", None],
    }
)


@pytest.fixture
def encode(tiny, tmp_path, monkeypatch, run_command):
    """A function that runs `embedder encode` in a directory of its own, and returns its status and both outputs."""
    monkeypatch.chdir(tmp_path)
    return partial(run_command, "encode", "--model", tiny)


@pytest.fixture
def model(tiny):
    with embedder.Embedder(tiny) as model:
        yield model


def test_other_columns_are_kept_as_they_are(encode, model, tmp_path):
    schema = TABLE.schema.with_metadata({"by": "a test"})
    pq.write_table(TABLE.cast(schema), tmp_path / "in.parquet", row_group_size=3)
    assert encode("in.parquet", "--column", "text", "-o", "out.parquet") == (0, b"", "")
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.drop_columns(["embedding"]).equals(TABLE.drop_columns(["embedding"]))
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 8)
    np.testing.assert_array_equal(np.float32(found["embedding"].to_pylist()), model.encode(TEXTS))
    assert found.schema.metadata[b"by"] == b"a test"


def test_metadata_say_how_the_vectors_were_made(encode, model, tmp_path):
    pq.write_table(TABLE, tmp_path / "in.parquet")
    encode("in.parquet", "-o", "out.parquet", "--prompt", "query: ", "--truncate-dim", "4", "--normalize")
    job = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"embedder"])["job"]
    assert job == {
        "model": "tiny",
        "model_digest": model.digest,
        "dtype": "fp32",
        "prompt": "query: ",
        "dimension": 4,
        "normalize_embeddings": True,
        "precision": "float32",
        "column": "text",
        "format": "parquet",
    }


@pytest.mark.parametrize(
    ("precision", "kind", "size"),
    [("float32", "float", 8), ("float16", "halffloat", 8), ("binary", "int8", 1), ("ubinary", "uint8", 1)],
)
def test_precisions(encode, model, tmp_path, precision, kind, size):
    pq.write_table(TABLE, tmp_path / "in.parquet")
    assert encode("in.parquet", "-o", "out.parquet", "--precision", precision)[0] == 0
    column = pq.read_table(tmp_path / "out.parquet")["embedding"]
    assert (str(column.type.value_type), column.type.list_size) == (kind, size)
    wanted = model.encode(TEXTS, precision="float32" if precision == "float16" else precision)
    found = np.array(column.to_pylist())
    np.testing.assert_array_equal(found, wanted.astype(np.float16) if precision == "float16" else wanted)


@pytest.mark.parametrize("output", ["out.npy", "out.jsonl"])
def test_float16_in_the_other_formats(encode, model, output):
    assert encode("-o", output, "--precision", "float16", stdin=b"the cat\ndog") == (0, b"", "")
    if output == "out.npy":
        found = np.load(output)
        assert found.dtype == np.float16
    else:
        found = np.float16([json.loads(line)["embedding"] for line in Path(output).read_text().splitlines()])
    np.testing.assert_array_equal(found, model.encode(["the cat", "dog"]).astype(np.float16))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_types_of_text(encode, model, tmp_path, kind):
    pq.write_table(pa.table({"body": pa.array(TEXTS).cast(kind)}), tmp_path / "in.parquet")
    assert encode("in.parquet", "--column", "body", "-o", "out.npy") == (0, b"", "")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), model.encode(TEXTS))
    assert encode("in.parquet", "--column", "body")[1].decode().count("\n") == 4


def test_records_of_other_formats_become_columns(encode, tmp_path):
    (tmp_path / "in.csv").write_text("id,text\n1,the cat\n2,dog\n")
    assert encode("in.csv", "-o", "out.parquet") == (0, b"", "")
    table = pq.read_table(tmp_path / "out.parquet").drop_columns(["embedding"])
    assert table.to_pydict() == {"id": ["1", "2"], "text": ["the cat", "dog"]}


def test_types_of_json_are_widened(model, tmp_path, monkeypatch):
    monkeypatch.setattr("embedder.engine.batching._WINDOW_ITEMS", 1)
    records = [{"text": "a", "n": None}, {"text": "b", "n": 1}, {"text": "c", "n": 1.5, "more": "x"}, {"text": "d"}]
    embedder.encode_to_file(records, tmp_path / "out.parquet", model=model)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["n"].to_pylist() == [None, 1.0, 1.5, None]
    assert table["more"].to_pylist() == [None, None, "x", None]


@pytest.mark.parametrize("items", [1, 100])
def test_types_that_do_not_go_together(model, tmp_path, monkeypatch, items):
    monkeypatch.setattr("embedder.engine.batching._WINDOW_ITEMS", items)
    records = [{"text": "a", "n": 1}, {"text": "b", "n": "one"}]
    with pytest.raises(InputError, match=r"(records differ|cannot hold the records): .*Write \.(jsonl or \.)?npy"):
        embedder.encode_to_file(records, tmp_path / "out.parquet", model=model)


def test_type_that_parquet_does_not_have_is_found_before_the_first_block_is_kept(model, tmp_path):
    with pytest.raises(
        InputError, match=r"Parquet cannot hold the records: Cannot write struct type 'x' with no child"
    ):
        embedder.encode_to_file([{"text": "a", "x": {}}], tmp_path / "out.parquet", model=model)
    assert list(tmp_path.glob("out.parquet*")) == []


def test_damaged_pages_have_the_name_of_their_file(encode, tmp_path):
    pq.write_table(pa.table({"text": [str(number) for number in range(5000)]}), tmp_path / "in.parquet")
    content = bytearray((tmp_path / "in.parquet").read_bytes())
    content[500:900] = bytes(400)
    (tmp_path / "in.parquet").write_bytes(content)
    status, _, err = encode("in.parquet", "-o", "out.npy")
    assert status == 1
    assert err.startswith("embedder: error: in.parquet cannot be read: ")


def test_lists_of_dictionaries_that_pyarrow_cannot_read(encode, tmp_path):
    kind = pa.list_(pa.dictionary(pa.int32(), pa.string()))
    table = pa.table({"text": ["a"] * 3000, "x": pa.array([["b"]] * 3000, kind)})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=700)
    status, _, err = encode("in.parquet", "--column", "text", "-o", "out.npy")
    assert (status, err.startswith("embedder: error: in.parquet cannot be read: ")) in [(1, True), (0, False)]


def test_records_of_files_have_one_type_in_all_shards(model, tmp_path, monkeypatch):
    monkeypatch.setattr("embedder.engine.batching._WINDOW_ITEMS", 1)
    monkeypatch.setattr("embedder.files.shards.SHARD_ROWS", 1)
    records = [
        {"text": "a", "n": 1},
        {"text": "b", "n": None, "embedding": 7},
        {"text": "c", "n": 2**60 + 1, "more": "x"},
    ]
    records.append({"text": "d", "n": 1.5, "tags": []})
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    for number, inputs in enumerate((source, records)):
        output = tmp_path / str(number)
        assert embedder.encode_to_file(inputs, f"{output}/", model=model) == 4
        assert len({pq.read_schema(path).remove_metadata() for path in output.iterdir()}) == 1
        table = pq.read_table(output).drop_columns(["embedding"])
        assert table.to_pydict() == {
            "text": ["a", "b", "c", "d"],
            "n": [1.0, None, float(2**60), 1.5],
            "more": [None, None, "x", None],
            "tags": [None, None, None, []],
        }


def test_types_that_do_not_go_together_are_found_before_texts_are_encoded(encode, tmp_path, monkeypatch):
    monkeypatch.setattr("embedder.files.record_tables._BLOCK_RECORDS", 2)
    for values in ([1, 2, "x"], [1, "x"], [1, 2, True]):
        lines = [json.dumps({"text": "a", "n": value}) for value in values]
        (tmp_path / "in.jsonl").write_text("\n".join(lines))
        status, _, err = encode("in.jsonl", "-o", "out.parquet", "--model", "this model is not loaded")
        assert status == 1
        assert "n" in err
        assert ("records differ: " in err) == (len(values) == 3)
        assert ("Parquet cannot hold the records: the column 'n': " in err) == (len(values) == 2)
    assert encode("in.jsonl", "-o", "out.jsonl")[0] == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"b": "\ud800"}, "Parquet cannot hold the records: the column 'b': .*surrogates not allowed. Write .jsonl or"),
        ({"\ud800": "b"}, "Parquet cannot hold the records: .*surrogates not allowed. Write .jsonl or .npy"),
        (
            {"b": 10**30},
            "Parquet cannot hold the records: the column 'b': Python int too large to convert to C long. W",
        ),
        ({"b": json.loads("[" * 200 + "]" * 200)}, "Parquet cannot hold the records: .*recursion depth reached. Write"),
    ],
    ids=["surrogate", "surrogate in a name", "integer", "depth"],
)
def test_values_that_parquet_does_not_have(model, tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        embedder.encode_to_file([{"text": "a", **fields}], tmp_path / "out.parquet", model=model)
    assert list(tmp_path.glob("out*")) == []
    assert embedder.encode_to_file([{"text": "a", **fields}], tmp_path / "out.jsonl", model=model) == 1


def test_integers_beyond_2_to_the_53_beside_fractions_are_rounded_at_the_end(model, tmp_path, monkeypatch):
    """The types of an iterator are known only when its last block is there."""
    monkeypatch.setattr("embedder.engine.batching._WINDOW_ITEMS", 1)
    records = ({"text": "a", "n": number, "list": [number]} for number in (2**60 + 1, 1.5))
    assert embedder.encode_to_file(records, tmp_path / "out.parquet", model=model) == 2
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["n"].to_pylist() == [float(2**60), 1.5]
    assert table["list"].to_pylist() == [[float(2**60)], [1.5]]


def test_vectors_alone_need_no_other_column(model, tmp_path):
    """pyarrow cannot read such a column. An array does not have it."""
    kind = pa.struct([("k", pa.dictionary(pa.int32(), pa.string()))])
    table = pa.table({"text": ["a"] * 3000, "x": pa.array([{"k": f"x{n}"} for n in range(3000)], kind)})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=700)
    assert embedder.encode_to_file(tmp_path / "in.parquet", tmp_path / "out.npy", model=model) == 3000


def test_names_that_are_not_utf_8(model, tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.parquet")
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system has no such names")
    assert embedder.encode_to_file(["a"], path, model=model) == 1
    with path.open("rb") as stream:
        assert pq.read_table(stream).num_rows == 1


def test_link_in_the_place_of_the_complete_file_is_not_followed(model, tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "out.parquet.complete").symlink_to(tmp_path / "precious")
    assert embedder.encode_to_file(["a"], tmp_path / "out.parquet", model=model) == 1
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_directory_in_the_place_of_the_complete_file(model, tmp_path):
    (tmp_path / "out.parquet.complete").mkdir()
    with pytest.raises(OSError, match=r"out.parquet.complete") as error:
        embedder.encode_to_file(["a"], tmp_path / "out.parquet", model=model)
    assert "the finished vectors are kept: 1 record in " in error.value.__notes__[0]
    (tmp_path / "out.parquet.complete").rmdir()
    assert embedder.encode_to_file(["a"], tmp_path / "out.parquet", model=model, resume=True) == 1


def test_files_whose_columns_do_not_go_together(model, tmp_path):
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "in/1.parquet")
    pq.write_table(pa.table({"text": ["b"], "n": ["x"]}), tmp_path / "in/2.parquet")
    with pytest.raises(InputError, match=r"a column of Parquet has values of one type, and the records differ: "):
        embedder.encode_to_file(tmp_path / "in", tmp_path / "out.parquet", model=model)
    assert embedder.encode_to_file(tmp_path / "in", tmp_path / "out.npy", model=model) == 2


def test_damaged_file_is_found_before_the_model_is_loaded(encode, tmp_path):
    pq.write_table(pa.table({"text": ["a text"] * 5000 + [str(n) for n in range(5000)]}), tmp_path / "in.parquet")
    content = bytearray((tmp_path / "in.parquet").read_bytes())
    content[len(content) // 3 : len(content) // 3 + 2000] = b"\xff" * 2000
    (tmp_path / "in.parquet").write_bytes(content)
    status, out, err = encode("in.parquet", "-o", "out.npy", "--model", "this model is not loaded")
    assert (status, out) == (1, b"")
    assert err.startswith("embedder: error: ")
    assert "this model" not in err
    assert "None" not in err


def test_images_with_their_paths(tmp_path, capsys):
    model = write_tiny_artifact(tmp_path / "clip")
    add_image_graph(model)
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / f"photos/{number}.png")
    (tmp_path / "photos/3.png").write_bytes(b"damaged")
    output = tmp_path / "out.parquet"
    assert main(["encode", "--model", str(model), "--images", str(tmp_path / "photos"), "-o", str(output)]) == 1
    assert "1 image cannot be read, see the warnings" in capsys.readouterr().err
    assert [Path(path).name for path in pq.read_table(output)["image"].to_pylist()] == ["0.png", "1.png", "2.png"]


def test_records_of_a_program_may_have_dates(model, tmp_path):
    records = [{"text": "a", "when": datetime.date(2024, 1, 2)}]
    assert embedder.encode_to_file(records, tmp_path / "out.parquet", model=model) == 1
    assert pq.read_table(tmp_path / "out.parquet")["when"].to_pylist() == [datetime.date(2024, 1, 2)]
    with pytest.raises(InputError, match=r"JSON cannot hold the records: .*date.*Write \.parquet or \.npy"):
        embedder.encode_to_file(records, tmp_path / "out.jsonl", model=model)


def test_files_with_different_columns(model, tmp_path):
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "in/1.parquet")
    pq.write_table(pa.table({"text": ["b"], "m": ["x"]}), tmp_path / "in/2.parquet")
    assert embedder.encode_to_file(tmp_path / "in", tmp_path / "out.parquet", model=model) == 2
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.drop_columns(["embedding"]).to_pylist() == [
        {"text": "a", "n": 1, "m": None},
        {"text": "b", "n": None, "m": "x"},
    ]


def test_no_row(encode, tmp_path):
    pq.write_table(TABLE[:0], tmp_path / "in.parquet")
    for output in ("out.parquet", "shards/", "out.npy"):
        assert encode("in.parquet", "-o", output) == (0, b"", "")
    for path in ("out.parquet", "shards/part-00000.parquet"):
        assert pq.read_table(tmp_path / path).num_rows == 0
        assert set(pq.read_schema(tmp_path / path).names) == set(TABLE.schema.names)


def test_row_groups_are_bounded(encode, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_ROW_GROUP_BYTES", 1)
    monkeypatch.setattr("embedder.engine.batching._WINDOW_ITEMS", 3)
    monkeypatch.setattr(parquet, "_BATCH_ROWS", 2)
    pq.write_table(TABLE, tmp_path / "in.parquet")
    assert encode("in.parquet", "-o", "out.parquet")[0] == 0
    assert pq.ParquetFile(tmp_path / "out.parquet").metadata.num_row_groups == 2
    assert pq.read_table(tmp_path / "out.parquet").drop_columns(["embedding"]).equals(TABLE.drop_columns(["embedding"]))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"body": ["a"], "n": [1]}), "the column 'text' is missing. Its columns are 'body', 'n'. Choose one"),
        (pa.table({"text": [1]}), "the column 'text' should have strings, but its type is int64"),
        (pa.table({"text": ["a"] * 2000 + [None]}), "in.parquet, row 2001: the column 'text' is null"),
        (pa.table([["a"], ["b"], ["c"]], ["text", "n", "n"]), "in.parquet has the column 'n' twice. Rename one"),
        (
            pa.table({"text": pa.array([b"\xff"]).view(pa.string())}),
            "in.parquet has a text that is not UTF-8: invalid start byte",
        ),
        (None, "in.parquet is not a Parquet file: "),
    ],
)
def test_wrong_files(encode, tmp_path, table, message):
    if table is None:
        (tmp_path / "in.parquet").write_text("text\n")
    else:
        pq.write_table(table, tmp_path / "in.parquet")
    status, _, err = encode("in.parquet", "-o", "out.npy")
    assert status == 1
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input-format", "parquet"], "Parquet cannot be read from stdin, because its end is read first. Name the"),
        (["in.parquet"], "in.parquet: the column 'when' is of type timestamp[ns], which JSON does not have. Write"),
        (["in.parquet", "--output-format", "parquet"], "Parquet is written to files only. Name one with --output"),
        (["in.parquet", "--resume"], "--resume goes on with a file. Name it with --output"),
        (
            ["in.parquet", "-o", "out/", "--output-format", "npy"],
            "out/ is a directory, which gets Parquet files. Name a",
        ),
        (
            ["in.parquet", "-o", "out.parquet", "--column", "embedding"],
            "--column embedding: the vectors are written to",
        ),
        (["in.parquet", "--delimiter", ";"], "--delimiter is for csv and tsv, but the input format is parquet"),
        (["no.parquet", "-o", "out.npy"], "no.parquet: No such file or directory"),
    ],
)
def test_wrong_use(encode, tmp_path, arguments, message):
    pq.write_table(TABLE, tmp_path / "in.parquet")
    status, out, err = encode(*arguments)
    assert (status, out) == (1, b"")
    assert message in err
    assert err.count("\n") == 1


def test_note_about_what_an_earlier_run_has_done(encode, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "the cat"}\n')
    assert encode("-o", "out.parquet", stdin=b"the cat\n\xff")[0] == 1
    status, _, err = encode("-o", "out.parquet", "--resume", stdin=b"the cat\ndog\n")
    assert (status, err) == (0, "embedder: note: 1 input done by an earlier run\n")
    assert pq.read_table(tmp_path / "out.parquet")["text"].to_pylist() == ["the cat", "dog"]


def test_other_commands_read_parquet(tiny, tmp_path, capsys):
    pq.write_table(pa.table({"body": ["the cat", "the cat"], "n": [1, 2]}), tmp_path / "in.parquet")
    assert main(["duplicates", "--model", str(tiny), str(tmp_path / "in.parquet"), "--json"]) == 0
    assert '"n": 2' in capsys.readouterr().out


def test_pyarrow_that_is_not_installed(encode, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for arguments in (["-o", "out.parquet"], ["-o", "out/"], ["in.parquet"]):
        status, _, err = encode(*arguments, stdin=b"a")
        assert status == 1
        assert err.endswith('needs pyarrow, which is not installed. Run: pip install "embedder-onnx[parquet]"\n')
    with pytest.raises(DependencyError):
        parquet.ParquetSource("in.parquet", "text")
