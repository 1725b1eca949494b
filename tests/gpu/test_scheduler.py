"""Batches, memory and threads on a real GPU. `conftest.py` skips it elsewhere."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedder import Embedder
from embedder.backends import cuda_session

WORDS = ("the", "cat", "dog", "sat", "on", "mat", "a", "b", "c", "long", "short", "word")
TEXTS = [" ".join(WORDS[(seed * step) % 12] for step in range(1, 1 + seed % 14)) + f" {seed}" for seed in range(6000)]


@pytest.fixture
def on_cpu(tiny):
    return Embedder(tiny, provider="cpu").encode(TEXTS)


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_many_windows(tiny, on_cpu):
    model = Embedder(tiny, provider="cuda")
    close(model.encode(TEXTS), on_cpu)
    close(np.concatenate(list(model.encode_iter(iter(TEXTS)))), on_cpu)


@pytest.mark.parametrize("limit", [150_000, 400_000])
def test_a_batch_that_does_not_fit_is_halved(tiny, on_cpu, monkeypatch, limit):
    monkeypatch.setattr(cuda_session, "_MIN_TOKEN_BUDGET", 16384)
    model = Embedder(tiny, provider="cuda", provider_options={"gpu_mem_limit": limit})
    close(model.encode(TEXTS), on_cpu)
    assert model.batch_limits.token_budget < 16384
    close(model.encode(TEXTS), on_cpu)


def test_many_threads_with_single_texts_and_lists(tiny, on_cpu):
    model = Embedder(tiny, provider="cuda")

    def encode(start):
        if start % 3:
            return model.encode(TEXTS[start : start + 300])
        return np.stack([model.encode(text) for text in TEXTS[start : start + 30]])

    with ThreadPoolExecutor(8) as executor:
        for start, found in enumerate(executor.map(encode, range(60))):
            close(found, on_cpu[start : start + len(found)])
