"""Inputs and outputs in an object store, on a server of this machine that has the interface of S3."""

import json
import logging
import os
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

import embedder
from embedder.cli.main import main
from embedder.engine import batching
from embedder.errors import InputError
from embedder.files import shards
from embedder.files.file_pairs import FilePair, pair_files, rows_done
from embedder.files.object_store import list_remote
from embedder.integrations.table_encoder import TableEncoder
from tests.killed_runs import counting_embedder
from tests.tiny import WORDS, write_tiny_artifact

moto_server = pytest.importorskip("moto.server", reason="moto is not installed")

TEXTS = [f"{word} {number}" for number in range(10) for word in WORDS.split()[4:20]]
NUMBERS = count(1)
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def endpoint():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(endpoint, monkeypatch):
    """The file system of the server, and an empty bucket."""
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{next(NUMBERS)}"
    system = fs.S3FileSystem(endpoint_override=endpoint, allow_bucket_creation=True)
    system.create_dir(bucket)
    return system, bucket


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return write_tiny_artifact(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def model(model_path, monkeypatch):
    monkeypatch.setattr(batching, "_WINDOW_ITEMS", 16)
    monkeypatch.setattr(shards, "SHARD_ROWS", 64)
    with embedder.Embedder(model_path) as model:
        yield model


def put(system, path, content):
    with system.open_output_stream(path) as stream:
        stream.write(content)


def read(system, path):
    with system.open_input_file(path) as stream:
        return stream.read()


def parquet_of(texts):
    stream = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), stream)
    return stream.getvalue()


def names_in(system, folder):
    infos = system.get_file_info(fs.FileSelector(folder, recursive=True))
    return sorted(info.path.removeprefix(f"{folder}/") for info in infos if info.is_file)


def test_parquet_from_and_to_a_bucket(store, model, tmp_path):
    system, bucket = store
    put(system, f"{bucket}/in/1.parquet", parquet_of(TEXTS[:100]))
    put(system, f"{bucket}/in/2.parquet", parquet_of(TEXTS[100:]))
    for source in (f"s3://{bucket}/in/", f"s3://{bucket}/in/*.parquet", f"s3://{bucket}/**/[12].parquet"):
        assert embedder.encode_to_file(source, f"s3://{bucket}/out.parquet", model=model) == 160
        table = pq.read_table(f"{bucket}/out.parquet", filesystem=system)
        assert table["text"].to_pylist() == TEXTS
        np.testing.assert_allclose(np.float32(table["embedding"].to_pylist()), model.encode(TEXTS), atol=1e-6)
    assert list((Path(os.environ["XDG_CACHE_HOME"]) / "embedder/unfinished").glob("*/*")) == []


@pytest.mark.parametrize("name", ["in.txt", "in.csv", "in.jsonl"])
def test_other_formats(store, model, model_path, name):
    system, bucket = store
    lines = {
        "in.txt": TEXTS,
        "in.csv": ["text", *TEXTS],
        "in.jsonl": [json.dumps({"text": text}) for text in TEXTS],
    }[name]
    put(system, f"{bucket}/{name}", "\n".join(lines).encode())
    status = main(["encode", "--model", str(model_path), f"s3://{bucket}/{name}", "-o", f"s3://{bucket}/out.jsonl"])
    assert status == 0
    rows = [json.loads(line) for line in read(system, f"{bucket}/out.jsonl").splitlines()]
    assert [row["text"] for row in rows] == TEXTS


def test_shards_in_a_bucket_and_a_run_that_was_stopped(store, model):
    system, bucket = store
    output = f"s3://{bucket}/out/"

    def stopping():
        yield from TEXTS[:112]
        raise InputError("stopped")

    with pytest.raises(InputError, match="stopped") as error:
        embedder.encode_to_file(stopping(), output, model=model)
    assert "48 records in " in error.value.__notes__[0]
    assert names_in(system, f"{bucket}/out") == ["part-00000.parquet"]
    with pytest.raises(InputError, match=rf"s3://{bucket}/out has files of an earlier run"):
        embedder.encode_to_file(TEXTS, output, model=model)
    with pytest.raises(InputError, match=r"part-00000.parquet is of another run: prompt was"):
        embedder.encode_to_file(TEXTS, output, model=model, resume=True, prompt="a")
    for _ in range(2):
        assert embedder.encode_to_file(TEXTS, output, model=model, resume=True) == 160
        assert names_in(system, f"{bucket}/out") == [f"part-{number:05}.parquet" for number in range(3)]
    assert pq.read_table(f"{bucket}/out", filesystem=system)["text"].to_pylist() == TEXTS


def test_run_on_another_machine_goes_on_after_the_last_shard(store, model, monkeypatch, tmp_path):
    system, bucket = store

    def stopping():
        yield from TEXTS[:112]
        raise InputError("stopped")

    with pytest.raises(InputError, match="stopped"):
        embedder.encode_to_file(stopping(), f"s3://{bucket}/out/", model=model)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert embedder.encode_to_file(TEXTS, f"s3://{bucket}/out/", model=model, resume=True) == 160
    assert pq.read_table(f"{bucket}/out", filesystem=system)["text"].to_pylist() == TEXTS


SCRIPT = """
import os, random, signal, sys
import embedder
from embedder.engine import batching
from embedder.files import shards

left, model, source, output = int(sys.argv[1]), *sys.argv[2:]
batching._WINDOW_ITEMS, shards.SHARD_ROWS = 16, 64
place = os.path.join(os.path.dirname(embedder.__file__), "files")

def step(frame, event, argument):
    global left
    if not frame.f_code.co_filename.startswith(place):
        return None
    left -= event == "line"
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return step

model = embedder.Embedder(model)
sys.settrace(step)
embedder.encode_to_file(source, output, model=model, resume=True)
"""


@pytest.mark.slow
def test_kills(store, model, model_path):
    system, bucket = store
    put(system, f"{bucket}/in.parquet", parquet_of(TEXTS))
    source, output = f"s3://{bucket}/in.parquet", f"s3://{bucket}/out/"
    statuses = []
    for lines in (500, 3000, 2500, 10**9):
        words = [sys.executable, "-c", SCRIPT, str(lines), str(model_path), source, output]
        statuses.append(subprocess.run(words, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}).returncode)
    assert statuses[-1] == 0
    assert statuses[0] == -9
    table = pq.read_table(f"{bucket}/out", filesystem=system)
    assert table["text"].to_pylist() == TEXTS
    np.testing.assert_allclose(np.float32(table["embedding"].to_pylist()), model.encode(TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("s3://BUCKET/none.parquet", "s3://BUCKET/none.parquet cannot be read: .*does not exist"),
        ("s3://BUCKET/none.txt", "s3://BUCKET/none.txt cannot be read: .*does not exist"),
        ("s3://BUCKET/none/", "no file of texts has a name such as s3://BUCKET/none/"),
        ("s3://BUCKET/*.csv", r"no file of texts has a name such as s3://BUCKET/\*.csv"),
        ("s3:///in.txt", "s3:///in.txt cannot be read: "),
    ],
)
def test_what_cannot_be_read(store, model, tmp_path, source, message):
    bucket = store[1]
    with pytest.raises(InputError, match=message.replace("BUCKET", bucket)):
        embedder.encode_to_file(source.replace("BUCKET", bucket), tmp_path / "out.npy", model=model)


def test_what_cannot_be_written(store, endpoint, model, monkeypatch, tmp_path):
    system, bucket = store

    def losing():
        yield from TEXTS
        fs.S3FileSystem(endpoint_override=endpoint, allow_bucket_deletion=True).delete_dir(bucket)

    output = f"s3://{bucket}/out.npy"
    with pytest.raises(InputError, match=rf"{output} cannot be written: ") as error:
        embedder.encode_to_file(losing(), output, model=model)
    assert "the finished vectors are kept: 160 records in " in error.value.__notes__[0]
    system.create_dir(bucket)
    assert embedder.encode_to_file(TEXTS, output, model=model, resume=True) == 160
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"the vectors of s3://.*/out.npy wait in your cache, which cannot be used: "):
        embedder.encode_to_file(TEXTS, output, model=model)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("s3://no-such-bucket/out.npy", "s3://no-such-bucket cannot be written: there is no such bucket"),
        ("s3://no-such-bucket/out/", "s3://no-such-bucket cannot be written: there is no such bucket"),
        ("s3://out.npy", "s3://out.npy should be of the form s3://bucket/name"),
    ],
)
def test_bucket_that_is_missing_is_found_before_texts_are_encoded(store, model, output, message):
    asked = []
    with pytest.raises(InputError, match=message):
        embedder.encode_to_file((asked.append(text) or text for text in TEXTS), output, model=model)
    assert asked == []


def test_complete_file_in_a_bucket_stays(store, model, model_path):
    system, bucket = store
    output = f"s3://{bucket}/out.parquet"
    counting, asked = counting_embedder(model_path)
    with counting:
        for _ in range(2):
            assert embedder.encode_to_file(TEXTS, output, model=counting, resume=True) == 160
    assert asked == TEXTS
    assert pq.read_table(f"{bucket}/out.parquet", filesystem=system)["text"].to_pylist() == TEXTS


def test_patterns(store):
    system, bucket = store
    for name in ("a/1.csv", "a/b/2.csv", "a/b/3.txt", "4.CSV"):
        put(system, f"{bucket}/{name}", b"text\n")

    def found(pattern):
        return [uri.removeprefix(f"s3://{bucket}/") for uri in list_remote(f"s3://{bucket}/{pattern}", (".csv",))]

    assert found("a/*.csv") == ["a/1.csv"]
    assert found("**/*.csv") == ["a/1.csv", "a/b/2.csv"]
    assert found("*/*/[23].*") == ["a/b/2.csv", "a/b/3.txt"]
    assert found("a/") == ["a/1.csv", "a/b/2.csv"]
    assert found("") == ["4.CSV", "a/1.csv", "a/b/2.csv"]


def test_files_of_a_job_are_paired_and_checked(store, model):
    system, bucket = store
    for name in ("a", "deeper/b"):
        put(system, f"{bucket}/in/{name}.parquet", parquet_of(TEXTS[:4]))
    base = f"s3://{bucket}"
    pairs = pair_files(f"{base}/in/", f"{base}/out/")
    assert pairs == [FilePair(f"{base}/in/{name}", f"{base}/out/{name}") for name in ("a.parquet", "deeper/b.parquet")]
    embedder.encode_to_file(pairs[1].input, pairs[1].output, model=model, resume=True)
    job = TableEncoder(model).job()
    assert [rows_done(pair, job) for pair in pairs] == [None, 4]
    system.delete_file(f"{bucket}/in/deeper/b.parquet")
    with pytest.raises(InputError, match=r"out/deeper/b.parquet is there, and no input has this name"):
        pair_files(f"{base}/in/*.parquet", f"{base}/out")
