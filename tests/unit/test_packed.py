import json
import shutil

import numpy as np
import pytest

import embedder
from embedder.artifact.locate import open_artifact
from embedder.backends import prepacked as packed
from embedder.backends import session
from embedder.cli import main as cli
from embedder.errors import ArtifactError
from tests.tiny import flip_a_bit

TEXTS = ["the cat sat", "dog", ""]


@pytest.fixture(autouse=True)
def _packing(monkeypatch):
    monkeypatch.delenv("EMBEDDER_PREPACK")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/embedder/optimized"


@pytest.fixture
def loaded(monkeypatch):
    """The graphs that are opened, in their order."""
    opened = []
    inner = session._open
    monkeypatch.setattr(session, "_open", lambda graph, *rest: opened.append(graph) or inner(graph, *rest))
    return opened


@pytest.fixture
def plain(tiny, monkeypatch):
    """The vectors of the artifact as it is."""
    with monkeypatch.context() as patch:
        patch.setenv("EMBEDDER_PREPACK", "0")
        return embedder.Embedder(tiny).encode(TEXTS)


def test_first_load_packs_and_the_next_ones_use_it(tiny, cache, loaded, plain):
    loaded.clear()
    for _ in range(2):
        np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)
    (made,) = cache.iterdir()
    assert sorted(path.name for path in made.iterdir()) == ["model.onnx", "model.onnx.data", "optimized.json"]
    opened = [path.parent for path in loaded]
    assert opened.count(tiny) == 1
    assert set(opened[1:]) == {made}


def test_can_be_switched_off(tiny, cache, monkeypatch):
    monkeypatch.setenv("EMBEDDER_PREPACK", "0")
    embedder.Embedder(tiny)
    assert not cache.exists()


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "optimized.json"])
@pytest.mark.parametrize("damage", [flip_a_bit, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_a_damaged_one_is_made_again(tiny, cache, plain, name, damage):
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
def test_a_record_that_is_none(tiny, cache, plain, record):
    embedder.Embedder(tiny)
    (made,) = cache.iterdir()
    (made / "optimized.json").write_text(record)
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)


def test_another_cpu_or_onnxruntime_has_its_own_and_removes_the_old(tiny, cache, monkeypatch):
    embedder.Embedder(tiny)
    (first,) = cache.iterdir()
    monkeypatch.setattr(packed, "runtime_version", lambda: "0.0")
    embedder.Embedder(tiny)
    (second,) = cache.iterdir()
    assert first != second
    monkeypatch.setattr(packed, "_cpu", lambda: "another")
    embedder.Embedder(tiny)
    assert [path for path in cache.iterdir() if path in (first, second)] == []


def test_graphs_of_other_models_stay(tiny, cache, make_artifact):
    embedder.Embedder(tiny)
    embedder.Embedder(make_artifact("other", include_prompt=False))
    assert len(list(cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_done_without(tiny, tmp_path, monkeypatch, plain):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)


def test_a_full_disk_is_done_without_and_leaves_nothing(tiny, cache, monkeypatch, plain):
    def full(graph, target):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed, "save_prepacked", full)
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)
    assert list(cache.iterdir()) == []


def test_large_weights_are_not_copied_unasked(tiny, cache, monkeypatch):
    monkeypatch.setattr(packed, "_MOST_BYTES", -1)
    embedder.Embedder(tiny)
    assert not cache.exists()


def test_a_packed_graph_that_does_not_load_is_done_without(tiny, cache, plain):
    embedder.Embedder(tiny)
    (made,) = cache.iterdir()
    (made / "model.onnx").write_bytes(b"no graph")
    record = json.loads((made / "optimized.json").read_text())
    record["model.onnx"] = packed.sha256_of(made / "model.onnx")
    (made / "optimized.json").write_text(json.dumps(record))
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)


def test_another_process_may_be_sooner(tiny, cache, monkeypatch, plain):
    embedder.Embedder(tiny)
    (made,) = cache.iterdir()
    shutil.move(made, cache.parent / "kept")
    save = packed.save_prepacked

    def slow(graph, target):
        save(graph, target)
        shutil.copytree(cache.parent / "kept", made)

    monkeypatch.setattr(packed, "save_prepacked", slow)
    monkeypatch.setattr(packed, "_remove_others", lambda root, graph: None)
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)
    assert list(cache.iterdir()) == [made]


def test_optimize_packs_into_the_artifact(tiny, cache, loaded, plain, capsys):
    assert cli.main(["prepack", str(tiny)]) == 0
    (made,) = (tiny / "optimized").iterdir()
    assert capsys.readouterr().out == f"{made}\n"
    loaded.clear()
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)
    assert {path.parent for path in loaded} == {made}
    assert not cache.exists()
    assert cli.main(["prepack", str(tiny)]) == 0  # again


def test_optimize_says_what_is_wrong(tiny, capsys):
    flip_a_bit(tiny / "model.onnx")
    assert cli.main(["prepack", str(tiny)]) == 1
    assert "model.onnx has been altered or damaged" in capsys.readouterr().err
    with pytest.raises(ArtifactError):
        packed.prepack(open_artifact(tiny))
