"""The page of `embedder serve`: its commands run, and its tables are complete."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from embedder import Embedder
from embedder.cli.main import main
from embedder.serve.metrics import Metrics
from embedder.serve.openapi import describe
from embedder.serve.settings import ServerSettings
from tests.asgi_client import served_app
from tests.pages import code_blocks
from tests.servers import START_TIMEOUT_S, ask, free_port, serving
from tests.tiny import add_image_graph, write_tiny_artifact, write_tiny_ranker

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/serve.md"
MOVE = ROOT / "docs/move-to-serve.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = [block.code for block in code_blocks(PAGE) if block.language == "sh"]
# They change the machine, or need a program that is not here. tests/deploy/test_server_files.py reads their files.
NOT_RUN = ("pip", "useradd", "python3", "/opt/embedder/bin/pip", "cp", "systemctl", "docker", "kubectl")
NOT_RUN += ("install", "openssl", "journalctl")


def lines():
    """Yield the commands of all blocks. A command may have several lines."""
    for block in COMMANDS:
        yield from block.replace("\\\n", " ").splitlines()


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """The port of a server, started as on the page, with tiny models. It serves a model of images too."""
    directory, port = tmp_path_factory.mktemp("serve"), free_port()
    (directory / "artifacts/cross-encoder").mkdir(parents=True)
    write_tiny_artifact(directory / "artifacts/all-MiniLM-L6-v2")
    add_image_graph(write_tiny_artifact(directory / "artifacts/clip-ViT-B-32"))
    write_tiny_ranker(directory / "artifacts/cross-encoder/ms-marco-MiniLM-L6-v2")
    command = [line for line in lines() if line.startswith("embedder serve")][-1]
    words = command.replace("8080", str(port)).split()[1:]
    with serving(["-m", "embedder", *words, "clip-ViT-B-32"], port, cwd=directory) as process:
        wait_until_ready(port)
        yield port
    assert process.returncode == 0
    assert "Traceback" not in (directory / "log").read_text(encoding="utf-8")


def wait_until_ready(port):
    ended = threading.Event()
    timer = threading.Timer(START_TIMEOUT_S, ended.set)
    timer.start()
    while ask(port, method="GET", path="/ready")[0] != 200:
        assert not ended.wait(0.02), "the server is not ready"
    timer.cancel()


def run(command, port, directory):
    """Run a command of the page, and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "*"}
    command = command.replace("8080", str(port)).replace("embedder ", f"{sys.executable} -m embedder ", 1)
    answer = subprocess.run(command, shell=True, cwd=directory, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", [line for line in lines() if line.startswith("curl")])
def test_requests_are_answered(command, port, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (tmp_path / "photos").mkdir()
    shutil.copy(ROOT / "docs/pictures/server.png", tmp_path / "photos/0.jpg")
    answer = json.loads(run(command, port, tmp_path))
    if "/rerank" in command:
        assert sorted(found["text"] for found in answer) == ["It rains.", "The cat sits outside."]
        return
    data = answer["data"]
    assert len(data) == (2 if "-F" in command else 1)
    assert all(len(each["embedding"]) == 8 for each in data)


@pytest.mark.slow
def test_the_server_is_measured(port, tmp_path):
    (command,) = [line for line in lines() if line.startswith("embedder bench-server")]
    printed = run(f"{command} --model all-MiniLM-L6-v2", port, tmp_path)
    assert float(printed.splitlines()[0].split()[1].replace(",", "")) > 0
    assert printed.splitlines()[-1].split() == ["failed", "0"]


def test_every_command_is_run():
    others = [line for line in lines() if not line.startswith(("curl", "embedder serve", "embedder bench-server"))]
    assert {line.split()[0] for line in others} <= set(NOT_RUN)


def table(title):
    """Return the first column of the first table of a section."""
    section = re.split(r"^## ", TEXT.partition(f"\n## {title}\n")[2], flags=re.MULTILINE)[0]
    return re.findall(r"^\| (?!-)([^|]+) \|", section, re.MULTILINE)[1:]


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    """The description of a server with one model."""
    with Embedder(write_tiny_artifact(tmp_path_factory.mktemp("described") / "tiny")) as model:
        models, _ = served_app({"tiny": model})
        yield describe(models, ServerSettings())


def test_table_of_statuses_is_complete(document):
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    described = {status for operation in operations for status in operation["responses"]}
    # Starlette answers 405 itself, and the protocol 431.
    assert set(table("Refused requests")) == (described | {"405", "431"}) - {"200"}


def test_table_of_routes_is_complete(document):
    routes = " ".join(table("The routes")).replace("NAME", "{model}")
    for path in document["paths"]:
        assert f"{path}`" in routes, path


def test_table_of_metrics_is_complete():
    measured = re.findall(r"^# TYPE (embedder_\w+)", Metrics().render().decode(), re.MULTILINE)
    shown = re.findall(r"`(embedder_\w+)`", " ".join(table("Operations")))
    assert sorted(shown) == sorted(measured)


def test_options_are_those_of_the_command(capsys):
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    options = set(re.findall(r"`(--[\w-]+)", TEXT)) - {"--texts"}  # of bench-server
    assert len(options) > 10
    assert options <= known
    rows = re.findall(r"^\| .+ \| (.+) \|$", MOVE.read_text(encoding="utf-8"), re.MULTILINE)
    moved = {option for row in rows for option in re.findall(r"`(--[\w-]+)", row)} - {"--revision"}  # of pull
    assert len(moved) > 10
    assert moved <= known
