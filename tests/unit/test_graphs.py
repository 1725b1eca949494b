"""Which of an artifact's graphs is used, and by how many threads."""

import multiprocessing
import os
import re
import sys
import threading

import numpy as np
import pytest

import embedder
from embedder.artifact.manifest import read_manifest, write_manifest
from embedder.backends import session
from embedder.cli import main as cli
from embedder.engine import engine as loaded
from embedder.errors import InputError
from tests.tiny import add_int8_graph

TEXTS = ["the cat sat on the mat", "dog", "a b c", ""] * 100


@pytest.fixture
def shared(monkeypatch):
    """As if the tiny model were so large that all of its calls were worth many threads."""
    monkeypatch.setattr(session, "_LEAST_SHARED", 0)


@pytest.fixture
def both(tiny):
    add_int8_graph(tiny)
    return tiny


def graph_of(model):
    return repr(model).partition("dtype='")[2].partition("'")[0]


@pytest.mark.parametrize(("wanted", "expected"), [(None, "fp32"), ("fp32", "fp32"), ("int8", "int8"), ("auto", "int8")])
def test_graph_is_chosen_and_shown(both, wanted, expected, monkeypatch):
    monkeypatch.setattr(loaded, "has_fast_integers", lambda: True)
    model = embedder.Embedder(both, provider="cpu", dtype=wanted)
    assert graph_of(model) == expected
    sign = -1 if expected == "int8" else 1
    np.testing.assert_allclose(model.encode("cat"), sign * embedder.Embedder(both).encode("cat"), atol=1e-6)


def test_auto_is_the_exact_one_on_an_old_cpu_and_where_there_is_no_other(both, make_artifact, monkeypatch):
    monkeypatch.setattr(loaded, "has_fast_integers", lambda: False)
    assert graph_of(embedder.Embedder(both, provider="cpu", dtype="auto")) == "fp32"
    monkeypatch.setattr(loaded, "has_fast_integers", lambda: True)
    assert graph_of(embedder.Embedder(make_artifact("one"), provider="cpu", dtype="auto")) == "fp32"


def test_an_artifact_may_have_int8_alone(both):
    manifest = read_manifest(both)
    object.__setattr__(manifest, "graphs", manifest.graphs[1:])
    write_manifest(manifest, both)
    assert graph_of(embedder.Embedder(both)) == "int8"


@pytest.mark.parametrize("wanted", ["fp16", "INT8", "", 8, ["int8"]])
def test_unknown_graph_is_named(both, wanted):
    with pytest.raises(InputError, match=r"no graph .*, it has 'fp32', 'int8': choose one of them, or \"auto\""):
        embedder.Embedder(both, dtype=wanted)


def test_one_line_takes_graph_and_threads_too(both):
    np.testing.assert_allclose(
        embedder.encode("cat", model=both, dtype="int8", threads=1), -embedder.encode("cat", model=both), atol=1e-6
    )


def test_command_line_takes_graph_and_threads(both, capsys):
    assert cli.main(["similarity", "cat", "dog", "-m", str(both), "--dtype", "int8", "--threads", "1"]) == 0
    assert cli.main(["similarity", "cat", "dog", "-m", str(both), "--dtype", "fp16"]) == 1
    assert "has no graph 'fp16'" in capsys.readouterr().err
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


def test_many_batches_take_a_thread_each_and_one_takes_all(tiny, shared, monkeypatch):
    calls = []
    run = session.Session._run

    def watched(self, inputs, tokens, threads):
        calls.append((threads, threading.current_thread().name))
        return run(self, inputs, tokens, threads)

    monkeypatch.setattr(session.Session, "_run", watched)
    model = embedder.Embedder(tiny, threads=3)
    model.encode("cat")
    assert calls == [(3, "MainThread")]
    calls.clear()
    model.encode(TEXTS)
    assert len(calls) > 3
    assert {threads for threads, _ in calls} == {1}
    assert all(name.startswith("embedder") for _, name in calls)


def test_little_work_takes_one_thread(tiny, monkeypatch):
    model = embedder.Embedder(tiny, threads=4)
    assert set(model._model.text().session._sessions) == {1}
    monkeypatch.setattr(session, "_LEAST_SHARED", 5 * model.manifest.graphs[0].weights.size)
    model.encode("the cat")
    assert set(model._model.text().session._sessions) == {1}
    model.encode("the cat sat")
    assert set(model._model.text().session._sessions) == {1, 4}


def test_a_text_beside_another_takes_its_callers_thread_alone(tiny, shared, monkeypatch):
    """Two callers who share the threads of one session are the slowest of all."""
    model = embedder.Embedder(tiny, threads=2)
    inside, run = [], session.Session._run

    def nested(self, inputs, tokens, threads):
        inside.append(threads)
        if len(inside) == 1:
            model.encode("dog")
        return run(self, inputs, tokens, threads)

    monkeypatch.setattr(session.Session, "_run", nested)
    model.encode("cat")
    model.encode("cat")
    assert inside == [2, 1, 2]


def test_a_session_that_has_done_nothing_is_let_go(tiny, shared):
    model = embedder.Embedder(tiny, threads=2)
    assert set(model._model.text().session._sessions) == {2}
    model.encode(TEXTS)
    assert set(model._model.text().session._sessions) == {1}
    model.encode("cat")
    model.encode(TEXTS)
    assert set(model._model.text().session._sessions) == {1, 2}


def test_no_thread_is_left_after_a_call(tiny):
    model = embedder.Embedder(tiny, threads=2)
    before = threading.active_count()
    model.encode(TEXTS)
    stream = model.encode_iter(TEXTS * 10)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_an_error_in_a_thread_reaches_the_caller(tiny, monkeypatch):
    model = embedder.Embedder(tiny, threads=2)

    def fail(inputs, tokens, *, alone):
        raise MemoryError("no memory")

    monkeypatch.setattr(model._model.text().session, "run", fail)
    with pytest.raises(MemoryError, match="no memory"):
        model.encode(TEXTS)


def test_errors_of_the_callers_texts_come_after_what_they_gave_before(tiny):
    model = embedder.Embedder(tiny, threads=2)

    def texts():
        yield from TEXTS * 3
        raise KeyError("the caller's own")

    found = []
    with pytest.raises(KeyError, match="the caller's own"):
        found.extend(model.encode_iter(texts()))
    assert sum(map(len, found)) == 1024


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_works_after_a_fork(tiny, shared):
    """Threads stay in the parent; what waited for them would wait for ever."""
    model = embedder.Embedder(tiny, threads=2)
    expected = model.encode("cat"), model.encode(TEXTS)
    context = multiprocessing.get_context("fork")
    results, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send((os.getpid(), model.encode("cat"), model.encode(TEXTS))))
    child.start()
    sender.close()
    assert results.poll(60)
    pid, one, many = results.recv()
    child.join(60)
    assert (child.exitcode, pid) == (0, child.pid)
    np.testing.assert_array_equal(one, expected[0])
    np.testing.assert_allclose(many, expected[1], atol=1e-6)


def test_a_long_text_does_not_leave_its_memory_behind(tiny, monkeypatch):
    shrunk = []
    options = session._shrinking
    monkeypatch.setattr(session, "_shrinking", lambda: shrunk.append(1) or options())
    model = embedder.Embedder(tiny, threads=1)
    model._model.text().session.token_budget = 3
    model.encode("a b c d e f the cat")
    assert shrunk == []
    model.encode("a b c d e f the cat dog sat on mat")
    assert shrunk == [1]
