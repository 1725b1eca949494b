"""Models from the Hub. New processes fetch them from a small server with the Hub's protocol.

The processes run in two environments. Their versions of huggingface_hub use different HTTP libraries.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub_server import COMMIT, GATED, serve
from tests.tiny import flip_a_bit


@pytest.fixture(params=["lean", "export"])
def python(request):
    if request.param == "export":
        return Path(sys.executable)
    return request.getfixturevalue("lean_bin") / "python"


@pytest.fixture
def ask(python, tmp_path):
    """A function that encodes a text with a model of the server, in a new process."""

    def run(hub, model):
        environment = dict(
            os.environ,
            HF_ENDPOINT=hub.endpoint,
            HF_HOME=str(tmp_path / "hf"),
            HF_HUB_DISABLE_PROGRESS_BARS="1",
            HF_HUB_DISABLE_TELEMETRY="1",
            NO_PROXY="127.0.0.1",
        )
        command = [python, "-m", "embedder", "encode", "--model", model]
        return subprocess.run(command, input="cat", env=environment, cwd=tmp_path, capture_output=True, text=True)

    return run


def assert_error(answer, message):
    assert answer.returncode == 1
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr


def test_artifact_is_fetched_once_and_then_works_offline(tiny, ask):
    (tiny / "README.md").write_text("not needed")
    with serve({"org/tiny": tiny}) as hub:
        first = ask(hub, "org/tiny")
        assert first.returncode == 0, first.stderr
        assert '"embedding": [' in first.stdout
        assert sorted(hub.fetched) == ["embedder.json", "model.onnx", "model.onnx.data", "tokenizer.json"]
        hub.fetched.clear()
        assert ask(hub, "org/tiny").stdout == first.stdout
        assert hub.fetched == []
    offline = ask(hub, "org/tiny")
    assert (offline.returncode, offline.stdout) == (0, first.stdout)


def test_repository_without_an_artifact(tmp_path, ask):
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "pytorch_model.bin").write_bytes(b"gigabytes")
    with serve({"org/checkpoint": tmp_path / "repository"}) as hub:
        answer = ask(hub, "org/checkpoint")
    assert_error(answer, "holds no embedder.json")
    assert "make export MODEL=org/checkpoint; or: embedder-export org/checkpoint" in answer.stderr
    assert hub.fetched == []


def test_repository_that_does_not_exist(ask):
    with serve({}) as hub:
        answer = ask(hub, "org/nobody")
    assert_error(answer, "the Hub has no repository 'org/nobody'")


def test_repository_that_is_gated(ask):
    with serve({}) as hub:
        answer = ask(hub, GATED)
    assert_error(answer, "the Hub repository 'org/gated' is gated: accept its terms")


def test_hub_that_cannot_be_reached(ask):
    with serve({}) as hub:
        pass
    answer = ask(hub, "org/tiny")
    assert_error(answer, "'org/tiny' could not be fetched from the Hub")


def test_file_that_was_damaged_in_transfer_is_detected(tiny, ask):
    flip_a_bit(tiny / "model.onnx.data")
    with serve({"org/tiny": tiny}) as hub:
        answer = ask(hub, "org/tiny")
    assert_error(answer, "model.onnx.data has been altered or damaged")


def test_directory_is_named_after_the_commit(tiny, python, tmp_path):
    code = "from embedder.artifact import hub; print(hub.fetch('org/tiny', ['embedder.json']).name)"
    with serve({"org/tiny": tiny}) as hub:
        environment = dict(os.environ, HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "hf"))
        answer = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == COMMIT
