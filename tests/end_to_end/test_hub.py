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
def environment(tmp_path):
    """Return the environment of a process that asks a hub. More variables may be given."""

    def of(endpoint, **variables):
        return {
            **os.environ,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            **variables,
        }

    return of


@pytest.fixture
def ask(python, tmp_path, environment):
    """A function that encodes a text with a model of the server, in a new process."""

    def run(hub, model, *options, **variables):
        command = [python, "-m", "embedder", "encode", "--model", model, *options]
        settings = environment(hub.endpoint, **variables)
        return subprocess.run(command, input="cat", env=settings, cwd=tmp_path, capture_output=True, text=True)

    return run


@pytest.fixture
def stand_in(tmp_path):
    """An exporter that copies the directory that EXPORTED names. Each export adds a line to the file log."""
    packages = tmp_path / "packages"
    information = packages / "stand_in-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: stand-in\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[embedder.exporter]\nstand-in = stand_in:export\n")
    (packages / "stand_in.py").write_text(
        "import os, shutil\n"
        "def export(model, output, *, access, report):\n"
        "    report(f'exporting {model}')\n"
        "    with open(os.environ['EXPORT_LOG'], 'a') as log:\n"
        "        log.write(model + chr(10))\n"
        "    if os.environ.get('KILLED') == '1':\n"
        "        os.kill(os.getpid(), 9)\n"
        "    shutil.copytree(os.environ['EXPORTED'], f'{output}.part')\n"
        "    os.rename(f'{output}.part', output)\n"
    )
    return packages


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


@pytest.mark.parametrize("python", ["lean"], indirect=True)
def test_repository_without_an_artifact(tmp_path, ask):
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "pytorch_model.bin").write_bytes(b"gigabytes")
    with serve({"org/checkpoint": tmp_path / "repository"}) as hub:
        answer = ask(hub, "org/checkpoint")
    assert_error(answer, "the Hub repository 'org/checkpoint' has no file embedder.json")
    assert 'run: pip install "embedder-onnx[cpu,export]"' in answer.stderr
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
    assert "It has been removed. Run this again to fetch it once more" in answer.stderr


def test_directory_is_named_after_the_commit(tiny, python, tmp_path):
    code = "from embedder.artifact import hub; print(hub.fetch('org/tiny', ['embedder.json']).name)"
    with serve({"org/tiny": tiny}) as hub:
        environment = dict(os.environ, HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "hf"))
        answer = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == COMMIT


def test_offline_variable_keeps_to_the_cache(tiny, ask):
    with serve({"org/tiny": tiny}) as hub:
        first = ask(hub, "org/tiny")
        assert first.stderr == ""  # no progress bars where no terminal is
        hub.requests.clear()
        assert ask(hub, "org/tiny", HF_HUB_OFFLINE="1").stdout == first.stdout
        assert_error(ask(hub, "org/other", HF_HUB_OFFLINE="1"), "HF_HUB_OFFLINE is set. Unset it, or give the path")
        assert hub.requests == []


def test_proxy(tiny, ask):
    """The hub is the proxy too: it finds the path in the whole address that a proxy is asked for."""
    with serve({"org/tiny": tiny}) as hub:
        proxy, hub.endpoint = hub.endpoint, "http://hub.invalid"
        answer = ask(hub, "org/tiny", HTTP_PROXY=proxy)
        assert answer.returncode == 0, answer.stderr
        assert "embedder.json" in hub.fetched


def test_revision_and_token(make_artifact, ask):
    with serve({"org/tiny": make_artifact("first")}, token="hf_right") as hub:
        hub.commit("org/tiny", make_artifact("second", max_seq_length=3), branch="v2")
        assert ask(hub, "org/tiny", "--revision", "v2", HF_TOKEN="hf_right").returncode == 0
        assert_error(ask(hub, "org/tiny", HF_TOKEN="hf_wrong"), "org/tiny")
        assert_error(ask(hub, "org/tiny", "--revision", "v3", HF_TOKEN="hf_right"), "has no revision 'v3'")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_cache_that_is_read_only_once_the_files_are_there(tiny, ask, tmp_path):
    with serve({"org/tiny": tiny}) as hub:
        first = ask(hub, "org/tiny")
        folders = [path for path in (tmp_path / "hf").rglob("*") if path.is_dir() and not path.is_symlink()]
        for folder in folders:
            folder.chmod(0o555)
        again = ask(hub, "org/tiny")
        for folder in folders:
            folder.chmod(0o755)
    assert (again.returncode, again.stdout) == (0, first.stdout)


def test_exported_at_first_use(tiny, ask, stand_in, tmp_path):
    variables = {"PYTHONPATH": paths(stand_in), "EXPORTED": str(tiny), "EXPORT_LOG": str(tmp_path / "log")}
    with serve({"org/checkpoint": {"config.json": b"{}"}}) as hub:
        first = ask(hub, "org/checkpoint", **variables)
        assert (first.returncode, first.stderr) == (0, "")
    again = ask(hub, "org/checkpoint", **variables)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert (tmp_path / "log").read_text() == "org/checkpoint\n"


def test_exporter_that_is_killed_leaves_no_lock(tiny, ask, stand_in, tmp_path):
    variables = {"PYTHONPATH": paths(stand_in), "EXPORTED": str(tiny), "EXPORT_LOG": str(tmp_path / "log")}
    with serve({"org/checkpoint": {"config.json": b"{}"}}) as hub:
        assert ask(hub, "org/checkpoint", KILLED="1", **variables).returncode == -9
        assert ask(hub, "org/checkpoint", **variables).returncode == 0
    assert (tmp_path / "log").read_text() == "org/checkpoint\n" * 2


@pytest.mark.slow
def test_eight_processes_at_once_export_once(tiny, python, stand_in, tmp_path, environment):
    with serve({"org/checkpoint": {"config.json": b"{}"}}) as hub:
        variables = {"PYTHONPATH": paths(stand_in), "EXPORTED": str(tiny), "EXPORT_LOG": str(tmp_path / "log")}
        code = "import embedder; print(embedder.encode('cat', model='org/checkpoint').tolist())"
        settings = environment(hub.endpoint, **variables)
        processes = [
            subprocess.Popen([python, "-c", code], env=settings, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
            for _ in range(8)
        ]
        outputs = {process.communicate(timeout=300)[0] for process in processes}
    assert {process.returncode for process in processes} == {0}
    assert len(outputs) == 1
    assert (tmp_path / "log").read_text() == "org/checkpoint\n"


@pytest.mark.slow
def test_eight_processes_at_once_fetch_one_artifact(tiny, python, tmp_path, environment):
    with serve({"org/tiny": tiny}) as hub:
        code = "import embedder; print(embedder.encode('cat', model='org/tiny').tolist())"
        settings = environment(hub.endpoint)
        processes = [
            subprocess.Popen([python, "-c", code], env=settings, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
            for _ in range(8)
        ]
        outputs = {process.communicate(timeout=300)[0] for process in processes}
    assert {process.returncode for process in processes} == {0}
    assert len(outputs) == 1


def paths(packages):
    """Return PYTHONPATH with the stand-in before what it was."""
    return os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])])
