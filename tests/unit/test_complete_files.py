"""Runs that are repeated when their output is complete, and runs that are killed just before their end."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedder
from embedder.engine import batching
from embedder.errors import InputError
from embedder.files import shards
from embedder.files.targets import LocalTarget
from tests.killed_runs import KINDS, counting_embedder, kill_after, random_texts, read_vectors
from tests.tiny import add_image_graph, write_tiny_artifact

TEXTS = random_texts("complete", 32)
FILES = KINDS[:3]
PARTIAL_FILE = (str(Path(embedder.__file__).parent / "files/partial_file.py"),)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return write_tiny_artifact(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(batching, "_WINDOW_ITEMS", 8)
    monkeypatch.setattr(shards, "SHARD_ROWS", 16)


@pytest.fixture
def encode(model_path, tmp_path, monkeypatch):
    """A function that runs `encode_to_file` with `resume` in `tmp_path`, and returns how many texts were encoded."""
    monkeypatch.chdir(tmp_path)
    model, asked = counting_embedder(model_path)

    def encode(inputs, output, **options):
        asked.clear()
        embedder.encode_to_file(inputs, output, **{"model": model, "resume": True, **options})
        return len(asked)

    with model:
        yield encode


def write_lines(texts):
    Path("in.txt").write_text("".join(f"{text}\n" for text in texts))
    return "in.txt"


def die(function):
    """Call a function in a fork that is killed when its file is in its place."""
    put, child = LocalTarget.put, os.fork()
    if child == 0:
        LocalTarget.put = lambda *words: (put(*words), os.kill(os.getpid(), signal.SIGKILL))
        function()
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("output", KINDS)
def test_complete_output_stays(encode, output):
    inputs = write_lines(TEXTS)
    assert encode(inputs, output) == 32
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path().glob("out*") if path.is_file()}
    assert encode(inputs, output) == 0
    assert encode(TEXTS, output) == 0
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    assert list(Path().rglob("*.partial")) == []


OTHER_JOBS = {
    "shorter": (TEXTS[:31], {}),
    "longer": ([*TEXTS, "a"], {}),
    "changed": (["a", *TEXTS[1:]], {}),
    "reversed": (TEXTS[::-1], {}),
    "prompt": (TEXTS, {"prompt": "the"}),
    "dimension": (TEXTS, {"truncate_dim": 4}),
    "normalised": (TEXTS, {"normalize_embeddings": True}),
    "precision": (TEXTS, {"precision": "binary"}),
    "column": (TEXTS, {"column": "body"}),
    "no resume": (TEXTS, {"resume": False}),
}


@pytest.mark.parametrize("output", FILES)
@pytest.mark.parametrize("name", OTHER_JOBS)
def test_complete_file_of_another_job_is_replaced(encode, output, name):
    texts, options = OTHER_JOBS[name]
    encode(TEXTS, output)
    assert encode(texts, output, **options) == len(texts)
    assert len(read_vectors(Path(output))[0]) == len(texts)


@pytest.mark.parametrize("output", FILES)
def test_inputs_that_can_be_read_only_once_are_encoded_again(encode, output):
    encode(TEXTS, output)
    assert encode(iter(TEXTS), output) == 32


@pytest.mark.parametrize("output", FILES)
def test_complete_file_of_another_model_is_replaced(encode, output, tmp_path):
    encode(TEXTS, output)
    counting, asked = counting_embedder(write_tiny_artifact(tmp_path / "other", normalize=False))
    with counting:
        encode(TEXTS, output, model=counting)
    assert asked == TEXTS


@pytest.mark.parametrize("output", FILES)
@pytest.mark.parametrize("harm", ["cut", "longer", "changed", "gone"])
def test_file_that_somebody_has_changed_is_written_again(encode, output, harm):
    encode(TEXTS, output)
    path, before = Path(output), Path(output).read_bytes()
    if harm == "gone":
        path.unlink()
    elif output.endswith("parquet"):
        pq.write_table(pa.table({"text": TEXTS}), path)
    else:
        path.write_bytes(
            {"cut": before[:-1], "longer": before + b"\n", "changed": before[:-9] + b"7" + before[-8:]}[harm]
        )
    assert encode(TEXTS, output) == 32
    assert path.read_bytes() == before


@pytest.mark.parametrize("output", ["out.npy", "out.jsonl"])
def test_complete_file_without_its_journal_is_written_again(encode, output):
    encode(TEXTS, output)
    Path(f"{output}.journal").unlink()
    assert encode(TEXTS, output) == 32
    assert encode(TEXTS, output, resume=False) == 32
    assert not Path(f"{output}.journal").exists()  # it goes, unless somebody may want to go on


def test_images_that_cannot_be_read_are_tried_again(tmp_path, run_command, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    model = write_tiny_artifact(tmp_path / "clip")
    add_image_graph(model)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (2, 2)).save("photos/0.png")
    Path("photos/1.png").write_bytes(b"damaged")
    words = ("encode", "--model", model, "--images", "photos", "-o", "out.npy", "--resume")
    for _ in range(2):
        status, _, err = run_command(*words)
        assert (status, err.count("photos/1.png")) == (1, 1)
    Image.new("RGB", (2, 2)).save("photos/1.png")
    assert run_command(*words) == (0, b"", "")
    assert run_command(*words) == (0, b"", "embedder: note: 2 inputs done by an earlier run\n")


@pytest.mark.parametrize("output", KINDS)
def test_run_that_was_killed_when_its_file_was_complete_encodes_nothing_again(encode, output):
    inputs = write_lines(TEXTS[:16])
    die(lambda: encode(inputs, output))
    assert encode(inputs, output) == 0
    assert list(Path().rglob("*.partial")) == list(Path().rglob("*.complete")) == []
    assert len(read_vectors(Path(output))[0]) == 16


def test_run_that_was_killed_when_it_had_replaced_its_own_input(encode):
    pq.write_table(pa.table({"text": TEXTS}), "out.parquet")
    die(lambda: encode("out.parquet", "out.parquet"))
    assert encode("out.parquet", "out.parquet") == 32
    assert sorted(path.name for path in Path().iterdir()) == ["out.parquet"]
    assert pq.read_table("out.parquet")["text"].to_pylist() == TEXTS


def test_complete_file_does_not_cost_the_progress_of_a_longer_run(encode):
    encode(write_lines(TEXTS[:16]), "out.parquet")
    inputs = write_lines([*TEXTS, "a"])

    with pytest.raises(InputError, match="stopped"):
        encode(stop_after(16), "out.parquet")
    assert encode(inputs, "out.parquet") == 17


def test_input_that_grows_when_the_output_is_complete(encode, monkeypatch):
    inputs = write_lines(TEXTS)
    encode(inputs, "out.npy")
    from embedder.files import sources

    before = sources.Texts.coverage

    def grow(self, done):
        found = before(self, done)
        with open(inputs, "a") as stream:
            stream.write("one more\n")
        return found

    monkeypatch.setattr(sources.Texts, "coverage", grow)
    with pytest.raises(InputError, match=r"the inputs have changed while they were read, and .*out.npy was complete"):
        encode(inputs, "out.npy")


def stop_after(count, texts=TEXTS):
    """Yield so many texts, then fail."""
    yield from texts[:count]
    raise InputError("stopped")


@pytest.mark.slow
def test_run_that_is_killed_while_it_begins_anew(encode):
    """A run was killed before its first block was whole. The next run is killed at any of its lines."""
    encode(TEXTS[:8], "wanted.npy")
    with pytest.raises(InputError, match="stopped"):
        encode(stop_after(8), "out.npy")
    journal = Path("out.npy.journal").read_bytes().splitlines(keepends=True)[0]
    is_killed, number = True, 0
    while is_killed:
        Path("out.npy").unlink(missing_ok=True)
        Path("out.npy.journal").write_bytes(journal)
        Path("out.npy.partial").write_bytes(b"no whole block")
        is_killed = kill_after(number, lambda: encode(TEXTS[:8], "out.npy"), PARTIAL_FILE)
        encode(TEXTS[:8], "out.npy")
        assert Path("out.npy").read_bytes() == Path("wanted.npy").read_bytes()
        number += 1
    assert number > 50


def test_partial_shard_that_does_not_follow(encode, monkeypatch):
    """Somebody has put a partial shard of a run with larger shards beside the shards of another run."""
    with pytest.raises(InputError, match="stopped"):
        encode(stop_after(24), "large/")
    monkeypatch.setattr(shards, "SHARD_ROWS", 8)
    with pytest.raises(InputError, match="stopped"):
        encode(stop_after(8), "out/")
    for ending in ("partial", "journal"):
        Path(f"large/part-00001.parquet.{ending}").rename(f"out/part-00001.parquet.{ending}")
    with pytest.raises(
        InputError, match=r"part-00001.parquet.partial does not follow the file before it. Delete it, or"
    ):
        encode(TEXTS, "out/")
    Path("out/part-00001.parquet.partial").unlink()
    assert encode(TEXTS, "out/") == 24
    assert pq.read_table("out")["text"].to_pylist() == TEXTS


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_ranges_of_all_vectors(encode, model_path, precision):
    assert encode(TEXTS, "out.parquet", precision=precision) == 32
    assert encode(TEXTS, "out.parquet", precision=precision) == 0
    table = pq.read_table("out.parquet")
    with embedder.Embedder(model_path) as model:
        wanted = model.encode(TEXTS, precision=precision)
        vectors = model.encode(TEXTS)
    found = np.array(table["embedding"].to_pylist())
    assert str(table["embedding"].type.value_type) == precision
    np.testing.assert_array_equal(found, wanted)
    ranges = json.loads(table.schema.metadata[b"embedder"])["ranges"]
    np.testing.assert_array_equal(embedder.quantize_embeddings(vectors, precision, ranges), wanted)
    assert encode([], "none.parquet", precision=precision) == 0
    assert pq.read_table("none.parquet").num_rows == 0


def test_ranges_of_one_vector(encode):
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"int8 and uint8 need the ranges of several vectors, and there is one. Choo"
        ):
            encode(TEXTS[:1], "out.parquet", precision="int8")
