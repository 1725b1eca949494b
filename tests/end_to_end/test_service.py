"""The service of docs/service.md: examples/service.py under uvicorn."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.pages import code_blocks
from tests.servers import ask, free_port, serving
from tests.tiny import expected, ids_of, write_tiny_artifact

ROOT = Path(__file__).parents[2]
SERVICE = ROOT / "examples/service.py"
TEXTS = ["cat", "the dog sat", "photos/0.jpg"]
REFUSED = [
    b"",
    b"{",
    b"[]",
    b'{"inputs": 3}',
    b'{"inputs": "cat"}',
    b'{"inputs": []}',
    b'{"inputs": [3]}',
    b'{"inputs": [NaN]}',
    b'{"inputs": ["\\ud800"]}',
    b'{"inputs": ["cat"], "task": "translate"}',
    json.dumps({"inputs": ["secret"] * 257}).encode(),
    json.dumps({"inputs": ["secret" * 20_000]}).encode(),
]


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """The port of the service, which runs with a tiny model."""
    for name in ("fastapi", "uvicorn"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    directory, port = tmp_path_factory.mktemp("service"), free_port()
    (directory / "artifacts").mkdir()
    write_tiny_artifact(directory / "artifacts/all-MiniLM-L6-v2")
    shutil.copy(SERVICE, directory)
    command = ["-m", "uvicorn", "service:app", "--port", str(port), "--log-level", "warning"]
    with serving(command, port, cwd=directory):
        yield port
    assert (directory / "log").read_text() == ""


def embed(port, **request):
    status, _, content = ask(port, json.dumps(request), path="/embed")
    assert status == 200, content
    return np.array(json.loads(content)["embeddings"])


def test_vectors(port):
    vectors = [expected(ids_of(text)) for text in TEXTS]
    np.testing.assert_allclose(embed(port, inputs=TEXTS), vectors, atol=1e-6)
    np.testing.assert_allclose(embed(port, inputs=TEXTS, task="query"), vectors, atol=1e-6)
    with ThreadPoolExecutor(8) as pool:
        for answer in pool.map(lambda _: embed(port, inputs=TEXTS), range(32)):
            np.testing.assert_allclose(answer, vectors, atol=1e-6)


@pytest.mark.parametrize("body", REFUSED, ids=lambda body: repr(body[:40]))
def test_refusals_say_why_and_do_not_repeat_the_texts(port, body):
    status, _, content = ask(port, body, path="/embed")
    assert status == 422
    assert all(reason["what"] for reason in json.loads(content)["detail"])
    assert b"secret" not in content
    assert len(content) < 300


def test_bytes_that_are_no_text_are_refused(port):
    assert ask(port, b"\xff", path="/embed")[0] == 400


def test_health(port):
    status, _, content = ask(port, method="GET", path="/health")
    assert (status, json.loads(content)) == (200, {"status": "ok"})


def test_service_does_not_start_without_the_model(tmp_path):
    for name in ("fastapi", "uvicorn"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    command = [sys.executable, "-m", "uvicorn", "--app-dir", SERVICE.parent, "service:app", "--port", str(free_port())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode != 0
    assert "ModelNotFoundError" in ended.stderr


def test_the_page_shows_the_service():
    blocks = [block.code for block in code_blocks(ROOT / "docs/service.md") if block.language == "python"]
    assert SERVICE.read_text(encoding="utf-8") in blocks
