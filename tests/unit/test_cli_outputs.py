"""The output files of the command line: complete files, and the vectors that are kept if a command ends early."""

import io
import json
import os
import re
import resource
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from embedder.cli import encode
from embedder.errors import ArtifactError
from embedder.files.formats import JsonFields, JsonlFormat, Layout, NpyFormat
from embedder.results import EncodeResult as Result

MANIFEST = type("Manifest", (), {"default_prompt_name": None, "source": SimpleNamespace(model="fake")})
ROWS_PER_BLOCK = 2
NPY = Layout.of("npy", 2, "float32")


@dataclass
class FakeModel:
    """Encodes a text as its length and its number, in blocks of two texts. Calls `fail` before the third block."""

    fail: object = None
    dimension: int = 2
    modalities: tuple = ("text",)
    max_seq_length: int = 16
    digest: str = "0" * 64
    dtype: str = "fp32"
    prompts: dict = field(default_factory=dict)
    manifest: object = MANIFEST
    calls: list = field(default_factory=list)

    def iter_results(self, inputs, *, settings):
        texts = list(inputs)
        for start in range(0, len(texts), ROWS_PER_BLOCK):
            if start == 2 * ROWS_PER_BLOCK and self.fail:
                self.fail()
            block = texts[start : start + ROWS_PER_BLOCK]
            vectors = np.zeros((len(block), self.dimension), np.float32)
            vectors[:, :2] = [[len(text), start + row] for row, text in enumerate(block)]
            yield Result(vectors, np.arange(start, start + len(block)), {})


@pytest.fixture
def run(monkeypatch, run_command):
    """A function that runs `embedder encode` with a fake model and returns its status and both outputs."""

    def run(*arguments, stdin=b"a\nbb\nccc\n" * 3, fail=None, dimension=2):
        monkeypatch.setattr(encode, "load_model", lambda options, model: FakeModel(fail, dimension))
        return run_command("encode", *arguments, stdin=stdin)

    return run


def raising(error, *arguments):
    """Return a function that raises the error."""

    def fail():
        raise error(*arguments)

    return fail


def rows_of(path):
    """Return the vectors of a file in one of the two formats."""
    if "npy" in path.name:
        return np.load(path).tolist()
    return [json.loads(line)["embedding"] for line in path.read_text().splitlines()]


def kept(rows, partial):
    """Return the note about vectors that are kept."""
    records = "record" if rows == 1 else "records"
    return f"the finished vectors are kept: {rows} {records} in {partial}. Go on by --resume (in Python resume=True)\n"


WANTED = [[1, 0], [2, 1], [3, 2], [1, 3], [2, 4], [3, 5], [1, 6], [2, 7], [3, 8]]


@pytest.mark.parametrize("kind", ["npy", "jsonl"])
def test_complete_output(run, tmp_path, kind):
    path = tmp_path / f"out.{kind}"
    assert run("--output", path) == (0, b"", "")
    assert rows_of(path) == WANTED
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["npy", "jsonl"])
@pytest.mark.parametrize(
    ("fail", "status", "message"),
    [
        (raising(ArtifactError, "the model failed"), 1, "embedder: error: the model failed\n"),
        (raising(MemoryError), 1, "embedder: error: out of memory\n"),
        (raising(KeyboardInterrupt), 130, ""),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), 143, ""),
        (lambda: os.kill(os.getpid(), signal.SIGHUP), 129, ""),
    ],
    ids=["model", "memory", "interrupt", "SIGTERM", "SIGHUP"],
)
def test_finished_vectors_are_kept_after_an_error_or_a_signal(run, tmp_path, kind, fail, status, message):
    path, partial = tmp_path / f"out.{kind}", tmp_path / f"out.{kind}.partial"
    path.write_text("of an earlier run")
    path.chmod(0o600)
    found = run("--output", path, fail=fail)
    assert found == (status, b"", f"{message}embedder: {kept(4, partial)}")
    assert rows_of(partial) == WANTED[:4]
    assert path.read_text() == "of an earlier run"
    assert partial.stat().st_mode & 0o777 == 0o600
    assert sorted(tmp_path.iterdir()) == sorted([path, partial, tmp_path / f"{path.name}.journal"])
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("kind", ["npy", "jsonl"])
def test_all_records_before_a_bad_one_are_kept(run, tmp_path, kind):
    path, partial = tmp_path / f"out.{kind}", tmp_path / f"out.{kind}.partial"
    status, out, err = run("--output", path, stdin=b"a\nbb\nccc\n\xff\nd\n")
    assert (status, out) == (1, b"")
    assert err == (
        "embedder: error: stdin, line 4 is not UTF-8: invalid start byte at byte 0. Save the file as UTF-8\n"
        f"embedder: {kept(3, partial)}"
    )
    assert rows_of(partial) == WANTED[:3]
    assert sorted(tmp_path.iterdir()) == sorted([partial, tmp_path / f"{path.name}.journal"])


def test_all_records_before_a_bad_one_reach_standard_output(run):
    status, out, err = run("--input-format", "jsonl", stdin=b'{"text": "a", "id": 7}\n\n{"text": "b"}\n')
    assert (status, out) == (1, b'{"text": "a", "id": 7, "embedding": [1, 0]}\n')
    assert err == (
        "embedder: error: stdin, line 2 is blank, and records follow. Remove the line\n"
        "embedder: the finished vectors are kept: 1 record on standard output\n"
    )
    status, out, err = run("--output-format", "npy", stdin=b"a\nbb\n\xff")
    assert (status, np.load(io.BytesIO(out)).tolist()) == (1, WANTED[:2])
    assert err.endswith("embedder: the finished vectors are kept: 2 records on standard output\n")


@pytest.mark.parametrize("kind", ["npy", "jsonl"])
def test_nothing_is_kept_if_nothing_was_encoded(run, tmp_path, kind):
    status, out, err = run("--output", tmp_path / f"out.{kind}", stdin=b"\xff")
    assert (status, out, err.count("\n")) == (1, b"", 1)
    assert run("--output-format", kind, stdin=b"\xff")[1] == b""
    assert list(tmp_path.iterdir()) == []


def test_file_is_checked_before_the_model_is_loaded(run, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a"}\n' * 3000 + '{"text": "a"\n')
    status, out, err = run(source, "--model", "this model is not loaded")
    assert (status, out) == (1, b"")
    assert err.startswith(f"embedder: error: {source}, line 3001 is not JSON: ")
    assert err.count("\n") == 1


def test_file_that_cannot_be_created(run):
    assert run("--output", "/proc/out.npy")[2] == (
        "embedder: error: /proc/out.npy cannot be written: No such file or directory\n"
    )


def test_output_through_a_link(run, tmp_path):
    (tmp_path / "real").mkdir()
    link, real = tmp_path / "out.npy", tmp_path / "real" / "vectors.npy"
    link.symlink_to(real)
    assert run("--output", link)[0] == 0
    assert rows_of(real) == WANTED
    assert f"in {real}.partial. Go on" in run("--output", link, stdin=b"a\n\xff")[2]
    assert link.is_symlink()


def test_unexpected_error_has_a_note_about_the_kept_vectors(run, tmp_path):
    with pytest.raises(ZeroDivisionError) as error:
        run("--output", tmp_path / "out.npy", fail=raising(ZeroDivisionError))
    assert error.value.__notes__ == [kept(4, tmp_path / "out.npy.partial").strip()]


@pytest.mark.parametrize("kind", ["npy", "jsonl"])
def test_full_disk(run, tmp_path, kind):
    """A limit on the size of files simulates a full disk. The third block reaches the limit."""
    path, partial = tmp_path / f"out.{kind}", tmp_path / f"out.{kind}.partial"
    assert run("--output", path, stdin=b"a\nbb\nccc\n" * 2, dimension=1000)[0] == 0
    size, limits = path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    path.unlink()
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 3, limits[1]))
    try:
        status, _, err = run("--output", path, dimension=1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (status, err) == (
        1,
        f"embedder: error: File too large\nembedder: {kept(4, partial)}",
    )
    assert [row[:2] for row in rows_of(partial)] == WANTED[:4]
    assert run("--output", path, "--resume", dimension=1000)[0] == 0
    assert [row[0] for row in rows_of(path)] == [row[0] for row in WANTED]


def test_disk_that_is_full_for_the_journal(run, tmp_path):
    """The vectors have room, and the line of the journal that says so has none."""
    partial = tmp_path / "out.npy.partial"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (800, limits[1]))
    try:
        status, _, err = run("--output", tmp_path / "out.npy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (status, err) == (1, f"embedder: error: File too large\nembedder: {kept(4, partial)}")
    assert run("--output", tmp_path / "out.npy", "--resume")[0] == 0


def test_array_is_kept_if_standard_output_cannot_be_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    status, _, err = run("--output", "/dev/full", "--output-format", "npy")
    assert status == 1
    (kept,) = tmp_path.iterdir()
    assert err == (
        f"embedder: error: No space left on device\nembedder: the finished vectors are kept: 9 records in {kept}\n"
    )
    assert rows_of(kept) == WANTED


def test_reader_that_closes_the_pipe(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    read, write = os.pipe()
    os.close(read)
    with ExitStack() as stack:
        stream = os.fdopen(write, "wb", buffering=0)
        stack.callback(stream.close)
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=stream, flush=lambda: None))
        for kind in ("npy", "jsonl"):
            status = run("--output-format", kind)[0]
            assert status == 1
    assert list(tmp_path.iterdir()) == []


def test_message_if_the_finished_vectors_cannot_be_kept(run, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(NpyFormat, "close", refuse)
    status, _, err = run("--output", tmp_path / "out.npy", stdin=b"a\n\xff")
    assert status == 1
    assert err.endswith(
        f"embedder: 1 record in {tmp_path / 'out.npy.partial'} cannot be completed: [Errno 1] Operation not permitted\n"
    )


def test_signals_that_are_ignored_stay_ignored(run):
    for number in (signal.SIGTERM, signal.SIGHUP):
        before = signal.signal(number, signal.SIG_IGN)
        try:
            assert run(fail=lambda number=number: os.kill(os.getpid(), number))[0] == 0
            assert signal.getsignal(number) == signal.SIG_IGN
        finally:
            signal.signal(number, before)


def test_output_keeps_its_mode(run, tmp_path):
    path = tmp_path / "out.npy"
    path.write_bytes(b"old")
    path.chmod(0o600)
    assert run("--output", path)[0] == 0
    assert rows_of(path) == WANTED
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("precision", "columns"), [("float32", 9), ("float16", 9), ("binary", 2), ("ubinary", 2)])
def test_layout(precision, columns):
    layout = Layout.of("npy", 9, precision)
    assert layout.columns == columns
    assert (
        np.dtype(layout.dtype)
        == {"float32": np.float32, "float16": np.float16, "binary": np.int8, "ubinary": np.uint8}[precision]
    )


def test_nan_and_infinities_can_be_read_again_from_jsonl():
    vectors = np.float32([[np.nan, -np.inf], [np.inf, 1e-45]])
    rows = [JsonFields({"text": "nan"}), JsonFields({"text": "inf"})]
    content = JsonlFormat(Layout.of("jsonl", 2, "float32")).block(rows, vectors)
    records = [json.loads(line) for line in content.splitlines()]
    np.testing.assert_array_equal(np.float32([record["embedding"] for record in records]), vectors)
    assert [record["text"] for record in records] == ["nan", "inf"]


@pytest.mark.parametrize("rows", [0, 1, 10**9])
def test_header_has_the_same_length_for_any_number_of_rows(rows):
    format = NpyFormat(NPY)
    assert len(format.head(rows)) == len(format.head(0))
    assert re.search(rb"'shape': \(%d, 2\)" % rows, format.head(rows))
