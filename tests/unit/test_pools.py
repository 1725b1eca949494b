import os
import signal

import numpy as np
import pytest

import embedder
from embedder import EncoderPool, encode_multi_process, start_multi_process_pool, stop_multi_process_pool
from embedder.errors import InputError, ModelNotFoundError, WorkerError

TEXTS = ["the cat sat on the mat", "a", "", "dogs !", "字 é", "long " * 100, "cat"] * 9


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    from tests.tiny import write_tiny_artifact

    return write_tiny_artifact(tmp_path_factory.mktemp("pool") / "tiny")


@pytest.fixture(scope="module")
def pool(model_path):
    with EncoderPool(model_path, 2, threads=1) as pool:
        yield pool


def test_same_as_in_one_process(pool, model_path):
    model = embedder.Embedder(model_path)
    expected = model.encode(TEXTS)
    for size in (None, 1, 5, 1000):
        np.testing.assert_allclose(pool.encode(TEXTS, chunk_size=size), expected, atol=1e-6)
    assert len(pool.processes) == 2
    np.testing.assert_allclose(pool.encode("cat"), model.encode("cat"), atol=1e-6)
    np.testing.assert_allclose(pool.encode(iter(TEXTS[:3])), expected[:3], atol=1e-6)
    assert pool.encode([]).shape == (0, model.dimension)
    options = {"prompt": "query : ", "truncate_dim": 3, "normalize_embeddings": True}
    found = encode_multi_process(TEXTS, pool, **options)
    np.testing.assert_allclose(found, model.encode(TEXTS, **options), atol=1e-6)


def test_wrong_input_leaves_the_pool_as_it_is(pool):
    with pytest.raises(InputError, match=r"texts\[60\] should be a string, not int: 3"):
        pool.encode([*TEXTS[:60], 3])
    with pytest.raises(InputError, match="chunk_size should be a whole number, at least 1, not 0"):
        pool.encode(TEXTS, chunk_size=0)
    with pytest.raises(InputError, match="truncate_dim should be a whole number, at least 1 and at most 8, not 9"):
        pool.encode(TEXTS, truncate_dim=9, chunk_size=1)
    assert pool.encode(TEXTS).shape == (63, 8)


def test_a_worker_that_dies_is_an_error_and_ends_the_pool(model_path):
    pool = start_multi_process_pool(model_path, 2)
    expected = pool.encode(TEXTS)
    victim = pool.processes[1]
    os.kill(victim.pid, signal.SIGKILL)
    message = rf"worker 1 \(process {victim.pid}\) died by signal 9 while encoding the 3 texts from texts\[\d+\] on"
    with pytest.raises(WorkerError, match=message):
        pool.encode(TEXTS, chunk_size=3)
    assert not any(process.is_alive() for process in pool.processes)
    with pytest.raises(WorkerError, match="the pool has been stopped: start another"):
        pool.encode(TEXTS)
    with EncoderPool(model_path, 1) as another:
        np.testing.assert_allclose(another.encode(TEXTS), expected, atol=1e-6)
    assert not another.processes[0].is_alive()
    stop_multi_process_pool(another)


def test_a_worker_that_fails_otherwise(model_path):
    with EncoderPool(model_path, 1) as pool:
        with pytest.raises(WorkerError, match=r"TypeError: .*unexpected keyword argument 'unknown'"):
            pool.encode(TEXTS, unknown=1)
        with pytest.raises(WorkerError, match="the pool has been stopped"):
            pool.encode(TEXTS)


def test_a_model_that_cannot_be_loaded(tmp_path):
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        EncoderPool(tmp_path / "nowhere", 1)


def test_wrong_options(model_path):
    with pytest.raises(InputError, match="workers should be a whole number, at least 1, not 0"):
        EncoderPool(model_path, 0)
    with pytest.raises(InputError, match="there are 2 providers for 3 workers"):
        EncoderPool(model_path, 3, providers=["cpu", "cpu"])
