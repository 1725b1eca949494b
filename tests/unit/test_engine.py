"""Which of an artifact's graphs runs, in which threads; and streams that end early."""

import re
import threading

import numpy as np
import pytest

import embedder
from embedder.artifact.manifest import read_manifest, write_manifest
from embedder.backends import cpu
from embedder.backends.cpu import CpuDevice
from embedder.cli import main as cli
from embedder.errors import InputError
from tests.tiny import add_int8_graph, expected, ids_of

TEXTS = ["the cat sat on the mat", "dog", "a b c", ""] * 100


@pytest.fixture
def both(tiny):
    """An artifact with an fp32 graph and an int8 graph."""
    add_int8_graph(tiny)
    return tiny


class WatchedBackend:
    """Gives each text the number of its tokens in all dimensions. Calls `watch` in each run."""

    def __init__(self, threads=2, watch=lambda single_batch: None):
        self.device = CpuDevice(threads)
        self.watch = watch

    def run(self, feeds, *, single_batch=False):
        self.watch(single_batch)
        counts = feeds["attention_mask"].sum(axis=1, keepdims=True)
        return {"embedding": np.repeat(counts, 8, axis=1).astype(np.float32)}


def dtype_of(model):
    return repr(model).partition("dtype='")[2].partition("'")[0]


@pytest.mark.parametrize(("wanted", "expected"), [(None, "fp32"), ("fp32", "fp32"), ("int8", "int8"), ("auto", "int8")])
def test_graph_is_chosen_and_shown(both, wanted, expected, monkeypatch):
    monkeypatch.setattr(cpu, "has_fast_integers", lambda: True)
    model = embedder.Embedder(both, provider="cpu", dtype=wanted)
    assert dtype_of(model) == expected
    sign = -1 if expected == "int8" else 1
    np.testing.assert_allclose(model.encode("cat"), sign * embedder.Embedder(both).encode("cat"), atol=1e-6)


def test_auto_is_fp32_on_an_old_cpu_and_where_there_is_no_other(both, make_artifact, monkeypatch):
    monkeypatch.setattr(cpu, "has_fast_integers", lambda: False)
    assert dtype_of(embedder.Embedder(both, provider="cpu", dtype="auto")) == "fp32"
    monkeypatch.setattr(cpu, "has_fast_integers", lambda: True)
    assert dtype_of(embedder.Embedder(make_artifact("one"), provider="cpu", dtype="auto")) == "fp32"


def test_an_artifact_may_have_int8_alone(both):
    manifest = read_manifest(both)
    object.__setattr__(manifest, "graphs", manifest.graphs[1:])
    write_manifest(manifest, both)
    assert dtype_of(embedder.Embedder(both)) == "int8"


@pytest.mark.parametrize("wanted", ["fp16", "INT8", "", 8, ["int8"]])
def test_unknown_dtype_is_named(both, wanted):
    message = r"no graph of dtype .*, it has 'fp32', 'int8': choose one of them, or \"auto\""
    with pytest.raises(InputError, match=message):
        embedder.Embedder(both, dtype=wanted)


def test_one_line_takes_dtype_and_threads_too(both):
    np.testing.assert_allclose(
        embedder.encode("cat", model=both, dtype="int8", threads=1), -embedder.encode("cat", model=both), atol=1e-6
    )


def test_command_line_takes_dtype_and_threads(both, capsys):
    assert cli.main(["similarity", "cat", "dog", "-m", str(both), "--dtype", "int8", "--threads", "1"]) == 0
    assert cli.main(["similarity", "cat", "dog", "-m", str(both), "--dtype", "fp16"]) == 1
    assert "has no graph of dtype 'fp16'" in capsys.readouterr().err
    assert cli.main(["info", str(both)]) == 0
    out = capsys.readouterr().out
    assert "timed at export: fp32 2.0 ms, int8 1.0 ms" in out
    assert re.search(r"^auto +(int8|fp32), on a CPU like this one$", out, re.MULTILINE)
    assert "cosine to fp32 0.9980 on average, 0.9900 at the least, over 3 sentences" in out


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_bad_threads_are_named(tiny, threads):
    with pytest.raises(InputError, match="threads should be a whole number, at least 1"):
        embedder.Embedder(tiny, threads=threads)


@pytest.mark.parametrize("threads", [None, 1, 2, 5])
def test_same_vectors_by_any_number_of_threads(tiny, threads):
    model = embedder.Embedder(tiny, threads=threads)
    alone = {text: model.encode(text) for text in set(TEXTS)}
    np.testing.assert_allclose(model.encode(TEXTS), [alone[text] for text in TEXTS], atol=1e-6)


def test_many_batches_take_a_thread_each_and_one_runs_in_the_callers(tiny):
    calls = []
    backend = WatchedBackend(3, lambda single: calls.append((single, threading.current_thread().name)))
    model = embedder.Embedder(tiny, backend=backend)
    model.encode("cat")
    assert calls == [(True, "MainThread")]
    calls.clear()
    np.testing.assert_array_equal(model.encode(TEXTS)[:, 0], [len(ids_of(text)) for text in TEXTS])
    assert len(calls) > 3
    assert {single for single, _ in calls} == {False}
    assert {name for _, name in calls} == {"embedder"}


def test_an_error_in_a_thread_reaches_the_caller(tiny):
    def fail(single_batch):
        raise MemoryError("no memory")

    model = embedder.Embedder(tiny, backend=WatchedBackend(watch=fail))
    for texts in (TEXTS, "cat"):
        with pytest.raises(MemoryError, match="no memory"):
            model.encode(texts)
    with pytest.raises(MemoryError, match="no memory"):
        next(model.encode_iter(TEXTS))


def test_errors_of_the_callers_texts_come_after_what_they_gave_before(tiny):
    model = embedder.Embedder(tiny, threads=2)

    def texts():
        yield from TEXTS * 3
        raise KeyError("the caller's own")

    found = []
    with pytest.raises(KeyError, match="the caller's own"):
        found.extend(model.encode_iter(texts()))
    assert sum(map(len, found)) == 1024
    np.testing.assert_allclose(found[0][1], expected(ids_of("dog")), atol=1e-6)
