import sys

import pytest

from embedder import Embedder, encode
from embedder.backends import session
from embedder.errors import DependencyError, ProviderError


def test_unknown_provider(tiny):
    with pytest.raises(ProviderError, match="unknown provider 'tpu': choose from 'cpu', 'cuda'"):
        Embedder(tiny, provider="tpu")
    with pytest.raises(ProviderError, match=r"unknown provider \['cpu'\]"):
        Embedder(tiny, provider=["cpu"])
    with pytest.raises(ProviderError, match=r"unknown provider \['cpu'\]"):
        encode("a", model=tiny, provider=["cpu"])


def test_provider_that_is_not_installed(tiny, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match=r"'cuda' is not in the onnxruntime .* pip install onnxruntime-gpu"):
        Embedder(tiny, provider="cuda")


@pytest.mark.parametrize("wanted", [None, "cuda"])
def test_provider_that_does_not_start(tiny, monkeypatch, wanted):
    """onnxruntime-gpu on a machine without a GPU: it offers CUDA, then goes on with the CPU."""
    import onnxruntime

    start = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, providers: start(path, options, providers=["CPUExecutionProvider"]),
    )
    if wanted is None:
        assert "provider='cpu'" in repr(Embedder(tiny))
    else:
        with pytest.raises(ProviderError, match="did not start: check the NVIDIA driver"):
            Embedder(tiny, provider=wanted)


def test_cpu_by_name(tiny):
    assert "provider='cpu'" in repr(Embedder(tiny, provider="cpu"))


def test_onnxruntime_not_installed(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        DependencyError, match=r"pip install onnxruntime .*embedder\[cpu\].*pip install onnxruntime-gpu"
    ):
        Embedder(tiny)
    with pytest.raises(ImportError, match="onnxruntime is not installed"):
        Embedder(tiny)


def test_only_one_file_knows_each_library():
    from pathlib import Path

    owners = {"onnxruntime": "session.py", "tokenizers": "tokenizer.py", "huggingface_hub": "hub.py"}
    for file in Path(session.__file__).parent.glob("*.py"):
        for library, owner in owners.items():
            imports = f"import {library}" in file.read_text() or f"from {library}" in file.read_text()
            assert not imports or file.name == owner, f"{file.name} imports {library}"
