"""The engine: the choice of the graph, its threads, streams that end early, and other tasks."""

import gc
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count

import numpy as np
import pytest

import embedder
from embedder.artifact.manifest import read_manifest, write_manifest
from embedder.backends import cpu
from embedder.backends.cpu import CpuDevice
from embedder.cli import main as cli
from embedder.errors import InputError
from tests.tiny import (
    add_image_graph,
    add_int8_graph,
    expected,
    ids_of,
)

# All differ, because copies of a text are encoded once.
TEXTS = [f"{text} {number}" for number in range(100) for text in ("the cat sat on the mat", "dog", "a b c", "")]


@pytest.fixture
def both(tiny):
    """An artifact with an fp32 graph and an int8 graph."""
    add_int8_graph(tiny)
    return tiny


class WatchedBackend:
    """A backend that gives each text its number of tokens in all dimensions. Each run calls `watch`."""

    def __init__(self, threads=2, watch=lambda single_batch: None, device=None):
        self.device = device or CpuDevice(threads)
        self.watch = watch
        self.masks = []

    def run(self, feeds, *, single_batch=False):
        self.watch(single_batch)
        self.masks.append(feeds["attention_mask"])
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


def test_auto_is_fp32_on_an_old_cpu_and_if_there_is_no_other_graph(both, make_artifact, monkeypatch):
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


def test_embedder_encode_takes_dtype_and_threads(both):
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
    assert re.search(r"^auto +(int8|fp32) on cpu$", out, re.MULTILINE)
    assert "cosine to fp32: mean 0.9980, smallest 0.9900, over 3 sentences" in out


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_bad_threads_are_named(tiny, threads):
    with pytest.raises(InputError, match="threads should be a whole number, at least 1"):
        embedder.Embedder(tiny, threads=threads)


@pytest.mark.parametrize("threads", [None, 1, 2, 5])
def test_same_vectors_by_any_number_of_threads(tiny, threads):
    model = embedder.Embedder(tiny, threads=threads)
    alone = {text: model.encode(text) for text in set(TEXTS)}
    np.testing.assert_allclose(model.encode(TEXTS), [alone[text] for text in TEXTS], atol=1e-6)


def test_many_batches_run_in_threads_and_a_single_one_in_the_callers_thread(tiny):
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


def test_the_device_decides_from_which_length_on_texts_are_not_padded(tiny):
    texts = ["cat", "a dog", "the cat sat", "the cat " * 2, "the dog " * 2, "cat " * 5]  # and two special tokens each

    def masks(unpadded_from_tokens):
        device = CpuDevice(1, token_budget=1000, unpadded_from_tokens=unpadded_from_tokens)
        backend = WatchedBackend(device=device)
        embedder.Embedder(tiny, backend=backend).encode(texts)
        return backend.masks

    assert [mask.shape for mask in masks(None)] == [(6, 7)]
    unpadded = masks(5)
    assert [mask.shape for mask in unpadded] == [(1, 7), (2, 6), (1, 5), (2, 4)]
    assert [mask.all() for mask in unpadded] == [True, True, True, False]


def test_an_error_in_a_thread_reaches_the_caller(tiny):
    def fail(single_batch):
        raise MemoryError("no memory")

    model = embedder.Embedder(tiny, backend=WatchedBackend(watch=fail))
    for texts in (TEXTS, "cat"):
        with pytest.raises(MemoryError, match="no memory"):
            model.encode(texts)
    with pytest.raises(MemoryError, match="no memory"):
        next(model.encode_iter(TEXTS))


def test_an_error_of_the_callers_iterator_comes_after_its_earlier_texts(tiny):
    model = embedder.Embedder(tiny, threads=2)

    def texts():
        yield from TEXTS * 3
        raise KeyError("the caller's own")

    found = []
    with pytest.raises(KeyError, match="the caller's own"):
        found.extend(model.encode_iter(texts()))
    assert sum(map(len, found)) == len(TEXTS) * 3  # also those of the part that the error interrupted
    np.testing.assert_allclose(found[0][1], expected(ids_of(TEXTS[1])), atol=1e-6)


class Gauge:
    """Counts the calls that run at the same time, and the live threads of the engine."""

    def __init__(self):
        self.lock, self.now, self.most, self.most_alive = threading.Lock(), 0, 0, 0

    def __enter__(self):
        alive = sum(thread.name == "embedder" for thread in threading.enumerate())
        with self.lock:
            self.now += 1
            self.most, self.most_alive = max(self.most, self.now), max(self.most_alive, alive)

    def __exit__(self, *error):
        with self.lock:
            self.now -= 1


@pytest.mark.parametrize("enough_work", [False, True])
def test_sixteen_callers_never_have_more_than_eight_threads(tiny, monkeypatch, enough_work):
    gauge, run = Gauge(), cpu.run_session

    def watched(session, *rest):
        with ExitStack() as stack:
            for _ in range(session.get_session_options().intra_op_num_threads):
                stack.enter_context(gauge)
            return run(session, *rest)

    monkeypatch.setattr(cpu, "run_session", watched)
    if enough_work:  # a single batch takes all threads if it can
        monkeypatch.setattr(cpu, "_MIN_SHARED_WORK", 0)
    model = embedder.Embedder(tiny, provider="cpu", threads=8)
    others = {thread for thread in threading.enumerate() if thread.name == "embedder"}
    barrier = threading.Barrier(16)
    words = [*"abcdef", "the", "cat", "dog"]

    def call(caller):
        random = np.random.default_rng(caller)
        barrier.wait()
        for number in range(6):
            texts = [" ".join(random.choice(words, random.integers(0, 12))) for _ in range(1 if number % 3 else 400)]
            wanted = np.stack([expected(ids_of(text)) for text in texts])
            if number % 3 == 1:
                np.testing.assert_allclose(model.encode(texts[0]), wanted[0], atol=1e-6)
            elif number == 3:
                np.testing.assert_allclose(np.concatenate(list(model.encode_iter(iter(texts)))), wanted, atol=1e-6)
            else:
                np.testing.assert_allclose(model.encode(texts), wanted, atol=1e-6)

    with ThreadPoolExecutor(16) as callers:
        list(callers.map(call, range(16)))
    assert gauge.now == 0
    assert 1 <= gauge.most <= 8
    assert gauge.most_alive - len(others) <= 8


def test_texts_and_images_share_the_threads(tiny, monkeypatch):
    add_image_graph(tiny)
    gauge, run = Gauge(), cpu.run_session

    def watched(session, *rest):
        with gauge:
            return run(session, *rest)

    monkeypatch.setattr(cpu, "run_session", watched)
    model, barrier = embedder.Embedder(tiny, provider="cpu", threads=2), threading.Barrier(8)
    image = np.zeros((2, 2, 3), np.uint8)

    def call(caller):
        barrier.wait()
        for _ in range(30):
            model.encode("the cat" if caller % 2 else image)

    with ThreadPoolExecutor(8) as callers:
        list(callers.map(call, range(8)))
    assert gauge.most <= 2


def test_a_thousand_calls_leave_no_thread_behind(tiny):
    model = embedder.Embedder(tiny, threads=3)
    for texts in (TEXTS, "cat"):
        model.encode(texts)
    before = set(threading.enumerate())
    for number in range(1000):
        model.encode("cat" if number % 10 else TEXTS)
    assert len(set(threading.enumerate()) - before) <= 2  # an engine starts its threads when it needs them


def test_a_stream_that_is_abandoned_stops_its_work(tiny):
    model = embedder.Embedder(tiny, threads=2)
    taken, closed = [], []

    def texts():
        try:
            for number in count():
                taken.append(number)
                yield "cat dog"
        finally:
            closed.append(True)

    stream = model.encode_iter(texts())
    assert len(next(stream)) == 1024
    assert len(taken) == 2048  # one window is read ahead
    del stream
    gc.collect()
    assert len(taken) == 2048
    assert closed == [True]
    assert model.encode(TEXTS).shape == (400, 8)


def test_a_stream_that_is_never_started_takes_nothing(tiny, capsys):
    taken = []
    stream = embedder.Embedder(tiny).encode_iter((taken.append(1) or "cat" for _ in range(3)), show_progress_bar=True)
    del stream
    assert taken == []
    assert capsys.readouterr().err == ""


def test_texts_may_come_from_the_model_itself(tiny):
    """The iterator of a call may call the same model. A call that held the only thread would wait for itself."""
    model = embedder.Embedder(tiny, threads=1)

    def texts():
        for number in range(3000):
            if number % 1000 == 0:
                assert model.encode(TEXTS).shape == (400, 8)
                assert len(list(model.encode_iter(TEXTS))) == 1
            yield "the cat" if model.encode("dog")[0] < 2 else ""

    np.testing.assert_allclose(model.encode(texts())[-1], expected(ids_of("the cat")), atol=1e-6)
    assert sum(map(len, model.encode_iter(texts()))) == 3000


def test_two_streams_side_by_side(tiny):
    model = embedder.Embedder(tiny, threads=2)
    pairs = list(zip(model.encode_iter(["cat"] * 3000), model.encode_iter(["dog"] * 3000), strict=True))
    assert sum(len(cats) for cats, _ in pairs) == 3000
    for cats, dogs in pairs:
        np.testing.assert_allclose(cats, [expected(ids_of("cat"))] * len(cats), atol=1e-6)
        np.testing.assert_allclose(dogs, [expected(ids_of("dog"))] * len(dogs), atol=1e-6)


def test_one_huge_text_among_others(tiny):
    model = embedder.Embedder(tiny, threads=2)
    texts = ["cat", "the cat " * 500_000, "dog", "x" * 100_000]
    np.testing.assert_allclose(model.encode(texts), [expected(ids_of(text[:9000])) for text in texts], atol=1e-6)
    np.testing.assert_allclose(model.encode(texts[1]), expected(ids_of(texts[1][:9000])), atol=1e-6)


def test_batches_of_one(tiny):
    model = embedder.Embedder(tiny, threads=2)
    np.testing.assert_allclose(model.encode(TEXTS, batch_size=1), model.encode(TEXTS), atol=1e-6)


def test_progress_of_a_stream(tiny, capsys):
    model = embedder.Embedder(tiny)
    list(model.encode_iter(TEXTS, show_progress_bar=True))
    assert "400/400" in capsys.readouterr().err
    list(model.encode_iter(iter(TEXTS), show_progress_bar=True))
    assert "400text" in capsys.readouterr().err.replace(" ", "")
    list(model.encode_iter(TEXTS, show_progress_bar=None))
    assert capsys.readouterr().err == ""


def test_a_backend_may_use_its_array_again(tiny):
    class Reusing(WatchedBackend):
        array = np.zeros((1, 8), np.float32)

        def run(self, feeds, *, single_batch=False):
            self.array[:] = feeds["attention_mask"].sum()
            return {"embedding": self.array}

    model = embedder.Embedder(tiny, backend=Reusing())
    first = model.encode("cat")
    assert (first[0], model.encode("the cat")[0], first[0]) == (3, 4, 3)


def test_a_backend_may_write_into_its_inputs(tiny):
    class Writing(WatchedBackend):
        def run(self, feeds, *, single_batch=False):
            values = np.repeat(feeds["attention_mask"].sum(axis=1, keepdims=True).astype(np.float32), 8, axis=1)
            for array in feeds.values():
                array[:] = 0
            return {"embedding": values}

    model = embedder.Embedder(tiny, backend=Writing())
    assert [model.encode(text)[0] for text in ("the cat", "the cat", "cat")] == [4, 4, 3]
