"""Ray Data: batches with their vectors, models that travel, and jobs of files that are killed and run again."""

import contextlib
import os
import random
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedder
from embedder.errors import InputError
from embedder.files.file_pairs import FilePair
from embedder.integrations.table_encoder import TableEncoder
from tests.clusters.ray_cluster import kill
from tests.tiny import WORDS, write_tiny_artifact

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

from embedder.integrations.ray import EncodeBatches, EncodeFiles, send_model, unfinished_files  # noqa: E402

ROOT = Path(__file__).parents[2]
WORD_LIST = WORDS.split()[4:]
FILES, ROWS = 6, 2500
MAX_WAIT_S = 100


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny artifact that all processes of the cluster can read."""
    return write_tiny_artifact(tmp_path_factory.mktemp("models") / "tiny")


def texts(count, words=4, seed=0):
    chosen = random.Random(seed)
    return [" ".join(chosen.choices(WORD_LIST, k=chosen.randint(0, words))) for _ in range(count)]


def table_of(rows, **options):
    return pa.table({"id": range(rows), "text": texts(rows, **options)})


def encoded(dataset, encoder, **options):
    return dataset.map_batches(
        EncodeBatches,
        fn_constructor_kwargs={"encoder": encoder},
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=1),
        **options,
    )


def collected(dataset):
    """All rows of a dataset, by their ids: Ray does not keep the order of blocks."""
    tables = [table for table in dataset.iter_batches(batch_format="pyarrow", batch_size=None) if len(table)]
    return pa.concat_tables(tables).sort_by("id")


def vectors_of(table, column="embedding"):
    return np.array(table[column].to_pylist())


def test_batches_have_the_vectors_of_encode(cluster, model):
    table = table_of(3000)
    dataset = ray.data.from_arrow([table[:1000], table[1000:1800], table[1800:]])
    dataset = encoded(dataset, TableEncoder(model, encode_kwargs={"prompt": "query: "}), batch_size=512)
    bits = TableEncoder(model, output_column="bits", encode_kwargs={"precision": "ubinary"})
    found = collected(encoded(dataset, bits))
    assert found.select(["id", "text"]).equals(table)
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 8)
    assert found.schema.field("bits").type == pa.list_(pa.uint8(), 1)
    loaded, texts = embedder.Embedder(model), table["text"].to_pylist()
    np.testing.assert_allclose(vectors_of(found), loaded.encode(texts, prompt="query: "), atol=1e-7)
    np.testing.assert_array_equal(vectors_of(found, "bits"), loaded.encode(texts, precision="ubinary"))


class OpenActor(EncodeBatches):
    """An actor that tells what it has."""

    def found(self):
        return self._encoder.model_kwargs, str(self._encoder.directory)


def actor(encoder, *arguments, num_cpus=1):
    return ray.remote(OpenActor).options(num_cpus=num_cpus).remote(encoder, *arguments)


def test_threads_are_the_cores_that_ray_grants(cluster, model):
    found, _ = ray.get(actor(TableEncoder(model), num_cpus=2).found.remote())
    assert found == {"threads": 2}


def test_batches_that_cannot_be_encoded(cluster, model):
    encode = actor(TableEncoder(model)).__call__.remote
    with pytest.raises(InputError, match=r"row 2 of the table \(id 8\): the column 'text' is null"):
        ray.get(encode(pa.table({"id": [7, 8], "text": ["a", None]})))
    with pytest.raises(InputError, match=r'takes tables of Arrow\. Give batch_format="pyarrow" to map_batches'):
        ray.get(encode({"text": np.array(["a"])}))


def test_model_travels_to_nodes_that_do_not_have_it(cluster, make_artifact):
    directory = make_artifact()
    encoder = TableEncoder(directory, model_kwargs={"local_files_only": True}).pinned()
    sent = send_model(encoder)
    directory.rename(directory.with_name("hidden"))
    found = ray.get(
        [ray.remote(unpack).options(scheduling_strategy=node).remote(sent) for node in cluster.each_node() * 4]
    )
    assert sorted({path for path, _ in found}) == [f"{cache}/embedder/sent/{sent.digest}" for cache in cluster.caches()]
    assert len(set(found)) == 2  # each node has unpacked the model once: the times of the files are the same
    _, path = ray.get(actor(encoder, sent).found.remote())
    assert path in {path for path, _ in found}


def unpack(sent):
    directory = sent.directory()
    return str(directory), (directory / "embedder.json").stat().st_mtime_ns


def test_examples_of_the_page(cluster, run_page, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    run_page("ray")
    table = pq.read_table(tmp_path / "vectors/1.parquet")
    assert table.column_names == ["text", "embedding"]
    assert table["text"].to_pylist() == ["The cat sits outside."]
    assert len(list(tmp_path.glob("shards/*.parquet"))) == 3


# Jobs of files


def write_files(encoder, pairs):
    """What an actor returns for pairs of files."""
    worker = ray.remote(EncodeFiles).options(num_cpus=1).remote(encoder)
    table = pa.Table.from_pylist([{"input": str(texts), "output": str(vectors)} for texts, vectors in pairs])
    return ray.get(worker.__call__.remote(table)).to_pylist()


def test_problem_of_a_file_does_not_stop_the_others(cluster, model, tmp_path):
    pairs = [(tmp_path / f"{name}.parquet", tmp_path / f"out-{name}.parquet") for name in ("null", "gone", "good")]
    pq.write_table(pa.table({"text": ["a", None]}), pairs[0][0])
    pq.write_table(table_of(5), pairs[2][0])
    encoder = TableEncoder(model).pinned()
    for _ in range(2):  # the second time, the good one is there
        null, gone, good = write_files(encoder, pairs)
        assert (null["rows"], gone["rows"], good["rows"], good["problem"]) == (0, 0, 5, None)
        assert "null.parquet, row 2: the column 'text' is null" in null["problem"]
        assert "No such file or directory" in gone["problem"]
    assert [path.exists() for _, path in pairs] == [False, False, True]
    files = [FilePair(*map(str, pair)) for pair in pairs]
    assert unfinished_files(files, encoder.job()) == files[:2]
    other = TableEncoder(model, encode_kwargs={"prompt": "a "}).job()
    with pytest.raises(InputError, match=r"good.parquet is of another run: prompt was '', and is now 'a '"):
        unfinished_files(files, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"takes an encoder that is pinned. Give encoder.pinned\(\)"),
        ({"digest": "0" * 64, "output_column": "vector"}, "writes the vectors to the column 'embedding'. Leave"),
    ],
)
def test_encoders_that_cannot_write_files(options, message):
    with pytest.raises(InputError, match=message):
        EncodeFiles(TableEncoder(**options))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A directory of Parquet files. Long texts take time to tokenise, so that a job can be killed meanwhile."""
    directory = tmp_path_factory.mktemp("texts")
    for number in range(FILES):
        pq.write_table(table_of(ROWS, words=400, seed=number), directory / f"{number}.parquet")
    return directory


BLOCKS = 3  # of each output, with up to 1,024 rows each


class Job(subprocess.Popen):
    """A run of examples/ray_job.py. It is killed at the end of the `with` statement, if it still runs."""

    def __init__(self, cluster, model, inputs, output, *options):
        self.output = output
        command = [sys.executable, "examples/ray_job.py", inputs, output, "--model", model, *options]
        environment = {**os.environ, "RAY_ADDRESS": cluster.address, "PYTHONPATH": str(ROOT)}
        super().__init__(
            [*map(str, command)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def __exit__(self, *error):
        self.kill()
        super().__exit__(*error)

    def wait_for_blocks(self, count):
        """Wait until so many blocks are written."""
        while self.blocks() < count:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.wait(0.01)
                raise AssertionError(f"it ended with {self.blocks()} blocks: {self.stdout.read()}")

    def blocks(self):
        complete = BLOCKS * len([*self.output.glob("*.parquet")])
        return complete + sum(max(0, len(lines_of(path)) - 1) for path in self.output.glob("*.journal"))

    def end(self):
        """Wait for the end. Return the status, and all output."""
        printed, _ = self.communicate(timeout=MAX_WAIT_S)
        return self.returncode, printed


def lines_of(path):
    try:
        return path.read_bytes().splitlines()
    except FileNotFoundError:  # the file has been completed
        return []


def test_job_that_is_killed_again_and_again_loses_nothing_and_repeats_nothing(cluster, model, inputs, tmp_path):
    chosen = random.Random(os.urandom(8))
    moments = sorted(chosen.sample(range(1, FILES * BLOCKS - 4), 4))
    print("killed after so many blocks:", moments)
    output = tmp_path / "vectors"
    with Job(cluster, model, inputs, output, "--actors", 2) as job:
        job.wait_for_blocks(moments[0])
        kill(chosen.choice(cluster.actors()))
        job.wait_for_blocks(moments[1])
        cluster.replace_node()
        job.wait_for_blocks(moments[2])
    with Job(cluster, model, inputs, output, "--actors", 2) as job:
        job.wait_for_blocks(moments[3])
        kill(chosen.choice(cluster.actors()))
        status, printed = job.end()
    assert status == 0, printed
    assert_same_as_encode(model, inputs, output)


def assert_same_as_encode(model, inputs, output):
    """Check the rows one by one, and that there are no other files."""
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in inputs.iterdir())
    loaded = embedder.Embedder(model)
    for path in inputs.iterdir():
        table, found = pq.read_table(path), pq.read_table(output / path.name)
        assert found.drop_columns(["embedding"]).equals(table)
        np.testing.assert_allclose(vectors_of(found), loaded.encode(table["text"].to_pylist()), atol=1e-7)


def test_errors_of_the_script_have_no_traceback(model, tmp_path, monkeypatch):
    arguments = [tmp_path / "missing", tmp_path / "out", "--model", model]
    monkeypatch.setattr(sys, "argv", ["ray_job.py", *map(str, arguments)])
    with pytest.raises(SystemExit, match=r"error: .*missing is not there"):
        runpy.run_path(str(ROOT / "examples/ray_job.py"), run_name="__main__")
