"""The provider on a real GPU. `conftest.py` skips it elsewhere."""

import multiprocessing

import numpy as np
import pytest

from embedder import Embedder, EncoderPool
from embedder.backends.cuda_libraries import free_memory_bytes, gpu_count
from embedder.errors import DeviceMemoryError, InputError, ProviderError
from tests.processes import call_in_fork, run_python

TEXTS = [f"{text} {number}" for number in range(300) for text in ("the cat sat on the mat", "dog", "a b c")]
ENCODE = """
import sys
from embedder import Embedder
model = Embedder(sys.argv[1], provider=sys.argv[2])
print(model.device, model.encode(["cat", "the dog"]).shape)
"""


def test_same_vectors_as_on_the_cpu(tiny):
    model = Embedder(tiny)
    assert model.device == "cuda"
    np.testing.assert_allclose(model.encode(TEXTS), Embedder(tiny, provider="cpu").encode(TEXTS), atol=5e-3)


def test_nothing_is_printed(tiny):
    for index in range(gpu_count()):
        name = f"cuda:{index}" if index else "cuda"
        answer = run_python("-c", ENCODE, tiny, name)
        assert (answer.stdout, answer.stderr) == (f"{name} (2, 8)\n", "")


def test_free_memory():
    free = free_memory_bytes(0)
    assert free is not None
    assert 100_000_000 < free < 10**12
    assert free_memory_bytes(gpu_count()) is None


def test_a_number_that_no_gpu_has(tiny):
    with pytest.raises(ProviderError, match=f"provider 'cuda:{gpu_count()}' does not work here: there "):
        Embedder(tiny, provider=f"cuda:{gpu_count()}")


def test_options(tiny, monkeypatch):
    options = {"gpu_mem_limit": 1_000_000_000, "arena_extend_strategy": "kSameAsRequested", "use_tf32": 0}
    Embedder(tiny, provider="cuda", provider_options=options).encode(TEXTS)
    with pytest.raises(
        InputError, match=r"provider_options\['gpu_mem_limit'\] is 'much', which this version of onnxru"
    ):
        Embedder(tiny, provider="cuda", provider_options={"gpu_mem_limit": "much"})
    with pytest.raises((ProviderError, DeviceMemoryError), match="memory"):
        Embedder(tiny, provider="cuda", provider_options={"gpu_mem_limit": 1})


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork there")
def test_after_a_fork(tiny):
    """The parent has used the GPU."""

    def load():
        try:
            return Embedder(tiny, provider="cuda").device
        except ProviderError as error:
            return str(error)

    assert "this process was forked from one that uses the GPU" in call_in_fork(load)


def test_a_pool_over_all_gpus(tiny):
    with EncoderPool(tiny, providers="cuda") as pool:
        assert len(pool.processes) == gpu_count()
        np.testing.assert_allclose(pool.encode(TEXTS), Embedder(tiny, provider="cuda").encode(TEXTS), atol=5e-3)
