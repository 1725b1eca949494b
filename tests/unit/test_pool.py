"""Encoding in many processes: the same vectors, one caller at a time, and errors that say what happened."""

import os
import signal

import numpy as np
import pytest

import embedder
from embedder import EncoderPool, EncodeSettings
from embedder.errors import InputError, ModelNotFoundError, WorkerError
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
    with pytest.raises(WorkerError, match="the pool has been stopped. Start another"):
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
    with pytest.raises(InputError, match="providers should be a list of names, one for each worker, not 'cpu'"):
        EncoderPool(model_path, providers="cpu")
    with pytest.raises(InputError, match="model should be the name or the path of an exported model, not 3"):
        EncoderPool(3)
