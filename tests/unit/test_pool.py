"""Encode in many processes: the same vectors, one caller at a time, and errors that say what happened."""

import copy
import io
import multiprocessing
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import embedder
from embedder import EncoderPool, EncodeSettings
from embedder.errors import (
    ArtifactError,
    EmbedderError,
    ImageError,
    InputError,
    ModelNotFoundError,
    ProviderError,
    WorkerError,
)
from tests.processes import call_in_fork, run_python
from tests.tiny import IMAGE_SIZE, add_image_graph, write_tiny_artifact

TEXTS = ["the cat sat on the mat", "a", "", "dogs !", "字 é", "long " * 100, "cat"] * 9
PIXELS = np.random.default_rng(0).integers(0, 256, (30, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return write_tiny_artifact(tmp_path_factory.mktemp("pool") / "tiny")


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory):
    path = write_tiny_artifact(tmp_path_factory.mktemp("pool") / "clip")
    add_image_graph(path)
    return path


@pytest.fixture(scope="module")
def pool(model_path):
    with EncoderPool(model_path, 2, threads=1) as pool:
        yield pool


@pytest.fixture(scope="module")
def clip_pool(clip_path):
    with EncoderPool(clip_path, 2, threads=1) as pool:
        yield pool


@pytest.mark.slow
def test_a_model_that_is_replaced_between_two_workers_is_an_error(tmp_path, monkeypatch):
    """Otherwise a half of the vectors would come from another model."""
    path, start = write_tiny_artifact(tmp_path / "tiny"), EncoderPool._start_worker

    def start_and_replace(self, *arguments):
        start(self, *arguments)
        assert self._pipes[-1].poll(60)  # it has loaded the model
        path.rename(tmp_path / f"old{len(self._pipes)}")
        write_tiny_artifact(path, normalize=False)

    monkeypatch.setattr(EncoderPool, "_start_worker", start_and_replace)
    with pytest.raises(ArtifactError, match=r"tiny was replaced while the workers loaded it\. Start another"):
        EncoderPool(path, 2, threads=1)


def test_same_vectors_as_in_one_process(pool, model_path):
    model = embedder.Embedder(model_path)
    expected = model.encode(TEXTS)
    for size in (None, 1, 5, 1000):
        np.testing.assert_allclose(pool.encode(TEXTS, chunk_size=size), expected, atol=1e-6)
    assert len(pool.processes) == 2
    np.testing.assert_allclose(pool.encode("cat"), model.encode("cat"), atol=1e-6)
    np.testing.assert_allclose(pool.encode(iter(TEXTS[:3])), expected[:3], atol=1e-6)
    assert pool.encode([]).shape == (0, model.dimension)
    options = {"prompt": "query : ", "truncate_dim": 3, "normalize_embeddings": True}
    for found in (pool.encode(TEXTS, **options), pool.encode(TEXTS, settings=EncodeSettings(**options))):
        np.testing.assert_allclose(found, model.encode(TEXTS, **options), atol=1e-6)


def test_wrong_input_leaves_the_pool_as_it_is(pool):
    with pytest.raises(InputError, match=r"texts\[60\] should be a string, not int: 3"):
        pool.encode([*TEXTS[:60], 3])
    with pytest.raises(InputError, match="chunk_size should be a whole number, at least 1, not 0"):
        pool.encode(TEXTS, chunk_size=0)
    with pytest.raises(InputError, match="truncate_dim should be a whole number, at least 1 and at most 8, not 9"):
        pool.encode(TEXTS, truncate_dim=9, chunk_size=1)
    with pytest.raises(InputError, match="encode has no option 'colour'"):
        pool.encode(TEXTS, colour="red")
    assert pool.encode(TEXTS).shape == (63, 8)


def test_a_worker_that_is_killed_ends_the_pool(model_path):
    pool = EncoderPool(model_path, 2)
    expected = pool.encode(TEXTS)
    victim = pool.processes[1]
    os.kill(victim.pid, signal.SIGKILL)
    message = (
        rf"worker 1 \(process {victim.pid}\) died by signal 9 while encoding the 3 inputs from inputs\[\d+\] on; no "
        "vectors are returned. It may have run out of memory: start another pool, with fewer workers"
    )
    with pytest.raises(WorkerError, match=message):
        pool.encode(TEXTS, chunk_size=3)
    assert not any(process.is_alive() for process in pool.processes)
    with pytest.raises(WorkerError, match=r"the pool has been stopped\. Start another"):
        pool.encode(TEXTS)
    with EncoderPool(model_path, 1) as another:
        np.testing.assert_allclose(another.encode(TEXTS), expected, atol=1e-6)
    assert not another.processes[0].is_alive()
    another.stop()


def test_a_model_that_cannot_be_loaded(tmp_path):
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        EncoderPool(tmp_path / "nowhere", 1)


def test_wrong_options(model_path):
    with pytest.raises(InputError, match="workers should be a whole number, at least 1, not 0"):
        EncoderPool(model_path, 0)
    with pytest.raises(InputError, match="there are 2 providers for 3 workers"):
        EncoderPool(model_path, 3, providers=["cpu", "cpu"])
    with pytest.raises(InputError, match="threads should be a whole number, at least 1, not 0"):
        EncoderPool(model_path, 1, threads=0)
    with pytest.raises(InputError, match="providers should name the provider of each worker, not \\[\\]"):
        EncoderPool(model_path, providers=[])
    with pytest.raises(ProviderError, match="unknown provider 'tpu': choose from 'cpu', 'cuda'"):
        EncoderPool(model_path, providers="tpu")
    with pytest.raises(InputError, match="model should be the name or the path of an exported model, not 3"):
        EncoderPool(3)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_vectors_are_quantised_by_the_ranges_of_all_chunks(pool, model_path, precision):
    wanted = embedder.Embedder(model_path).encode(TEXTS, precision=precision)
    for size in (None, 1, 7):
        found = pool.encode(TEXTS, precision=precision, chunk_size=size)
        assert found.dtype == wanted.dtype
        assert np.abs(found.astype(int) - wanted).max() <= ("int8" in precision)  # vectors differ in the last bit
    assert pool.encode([], precision=precision).shape == (0, wanted.shape[1])


def test_a_precision_with_ranges_needs_several_texts(pool):
    with pytest.raises(InputError, match="precision 'int8' needs the ranges of several vectors, and there is one"):
        pool.encode("cat", precision="int8")


def test_callers_in_several_threads_get_their_own_vectors(pool, model_path):
    model, barrier = embedder.Embedder(model_path), threading.Barrier(4)

    def work(caller):
        texts = [f"{'a b c d'[2 * caller]} {'cat dog ' * number}" for number in range(20)]
        wanted = model.encode(texts)
        barrier.wait()
        for _ in range(25):
            np.testing.assert_allclose(pool.encode(texts, chunk_size=3), wanted, atol=1e-6)

    with ThreadPoolExecutor(4) as callers:
        list(callers.map(work, range(4)))


def test_images_of_every_kind(clip_pool, clip_path, tmp_path):
    model = embedder.Embedder(clip_path)
    path = tmp_path / "cat.png"
    Image.fromarray(PIXELS[0]).save(path)
    inputs = ["the cat", path, *PIXELS, path.read_bytes(), Image.fromarray(PIXELS[1]), io.BytesIO(path.read_bytes())]
    wanted = model.encode([*inputs[:-1], path])
    np.testing.assert_allclose(clip_pool.encode(inputs, chunk_size=4), wanted, atol=1e-5)
    np.testing.assert_allclose(clip_pool.encode(PIXELS), model.encode(PIXELS), atol=1e-5)
    for single in (path, PIXELS[0]):
        np.testing.assert_allclose(clip_pool.encode(single), wanted[1], atol=1e-5)


def test_a_string_is_a_text_unless_read_paths_is_given(clip_pool, clip_path, tmp_path):
    model = embedder.Embedder(clip_path)
    path = tmp_path / "cat.png"
    Image.fromarray(PIXELS[0]).save(path)
    texts = [str(path), "the cat"]
    as_text, as_image = model.encode(texts), model.encode([path, "the cat"])
    assert np.abs(as_text - as_image).max() > 0.1
    np.testing.assert_allclose(clip_pool.encode(texts), as_text, atol=1e-5)
    np.testing.assert_allclose(clip_pool.encode(str(path)), as_text[0], atol=1e-5)
    np.testing.assert_allclose(clip_pool.encode(texts, read_paths=True), as_image, atol=1e-5)
    np.testing.assert_allclose(clip_pool.encode(str(path), read_paths=True), as_image[0], atol=1e-5)


def test_a_pool_of_texts_alone_takes_no_images(pool):
    with pytest.raises(InputError, match=r"texts\[1\] should be a string, not bytes: .*; this model takes no images"):
        pool.encode(["cat", b"image"])


def test_an_image_error_has_the_vectors_of_the_other_inputs(clip_pool, clip_path):
    inputs = [b"no image" if number % 7 == 2 else pixels for number, pixels in enumerate(PIXELS)]
    inputs[5] = "the cat"
    bad = [number for number in range(30) if number % 7 == 2]
    good = [number for number in range(30) if number % 7 != 2]
    wanted = embedder.Embedder(clip_path).encode([inputs[number] for number in good])
    for size in (None, 1, 3, 4, 100):
        with pytest.raises(ImageError, match=r"^inputs\[2\]: bytes of length 8 is not an image") as raised:
            clip_pool.encode(inputs, chunk_size=size)
        assert list(raised.value.reasons) == bad
        assert raised.value.indices.tolist() == good
        np.testing.assert_allclose(raised.value.embeddings, wanted, atol=1e-5)
    with pytest.raises(ImageError, match=r"inputs\[0\]"):
        clip_pool.encode([b"no image"] * 3)
    assert clip_pool.encode(PIXELS).shape == (30, 8)


def test_settings_that_a_pool_cannot_follow_are_refused(pool):
    with pytest.raises(InputError, match="errors='skip' has no effect here"):
        pool.encode(["cat"], settings=EncodeSettings(errors="skip"))
    with pytest.raises(InputError, match=r"settings and options \(batch_size\) were both given"):
        pool.encode(["cat"], settings=EncodeSettings(), batch_size=3)


def test_an_input_that_cannot_be_sent_leaves_the_pool_as_it_is(clip_pool, tmp_path):
    path = tmp_path / "cat.png"
    Image.fromarray(PIXELS[0]).save(path)
    with path.open("rb") as file:
        inputs = [*PIXELS[:20], file, *PIXELS[20:]]
        for size in (1, 100):
            with pytest.raises(
                InputError,
                match=r"one of the \d+ inputs from inputs\[\d+\] on cannot be sent to a worker process: .*BufferedRead"
                r".*Give the path or the bytes of an image instead of an open file",
            ):
                clip_pool.encode(inputs, chunk_size=size)
            assert clip_pool.encode(PIXELS).shape == (30, 8)


def test_a_pool_cannot_be_pickled_or_copied(pool):
    for make in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(
            WorkerError, match="a pool cannot be pickled or copied, as its processes belong to this one"
        ):
            make(pool)


def test_stop_from_another_thread_ends_a_call(model_path):
    for _ in range(2):
        pool = EncoderPool(model_path, 2, threads=1)
        encoding = threading.Event()

        def call(pool=pool, encoding=encoding):
            while True:
                pool.encode(TEXTS, chunk_size=1)
                encoding.set()

        with ThreadPoolExecutor(1) as callers:
            running = callers.submit(call)
            assert encoding.wait(60)
            pool.stop()
            with pytest.raises(WorkerError, match=r"the pool was stopped by another thread while|has been stopped"):
                running.result(60)
        assert not any(process.is_alive() for process in pool.processes)


def test_stop_from_many_threads(model_path):
    pool = EncoderPool(model_path, 1)
    with ThreadPoolExecutor(4) as callers:
        list(callers.map(lambda _: pool.stop(), range(4)))
    with pytest.raises(WorkerError, match="the pool has been stopped"):
        pool.encode("cat")


def test_the_error_for_another_signal_does_not_mention_memory(model_path):
    with EncoderPool(model_path, 1) as pool:
        os.kill(pool.processes[0].pid, signal.SIGTERM)
        with pytest.raises(WorkerError, match=r"died by signal 15 while encoding .* Start another pool$") as raised:
            pool.encode(TEXTS)
        assert "memory" not in str(raised.value)


def encode_in_a_pool(path, sender):
    try:
        EncoderPool(path, 1)
    except EmbedderError as error:
        sender.send(str(error))
    sender.send(embedder.Embedder(path).encode("cat").shape)


def test_a_daemonic_process_starts_no_pool(model_path):
    context = multiprocessing.get_context("spawn")
    results, sender = context.Pipe(duplex=False)
    child = context.Process(target=encode_in_a_pool, args=(model_path, sender), daemon=True)
    child.start()
    assert results.poll(60)
    assert results.recv() == (
        "a pool cannot be started in a daemonic process, as Python allows it no children. Make the process with "
        "daemon=False, or use Embedder in it"
    )
    assert results.poll(60)
    assert results.recv() == (8,)
    child.join(60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_cannot_use_the_pool_and_does_not_stop_it(pool):
    def work():
        try:
            with pool:
                pool.encode("cat")
        except WorkerError as error:
            return str(error)

    message = "the pool belongs to the process that started it. Start another in this process"
    assert call_in_fork(work) == message
    assert pool.encode("cat").shape == (8,)


SCRIPT = """
import sys
from embedder import EncoderPool
{start}
print(EncoderPool(sys.argv[1], 1).encode("cat").shape)
"""


def run_script(path, text, model):
    path.write_text(text)
    return run_python(path, model)


def test_a_script_without_a_main_guard_is_told_so(model_path, tmp_path):
    process = run_script(tmp_path / "script.py", SCRIPT.format(start=""), model_path)
    assert process.returncode == 1
    last = process.stderr.strip().splitlines()[-1]
    assert "WorkerError: worker 0 " in last
    assert 'put that under if __name__ == "__main__":' in last
    assert "memory" not in process.stderr
    # The worker prints its own error first.
    assert "a pool was started while a worker imports the main script" in process.stderr


def test_a_script_with_a_main_guard_runs_and_needs_no_stop(model_path, tmp_path):
    text = SCRIPT.format(start='if __name__ == "__main__":').replace("\nprint", "\n    print")
    process = run_script(tmp_path / "script.py", text, model_path)
    assert (process.returncode, process.stdout, process.stderr) == (0, "(8,)\n", "")


def test_progress_counts_the_inputs_of_all_workers(pool, capfd):
    pool.encode(TEXTS, show_progress_bar=True, chunk_size=10)
    assert f"{len(TEXTS)}/{len(TEXTS)}" in capfd.readouterr().err
