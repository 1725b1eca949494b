"""The command without a place to write, the export that the runtime starts by itself, and the upload at the end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from embedder_export.errors import OutputError
from embedder_export.first_use import export_from_hub
from transformers import BertConfig, BertForMaskedLM

from embedder import Embedder
from embedder.artifact.hub_access import HubAccess
from embedder.errors import ModelNotFoundError
from tests.checkpoints import SMALL, VOCABULARY_SIZE, write_checkpoint
from tests.hub_faults import on, status
from tests.hub_server import COMMIT, serve
from tests.static_models import write_model2vec, write_sentence_transformers

ROOT = Path(__file__).parents[2]
TOKEN = "hf_secretsecretsecret"
_ENCODE = """
import sys, json, embedder
print(json.dumps(embedder.encode("a text", model=sys.argv[1]).tolist()))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = write_checkpoint(tmp_path_factory.mktemp("served") / "small")
    (directory / "README.md").write_text("---\nlicense: mit\n---\n# small\n")
    return directory


@pytest.fixture
def run(tmp_path):
    """A function that runs Python with these arguments, a hub and an empty home."""

    def start(hub, *arguments, token=None):
        environment = dict(
            os.environ,
            EMBEDDER_HOME=str(tmp_path / "home"),
            HF_ENDPOINT=hub if isinstance(hub, str) else hub.endpoint,
            HF_HOME=str(tmp_path / "hf"),
            HF_HUB_DISABLE_XET="1",
            NO_PROXY="127.0.0.1",
            PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'export'}",
        )
        if token:
            environment["HF_TOKEN"] = token
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)

    return start


@pytest.mark.slow
def test_export_without_output_is_found_by_its_name(checkpoint, run, tmp_path):
    with serve({"org/small": checkpoint}) as hub:
        answer = run(hub, "-m", "embedder_export", "org/small", "--dtypes", "fp32")
        assert answer.returncode == 0, answer.stderr
        answer = run(hub, "-m", "embedder_export", "org/small", "--dtypes", "fp32", "--revision", COMMIT)
        assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "home/org/small/embedder.json").is_file()
    assert (tmp_path / f"home/org/small@{COMMIT}/embedder.json").is_file()
    answer = run("http://127.0.0.1:9", "-c", _ENCODE, "org/small")
    assert answer.returncode == 0, answer.stderr
    assert np.allclose(json.loads(answer.stdout), Embedder(tmp_path / "home/org/small").encode("a text"))


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_sentence_transformers, write_model2vec])
def test_first_use_of_static_embeddings(write, run, tmp_path):
    """Both layouts: with modules.json, and model2vec's own. The second call needs no network."""
    write(tmp_path / "served")
    (tmp_path / "served/README.md").write_text("---\nlicense: mit\n---\n")
    with serve({"minishlab/potion": tmp_path / "served"}) as hub:
        answers = [run(hub, "-c", _ENCODE, "minishlab/potion")]
    answers.append(run("http://127.0.0.1:9", "-c", _ENCODE, "minishlab/potion"))
    for answer in answers:
        assert answer.returncode == 0, answer.stderr
    model = Embedder(tmp_path / "home/minishlab/potion")
    np.testing.assert_allclose(json.loads(answers[0].stdout), model.encode("a text"), atol=1e-6)
    assert answers[0].stdout == answers[1].stdout


@pytest.mark.slow
def test_pushed_artifact_gives_the_same_vectors(checkpoint, run, tmp_path):
    with serve({"org/small": checkpoint}, token=TOKEN) as hub:
        options = ["--dtypes", "fp32", "--output", tmp_path / "artifact", "--push-to", "ann/small-onnx"]
        answer = run(hub, "-m", "embedder_export", "org/small", *options, token=TOKEN)
        assert answer.returncode == 0, answer.stderr
        assert f"uploaded to {hub.endpoint}/ann/small-onnx" in answer.stderr
        assert TOKEN not in answer.stderr
        files = hub.files("ann/small-onnx")
        assert b'license: "mit"\nbase_model: "org/small"' in files["README.md"]
        answer = run(hub, "-c", _ENCODE, "ann/small-onnx", token=TOKEN)
        assert answer.returncode == 0, answer.stderr
    assert np.allclose(json.loads(answer.stdout), Embedder(tmp_path / "artifact").encode("a text"))


_SPARSE = """
import sys, json, embedder
words = embedder.SparseEncoder(sys.argv[1]).encode("a text")
print(json.dumps([words.shape, embedder.Embedder(sys.argv[1]).encode("a text").shape]))
"""


@pytest.mark.slow
def test_language_model_is_a_sparse_model_where_a_program_says_so(run, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "words")
    (checkpoint / "modules.json").unlink()
    BertForMaskedLM(BertConfig(vocab_size=VOCABULARY_SIZE, **SMALL)).save_pretrained(checkpoint)
    with serve({"org/words": checkpoint}) as hub:
        answer = run(hub, "-c", _SPARSE, "org/words")
        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout) == [[1, VOCABULARY_SIZE], [32]]
        stored = {path.name for path in (tmp_path / "home/org").iterdir()}
        assert stored == {"words", "words--sparse"}
    again = run("http://127.0.0.1:9", "-c", _SPARSE, "org/words")
    assert again.stdout == answer.stdout


def test_failed_export_uploads_nothing_and_leaves_nothing(checkpoint, run, tmp_path):
    with serve({"org/small": {**_files(checkpoint), "config.json": b"{"}}, token=TOKEN) as hub:
        answer = run(hub, "-m", "embedder_export", "org/small", "--push-to", "ann/small", token=TOKEN)
    assert answer.returncode == 1
    assert "config.json cannot be read" in answer.stderr
    assert not [line for line in hub.requests if not line.startswith(("GET", "HEAD"))]
    assert not (tmp_path / "home").exists()


def _files(directory):
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the checkpoint is a local directory, so the artifact needs a place: --output DIR"),
        (["--output", "out", "--revision", "main"], "is a directory, so it has no revision 'main'"),
        (["--output", "out", "--push-to", "small"], "--push-to needs ORG/NAME, not 'small'"),
        (["--output", "out", "--revision", "../main"], "revision should be a branch, a tag or a commit"),
    ],
)
def test_options_that_do_not_fit(checkpoint, run, options, message):
    answer = run("http://127.0.0.1:9", "-m", "embedder_export", checkpoint, *options)
    assert answer.returncode == 1
    assert message in answer.stderr


def test_directory_of_the_models_name_does_not_count(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    access = HubAccess(local_files_only=True)
    with pytest.raises(ModelNotFoundError, match="the Hub's cache has no file of 'sentence-transformers/small'"):
        export_from_hub("small", tmp_path / "artifact", access=access, report=lambda line: None)
    assert not (tmp_path / "artifact").exists()


def test_full_disk_is_an_error_of_the_output(checkpoint, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("embedder_export.first_use.locate_on_hub", lambda *arguments: None)
    monkeypatch.setattr("embedder_export.first_use.read_located", lambda *arguments: None)
    monkeypatch.setattr("embedder_export.first_use.export", fail)
    with pytest.raises(OutputError, match=r"artifact cannot be written: .*artifact: No space left on device"):
        export_from_hub("small", tmp_path / "artifact", access=HubAccess(), report=lambda line: None)


@pytest.mark.slow
def test_upload_that_is_refused_keeps_the_artifact_of_output(checkpoint, run, tmp_path):
    with serve({"org/small": checkpoint}, token=TOKEN) as hub:
        hub.faults.append(on(status(403, b"{}"), "*/commit/*"))
        options = ["--dtypes", "fp32", "--output", "artifact", "--push-to", "ann/small"]
        answer = run(hub, "-m", "embedder_export", "org/small", *options, token=TOKEN)
    assert answer.returncode == 1
    assert "refuses the upload to ann/small (status 403): the token may not write there" in answer.stderr
    assert TOKEN not in answer.stderr
    assert Path(tmp_path / "artifact/embedder.json").is_file()
