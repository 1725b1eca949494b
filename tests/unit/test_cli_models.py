"""The commands that manage models: pull, list, verify, remove, and where `info` says that a model comes from."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import embedder
from embedder.artifact import first_use
from embedder.artifact.manifest import Source, read_manifest
from embedder.backends import prepacked
from embedder.cli.main import main
from tests.hub_client import NOBODY, use_cache, use_hub
from tests.hub_server import COMMIT, serve
from tests.tiny import (
    add_image_graph,
    add_int8_graph,
    flip_a_bit,
    write_tiny_artifact,
    write_tiny_ranker,
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("EMBEDDER_HOME", str(tmp_path / "models"))
    monkeypatch.setattr(first_use, "find_exporter", lambda: None)
    use_cache(tmp_path / "hub", monkeypatch)
    return tmp_path / "models"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    texts = write_tiny_artifact(tmp_path_factory.mktemp("served") / "texts")
    add_int8_graph(texts)
    with serve({"org/texts": texts}) as running:
        yield running


@pytest.fixture
def hub(server, monkeypatch):
    server.fetched.clear()
    use_hub(server.endpoint, monkeypatch)
    return server


@pytest.fixture
def run(capsys):
    """Run a command. Return its status, its output and its messages."""

    def of(*arguments):
        status = main([str(argument) for argument in arguments])
        return (status, *capsys.readouterr())

    return of


def put(directory, **fields):
    directory.parent.mkdir(parents=True, exist_ok=True)
    return write_tiny_artifact(directory, **fields)


def test_pull_fetches_what_the_dtype_needs(hub, run):
    status, out, err = run("pull", "org/texts", "--dtype", "int8")
    assert (status, err) == (0, "")
    assert sorted(path.name for path in Path(out.strip()).iterdir()) == [
        "embedder.json",
        "model.int8.onnx",
        "model.int8.onnx.data",
        "tokenizer.json",
    ]


def test_pull_brings_a_fetched_model_up_to_date(hub, run, tmp_path):
    assert run("pull", "org/texts")[0] == 0
    commit = hub.commit("org/texts", put(tmp_path / "newer", max_seq_length=5))
    try:
        assert embedder.Embedder("org/texts").max_seq_length == 16
        assert commit in run("pull", "org/texts")[1]
        assert embedder.Embedder("org/texts").max_seq_length == 5
        assert COMMIT in run("pull", "org/texts", "--revision", COMMIT)[1]
    finally:
        hub.repositories["org/texts"].branches["main"] = COMMIT


def test_pull_exports(run, home, monkeypatch, hub):
    def export(model, output, *, access, report):
        put(output)

    monkeypatch.setattr(first_use, "find_exporter", lambda: SimpleNamespace(load=lambda: export, value="tests"))
    hub.commit("org/checkpoint", {"config.json": b"{}"})
    assert run("pull", "org/checkpoint") == (0, f"{home}/org/checkpoint\n", "")
    assert run("pull", "org/checkpoint", "--revision", "main") == (0, f"{home}/org/checkpoint@main\n", "")


def test_pull_without_a_network(run, hub, monkeypatch):
    run("pull", "org/texts")
    use_hub(NOBODY, monkeypatch)
    assert run("pull", "org/texts")[0] == 0
    assert run("pull", "org/texts", "--dtype", "int8")[0] == 1


def test_list(run, home, hub):
    put(home / "org/name")
    put(home / "org/name@v1")
    write_tiny_ranker(home / "org/ranker")
    (put(home / "broken") / "embedder.json").write_text("{")
    add_int8_graph(put(Path("artifacts/mine")))
    run("pull", "org/texts", "--dtype", "int8")
    status, out, err = run("list")
    assert (status, err) == (0, "")
    rows = [line.split(maxsplit=5) for line in out.splitlines()]
    assert [row[:2] for row in rows] == [
        ["broken", "damaged"],
        ["org/name", "fp32"],
        ["org/name@v1", "fp32"],
        ["org/ranker", "fp32"],
        ["mine", "fp32,int8"],
        [f"org/texts@{COMMIT}", "int8"],
    ]
    assert [row[2] for row in rows[1:4]] == ["embed", "embed", "rank"]
    assert rows[1][4:] == ["MB", f"{home}/org/name"]
    assert "broken/embedder.json cannot be read" in out


def test_list_of_nothing(run):
    assert run("list") == (0, "", "embedder: no models yet. To get one, run: embedder pull all-MiniLM-L6-v2\n")


def test_list_of_a_graphless_copy(run, home):
    directory = put(home / "name")
    for name in ("model.onnx", "model.onnx.data"):
        (directory / name).unlink()
    assert run("list")[1].split()[:2] == ["name", "none"]


def test_info_says_where_a_model_comes_from(run, home, hub):
    put(home / "name")
    assert f"directory       {home}/name\nfound in        model directory\n" in run("info", "name")[1]
    put(Path("artifacts/other"))
    assert "found in        artifacts in the working directory\n" in run("info", "other")[1]
    out = run("info", "org/texts")[1]
    assert f"found in        Hub, org/texts@{COMMIT}\n" in out
    assert "dtypes here     none\n" in out
    assert hub.fetched == ["embedder.json"]


def test_info_exports_nothing(run, monkeypatch, hub):
    monkeypatch.setattr(first_use, "find_exporter", lambda: SimpleNamespace(load=None))
    hub.commit("org/checkpoint", {"config.json": b"{}"})
    status, _, err = run("info", "org/checkpoint")
    assert status == 1
    assert "run: embedder pull org/checkpoint. Then try again" in err


@pytest.mark.parametrize("write", [write_tiny_artifact, write_tiny_ranker])
def test_verify(run, tmp_path, write):
    status, out, err = run("verify", write(tmp_path / "model"))
    assert (status, err) == (0, "")
    assert [line.split(maxsplit=1) for line in out.splitlines()] == [
        ["ok", "tokenizer.json"],
        ["ok", "model.onnx"],
        ["ok", "model.onnx.data"],
        ["ok", "text graph of fp32"],
        ["ok", "prepacked weights"],
    ]


def test_verify_of_every_graph(run, tiny):
    add_int8_graph(tiny)
    add_image_graph(tiny)
    status, out, _ = run("verify", tiny)
    assert status == 0
    lines = [line.split(maxsplit=1)[1] for line in out.splitlines()]
    assert {"text graph of fp32", "text graph of int8", "image graph of fp32"} <= set(lines)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json"])
def test_verify_names_each_damaged_file(run, tiny, name):
    flip_a_bit(tiny / name)
    status, out, err = run("verify", tiny)
    assert status == 1
    assert f"WRONG    {name}: {tiny}/{name} has been altered or damaged" in out
    assert f"is damaged or incomplete. Failed: {name}, text graph of fp32" in err


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json"])
def test_verify_names_each_missing_file(run, tiny, name):
    (tiny / name).unlink()
    status, out, _ = run("verify", tiny)
    assert status == 1
    assert f"WRONG    {name}: {tiny}/{name} cannot be read: No such file" in out


def test_verify_lets_a_dtype_be_left_out(run, tiny):
    add_int8_graph(tiny)
    for name in ("model.onnx", "model.onnx.data"):
        (tiny / name).unlink()
    status, out, _ = run("verify", tiny)
    assert status == 0
    assert "ok       text graph of int8" in out


def test_verify_needs_one_graph(run, tiny):
    for name in ("model.onnx", "model.onnx.data"):
        (tiny / name).unlink()
    status, out, _ = run("verify", tiny)
    assert status == 1
    assert "model.onnx is missing" in out


def test_verify_fetches_nothing(run, hub):
    run("info", "org/texts")
    status, out, err = run("verify", "org/texts")
    assert status == 1
    assert "tokenizer.json is missing: to fetch it, run: embedder pull org/texts" in out
    assert hub.fetched == ["embedder.json"]
    assert "Failed: tokenizer.json, text graph of fp32" in err
    assert run("verify", "org/nobody")[0] == 1


def test_remove_from_the_model_directory(run, home):
    put(home / "org/name")
    put(home / "org/name@v1")
    assert run("remove", "org/name", "--revision", "v1") == (0, f"{home}/org/name@v1\n", "")
    assert run("remove", "org/name") == (0, f"{home}/org/name\n", "")
    assert list((home / "org").iterdir()) == []
    status, _, err = run("remove", "org/name")
    assert status == 1
    assert "no model 'org/name' was found to remove. `embedder list` shows all models" in err


def test_remove_of_a_damaged_model(run, home):
    (put(home / "org/name") / "embedder.json").write_text("{")
    assert run("remove", "org/name") == (0, f"{home}/org/name\n", "")


def test_remove_from_the_cache_of_the_hub(run, hub, tmp_path):
    directory = run("pull", "org/texts")[1]
    assert run("remove", "org/texts") == (0, directory, "")
    assert not list((tmp_path / "hub").glob("*org--texts*"))
    assert embedder.Embedder("org/texts").dimension == 8


def test_remove_takes_the_prepacked_weights_with_it(run, home, monkeypatch):
    monkeypatch.delenv("EMBEDDER_PREPACK")
    directory = put(home / "org/name")
    embedder.Embedder("org/name")
    cache = Path(os.environ["XDG_CACHE_HOME"], "embedder", "prepacked")
    assert len(list(cache.glob("*-*"))) == 1
    lines = run("remove", "org/name")[1].splitlines()
    assert lines[0] == str(directory)
    assert Path(lines[1]).parent == cache
    assert list(cache.glob("*-*")) == []


@pytest.mark.parametrize("model", ["../models/name", "./name", "/tmp", "~", "a/b/c"])
def test_remove_refuses_paths(run, home, model):
    put(home / "name")
    status, _, err = run("remove", model)
    assert status == 1
    assert "is not the name of a model" in err
    assert (home / "name").is_dir()


def test_remove_refuses_artifacts(run):
    directory = put(Path("artifacts/mine"))
    status, _, err = run("remove", "mine")
    assert status == 1
    assert "'mine' lies in artifacts/mine, which embedder does not manage" in err
    assert directory.is_dir()


def test_remove_that_the_file_system_refuses(run, home, monkeypatch):
    directory = put(home / "org/name")

    def refuse(*args, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(directory))

    monkeypatch.setattr(Path, "rename", refuse)
    assert run("remove", "org/name") == (1, "", f"embedder: error: {directory}: Permission denied\n")
    monkeypatch.undo()


def test_prepack_takes_the_graphs_that_are_here(run, home, hub):
    directory = add_and_drop(put(home / "org/name"))
    status, out, _ = run("prepack", "org/name")
    assert status == 0
    assert len(out.splitlines()) == 1
    assert str(directory) in out


def add_and_drop(directory):
    """Leave an int8 graph alone."""
    add_int8_graph(directory)
    for name in ("model.onnx", "model.onnx.data"):
        (directory / name).unlink()
    return directory


def test_revision_goes_through(run, home):
    put(home / "org/name@v1", source=Source("org/name", None, "0" * 64))
    for command in ("info", "verify", "prepack", "pull"):
        assert run(command, "org/name", "--revision", "v1")[0] == 0
        assert run(command, "org/name", "--revision", "v2")[0] == 1
    assert read_manifest(home / "org/name@v1").source.model == "org/name"
    assert np.isfinite(embedder.Embedder("org/name", revision="v1").encode("a")).all()
    assert prepacked.remove_cached([]) == []
