"""A graph on a GPU: memory, failures, and how many calls run at a time. Here a CPU runs the graph."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest

from embedder.artifact.locate import open_artifact
from embedder.backends import GraphFiles, cuda_session
from embedder.backends.cuda import CudaDevice
from embedder.backends.cuda_session import CudaBackend
from embedder.backends.sessions import CPU_EXECUTION_PROVIDER
from embedder.errors import ArtifactError, DeviceMemoryError, ProviderError
from tests.processes import call_in_fork
from tests.tiny import add_image_graph, expected, write_tiny_artifact

FEEDS = {"input_ids": np.array([[2, 5, 6, 3], [2, 7, 3, 0]]), "attention_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]])}
ONE = {name: values[:1] for name, values in FEEDS.items()}
VECTORS = [expected([2, 5, 6, 3]), expected([2, 7, 3])]
GIGABYTE = 1_000_000_000


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    directory = write_tiny_artifact(tmp_path_factory.mktemp("tiny") / "model")
    add_image_graph(directory)
    return directory


@pytest.fixture
def free(monkeypatch):
    """Set the free memory of the GPU in bytes."""

    def imitate(count):
        monkeypatch.setattr(cuda_session, "free_memory_bytes", lambda index: count)

    imitate(None)
    return imitate


@pytest.fixture
def opened(monkeypatch):
    """A list with the options of the provider and those of the session, of each session that is opened."""
    found = []
    start = onnxruntime.InferenceSession

    def note(graph, options, providers, **rest):
        found.append((providers[0][1], options))
        return start(graph, options, providers=[CPU_EXECUTION_PROVIDER], **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", note)
    return found


def open_backend(path, modality="text", device=None, **options):
    artifact = open_artifact(path)
    (graph,) = artifact.manifest.graphs_of(modality)
    return CudaBackend(GraphFiles(artifact, graph), device or CudaDevice(), CPU_EXECUTION_PROVIDER, options)


def fail(monkeypatch, *messages):
    """Let the next calls fail with these messages. Return a list of the calls' numbers of texts."""
    calls, waiting, run = [], list(messages), cuda_session.run_session

    def run_or_fail(session, feeds, names):
        calls.append(len(feeds["input_ids"]))
        if waiting:
            raise ArtifactError(f"onnxruntime failed on input_ids: {waiting.pop(0)}")
        return run(session, feeds, names)

    monkeypatch.setattr(cuda_session, "run_session", run_or_fail)
    return calls


def test_vectors_are_those_of_the_graph(path, free):
    np.testing.assert_allclose(open_backend(path).run(FEEDS)["embedding"], VECTORS, atol=1e-6)


TOO_LITTLE = [
    "bfc_arena.cc:360 Available memory of 69221888 is smaller than requested bytes of 201326592",
    "bfc_arena.cc:402 Failed to allocate memory for requested buffer of size 4096",
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=vm ; file=x.cc",
    "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
    "fast_divmod.h:63 d_ >= 1 && d_ <= max was false",
]


@pytest.mark.parametrize("message", TOO_LITTLE)
def test_too_little_memory_is_an_error_of_its_own(path, free, monkeypatch, message):
    backend = open_backend(path)
    calls = fail(monkeypatch, message)
    with pytest.raises(DeviceMemoryError, match="the device 'cuda' has too little free memory"):
        backend.run(FEEDS)
    assert calls == [2]
    np.testing.assert_allclose(backend.run(FEEDS)["embedding"], VECTORS, atol=1e-6)


def test_one_text_is_tried_again_when_no_other_call_runs(path, free, monkeypatch):
    backend = open_backend(path)
    calls = fail(monkeypatch, TOO_LITTLE[0])
    np.testing.assert_allclose(backend.run(ONE)["embedding"], VECTORS[:1], atol=1e-6)
    assert calls == [1, 1]
    fail(monkeypatch, TOO_LITTLE[0], TOO_LITTLE[0])
    with pytest.raises(DeviceMemoryError):
        backend.run(ONE)


def test_a_wait_that_is_interrupted_gives_all_places_back(path, free, monkeypatch):
    class Interrupted(threading.Semaphore):
        def __enter__(self):
            if len(calls) == 1:
                calls.append("interrupt")
            elif "interrupt" in calls:
                raise KeyboardInterrupt
            return super().__enter__()

        def __exit__(self, *error):
            self.release()

    backend = open_backend(path)
    calls = fail(monkeypatch, TOO_LITTLE[0])
    backend._slots = slots = Interrupted(3)
    with pytest.raises(KeyboardInterrupt):
        backend.run(ONE)
    assert slots._value == 3


def test_failure_of_the_gpu_says_what_to_do_and_not_the_name_of_the_machine(path, free, monkeypatch):
    backend = open_backend(path)
    fail(monkeypatch, "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=vm ; file=x.cc")
    message = r"'cuda' has failed \(CUDA failure 700: an illegal memory access was encountered\)\. This process cannot"
    with pytest.raises(ProviderError, match=message) as error:
        backend.run(FEEDS)
    assert "vm" not in str(error.value)


def test_other_failures_stay_as_they_are(path, free, monkeypatch):
    backend = open_backend(path)
    fail(monkeypatch, "indices element out of data bounds")
    with pytest.raises(ArtifactError, match="out of data bounds"):
        backend.run(FEEDS)


def test_too_little_memory_for_the_weights(path, free, monkeypatch):
    def start(*rest, **more):
        raise RuntimeError(TOO_LITTLE[1])

    monkeypatch.setattr(onnxruntime, "InferenceSession", start)
    with pytest.raises(
        DeviceMemoryError, match=r"'cuda' has too little free memory to load .*\.onnx, whose weights have"
    ):
        open_backend(path)


def test_a_forked_process_cannot_use_the_gpu(path, free):
    def run():
        with pytest.raises(ProviderError, match="forked process cannot use the GPU of its parent"):
            backend.run(FEEDS)

    backend = open_backend(path)
    call_in_fork(run)


def test_as_many_calls_run_at_a_time_as_the_device_says(path, free, monkeypatch):
    backend = open_backend(path, device=CudaDevice(threads=3))
    running, most, full = set(), [], threading.Barrier(3, timeout=10)

    def watch(session, feeds, names):
        running.add(threading.get_ident())
        most.append(len(running))
        full.wait()  # a call goes on only if three run
        running.discard(threading.get_ident())
        return {"embedding": np.float32(VECTORS)}

    monkeypatch.setattr(cuda_session, "run_session", watch)
    with ThreadPoolExecutor(9) as executor:
        list(executor.map(lambda _: backend.run(FEEDS), range(9)))
    assert max(most) == 3


@pytest.mark.parametrize(
    ("free_bytes", "options", "budget"),
    [
        (None, {}, 16384),
        (80 * GIGABYTE, {}, 16384),
        (4 * GIGABYTE, {}, 10172),
        (80 * GIGABYTE, {"gpu_mem_limit": str(4 * GIGABYTE)}, 10172),
        (None, {"gpu_mem_limit": str(4 * GIGABYTE)}, 10172),
        (GIGABYTE // 100, {}, 512),
    ],
)
def test_the_token_budget_depends_on_the_free_memory(path, free, opened, free_bytes, options, budget):
    free(free_bytes)
    device = CudaDevice(options=options, token_budget=16384, threads=3)
    assert open_backend(path, device=device, **options).device.token_budget == budget
    # A limit includes the weights.
    _, session_options = opened[0]
    entry = "session.use_device_allocator_for_initializers"
    if options:
        with pytest.raises(RuntimeError, match=entry):  # it is not set
            session_options.get_session_config_entry(entry)
    else:
        assert session_options.get_session_config_entry(entry) == "1"


def test_options_of_the_user_come_before_the_defaults(path, free, opened):
    open_backend(path)
    open_backend(path, use_tf32="1", device_id="1")
    defaults, given = (options for options, _ in opened)
    assert defaults == {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    assert given == {"use_tf32": "1", "cudnn_conv_algo_search": "HEURISTIC", "device_id": "1"}
