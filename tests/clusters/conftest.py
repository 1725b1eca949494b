"""Fixtures for the tests of clusters: a cluster of Ray on this machine, and the examples on the pages in docs/jobs."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pages import assert_same, code_blocks

ROOT = Path(__file__).parents[2]
# Ray reads these when it is imported, and its processes inherit them.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
# On a busy machine, a node may need longer to start than the 30 seconds that Ray waits by default.
os.environ.update(RAY_raylet_start_wait_time_s="120")
# The installed commands of the pages, by those of this checkout.
COMMANDS = {"python": [sys.executable], "embedder": [sys.executable, "-m", "embedder"]}
MAX_COMMAND_S = 100


def pytest_collection_modifyitems(items):
    """Let the frameworks warn, when they are imported or later. Only embedder must not."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default", "error:::embedder"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of Ray with two nodes of two logical cores each. This process is connected to it."""
    pytest.importorskip("ray")
    from tests.clusters.ray_cluster import RayCluster

    cluster = RayCluster(tmp_path_factory.mktemp("ray"))
    yield cluster
    cluster.stop()


@pytest.fixture
def run_page(minilm, tmp_path, monkeypatch):
    """A function that runs the examples of a page, in their order, and checks their output.

    They run in a directory with the model, the examples of the repository, and a file of texts.
    """
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / minilm.name).symlink_to(minilm)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "texts").mkdir()
    pq.write_table(pa.table({"text": ["The cat sits outside."]}), tmp_path / "texts/1.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(name):
        page = ROOT / f"docs/jobs/{name}.md"
        for block in code_blocks(page):
            if block.language == "python":
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile(block.code, str(page), "exec"), {"__name__": "__main__"})
                assert_same(printed.getvalue(), block.output)
            elif block.language == "console" and not block.code.startswith("pip "):
                program, _, arguments = block.code.partition(" ")
                command = [*COMMANDS[program], *arguments.replace('"', "").split()]
                subprocess.run(command, check=True, capture_output=True, timeout=MAX_COMMAND_S)

    return run
