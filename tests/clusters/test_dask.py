"""The function for Dask on docs/jobs/dask.md, on a cluster of two workers on this machine."""

import contextlib
import io
import os
from pathlib import Path

import numpy as np
import pytest

import embedder
from embedder.errors import InputError
from embedder.files.file_pairs import pair_files
from tests.clusters import in_workers
from tests.pages import code_blocks

pytest.importorskip("distributed")

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/jobs/dask.md"
FILES = 4
# Several blocks of the journal.
ROWS = 3000


@pytest.fixture(scope="module")
def page(minilm, tmp_path_factory):
    """The example on the page, its directory, and its client, which is that of the other tests."""
    (example,) = [block for block in code_blocks(PAGE) if block.language == "python"]
    directory = tmp_path_factory.mktemp("page")
    write_texts(directory, rows=2)
    names = {"__name__": "__main__"}
    printed = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(directory),
        contextlib.redirect_stdout(printed),
    ):
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("EMBEDDER_HOME", str(minilm.parent))
        patch.setenv("EMBEDDER_PREPACK", "0")
        exec(compile(example.code, str(PAGE), "exec"), names)
    yield example.code, directory, printed.getvalue(), names["client"]
    names["client"].close()
    names["client"].cluster.close()


@pytest.fixture
def client(page):
    return page[-1]


@pytest.fixture
def encode_file(page, tiny):
    """The function on the page, for a model that no other test has loaded."""
    code, *_ = page
    names = {"__name__": "__main__"}
    exec(compile(code.partition("if __name__")[0].replace("all-MiniLM-L6-v2", str(tiny)), str(PAGE), "exec"), names)
    return names["encode_file"]


@pytest.fixture
def pairs(tmp_path):
    write_texts(tmp_path, ROWS)
    return pair_files(str(tmp_path / "texts"), str(tmp_path / "vectors"))


def texts_of(file, rows):
    return [f"{('the cat', 'dog sat on mat', '字 é')[row % 3]} {file} {row}" for row in range(rows)]


def write_texts(directory, rows):
    (directory / "texts").mkdir()
    for file in range(FILES):
        table = pa.table({"id": range(rows), "text": texts_of(file, rows)})
        pq.write_table(table, directory / f"texts/{file}.parquet")


def assert_complete(pairs, model, rows):
    assert len(pairs) == FILES
    for file, pair in enumerate(pairs):
        found = pq.read_table(pair.output)
        assert found["id"].to_pylist() == list(range(rows))
        assert found["text"].to_pylist() == texts_of(file, rows)
        np.testing.assert_array_equal(found["embedding"].to_pylist(), model.encode(texts_of(file, rows)))


def test_example_on_the_page(page):
    _, directory, printed, _ = page
    assert printed.split() == [str(directory / f"vectors/{file}.parquet") for file in range(FILES)]
    schema = pq.read_schema(directory / "vectors/0.parquet")
    assert schema.field("embedding").type == pa.list_(pa.float32(), 384)


def test_vectors_are_those_of_encode_and_each_worker_loads_the_model_once(client, encode_file, pairs, tiny):
    def report(pair):
        in_workers.count_loads()
        encode_file(pair)
        return os.getpid(), in_workers.threads_of_loads

    reports = client.gather(client.map(report, pairs))
    assert os.getpid() not in {process for process, _ in reports}
    assert [loads for _, loads in reports] == [[1]] * FILES
    assert_complete(pairs, embedder.Embedder(tiny), ROWS)


def test_files_that_are_done_are_passed_over(client, encode_file, pairs):
    client.gather(client.map(encode_file, pairs[:2]))
    before = [Path(pair.output).stat().st_mtime_ns for pair in pairs[:2]]
    client.gather(client.map(encode_file, pairs, pure=False))
    assert [Path(pair.output).stat().st_mtime_ns for pair in pairs[:2]] == before
    assert all(Path(pair.output).is_file() for pair in pairs)


def test_killed_worker_costs_no_row(client, encode_file, pairs, tiny, tmp_path):
    marker = tmp_path / "killed"

    def kill_once(pair):
        if pair.input.endswith("1.parquet") and not marker.exists():
            in_workers.kill_after_next_block(marker)
        return encode_file(pair)

    client.gather(client.map(kill_once, pairs))
    assert marker.exists()
    assert_complete(pairs, embedder.Embedder(tiny), ROWS)


def test_text_that_is_null_fails_the_job_with_a_clear_error(client, encode_file, tmp_path):
    (tmp_path / "texts").mkdir()
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "texts/0.parquet")
    pairs = pair_files(str(tmp_path / "texts"), str(tmp_path / "vectors"))
    with pytest.raises(InputError, match=r"0\.parquet, row 2: the column 'text' is null"):
        client.gather(client.map(encode_file, pairs))
