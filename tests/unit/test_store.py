"""The two directories of models: which directory a name stands for, and which it never does."""

import os
import sys
from pathlib import Path

import pytest

from embedder.artifact import store
from embedder.artifact.manifest import Source
from embedder.errors import ArtifactError, InputError
from tests.tiny import write_tiny_artifact

COMMIT = "c" * 40


@pytest.fixture
def models(tmp_path):
    return tmp_path / "models"


def put(models, name, source="tiny", revision=None):
    directory = models / name
    directory.parent.mkdir(parents=True, exist_ok=True)
    return write_tiny_artifact(directory, source=Source(source, revision, "0" * 64))


@pytest.mark.parametrize(
    ("place", "model"),
    [
        ("org/name", "org/name"),
        ("name", "name"),
        ("my model.v2", "my model.v2"),
        ("sentence-transformers/name", "name"),
        ("sentence-transformers/name", "sentence-transformers/name"),
    ],
)
def test_found_by_its_name(models, place, model):
    assert store.find(models, model) is None
    assert store.find(models, model) is None
    directory = put(models, place)
    assert store.find(models, model) == directory


def test_found_by_its_last_part_if_it_was_made_from_there(models):
    directory = put(models, "name", source="org/name")
    assert store.find(models, "org/name") == directory
    assert store.find(models, "other/name") is None


def test_default_organisation_may_be_named(models):
    directory = put(models, "name", source="name")
    assert store.find(models, "sentence-transformers/name") == directory


def test_name_of_another_case_is_another_model(models):
    put(models, "org/name")
    (models / "ORG").symlink_to(models / "org")  # what a file system without cases shows
    assert store.find(models, "ORG/name") is not None
    assert store.find(models, "Org/name") is None
    assert store.find(models, "org/Name") is None


def test_revision_in_the_name_of_the_directory(models):
    put(models, "org/name")
    assert store.find(models, "org/name", "feature/x") is None
    directory = put(models, "org/name@feature%2Fx")
    assert store.find(models, "org/name", "feature/x") == directory
    assert store.find(models, "org/name") == models / "org/name"


@pytest.mark.parametrize("place", ["org/name", "name"])
def test_revision_that_is_the_commit_of_the_artifact(models, place):
    directory = put(models, place, source="org/name", revision=COMMIT)
    assert store.find(models, "org/name", COMMIT) == directory
    assert store.find(models, "org/name", "d" * 40) is None
    assert store.find(models, "org/name", "main") is None


def test_damaged_manifest_is_named(models):
    (put(models, "org/name") / "embedder.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"org/name/embedder\.json cannot be read"):
        store.find(models, "org/name", COMMIT)


def test_damaged_manifest_of_another_model_is_passed_over(models):
    (put(models, "name") / "embedder.json").write_text("{")
    assert store.find(models, "org/name") is None


@pytest.mark.parametrize(
    "model",
    [
        "../secret",
        "a/../secret",
        "..",
        ".",
        "a/..",
        "/secret",
        "a//secret",
        "~",
        "~/secret",
        "a\\secret",
        "..\\secret",
        "C:secret",
        "secret\0",
        "secret\n",
        "secret@main",
        "secret.",
        "secret ",
        ".locks",
        "a/b/secret",
        "x" * 5000,
        "\ud800",
        "",
    ],
)
def test_names_that_lead_out_of_the_store_are_no_names(tmp_path, models, model, monkeypatch):
    put(tmp_path, "secret")
    models.mkdir()
    monkeypatch.setenv("EMBEDDER_HOME", str(models))
    assert store.name_parts(model) is None
    assert store.find(models, model) is None
    with pytest.raises(InputError, match="is not the name of a model on the Hub"):
        store.target_directory(model)


def test_every_target_lies_in_the_model_directory(models, monkeypatch):
    monkeypatch.setenv("EMBEDDER_HOME", str(models))
    assert store.target_directory("org/name") == models / "org/name"
    assert store.target_directory("name") == models / "sentence-transformers/name"
    assert store.target_directory("org/name", "a/b@c%") == models / "org/name@a%2Fb%40c%25"


def test_list_of_a_store(models):
    put(models, "org/name")
    put(models, "org/name@a%2Fb")
    put(models, "alone")
    (models / "foreign").mkdir()
    (models / "foreign" / "notes.txt").write_text("mine")
    (models / "file").write_text("not a model")
    (models / ".locks").mkdir()
    found = [(name, revision) for name, revision, _ in store.stored(models)]
    assert found == [("alone", None), ("org/name", None), ("org/name", "a/b")]
    assert list(store.stored(models / "nowhere")) == []


def test_model_directory_of_the_platform(monkeypatch, tmp_path):
    monkeypatch.delenv("EMBEDDER_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    for platform, place in {
        "linux": "data/embedder",
        "darwin": "Library/Application Support/embedder",
        "win32": "local/embedder",
    }.items():
        monkeypatch.setattr(sys, "platform", platform)
        assert store.model_directory() == tmp_path / place
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")  # the specification says to ignore it
    assert store.model_directory() == tmp_path / ".local/share/embedder"


def test_variable_names_the_model_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBEDDER_HOME", "mine")
    assert store.model_directory() == tmp_path / "mine"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EMBEDDER_HOME", "~/mine")
    assert store.model_directory() == tmp_path / "mine"


def test_user_without_a_home(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("EMBEDDER_HOME")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    with pytest.raises(InputError, match=r"there is no home directory for models .*Set EMBEDDER_HOME"):
        store.model_directory()


def test_entry_that_cannot_be_read_is_passed_over(models, monkeypatch):
    put(models, "org/name")

    def refuse(path):
        raise PermissionError(13, "denied")

    monkeypatch.setattr(os, "listdir", refuse)
    assert store.find(models, "org/name") is None
