"""The examples of docs/serve.md with the clients of other projects."""

import contextlib
import io
from pathlib import Path

import pytest

from embedder import CrossEncoder, Embedder
from tests.asgi_client import ServedApp, listening
from tests.pages import assert_same, code_blocks
from tests.tiny import write_tiny_ranker

PAGE = Path(__file__).parents[2] / "docs/serve.md"
EXAMPLES = [block for block in code_blocks(PAGE) if block.language == "python"]


@pytest.fixture(scope="module")
def address(minilm, tmp_path_factory):
    ranker = CrossEncoder(write_tiny_ranker(tmp_path_factory.mktemp("page") / "ranker"))
    served = ServedApp({minilm.name: Embedder(minilm), "cross-encoder/ms-marco-MiniLM-L6-v2": ranker})
    with listening(served.app) as address:
        yield address
    served.close()


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_example(example, address, monkeypatch):
    pytest.importorskip(example.code.split()[1], reason="the client is not installed")
    # Offline, the client of the Hub asks no server at all, not even one on this machine.
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example.code.replace("http://localhost:8080", address), str(PAGE), "exec"), {})
    assert example.output
    assert_same(printed.getvalue(), example.output)
