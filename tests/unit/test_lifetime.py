"""A model's life: closing, copying, pickling, other processes, and the end of the interpreter."""

import copy
import gc
import multiprocessing
import os
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest

import embedder
from embedder.backends.cpu import CpuDevice
from embedder.encoder import Embedder
from embedder.errors import EmbedderError, InputError, SettingError
from embedder.integrations.text_model import TextModel
from tests.processes import call_in_fork, run_python
from tests.tiny import DIMENSION, add_image_graph, add_int8_graph, expected, ids_of

# All differ, because copies of a text are encoded once.
TEXTS = [f"{text} {number}" for number in range(100) for text in ("the cat sat on the mat", "dog", "a b c", "")]


@dataclass(frozen=True, eq=False)
class OwnBackend:
    """A backend that gives each text its number of tokens in all dimensions. Each call waits for `may_run`."""

    may_run: threading.Event
    runs: threading.Event
    device: CpuDevice = field(default_factory=lambda: CpuDevice(2))

    def run(self, feeds, *, single_batch=False):
        self.runs.set()
        assert self.may_run.wait(60)
        counts = feeds["attention_mask"].sum(axis=1, keepdims=True)
        return {"embedding": np.repeat(counts, DIMENSION, axis=1).astype(np.float32)}


@pytest.fixture
def backend():
    backend = OwnBackend(threading.Event(), threading.Event())
    backend.may_run.set()
    return backend


class Text(str):
    """A text that a weak reference can watch."""


def calls(model):
    return (
        *(model.encode, model.encode_query, model.encode_document, model.encode_readable, model.tokenize),
        *(lambda texts: next(model.encode_iter(texts)), lambda texts: next(model.iter_results(texts))),
    )


def engine_threads():
    return {thread for thread in threading.enumerate() if thread.name == "embedder"}


@pytest.mark.parametrize("images", [False, True])
def test_a_closed_model_refuses_calls_and_its_threads_end(tiny, images):
    if images:
        add_image_graph(tiny)
    before = engine_threads()
    model = Embedder(tiny, threads=3)
    model.encode(TEXTS)
    stream = model.encode_iter(TEXTS * 10)
    next(stream)
    started = engine_threads() - before
    assert 1 <= len(started) <= 3
    model.close()
    model.close()
    for call in calls(model):
        with pytest.raises(EmbedderError, match=r"^the model has been closed\. Load it again$"):
            call(["cat"])
    with pytest.raises(EmbedderError, match="the model has been closed"):
        list(stream)
    for thread in started:
        thread.join(60)
        assert not thread.is_alive()
    assert engine_threads() <= before
    assert model.dimension == DIMENSION
    assert "provider='cpu'" in repr(model)


def test_with_closes_the_model_also_after_an_error(tiny):
    with Embedder(tiny) as model:
        assert model.encode("cat").shape == (DIMENSION,)
    with pytest.raises(EmbedderError, match="the model has been closed"):
        model.encode("cat")
    with pytest.raises(KeyError), Embedder(tiny) as model:
        raise KeyError
    with pytest.raises(EmbedderError, match="the model has been closed"):
        model.encode("cat")


def test_close_while_others_encode_gives_right_vectors_or_an_error(tiny):
    wanted = [expected(ids_of(text)) for text in TEXTS]
    outcomes = []
    for _ in range(20):
        model, barrier = Embedder(tiny, threads=2), threading.Barrier(5)

        def work(caller, model=model, barrier=barrier):
            barrier.wait()
            try:
                for _ in range(5):
                    texts = TEXTS if caller % 2 else TEXTS[:1]
                    np.testing.assert_allclose(model.encode(texts), wanted[: len(texts)], atol=1e-6)
            except EmbedderError as error:
                return str(error)
            return "done"

        with ThreadPoolExecutor(4) as callers:
            running = [callers.submit(work, caller) for caller in range(4)]
            barrier.wait()
            model.close()
            outcomes += [each.result(60) for each in running]
    assert set(outcomes) <= {"done", "the model has been closed. Load it again"}


def test_close_lets_a_running_batch_finish(tiny, backend):
    backend.may_run.clear()
    model = Embedder(tiny, backend=backend)
    with ThreadPoolExecutor(1) as callers:
        running = callers.submit(model.encode, TEXTS)
        assert backend.runs.wait(60)
        model.close()
        backend.may_run.set()
        np.testing.assert_array_equal(running.result(60)[:, 0], [len(ids_of(text)) for text in TEXTS])


def test_a_model_that_is_dropped_is_freed_without_the_garbage_collector(tiny):
    """A model has hundreds of megabytes outside of Python, and the collector does not know about them."""
    backend, freed = OwnBackend(threading.Event(), threading.Event()), threading.Event()
    backend.may_run.set()
    weakref.finalize(backend, freed.set)
    model = Embedder(tiny, backend=backend)
    model.encode(TEXTS)
    list(model.encode_iter(TEXTS * 6))
    gc.collect()
    gc.disable()
    try:
        del backend, model
        assert freed.wait(60)
    finally:
        gc.enable()


def test_a_call_keeps_no_text_alive(tiny):
    model, text = Embedder(tiny, threads=2), Text("the cat")
    gone = weakref.ref(text)
    model.encode([text, *TEXTS])
    model.encode(text)
    del text
    gc.collect()
    assert gone() is None


def options_of(model):
    return repr(model), model.truncate_dim, model.dimension


@pytest.mark.parametrize(
    "make", [lambda model: pickle.loads(pickle.dumps(model)), copy.copy, copy.deepcopy], ids=["pickle", "copy", "deep"]
)
def test_a_copy_is_the_same_model_with_the_same_options(tiny, tmp_path, monkeypatch, make):
    add_int8_graph(tiny)
    monkeypatch.chdir(tmp_path)
    model = Embedder("./tiny", dtype="int8", threads=1, truncate_dim=5, provider="cpu")
    monkeypatch.chdir("/")
    made = make(model)
    assert made is not model
    assert options_of(made) == options_of(model)
    assert "dtype='int8'" in repr(made)
    np.testing.assert_array_equal(made.encode(TEXTS), model.encode(TEXTS))
    before = engine_threads()
    made.encode(TEXTS * 3)
    assert len(engine_threads() - before) <= 1
    model.close()
    assert made.encode("cat").shape == (5,)
    assert make(model).encode("cat").shape == (5,)


def test_pickle_keeps_a_subclass(tiny):
    made = pickle.loads(pickle.dumps(OwnEmbedder(tiny)))
    assert type(made) is OwnEmbedder
    assert made.encode_twice("cat").shape == (2, DIMENSION)


class OwnEmbedder(Embedder):
    def encode_twice(self, text):
        return self.encode([text, text])


def test_a_model_with_a_backend_of_its_own_cannot_be_copied(tiny, backend):
    model = Embedder(tiny, backend=backend)
    for make in (pickle.dumps, copy.copy, copy.deepcopy, TextModel):
        with pytest.raises(SettingError, match=r"a model with a backend of its own cannot be pickled or copied"):
            make(model)


def test_a_backend_together_with_provider_or_threads_is_refused(tiny, backend):
    for options in ({"provider": "cpu"}, {"threads": 3}):
        message = r"^a backend has its own provider and threads\. Give backend=, or provider=, provider_options= and "
        with pytest.raises(InputError, match=message):
            Embedder(tiny, backend=backend, **options)


def test_map_of_a_multiprocessing_pool(tiny):
    model = Embedder(tiny, threads=1, truncate_dim=3)
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        vectors = pool.map(model.encode, [TEXTS[:4], TEXTS[1:3], "cat"])
    for found, texts in zip(vectors, [TEXTS[:4], TEXTS[1:3], "cat"], strict=True):
        np.testing.assert_array_equal(found, model.encode(texts))


LATE = """if True:
    import atexit, sys, threading
    import numpy as np
    import embedder
    from embedder import Embedder

    path, mode, used = sys.argv[1:]
    models = [Embedder(path, threads=2), Embedder(path, threads=1), Embedder(path)]
    few, many = ["the cat", "a dog sat"] * 10, ["the cat", "a dog sat"] * 1500
    wanted = models[0].encode(many[:2])
    if used == "used":
        for model in models:
            model.encode(many)

    def call(when):
        for model in [*models, Embedder(path)]:
            for texts in (few, many):
                assert np.allclose(model.encode(texts), np.tile(wanted, (len(texts) // 2, 1)), atol=1e-6)
                assert sum(map(len, model.encode_iter(iter(texts)))) == len(texts)
            assert np.allclose(model.encode("the cat"), wanted[0], atol=1e-6)
        assert np.allclose(embedder.encode(many, model=path)[:2], wanted, atol=1e-6)
        print(when)

    def later():
        threading.main_thread().join()
        call("thread")

    atexit.register(call, "atexit")
    if mode == "thread":
        threading.Thread(target=later).start()
"""


@pytest.mark.parametrize("used", ["new", "used"])
@pytest.mark.parametrize("mode", ["thread", "atexit"])
def test_works_after_the_main_thread_has_ended_and_at_exit(tiny, mode, used):
    process = run_python("-W", "error", "-c", LATE, tiny, mode, used)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.split() == (["thread", "atexit"] if mode == "thread" else ["atexit"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("images", [False, True])
def test_works_in_a_fork_that_is_made_while_other_threads_encode(tiny, images):
    if images:
        add_image_graph(tiny)
    model, stop = Embedder(tiny, threads=2), threading.Event()
    wanted = model.encode(TEXTS)

    def work():
        with ThreadPoolExecutor(4) as callers:
            return [*callers.map(model.encode, [TEXTS] * 4), embedder.encode(TEXTS, model=tiny)]

    def keep_busy():
        while not stop.is_set():
            model.encode(TEXTS)
            model.encode("cat")
            embedder.encode("cat", model=tiny)

    with ThreadPoolExecutor(2) as busy:
        busy_calls = [busy.submit(keep_busy) for _ in range(2)]
        try:
            for _ in range(5):
                for vectors in call_in_fork(work):
                    np.testing.assert_allclose(vectors, wanted, atol=1e-6)
        finally:
            stop.set()
    for call in busy_calls:
        call.result(60)
