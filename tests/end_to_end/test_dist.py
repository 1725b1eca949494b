"""The distributions, as `make dist` builds them and as pip installs them from an index into clean environments."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

import embedder
from tests.distributions import DIRECTORIES, INSTALLS, PACKAGES, ROOT, version
from tests.hub_server import serve

pytestmark = pytest.mark.slow

RUNTIME, WITH_EXPORTER = INSTALLS
# Of these the runtime alone installs none.
EXPORTERS_PACKAGES = {"embedder-export", "onnx", "onnx-ir", "safetensors", "torch", "transformers", "pillow"}
# In the directory of a wheel's metadata.
WHEEL_FILES = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
# hatchling adds these to each sdist.
SDIST_FILES = {"PKG-INFO", "pyproject.toml", "README.md", "LICENSE", ".gitignore"}
# The README of the runtime links to these.
PAGES = {"CHANGELOG.md", "CONTRIBUTING.md"} | {
    file.relative_to(ROOT).as_posix()
    for file in (ROOT / "docs").rglob("*")
    if file.is_file() and "__pycache__" not in file.parts
}


def output_of(command, **options):
    """Run a command, check that it succeeds, and return its output."""
    command = list(map(str, command))
    answer = subprocess.run(command, capture_output=True, text=True, **options)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A directory with wheels and sdists of both distributions."""
    if not (ROOT / ".venv/build/.ready").exists():  # `make test` has made it
        pytest.skip(".venv/build is not here: make dist")
    directory = tmp_path_factory.mktemp("dist")
    make_variables = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")  # they are set if `make test` runs this test
    environment = {name: value for name, value in os.environ.items() if name not in make_variables}
    output_of(["make", "dist", f"DIST={directory}"], cwd=ROOT, env=environment)
    return directory


def files_of(name):
    """The files of a distribution's package, by their paths in a wheel."""
    root = DIRECTORIES[name]
    files = (file for file in (root / PACKAGES[name]).rglob("*") if file.is_file())
    return {file.relative_to(root).as_posix() for file in files if "__pycache__" not in file.parts}


@pytest.mark.parametrize("name", DIRECTORIES)
def test_wheel_has_the_package_and_its_licence_alone(built, name):
    stem = f"{name.replace('-', '_')}-{version(name)}"
    with zipfile.ZipFile(built / f"{stem}-py3-none-any.whl") as wheel:
        names = set(wheel.namelist())
        assert names == files_of(name) | {f"{stem}.dist-info/{file}" for file in WHEEL_FILES}
        assert f"{PACKAGES[name]}/py.typed" in names
        assert wheel.read(f"{stem}.dist-info/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        lines = wheel.read(f"{stem}.dist-info/METADATA").decode().splitlines()
    assert {f"Name: {name}", "License-Expression: Apache-2.0", "Description-Content-Type: text/markdown"} <= set(lines)
    requirements = [line for line in lines if line.startswith("Requires-Dist:")]
    assert not [line for line in requirements if "file:" in line], "a requirement is a path of this machine"


@pytest.mark.parametrize(("name", "pages"), [("embedder-onnx", PAGES), ("embedder-export", set())])
def test_sdist_has_what_builds_the_wheel_and_the_pages(built, name, pages):
    stem = f"{name.replace('-', '_')}-{version(name)}"
    with tarfile.open(built / f"{stem}.tar.gz") as sdist:
        names = {member.name for member in sdist.getmembers() if member.isfile()}
    assert names == {f"{stem}/{file}" for file in files_of(name) | SDIST_FILES | pages}


@contextmanager
def index_of(directory: Path) -> Iterator[str]:
    """Serve the distributions in `directory` as an index (PEP 503) until the `with` statement ends. Yield its URL."""
    for name in DIRECTORIES:
        page = directory / "simple" / name / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        files = [file for file in directory.iterdir() if file.name.startswith(f"{name.replace('-', '_')}-")]
        digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        links = [f'<a href="../../{file}#sha256={digest}">{file}</a>' for file, digest in digests.items()]
        page.write_text("<!DOCTYPE html><html><body>" + "<br>".join(links) + "</body></html>")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(directory)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Installed:
    """A clean environment where a user works.

    Attributes:
        bin: the directory of its commands.
        home: the user's home and working directory. The checkout is not there.
        names: the installed distributions.
    """

    bin: Path
    home: Path
    names: set[str]

    def run(self, *command, **variables):
        """Run a command of the environment, with no variable of this process, and return its output."""
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TMPDIR")}
        environment = kept | {"HOME": str(self.home), "NO_PROXY": "127.0.0.1"} | variables
        return output_of([self.bin / command[0], *command[1:]], cwd=self.home, env=environment)


def install(command, built, directory):
    """Run an install command of the README in a new environment."""
    environment, home = directory / "environment", directory / "home"
    home.mkdir()
    output_of([sys.executable, "-m", "venv", environment])
    python = environment / "bin/python"
    requirement = command.removeprefix("pip install ").strip('"')
    with index_of(built) as url:
        report = directory / "report.json"
        options = ["--extra-index-url", url, "--report", report]
        # Python compiles the modules that are used, when they are first imported.
        variables = os.environ | {"NO_PROXY": "127.0.0.1", "PIP_NO_COMPILE": "1"}
        output_of([python, "-m", "pip", "install", *options, requirement], cwd=home, env=variables)
    installed = {item["metadata"]["name"].lower(): item for item in json.loads(report.read_text())["install"]}
    for name in DIRECTORIES:
        if name in installed:  # and not one of the same name from elsewhere
            assert installed[name]["download_info"]["url"].startswith(url.removesuffix("simple/"))
    output_of([python, "-m", "pip", "check"])
    return Installed(environment / "bin", home, set(installed))


ENCODE = 'import embedder; print(*embedder.encode("A dog plays in the garden.", model="all-MiniLM-L6-v2")[:3])'


def test_runtime_from_an_index(built, minilm, tmp_path):
    """The lines of the README, in an environment with nothing but what its command installs."""
    user = install(RUNTIME, built, tmp_path)
    assert {"embedder-onnx", "onnxruntime", "tokenizers", "numpy", "filelock"} <= user.names
    assert not EXPORTERS_PACKAGES & user.names
    (user.home / "artifacts").mkdir()
    (user.home / "artifacts/all-MiniLM-L6-v2").symlink_to(minilm)
    place = user.run("python", "-I", "-c", "import embedder; print(embedder.__file__, embedder.__version__)").split()
    assert Path(place[0]).is_relative_to(user.bin.parent)
    assert place[1] == version("embedder-onnx")
    user.run("python", "-I", "-c", ENCODE)
    printed = user.run("embedder", "similarity", "A dog plays in the garden.", "pets in the yard")
    assert float(printed) == pytest.approx(0.4931, abs=2e-3)


def test_one_line_from_an_index(built, minilm, minilm_checkpoint, tmp_path):
    """The first use of a model exports the Hub's checkpoint. Later uses need no network."""
    user = install(WITH_EXPORTER, built, tmp_path)
    assert {"embedder-onnx", "embedder-export", "onnxruntime", "onnx", "pillow"} <= user.names
    assert not {"onnxruntime-gpu", "torch", "transformers"} & user.names
    home = tmp_path / "models"
    with serve({"sentence-transformers/all-MiniLM-L6-v2": minilm_checkpoint}) as hub:
        variables = {"HF_ENDPOINT": hub.endpoint, "EMBEDDER_HOME": str(home)}
        first = user.run("python", "-I", "-c", ENCODE, **variables)
    assert (home / "sentence-transformers/all-MiniLM-L6-v2/embedder.json").is_file()
    expected = embedder.Embedder(minilm, provider="cpu").encode("A dog plays in the garden.")
    assert [float(number) for number in first.split()] == pytest.approx(list(expected[:3]), abs=2e-3)
    assert user.run("python", "-I", "-c", ENCODE, **variables) == first  # the hub is gone
    page = (DIRECTORIES["embedder-export"] / "README.md").read_text(encoding="utf-8")
    ((snippet, shown),) = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL)
    assert user.run("python", "-I", "-c", snippet, **variables) == shown
    assert f"$ {WITH_EXPORTER}\n" in page
