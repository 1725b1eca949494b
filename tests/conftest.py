"""Fixtures for several test files: a tiny artifact, the real model if it has been exported, and real data."""

import io
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.lambda_zip import build_once
from tests.tiny import write_tiny_artifact

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("EMBEDDER_TEST_DATA", ROOT.parent / "shared/data"))

# No test may depend on the speed of the machine. CI must give the same result each time.
settings.register_profile(
    "project", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("project")


# No test may ask the real Hub. Tests of the Hub start one on this machine. huggingface_hub reads these once.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
os.environ["HF_HOME"] = str(Path(tempfile.gettempdir(), "no-cache-of-the-hub"))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    """Give each test its own cache and model directory. Switch off prepacking; tests of prepacking switch it on."""
    monkeypatch.setenv("EMBEDDER_HOME", str(tmp_path_factory.mktemp("models")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("EMBEDDER_PREPACK", "0")


@pytest.fixture
def make_artifact(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a tiny artifact, with the given fields of its manifest, and returns its directory."""

    def make(name: str = "tiny", **fields: object) -> Path:
        return write_tiny_artifact(tmp_path / name, **fields)

    return make


@pytest.fixture
def tiny(make_artifact: Callable[..., Path]) -> Path:
    return make_artifact()


@pytest.fixture
def run_command(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., tuple[int, bytes, str]]:
    """A function that runs `embedder` in this process, and returns its status, standard output and standard error."""
    from embedder.cli.main import main

    def run(*arguments: object, stdin: bytes = b"") -> tuple[int, bytes, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = main([*map(str, arguments)])
        captured = capsysbinary.readouterr()
        return status, captured.out, captured.err.decode()

    return run


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The artifact of the real all-MiniLM-L6-v2."""
    return _needed(ROOT / "artifacts/all-MiniLM-L6-v2", "make export MODEL=all-MiniLM-L6-v2")


@pytest.fixture(scope="session")
def minilm_checkpoint() -> Path:
    """The checkpoint of the real all-MiniLM-L6-v2."""
    return _needed(ROOT / "checkpoints/all-MiniLM-L6-v2", "make export MODEL=all-MiniLM-L6-v2")


@pytest.fixture(scope="session")
def lean_bin() -> Path:
    """The directory of the commands of the lean environment. The runtime alone is installed there."""
    return _needed(ROOT / ".venv/lean/bin", "make test")


@pytest.fixture(scope="session")
def gpu_bin() -> Path:
    """The directory of the commands of the environment with onnxruntime-gpu, but without the libraries of NVIDIA."""
    return _needed(ROOT / ".venv/gpu/bin", "make test")


@pytest.fixture(scope="session")
def export_bin() -> Path:
    """The directory of the commands of the export's environment without torch."""
    return _needed(ROOT / ".venv/export/bin", "make demo")


@pytest.fixture(scope="session")
def lambda_zip(
    minilm: Path, export_bin: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    """The zip of an AWS Lambda function with all-MiniLM-L6-v2. All processes of a test run share it.

    Beside it lies `printed.txt`, which the builder has printed.
    """
    directory = tmp_path_factory.getbasetemp()
    shared = directory.parent if hasattr(request.config, "workerinput") else directory  # workers have one each
    return build_once(export_bin, minilm, shared)


@pytest.fixture(scope="session")
def data() -> Path:
    """The directory of real data to measure on. It lies beside the checkout, if it is there."""
    if not DATA.is_dir():
        pytest.skip("the evaluation data is not here (EMBEDDER_TEST_DATA names its directory)")
    return DATA


def _needed(path: Path, command: str) -> Path:
    if not path.exists():
        pytest.skip(f"{path.relative_to(ROOT)} is not here: {command}")
    return path
