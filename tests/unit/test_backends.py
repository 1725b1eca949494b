"""Devices and backends: which device runs, which graph, and how many threads."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnxruntime
import pytest

import embedder
from embedder import Embedder, encode
from embedder.artifact.locate import open_artifact
from embedder.backends import GraphFiles, cpu, cuda, select_device, sessions
from embedder.backends.cpu import CpuBackend, CpuDevice
from embedder.errors import ArtifactError, DependencyError, ProviderError
from tests.processes import call_in_fork
from tests.tiny import add_int8_graph, expected, ids_of

CPU, GPU = r'pip install "embedder-onnx\[cpu\]"', r'pip install "embedder-onnx\[gpu\]"'
# All differ, because copies of a text are encoded once.
TEXTS = [f"{text} {number}" for number in range(100) for text in ("the cat sat on the mat", "dog", "a b c", "")]


@pytest.fixture
def enough_work(monkeypatch):
    """Treat the tiny model as a large one: each call has enough work for all threads."""
    monkeypatch.setattr(cpu, "_MIN_SHARED_WORK", 0)


@pytest.fixture(params=["uses the CPU", "raises"])
def gpu_build_without_gpu(request, monkeypatch):
    """Imitate onnxruntime-gpu where all is there but CUDA does not start: it then uses the CPU or raises."""
    start = onnxruntime.InferenceSession
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(cuda, "_problem", lambda index, kind: None)
    monkeypatch.setattr(embedder.backends, "_told", {"cuda"})

    def open_on_cpu(graph, options, providers, **rest):
        if providers != ["CPUExecutionProvider"] and request.param == "raises":
            raise RuntimeError(
                "CUDA failure 35: CUDA driver version is insufficient ; GPU=-1 ; hostname=vm ; file=x.cc"
            )
        return start(graph, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_on_cpu)
    return {
        "uses the CPU": "provider 'cuda' did not start: onnxruntime took the CPU instead. Its own message",
        "raises": "provider 'cuda' did not start: CUDA failure 35: CUDA driver version is insufficient$",
    }[request.param]


@pytest.fixture
def opened(monkeypatch):
    """A list with the threads of a call for each opened session of onnxruntime, in the order of opening."""
    threads = []
    start = onnxruntime.InferenceSession

    def note(graph, options, **rest):
        threads.append(options.intra_op_num_threads)
        return start(graph, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", note)
    return threads


def open_cpu(directory, threads=2):
    artifact = open_artifact(directory)
    return CpuBackend(GraphFiles(artifact, artifact.manifest.graphs[0]), CpuDevice(threads))


def feeds_of(*texts):
    ids = [ids_of(text) for text in texts]
    longest = max(map(len, ids))
    input_ids = np.array([row + [0] * (longest - len(row)) for row in ids])
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    return {"input_ids": input_ids, "attention_mask": mask}


def test_unknown_provider(tiny):
    with pytest.raises(ProviderError, match="unknown provider 'tpu': choose from 'cpu', 'cuda'"):
        Embedder(tiny, provider="tpu")
    with pytest.raises(ProviderError, match=r"unknown provider \['cpu'\]"):
        Embedder(tiny, provider=["cpu"])
    with pytest.raises(ProviderError, match=r"unknown provider \['cpu'\]"):
        encode("a", model=tiny, provider=["cpu"])


def test_provider_that_is_not_installed(tiny, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        ProviderError, match=r"'cuda' is not in the onnxruntime .* Run: pip uninstall -y onnxruntime && " + GPU
    ):
        Embedder(tiny, provider="cuda")


def test_failure_of_a_session_is_not_printed(tiny, monkeypatch, capfd):
    """onnxruntime would print it on standard output, among the vectors of `embedder encode`."""

    def fail(*rest):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", fail)
    with pytest.raises(ArtifactError, match="no such kernel"):
        Embedder(tiny)
    assert capfd.readouterr().out == ""


def test_gpu_build_without_gpu_falls_back_only_if_no_provider_was_named(tiny, gpu_build_without_gpu):
    assert "provider='cpu'" in repr(Embedder(tiny))
    with pytest.raises(ProviderError, match=gpu_build_without_gpu):
        Embedder(tiny, provider="cuda")


@pytest.mark.parametrize(("fast_integers", "dtype"), [(True, "int8"), (False, "fp32")])
def test_gpu_build_without_gpu_chooses_what_the_cpu_build_chooses(
    tiny, gpu_build_without_gpu, monkeypatch, fast_integers, dtype
):
    add_int8_graph(tiny)
    monkeypatch.setattr(cpu, "has_fast_integers", lambda: fast_integers)
    model = Embedder(tiny, dtype="auto")
    assert f"dtype='{dtype}', provider='cpu'" in repr(model)
    assert repr(model) == repr(Embedder(tiny, dtype="auto", provider="cpu"))
    np.testing.assert_array_equal(model.encode(TEXTS), Embedder(tiny, dtype=dtype, provider="cpu").encode(TEXTS))


def test_gpu_build_without_gpu_prepacks_weights(tiny, gpu_build_without_gpu, monkeypatch, tmp_path):
    monkeypatch.delenv("EMBEDDER_PREPACK")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Embedder(tiny)
    assert len(list((tmp_path / "cache/embedder/prepacked").iterdir())) == 1


def test_the_probe_of_a_gpu_is_a_valid_graph():
    onnx.checker.check_model(onnx.load_from_string(cuda._PROBE), full_check=True)
    session = onnxruntime.InferenceSession(cuda._PROBE, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.array([3], np.float32)})[0].tolist() == [6]


def test_cpu_by_name(tiny):
    assert "provider='cpu'" in repr(Embedder(tiny, provider="cpu"))
    assert select_device("cpu", threads=3).threads == 3


def test_onnxruntime_not_installed(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for provider in (None, "cpu", "cuda"):
        with pytest.raises(DependencyError, match=rf"not installed\. Run: {CPU} \(for an NVIDIA GPU instead: {GPU}\)"):
            Embedder(tiny, provider=provider)
    with pytest.raises(ImportError, match="onnxruntime is not installed"):
        Embedder(tiny)


@dataclass(frozen=True)
class AbacusDevice:
    name: str = "abacus"
    token_budget: int = 5
    unpadded_from_tokens: int | None = None
    threads: int = 2
    preparing_threads: int = 0
    preferred_dtypes: tuple[str, ...] = ("int8", "fp32")

    def open(self, files):
        return AbacusBackend(self, files.graph.dtype)


@dataclass(frozen=True)
class AbacusBackend:
    """A backend that gives each text a vector. All its numbers are the number of tokens."""

    device: AbacusDevice
    dtype: str = "fp32"

    def run(self, feeds, *, single_batch=False):
        count = feeds["attention_mask"].sum(axis=1, keepdims=True)
        assert feeds["input_ids"].size <= 5 or len(feeds["input_ids"]) == 1
        return {"embedding": np.repeat(count, 8, axis=1).astype(np.float32) * (-1 if self.dtype == "int8" else 1)}


class AbacusKind:
    name = "abacus"
    has_numbers = False
    option_names = ()

    def __init__(self, works=True):
        self.works = works

    def is_installed(self):
        return False

    def start(self, threads, index, options):
        if not self.works:
            raise ProviderError("the abacus is broken")
        return AbacusDevice()


def test_a_third_device_needs_its_own_file_and_one_entry(tiny, monkeypatch):
    add_int8_graph(tiny)
    monkeypatch.setattr(embedder.backends, "DEVICE_KINDS", (AbacusKind(), *embedder.backends.DEVICE_KINDS))
    counts = np.array([len(ids_of(text)) for text in TEXTS], np.float32)
    for provider in ("abacus", None):
        model = Embedder(tiny, provider=provider)
        assert "dtype='fp32', provider='abacus'" in repr(model)
        np.testing.assert_array_equal(model.encode(TEXTS)[:, 0], counts)
        np.testing.assert_array_equal(np.concatenate(list(model.encode_iter(TEXTS * 4)))[:, 0], np.tile(counts, 4))
    np.testing.assert_array_equal(Embedder(tiny, dtype="auto").encode(TEXTS)[:, 0], -counts)
    np.testing.assert_array_equal(encode("cat", model=tiny, provider="abacus"), [3] * 8)
    with pytest.raises(ProviderError, match="unknown provider 'tpu': choose from 'abacus', 'cpu', 'cuda'"):
        Embedder(tiny, provider="tpu")
    assert "provider='cpu'" in repr(Embedder(tiny, provider="cpu"))


def test_a_third_device_that_does_not_work(tiny, monkeypatch):
    kinds = (AbacusKind(works=False), *embedder.backends.DEVICE_KINDS)
    monkeypatch.setattr(embedder.backends, "DEVICE_KINDS", kinds)
    assert "provider='cpu'" in repr(Embedder(tiny))
    with pytest.raises(ProviderError, match="the abacus is broken"):
        Embedder(tiny, provider="abacus")


def test_a_backend_of_the_caller_runs_the_graph(tiny):
    backend = AbacusBackend(AbacusDevice())
    model = Embedder(tiny, backend=backend)
    assert "provider='abacus'" in repr(model)
    np.testing.assert_array_equal(model.encode(["cat", "the cat"])[:, 0], [3, 4])


def test_cpu_backend_gives_the_outputs_by_name(tiny):
    outputs = open_cpu(tiny).run(feeds_of("the cat", "dog"))
    assert list(outputs) == ["embedding"]
    np.testing.assert_allclose(outputs["embedding"], [expected(ids_of("the cat")), expected(ids_of("dog"))], atol=1e-6)


def test_graph_that_fails_on_an_input_is_named_with_its_shapes(tiny):
    feeds = feeds_of("cat") | {"input_ids": np.array([[2, 999, 3]])}
    with pytest.raises(ArtifactError, match=r"onnxruntime failed on input_ids \(1, 3\), attention_mask \(1, 3\): "):
        open_cpu(tiny).run(feeds)


def test_a_single_batch_uses_all_threads_and_many_batches_one_each(tiny, enough_work, opened):
    backend = open_cpu(tiny, threads=3)
    assert opened == [3]
    backend.run(feeds_of("cat"), single_batch=True)
    assert opened == [3]
    backend.run(feeds_of("cat"))
    backend.run(feeds_of("cat"))
    assert opened == [3, 1]


def test_a_session_that_was_never_used_is_dropped(tiny, enough_work, opened):
    backend = open_cpu(tiny, threads=2)
    backend.run(feeds_of("cat"))
    assert opened == [2, 1]
    backend.run(feeds_of("cat"), single_batch=True)
    assert opened == [2, 1, 2]


def test_little_work_takes_one_thread(tiny, monkeypatch, opened):
    backend = open_cpu(tiny, threads=4)
    assert opened == [1]
    size = open_artifact(tiny).manifest.graphs[0].weights.size
    monkeypatch.setattr(cpu, "_MIN_SHARED_WORK", 5 * size)
    backend.run(feeds_of("the cat"), single_batch=True)
    assert opened == [1]
    backend.run(feeds_of("the cat sat"), single_batch=True)
    assert opened == [1, 4]


def test_lookups_take_one_thread_and_large_batches(tiny, enough_work, opened):
    artifact = open_artifact(tiny)
    graph = replace(artifact.manifest.graphs[0], form="lookup")
    device = select_device("cpu", threads=4)
    backend = device.open(GraphFiles(artifact, graph))
    backend.run(feeds_of("the cat"), single_batch=True)
    assert opened == [1]
    assert backend.device.token_budget > device.token_budget
    assert backend.device.unpadded_from_tokens is None
    assert backend.device.slots is device.slots


def test_a_single_batch_beside_another_call_uses_one_thread(tiny, enough_work, monkeypatch):
    """Two callers that share the threads of one session would be slowest."""
    backend = open_cpu(tiny, threads=2)
    taken, run = [], sessions.run_session

    def note(session, *rest):
        taken.append(session.get_session_options().intra_op_num_threads)
        return run(session, *rest)

    monkeypatch.setattr(cpu, "run_session", note)
    started, finish = threading.Event(), threading.Event()

    def hold(session, *rest):
        started.set()
        assert finish.wait(60)
        return note(session, *rest)

    with ThreadPoolExecutor(1) as callers:
        monkeypatch.setattr(cpu, "run_session", hold)
        held = callers.submit(backend.run, feeds_of("cat"))
        assert started.wait(60)
        monkeypatch.setattr(cpu, "run_session", note)
        backend.run(feeds_of("cat"), single_batch=True)
        finish.set()
        held.result(60)
    backend.run(feeds_of("cat"), single_batch=True)
    assert taken == [1, 1, 2]


def test_a_long_text_does_not_leave_its_memory_behind(tiny, monkeypatch):
    artifact = open_artifact(tiny)
    backend = CpuBackend(GraphFiles(artifact, artifact.manifest.graphs[0]), CpuDevice(1, token_budget=3))
    shrunk, run = [], cpu.run_session

    def note(session, feeds, names, options=None):
        key = "memory.enable_memory_arena_shrinkage"
        shrunk.append(options is not None and options.get_run_config_entry(key) == "cpu:0")
        return run(session, feeds, names, options)

    monkeypatch.setattr(cpu, "run_session", note)
    backend.run(feeds_of("a b c d e f the cat"))
    backend.run(feeds_of("a b c d e f the cat dog sat on mat"))
    assert shrunk == [False, True]


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_works_after_a_fork(tiny, enough_work):
    """Threads exist only in the parent. A session that waits for them would wait for ever."""
    model = Embedder(tiny, threads=2)
    wanted = model.encode("cat"), model.encode(TEXTS)
    one, many = call_in_fork(lambda: (model.encode("cat"), model.encode(TEXTS)))
    np.testing.assert_array_equal(one, wanted[0])
    np.testing.assert_allclose(many, wanted[1], atol=1e-6)


def test_the_caller_that_waits_longest_for_a_thread_is_served_first():
    """Otherwise a single text would wait until bulk work ends, because bulk work asks for a thread again and again."""
    slots, served = cpu.ThreadSlots(2), []
    assert slots.acquire(2) == 2

    def call(number):
        assert slots.acquire(2) == 1
        served.append(number)
        slots.release(1)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(5)]
    for number, caller in enumerate(callers):
        caller.start()
        while len(slots._waiting) <= number:
            pass
    slots.release(1)
    assert slots.acquire(2) == 1  # after those that waited
    assert served == [0, 1, 2, 3, 4]
    for caller in callers:
        caller.join(60)
    slots.release(2)
    assert slots.acquire(2) == 2


def test_a_single_text_is_served_while_bulk_runs(tiny, monkeypatch):
    monkeypatch.setattr(cpu, "_TOKEN_BUDGET", 8)
    model, run, batches = Embedder(tiny, provider="cpu", threads=1), cpu.run_session, []
    started = threading.Event()

    def note(session, feeds, *rest):
        batches.append(len(feeds["input_ids"]))
        started.set()
        return run(session, feeds, *rest)

    monkeypatch.setattr(cpu, "run_session", note)
    with ThreadPoolExecutor(1) as callers:
        bulk = callers.submit(model.encode, [f"{text} {number}" for number in range(10) for text in TEXTS])
        assert started.wait(60)
        model.encode("cat")
        assert not bulk.done()
        assert bulk.result(60).shape == (4000, 8)
