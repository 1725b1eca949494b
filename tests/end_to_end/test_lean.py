"""The runtime as a user installs it: its packages, its size, and the modules that each call imports."""

import json
import subprocess
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "optimum", "onnx", "scipy", "sentence-transformers", "sentence_transformers"}
# These packages are installed, but only the calls that need them import them.
LATER_PACKAGES = {"filelock", "huggingface_hub", "onnxruntime", "tokenizers", "tqdm"}


@pytest.fixture(scope="module")
def lean(lean_bin):
    """A function that runs Python code in the lean environment and returns its output."""

    def run(code, *arguments):
        command = [lean_bin / "python", "-I", "-c", code, *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return run


def test_nothing_heavy_is_installed(lean, lean_bin, capsys):
    code = "import importlib.metadata as m, json; print(json.dumps([d.metadata['Name'] for d in m.distributions()]))"
    names = {name.lower() for name in json.loads(lean(code))}
    assert {"embedder-onnx", "onnxruntime", "tokenizers", "numpy"} <= names
    assert not HEAVY & names
    files = [file for file in (lean_bin.parent / "lib").rglob("*") if file.is_file() and not file.is_symlink()]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    with capsys.disabled():
        print(f"\nthe lean environment: {megabytes:.0f} MB in {len(names)} distributions: {', '.join(sorted(names))}")
    assert megabytes < 400


def test_importing_loads_neither_onnxruntime_nor_the_hub(lean):
    code = "import sys, embedder; embedder.Embedder; print(*sys.modules)"
    loaded = set(lean(code).split())
    assert "embedder.encoder" in loaded
    later = {"embedder.pool", "embedder.vectors.search", "embedder.vectors.index", "multiprocessing", "PIL"}
    assert not (HEAVY | LATER_PACKAGES | later) & loaded


def test_kernels_load_neither_onnxruntime_nor_the_hub(lean):
    code = (
        "import sys, numpy as np, embedder; x = np.eye(9); embedder.semantic_search(x, x); "
        "embedder.community_detection(x); embedder.paraphrase_mining_embeddings(x); embedder.bitext_mining(x, x); "
        "index = embedder.VectorIndex(9, precision='binary'); index.add(x); index.search(x); print(*sys.modules)"
    )
    loaded = set(lean(code).split())
    assert not (HEAVY | LATER_PACKAGES | {"multiprocessing.context", "faiss", "usearch", "sklearn"}) & loaded


def test_encoding_loads_nothing_heavy_and_no_hub(lean, tiny):
    code = "import sys, embedder; embedder.encode(['cat'], model=sys.argv[1]); print(*sys.modules)"
    loaded = set(lean(code, tiny).split())
    assert {"onnxruntime", "tokenizers"} <= loaded
    later = (LATER_PACKAGES - {"onnxruntime", "tokenizers"}) | {"PIL", "multiprocessing.context", "embedder.pool"}
    slow = {"concurrent.futures", "logging"}
    assert not (HEAVY | later | slow) & loaded


def test_onnxruntime_sends_no_telemetry(lean, tiny, tmp_path):
    """With telemetry, onnxruntime writes an identifier and a queue of events to the cache."""
    code = "import os, sys; os.environ['XDG_CACHE_HOME'] = os.environ['HOME'] = sys.argv[2]; import embedder"
    lean(f"{code}; embedder.encode('cat', model=sys.argv[1])", tiny, tmp_path / "cache")
    assert not list(tmp_path.glob("cache/[!e]*"))


def test_installed_code_is_that_of_this_checkout(lean):
    code = "import embedder, pathlib; print(pathlib.Path(embedder.__file__).parent)"
    installed = Path(lean(code).strip())
    source = Path(__file__).parents[2] / "embedder"
    for file in source.rglob("*.py"):
        place = installed / file.relative_to(source)
        assert place.read_text() == file.read_text(), f"{file.name} differs: make test installs it"
    assert (installed / "py.typed").exists()
