"""What loading a model costs, and what `verify=False` leaves out."""

import json
import re
import threading

import numpy as np
import pytest

import embedder
from embedder.backends import cpu
from embedder.common import tokenizer_file
from embedder.engine import loading
from embedder.errors import ArtifactError, InputError
from tests.processes import run_python

# No model that is given by its path needs these. Each takes milliseconds of the start of a process.
UNNEEDED = (
    *("embedder.artifact.hub", "embedder.artifact.first_use", "embedder.artifact.store", "embedder.images.reading"),
    *("embedder.pool", "embedder.vectors.search", "huggingface_hub", "importlib.metadata", "platformdirs", "tqdm"),
    *("filelock", "PIL", "shutil", "tempfile", "subprocess", "socket", "http.client", "urllib.request"),
)


def test_a_load_imports_only_what_it_needs(tiny):
    code = (
        "import sys, numpy, onnxruntime, tokenizers\n"
        "before = set(sys.modules)\n"
        "import embedder\n"
        f"embedder.Embedder({str(tiny)!r}).encode_query('cat')\n"
        f"print(sorted((set(sys.modules) - before) & set({UNNEEDED!r})))\n"
    )
    process = run_python("-c", code)
    assert (process.stdout, process.stderr) == ("[]\n", "")


def test_a_load_without_verification_computes_no_digest(tiny, monkeypatch):
    monkeypatch.delenv("EMBEDDER_PREPACK")
    code = (
        "import sys, numpy, onnxruntime, tokenizers\n"
        "before = set(sys.modules)\n"
        "import embedder\n"
        f"embedder.Embedder({str(tiny)!r}, verify=False).encode('cat')\n"
        "print(sorted((set(sys.modules) - before) & {'hashlib', '_hashlib', 'base64'}))\n"
    )
    process = run_python("-c", code)
    assert (process.stdout, process.stderr) == ("[]\n", "")


def test_the_tokenizer_is_loaded_while_onnxruntime_opens_the_graph(tiny, monkeypatch):
    opening, loaded = threading.Event(), threading.Event()
    open_session, make_tokenizer = cpu.open_session, loading.TextTokenizer

    def open_slowly(*arguments):
        opening.set()
        assert loaded.wait(60)
        return open_session(*arguments)

    def load(*arguments, **options):
        assert opening.wait(60)
        loaded.set()
        return make_tokenizer(*arguments, **options)

    monkeypatch.setattr(cpu, "open_session", open_slowly)
    monkeypatch.setattr(loading, "TextTokenizer", load)
    assert embedder.Embedder(tiny).encode("cat").shape == (8,)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_side_that_cannot_be_loaded_does_not_keep_the_other_one_waiting(tiny, name):
    path = tiny / name
    path.write_bytes(b" " * path.stat().st_size)
    for verify in (True, False):
        with pytest.raises(ArtifactError, match=re.escape(name)):
            embedder.Embedder(tiny, verify=verify)


def alter(path):
    """Give the file other weights, and keep its size."""
    weights = np.fromfile(path, np.float32)
    weights[weights < 0] /= 2
    weights.tofile(path)


def test_an_altered_file_is_an_error_only_with_verification(tiny):
    expected = embedder.Embedder(tiny, verify=False).encode("cat")
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode("cat"), expected)
    alter(tiny / "model.onnx.data")
    with pytest.raises(ArtifactError, match="altered or damaged"):
        embedder.Embedder(tiny)
    assert not np.array_equal(embedder.Embedder(tiny, verify=False).encode("cat"), expected)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json"])
def test_a_truncated_or_missing_file_is_an_error_without_verification(tiny, name):
    path = tiny / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="truncated or replaced"):
        embedder.Embedder(tiny, verify=False)
    path.unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        embedder.Embedder(tiny, verify=False)


def test_the_content_of_a_trusted_tokenizer_is_not_checked(tiny, monkeypatch):
    monkeypatch.setattr(tokenizer_file, "_check_content", lambda content: pytest.fail("it is checked"))
    embedder.Embedder(tiny, verify=False)


def test_a_trusted_tokenizer_that_is_damaged_is_an_error(tiny):
    path = tiny / "tokenizer.json"
    path.write_text(json.dumps({}).ljust(path.stat().st_size), encoding="utf-8")
    with pytest.raises(ArtifactError, match="is not a tokenizer that tokenizers"):
        embedder.Embedder(tiny, verify=False)


def test_verify_is_a_flag(tiny):
    with pytest.raises(InputError, match="verify should be"):
        embedder.Embedder(tiny, verify="no")


def test_files_that_are_not_verified_are_not_packed_for_later_loads(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EMBEDDER_PREPACK")
    embedder.Embedder(tiny, verify=False)
    assert not list(tmp_path.glob("cache/embedder/prepacked/*"))
    embedder.Embedder(tiny)
    assert list(tmp_path.glob("cache/embedder/prepacked/*"))
