"""`embedder.encode_to_file`: runs that are killed at any moment, and what a run refuses to go on with."""

import json
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import embedder
from embedder.engine import batching
from embedder.errors import InputError
from embedder.files import shards
from tests.tiny import WORDS, write_tiny_artifact

KILLS = 13  # of each of the four kinds of output: fifty-two in all
ROWS = 150
ROWS_PER_BLOCK = 8
KINDS = ("out.npy", "out.jsonl", "out.parquet", "out/")
TRACED = (str(Path(embedder.__file__).parent / "files"), str(Path(embedder.__file__).parent / "common/files.py"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with embedder.Embedder(write_tiny_artifact(tmp_path_factory.mktemp("model") / "tiny"), threads=1) as model:
        yield model


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(batching, "_WINDOW_ITEMS", ROWS_PER_BLOCK)
    monkeypatch.setattr(batching, "_BUDGET_TOKENS_PER_ITEM", 10**9)  # as on a CPU: one window at a time
    monkeypatch.setattr(shards, "SHARD_ROWS", 5 * ROWS_PER_BLOCK)


def random_texts(seed, count=ROWS):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS.split()[4:], k=draw.randint(0, 12))) for _ in range(count)]


def write_table(path, texts):
    """Write texts and other columns, in two row groups."""
    table = pa.table({"id": range(len(texts)), "text": texts, "tags": [["a"], []] * (len(texts) // 2)})
    pq.write_table(table, path, row_group_size=len(texts) // 2)


def read(path):
    """Return all rows of an output: the vectors, and the other fields."""
    if path.suffix == ".npy":
        return np.load(path), None
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        rows = pq.read_table(path).to_pylist()
    return np.float32([row.pop("embedding") for row in rows]), rows


def kill_after(lines, function):
    """Call `function` in a fork of this process, and kill the fork when it has run so many lines of embedder.files.

    Return whether it was killed.
    """
    child = os.fork()
    if child == 0:
        left = lines

        def count(frame, event, argument):
            nonlocal left
            if not frame.f_code.co_filename.startswith(TRACED):
                return None
            if event == "line":
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return count

        sys.settrace(count)
        try:
            function()
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status != 0


def lines_of(function):
    """Return how many lines of embedder.files a call runs."""
    counted = 0

    def count(frame, event, argument):
        nonlocal counted
        counted += event == "line"
        return count if frame.f_code.co_filename.startswith(TRACED) else None

    before = sys.gettrace()
    sys.settrace(count)
    try:
        function()
    finally:
        sys.settrace(before)
    return counted


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_and_nothing_is_there_twice_after_kills_at_any_moment(model, tmp_path, kind):
    source = tmp_path / "in.parquet"
    write_table(source, random_texts(kind))
    wanted, output = tmp_path / "wanted" / kind, tmp_path / "killed" / kind
    for path in (wanted, output):
        path.parent.mkdir()
    target = f"{output}/" if kind.endswith("/") else output
    lines = lines_of(
        lambda: embedder.encode_to_file(source, f"{wanted}/" if kind.endswith("/") else wanted, model=model)
    )
    draw, kills = random.Random(kind), 0
    while kills < KILLS:
        if kill_after(
            draw.randint(0, lines), lambda: embedder.encode_to_file(source, target, model=model, resume=True)
        ):
            kills += 1
    assert embedder.encode_to_file(source, target, model=model, resume=True) == ROWS
    vectors, fields = read(output)
    np.testing.assert_array_equal(vectors, read(wanted)[0])
    assert fields == read(wanted)[1]
    names = sorted(path.name for path in wanted.rglob("*")) if kind.endswith("/") else []
    assert sorted(path.relative_to(output.parent).name for path in output.parent.rglob("*")) == sorted(
        [*names, output.name]
    )
