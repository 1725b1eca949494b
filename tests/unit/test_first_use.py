"""A name becomes a model: by a store, by the Hub, or by the exporter at first use. A stand-in is the exporter here."""

import logging
import os
import pickle
import re
import sys
import traceback
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

import embedder
from embedder.artifact import first_use, hub, store
from embedder.artifact.artifact import Place
from embedder.artifact.hub_access import HubAccess
from embedder.artifact.hub_errors import HubUnreachableError, RepositoryFileError
from embedder.artifact.locate import open_artifact
from embedder.artifact.manifest import Source
from embedder.errors import ArtifactError, DependencyError, EmbedderError, InputError, ModelNotFoundError
from tests.processes import run_python
from tests.tiny import write_tiny_artifact

COMMIT = "c" * 40
TOKEN = "hf_secretsecretsecret"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The model directory. The working directory is an empty one."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("EMBEDDER_HOME", str(tmp_path / "models"))
    monkeypatch.setattr(first_use, "find_exporter", lambda: None)
    return tmp_path / "models"


@pytest.fixture
def say(monkeypatch):
    """Let the Hub answer with an error. The list of what it was asked is returned."""
    asked = []

    def answer(error):
        def fetch(repository, patterns, access, *, cached_first=False):
            asked.append((repository, access))
            raise error

        monkeypatch.setattr(hub, "fetch", fetch)
        return asked

    return answer


NO_ARTIFACT = RepositoryFileError("the Hub repository 'org/name' has no file embedder.json")
UNREACHABLE = HubUnreachableError("'org/name' could not be fetched from the Hub (refused)")
NOBODY = ModelNotFoundError("the Hub has no repository 'org/name': check the name")


@pytest.fixture
def exporter(monkeypatch):
    """An exporter that writes a tiny artifact. Its calls are kept."""
    calls = []

    def export(model, output, *, access, report):
        calls.append((model, output, access))
        report("working")
        write_tiny_artifact(output, source=Source(model, COMMIT, "0" * 64))

    found = SimpleNamespace(calls=calls, function=export, value="tests:export")
    found.load = lambda: found.function
    monkeypatch.setattr(first_use, "find_exporter", lambda: found)
    return found


def put(directory, **fields):
    directory.parent.mkdir(parents=True, exist_ok=True)
    return write_tiny_artifact(directory, **fields)


def test_order_of_the_places(home, say, tmp_path):
    asked = say(NO_ARTIFACT)
    artifacts = put(tmp_path / "work/artifacts/org/name")
    assert open_artifact("org/name").directory == artifacts
    assert open_artifact("org/name").origin.place is Place.ARTIFACTS
    in_home = put(home / "org/name")
    assert open_artifact("org/name").directory == in_home
    assert open_artifact("org/name").origin.place is Place.MODEL_DIRECTORY
    path = put(tmp_path / "work/org/name")
    assert open_artifact("org/name").directory == path
    assert open_artifact("org/name").origin.place is Place.PATH
    assert asked == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [(NO_ARTIFACT, "has no file embedder.json"), (UNREACHABLE, "could not be fetched from the Hub (refused)")],
)
def test_without_the_exporter_the_message_has_the_places_and_the_command(say, home, answer, why):
    say(answer)
    with pytest.raises(ModelNotFoundError) as caught:
        embedder.Embedder("org/name")
    message = str(caught.value)
    assert message.startswith("no exported model 'org/name' was found. Looked at: the directory of that name; ")
    assert f"; the model directory {home}; " in message
    assert "; artifacts in the working directory; " in message
    assert why in message
    assert message.endswith('run: pip install "embedder-onnx[cpu,export]". Then try again')


@pytest.mark.parametrize(
    ("names", "command"),
    [
        ([], 'pip install "embedder-onnx[cpu,export]"'),
        (["onnxruntime", "onnxruntime-genai"], 'pip install "embedder-onnx[cpu,export]"'),
        (["onnxruntime-gpu"], 'pip install "embedder-onnx[gpu,export]"'),
        (["onnxruntime-directml", None], "pip install embedder-export"),
    ],
)
def test_command_is_for_the_onnxruntime_that_is_installed(monkeypatch, names, command):
    monkeypatch.setattr("importlib.metadata.distributions", lambda: [SimpleNamespace(name=name) for name in names])
    assert first_use.how_to_install_exporter() == command


def test_repository_that_does_not_exist_is_not_exported(say, exporter):
    say(NOBODY)
    with pytest.raises(ModelNotFoundError, match=r"Looked at: .*the Hub has no repository 'org/name'"):
        embedder.Embedder("org/name")
    assert exporter.calls == []


def test_exported_at_first_use_and_reused(say, exporter, home):
    asked = say(NO_ARTIFACT)
    access = HubAccess(token=TOKEN)
    artifact = open_artifact("org/name", access)
    assert artifact.directory == home / "org/name"
    assert artifact.origin.place is Place.MODEL_DIRECTORY
    assert [(model, output) for model, output, _ in exporter.calls] == [("org/name", home / "org/name")]
    assert exporter.calls[0][2].token == TOKEN
    assert embedder.Embedder("org/name").dimension == 8
    assert len(exporter.calls) == len(asked) == 1


def test_name_without_an_organisation(say, exporter, home):
    asked = say(NO_ARTIFACT)
    assert open_artifact("name").directory == home / "sentence-transformers/name"
    assert asked[0][0] == exporter.calls[0][0] == "sentence-transformers/name"
    assert open_artifact("sentence-transformers/name").directory == home / "sentence-transformers/name"


def test_each_revision_is_exported_by_itself(say, exporter, home):
    say(NO_ARTIFACT)
    assert open_artifact("org/name", HubAccess("v1")).directory == home / "org/name@v1"
    assert open_artifact("org/name").directory == home / "org/name"
    assert open_artifact("org/name", HubAccess("a/b")).directory == home / "org/name@a%2Fb"
    assert open_artifact("org/name", HubAccess(COMMIT)).directory == home / "org/name"
    assert [access.revision for _, _, access in exporter.calls] == ["v1", None, "a/b"]


def test_without_a_network_the_exporter_uses_the_cache(say, exporter):
    say(UNREACHABLE)
    assert open_artifact("org/name").manifest.dimension == 8
    assert exporter.calls[0][2].local_files_only


def test_checkpoint_that_is_not_cached_either(say, exporter):
    say(UNREACHABLE)

    def export(model, output, *, access, report):
        raise HubUnreachableError("local_files_only forbids a fetch")

    exporter.function = export
    advice = r"When the Hub can be reached, run: embedder pull org/name"
    with pytest.raises(
        ModelNotFoundError, match=rf"Looked at: .*could not be fetched from the Hub \(refused\)\. {advice}$"
    ) as raised:
        embedder.Embedder("org/name")
    assert "forbids a fetch" not in "".join(traceback.format_exception(raised.value))


def test_network_that_goes_away_during_the_export(say, exporter):
    say(NO_ARTIFACT)

    def export(model, output, *, access, report):
        raise HubUnreachableError("the connection was cut")

    exporter.function = export
    with pytest.raises(ModelNotFoundError, match=r"Looked at: .*the connection was cut\. When the Hub .*"):
        embedder.Embedder("org/name")


def test_errors_of_the_exporter_are_the_users(say, exporter, home):
    say(NO_ARTIFACT)

    class CheckpointError(EmbedderError):
        pass

    def export(model, output, *, access, report):
        raise CheckpointError("this architecture is not supported")

    exporter.function = export
    with pytest.raises(CheckpointError, match="this architecture"):
        embedder.Embedder("org/name")
    assert not (home / "org/name").exists()


def test_exporter_that_cannot_be_imported(say, exporter):
    say(NO_ARTIFACT)

    def load():
        raise ImportError("no module named onnx")

    exporter.load = load
    with pytest.raises(DependencyError, match=r"the exporter 'tests:export' cannot be imported .*onnx.*pip install"):
        embedder.Embedder("org/name")


def test_exporter_that_needs_onnxruntime(say, exporter):
    """Its own message has the one command."""
    say(NO_ARTIFACT)

    def load():
        raise DependencyError("onnxruntime is not installed. Run: pip install ...")

    exporter.load = load
    with pytest.raises(DependencyError, match=r"^onnxruntime is not installed\."):
        embedder.Embedder("org/name")


def test_exporter_is_found_by_its_entry_point(tmp_path, monkeypatch):
    monkeypatch.undo()
    information = tmp_path / "exporter-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: exporter\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[embedder.exporter]\nx = os:getcwd\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert first_use.find_exporter().load() is os.getcwd
    monkeypatch.setattr(sys, "path", [])
    assert first_use.find_exporter() is None


@pytest.mark.parametrize("place", ["org/name", "name"])
def test_damaged_artifact_is_an_error_and_not_made_again(say, exporter, home, place):
    say(NO_ARTIFACT)
    (put(home / place) / "embedder.json").write_text("{")
    with pytest.raises(ArtifactError, match=rf"models/{place}/embedder\.json cannot be read"):
        embedder.Embedder(place)
    assert exporter.calls == []


def test_foreign_files_in_the_model_directory_do_not_matter(say, exporter, home):
    say(NO_ARTIFACT)
    (put(home / "broken") / "embedder.json").write_text("{")
    (put(home / "name") / "embedder.json").write_text("[]")
    (home / "notes.txt").write_text("mine")
    (home / "org").mkdir()
    (home / "org" / "embedder.json").mkdir()
    assert open_artifact("org/name").directory == home / "org/name"


def test_leftovers_of_a_killed_export_of_another_model_are_removed(say, exporter, home):
    say(NO_ARTIFACT)
    killed = """
import os, sys
from pathlib import Path
from embedder.common.files import replacing
with replacing(Path(sys.argv[1])) as partial:
    partial.mkdir()
    os._exit(9)
"""
    (home / "other").mkdir(parents=True)
    for target in (home / "model", home / "other/model"):
        assert run_python("-c", killed, target).returncode == 9
    open_artifact("org/name")
    assert list((home / "other").iterdir()) == []
    assert sorted(path.name for path in home.iterdir()) == [".locks", "org", "other"]


def test_directory_that_is_in_the_way(say, exporter, home):
    say(NO_ARTIFACT)
    (home / "org/name").mkdir(parents=True)
    with pytest.raises(ModelNotFoundError, match=r"org/name is in the way of the export of 'org/name': remove it"):
        embedder.Embedder("org/name")
    assert exporter.calls == []


def test_model_directory_that_cannot_be_made(say, exporter, home):
    say(NO_ARTIFACT)
    home.write_text("a file")
    with pytest.raises(ModelNotFoundError, match=r"models cannot be written .*Set EMBEDDER_HOME to a directory"):
        embedder.Embedder("org/name")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), NotImplementedError("no locks here")])
def test_disk_that_is_full_and_locks_that_are_unknown(say, exporter, home, error):
    say(NO_ARTIFACT)

    def export(model, output, *, access, report):
        raise error

    exporter.function = export
    with pytest.raises(ModelNotFoundError, match=rf"{error.args[-1]}\)\. Set EMBEDDER_HOME"):
        embedder.Embedder("org/name")


def test_progress_goes_to_logging_where_no_terminal_is(say, exporter, caplog, capsys):
    say(NO_ARTIFACT)
    with caplog.at_level(logging.INFO, "embedder"):
        open_artifact("org/name")
    assert [record.message.split("  ")[-1] for record in caplog.records][1:] == ["working"]
    assert re.search(r"[0-9]\.[0-9] s  org/name is exported into .*org/name\. This happens once", caplog.text)
    assert capsys.readouterr() == ("", "")


def test_progress_is_printed_on_a_terminal(say, exporter, monkeypatch, capsys, caplog):
    say(NO_ARTIFACT)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with caplog.at_level(logging.INFO, "embedder"):
        open_artifact("org/name")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"^ +[0-9]+\.[0-9] s  working$", err, re.MULTILINE)
    assert caplog.records == []


def test_second_caller_waits_and_takes_what_the_first_has_made(say, exporter, home, caplog):
    """The lock is held while a second caller comes. It says that it waits, and exports nothing."""
    say(NO_ARTIFACT)
    made = exporter.function
    seconds = []

    def export(model, output, *, access, report):
        second = Thread(target=lambda: seconds.append(open_artifact("org/name").directory))
        second.start()
        while "waiting for it" not in caplog.text:
            second.join(0.01)
        made(model, output, access=access, report=report)
        threads.append(second)

    threads = []
    exporter.function = export
    with caplog.at_level(logging.INFO, "embedder"):
        first = open_artifact("org/name").directory
        threads[0].join(60)
    assert seconds == [first]
    assert len(exporter.calls) == 1


def test_lock_of_a_failed_export_is_released(say, exporter):
    say(NO_ARTIFACT)
    made, errors = exporter.function, [OSError(28, "No space left on device")]

    def export(model, output, *, access, report):
        if errors:
            raise errors.pop()
        made(model, output, access=access, report=report)

    exporter.function = export
    with pytest.raises(ModelNotFoundError):
        open_artifact("org/name")
    assert open_artifact("org/name").manifest.dimension == 8


def test_revision_does_not_fit_a_path(tiny):
    with pytest.raises(InputError, match=r"revision='v1' is for models of the Hub, and .* made from the revision None"):
        embedder.Embedder(tiny, revision="v1")


def test_revision_of_a_path_is_its_commit(make_artifact):
    path = make_artifact("of-a-commit", source=Source("org/name", COMMIT, "0" * 64))
    assert embedder.Embedder(path, revision=COMMIT).dimension == 8


def test_kept_models_differ_by_revision_and_model_directory(say, exporter, home, monkeypatch):
    say(NO_ARTIFACT)
    embedder.release_models()
    for options in ({}, {"revision": "v1"}, {}, {"token": TOKEN}):
        embedder.encode("a", model="org/name", **options)
    assert len(exporter.calls) == 2
    monkeypatch.setenv("EMBEDDER_HOME", f"{home}-2")
    embedder.encode("a", model="org/name")
    assert len(exporter.calls) == 3
    embedder.release_models()


def test_pickle_has_the_directory_and_no_token(say, exporter, home):
    say(NO_ARTIFACT)
    model = embedder.Embedder("org/name", revision="v1", token=TOKEN, local_files_only=True)
    pickled = pickle.dumps(model)
    assert TOKEN.encode() not in pickled
    assert TOKEN not in repr(model)
    assert pickle.loads(pickled).encode("a").tolist() == model.encode("a").tolist()


def test_directory_that_is_no_artifact(tmp_path):
    (tmp_path / "work/org").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"'org' is a directory without embedder\.json"):
        embedder.Embedder("org")


def test_user_without_a_home_still_has_artifacts(monkeypatch, tmp_path, say):
    def no_home():
        raise InputError("there is no home directory for models")

    monkeypatch.setattr(store, "model_directory", no_home)
    directory = put(Path("artifacts/name"))
    assert open_artifact("name").directory == directory.absolute()
    say(NO_ARTIFACT)
    with pytest.raises(ModelNotFoundError, match="Looked at: the directory of that name; artifacts in the"):
        open_artifact("other")
