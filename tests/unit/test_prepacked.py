"""Prepacked weights: made by the first load, used by the next ones, made again when they are damaged."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import embedder
from embedder.artifact.locate import open_artifact
from embedder.backends import prepacked
from embedder.cli import main as cli
from embedder.errors import ArtifactError
from tests.tiny import flip_a_bit

TEXTS = ["the cat sat", "dog", ""]


@pytest.fixture(autouse=True)
def _prepack_by_default(monkeypatch):
    monkeypatch.delenv("EMBEDDER_PREPACK")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/embedder/prepacked"


@pytest.fixture
def loaded(monkeypatch):
    """A list of the graphs that onnxruntime opens, in order."""
    opened = []

    def open_and_note(graph, *rest, **options):
        opened.append(Path(graph))
        return start(graph, *rest, **options)

    start = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", open_and_note)
    return opened


@pytest.fixture
def plain(tiny, monkeypatch):
    """The vectors of the artifact without prepacked weights."""
    with monkeypatch.context() as patch:
        patch.setenv("EMBEDDER_PREPACK", "0")
        return embedder.Embedder(tiny).encode(TEXTS)


def test_first_load_prepacks_and_the_next_loads_use_it(tiny, cache, loaded, plain):
    loaded.clear()
    for _ in range(2):
        np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)
    (made,) = cache.iterdir()
    assert sorted(path.name for path in made.iterdir()) == ["model.onnx", "model.onnx.data", "prepacked.json"]
    opened = [path.parent for path in loaded]
    assert opened.count(tiny) == 1
    assert set(opened[1:]) == {made}


def test_prepacking_can_be_switched_off(tiny, cache, monkeypatch):
    monkeypatch.setenv("EMBEDDER_PREPACK", "0")
    embedder.Embedder(tiny)
    assert not cache.exists()


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "prepacked.json"])
@pytest.mark.parametrize("damage", [flip_a_bit, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_damaged_prepacked_weights_are_made_again(tiny, cache, plain, name, damage):
    embedder.Embedder(tiny)
    (made,) = cache.iterdir()
    before = (made / "model.onnx").read_bytes()
    path = made / name
    if path.stat().st_size:  # the tiny model has no large weights
        damage(path)
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)
    (made,) = cache.iterdir()
    assert (made / "model.onnx").read_bytes() == before


@pytest.mark.parametrize("record", ["[]", "{}", "null", '{"model.onnx": 1, "model.onnx.data": 2}', "no json"])
def test_prepacked_weights_with_a_damaged_record_are_made_again(tiny, cache, plain, record):
    embedder.Embedder(tiny)
    (made,) = cache.iterdir()
    (made / "prepacked.json").write_text(record)
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)


def test_another_cpu_or_onnxruntime_prepacks_again_and_removes_the_old_form(tiny, cache, monkeypatch):
    embedder.Embedder(tiny)
    (first,) = cache.iterdir()
    monkeypatch.setattr(prepacked, "runtime_version", lambda: "0.0")
    embedder.Embedder(tiny)
    (second,) = cache.iterdir()
    assert first != second
    monkeypatch.setattr(prepacked, "_cpu", lambda: "another")
    embedder.Embedder(tiny)
    assert [path for path in cache.iterdir() if path in (first, second)] == []


def test_prepacked_weights_of_other_models_stay(tiny, cache, make_artifact):
    embedder.Embedder(tiny)
    embedder.Embedder(make_artifact("other", include_prompt=False))
    assert len(list(cache.iterdir())) == 2


def test_model_loads_if_the_cache_cannot_be_written(tiny, tmp_path, monkeypatch, plain):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)


def test_model_loads_on_a_full_disk_and_leaves_nothing_there(tiny, cache, monkeypatch, plain):
    def full(graph, target):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepacked, "save_prepacked", full)
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)
    assert list(cache.iterdir()) == []


def test_large_weights_are_not_prepacked_by_a_load(tiny, cache, monkeypatch):
    monkeypatch.setattr(prepacked, "_MAX_CACHED_BYTES", -1)
    embedder.Embedder(tiny)
    assert not cache.exists()


def test_model_loads_if_its_prepacked_graph_cannot_be_loaded(tiny, cache, plain):
    embedder.Embedder(tiny)
    (made,) = cache.iterdir()
    (made / "model.onnx").write_bytes(b"no graph")
    record = json.loads((made / "prepacked.json").read_text())
    record["model.onnx"] = prepacked.sha256_of(made / "model.onnx")
    (made / "prepacked.json").write_text(json.dumps(record))
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)


def test_another_process_may_prepack_first(tiny, cache, monkeypatch, plain):
    embedder.Embedder(tiny)
    (made,) = cache.iterdir()
    shutil.move(made, cache.parent / "kept")
    save = prepacked.save_prepacked

    def slow(graph, target):
        save(graph, target)
        shutil.copytree(cache.parent / "kept", made)

    monkeypatch.setattr(prepacked, "save_prepacked", slow)
    monkeypatch.setattr(prepacked, "_remove_outdated", lambda root, graph: None)
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)
    assert list(cache.iterdir()) == [made]


def test_prepack_command_writes_into_the_artifact(tiny, cache, loaded, plain, capsys):
    assert cli.main(["prepack", str(tiny)]) == 0
    (made,) = (tiny / "prepacked").iterdir()
    assert capsys.readouterr().out == f"{made}\n"
    loaded.clear()
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)
    assert {path.parent for path in loaded} == {made}
    assert not cache.exists()
    assert cli.main(["prepack", str(tiny)]) == 0  # it can be run again


def test_prepack_command_says_which_file_is_damaged(tiny, capsys):
    flip_a_bit(tiny / "model.onnx")
    assert cli.main(["prepack", str(tiny)]) == 1
    assert "model.onnx has been altered or damaged" in capsys.readouterr().err
    with pytest.raises(ArtifactError):
        prepacked.prepack(open_artifact(tiny))
