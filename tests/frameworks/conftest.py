"""Fixtures for the tests of frameworks: the integrations, a model with prompts, the examples on pages, and no network.

The tests import a framework when they need it. So a worker of pytest imports only those whose tests it runs.
"""

import contextlib
import importlib
import io
import os
import socket
from pathlib import Path

import pytest

import embedder
from tests.pages import assert_same, code_blocks

ROOT = Path(__file__).parents[2]
# The frameworks read these when they are imported.
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_collection_modifyitems(items):
    """Let frameworks and the packages below them warn, when they are imported or later. Only embedder must not."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default", "error:::embedder"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Fail the test if Python's own sockets are to reach another machine."""
    refused = []
    connect = socket.socket.connect

    def check(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
            refused.append(address)
            raise OSError(f"tests use no network: {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", check)
    yield
    embedder.release_models()
    assert refused == []


def integration(name, package):
    """Return a fixture: the module `embedder.integrations.name`. Tests with it are skipped without `package`."""

    @pytest.fixture(scope="module", name=name)
    def module():
        pytest.importorskip(package)
        return importlib.import_module(f"embedder.integrations.{name}")

    return module


langchain = integration("langchain", "langchain_core")
llama_index = integration("llama_index", "llama_index.core")
haystack = integration("haystack", "haystack")
chroma = integration("chroma", "chromadb")
lancedb = integration("lancedb", "lancedb")
bertopic = integration("bertopic", "bertopic")
keybert = integration("keybert", "keybert")
mteb = integration("mteb", "mteb")


@pytest.fixture
def prompted(make_artifact):
    """The directory of a tiny artifact with prompts for queries and documents."""
    return make_artifact("prompted", prompts={"query": "query: ", "document": "document: "})


@pytest.fixture
def model(prompted):
    return embedder.Embedder(prompted)


@pytest.fixture
def check_page(minilm, tmp_path, monkeypatch):
    """A function that runs the example on a page of docs/frameworks, and checks its output."""
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / minilm.name).symlink_to(minilm)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path / "mteb"))

    def check(name):
        page = ROOT / f"docs/frameworks/{name}.md"
        (example,) = [block for block in code_blocks(page) if block.language == "python"]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(example.code, str(page), "exec"), {"__name__": "__main__"})
        assert example.output
        assert_same(printed.getvalue(), example.output)

    return check
