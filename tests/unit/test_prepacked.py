"""Prepacked weights: made by the first load, used by the next ones, made again when they are damaged."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import embedder
from embedder.artifact.locate import open_artifact
from embedder.artifact.manifest import read_manifest, write_manifest
from embedder.backends import cpu, prepacked, prepacked_form
from embedder.cli import main as cli
from embedder.common import digests
from embedder.common.files import is_staging
from embedder.errors import ArtifactError
from tests.processes import ROOT, call_in_fork
from tests.tiny import add_image_graph, flip_a_bit

TEXTS = ["the cat sat", "dog", ""]
# The id of a user that does not exist.
STRANGER = 54321


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


@pytest.fixture
def public():
    """A directory that other users can reach."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


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


def test_another_cpu_or_onnxruntime_prepacks_again(tiny, cache, monkeypatch):
    embedder.Embedder(tiny)
    monkeypatch.setattr(prepacked_form, "runtime_version", lambda: "9.0")
    embedder.Embedder(tiny)
    monkeypatch.setattr(prepacked_form, "cpu_kind", lambda **options: "another")
    embedder.Embedder(tiny)
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("version", ["1.25.0", "1.31.1"])
def test_an_old_onnxruntime_does_not_prepack(tiny, cache, monkeypatch, plain, version):
    """It would crash on some models."""
    monkeypatch.setattr(prepacked_form, "runtime_version", lambda: version)
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)
    assert not cache.exists()
    with pytest.raises(ArtifactError, match=rf"onnxruntime {version} is too old for it, and 1\.32 or later is needed"):
        prepacked.prepack(open_artifact(tiny))


def test_an_unknown_kind_of_cpu_has_no_forms(tiny, cache, monkeypatch, plain, loaded):
    """Two such machines may differ. So the form of one is not used on the other."""
    form = prepack_into(tiny)
    monkeypatch.setattr(prepacked_form, "cpu_kind", lambda **options: None)
    loaded.clear()
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)
    assert {path.parent for path in loaded} == {tiny}
    assert not cache.exists()
    with pytest.raises(ArtifactError, match=r"weights cannot be prepacked here: /proc/cpuinfo does not show"):
        prepacked.prepack(open_artifact(tiny))
    assert form.exists()


def test_forms_that_were_not_loaded_for_a_month_are_removed_when_another_is_made(tiny, cache, make_artifact):
    embedder.Embedder(tiny)
    (first,) = cache.iterdir()
    month = 31 * 24 * 60 * 60
    before = (first / "prepacked.json").stat().st_mtime
    os.utime(first / "prepacked.json", (before - month, before - month))
    embedder.Embedder(tiny)  # this notes that the form is used
    embedder.Embedder(make_artifact("other", include_prompt=False))
    assert first.exists()
    os.utime(first / "prepacked.json", (before - month, before - month))
    (cache / "of nobody").mkdir()
    os.utime(cache / "of nobody", (before - month, before - month))
    embedder.Embedder(make_artifact("third", normalize=False))
    assert not first.exists()
    assert not (cache / "of nobody").exists()
    assert len(list(cache.iterdir())) == 2


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


@pytest.mark.parametrize("damage", [None, flip_a_bit])
def test_another_process_may_prepack_first(tiny, cache, monkeypatch, plain, damage):
    embedder.Embedder(tiny)
    (made,) = cache.iterdir()
    shutil.move(made, cache.parent / "kept")
    save = prepacked.save_prepacked

    def slow(graph, target):
        save(graph, target)
        shutil.copytree(cache.parent / "kept", made)
        if damage:
            damage(made / "model.onnx")

    monkeypatch.setattr(prepacked, "save_prepacked", slow)
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)
    assert list(cache.iterdir()) == [made]


def store_other_weights(form):
    """Reverse the weights of a prepacked graph, without changing its record."""
    model = onnx.load(form / "model.onnx")  # the weights of the tiny model lie in the graph
    for tensor in model.graph.initializer:
        if tensor.dims[-1:] == [8]:
            weights = onnx.numpy_helper.to_array(tensor)[::-1]
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
    onnx.save(model, form / "model.onnx")


def reseal(form):
    """Write a record that vouches for the files of a form as they are."""
    record = {name: prepacked.sha256_of(form / name) for name in ("model.onnx", "model.onnx.data")}
    (form / "prepacked.json").write_text(json.dumps(record))


def test_a_damaged_form_that_cannot_be_removed_is_not_used(tiny, cache, monkeypatch, plain):
    """Such as one that belongs to root after a single `sudo`."""
    embedder.Embedder(tiny)
    (form,) = cache.iterdir()
    store_other_weights(form)
    rename, packed = Path.rename, []

    def refuse(path, target):
        if path == form:
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr(shutil, "rmtree", lambda path, **options: None)
    monkeypatch.setattr(prepacked, "save_prepacked", lambda *paths: packed.append(paths))
    for _ in range(2):
        np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)
    assert packed == []  # packing takes seconds, and its result could not be stored


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_a_damaged_form_of_another_user_is_not_used(tiny, cache, plain, public, monkeypatch):
    embedder.Embedder(tiny)
    (form,) = cache.iterdir()
    store_other_weights(form)
    home = public / "home"
    shutil.copytree(cache.parent.parent, home)
    shutil.copytree(tiny, public / "tiny")
    (form,) = (home / "embedder/prepacked").iterdir()
    for path in (home, home / "embedder", home / "embedder/prepacked"):
        os.chown(path, STRANGER, -1)  # the form itself belongs to root
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    found, opened = call_in_fork(lambda: (os.seteuid(STRANGER), *load_and_note(public / "tiny"))[1:])
    np.testing.assert_array_equal(found, plain)
    assert opened == {public / "tiny"}
    assert form.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files to others")
@pytest.mark.parametrize("which", ["cache", "the directory of the cache"])
def test_the_cache_of_another_user_is_neither_used_nor_written(tiny, cache, plain, which):
    embedder.Embedder(tiny)
    (form,) = cache.iterdir()
    store_other_weights(form)
    reseal(form)
    os.chown(cache.parent if which == "cache" else cache.parent.parent, STRANGER, -1)
    before = sorted(cache.parent.rglob("*"))
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)
    assert sorted(cache.parent.rglob("*")) == before


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_cache_that_others_can_write_is_not_used(tiny, cache, plain, mode):
    embedder.Embedder(tiny)
    assert cache.parent.stat().st_mode & 0o777 == 0o700
    (form,) = cache.iterdir()
    store_other_weights(form)
    reseal(form)
    cache.parent.chmod(mode)
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)


def test_a_forged_record_of_a_check_in_a_cache_that_others_can_write_is_not_used(tiny, cache, monkeypatch):
    monkeypatch.setattr(digests, "_MIN_AGE_NS", 0)
    weights = tiny / "model.onnx.data"
    embedder.Embedder(tiny)
    digest = digests.sha256_of(weights)
    flip_a_bit(weights)
    record = cache.parent / "verified" / hashlib.sha256(os.fsencode(weights.resolve())).hexdigest()
    record.write_text(f"{digest} {digests.FileState.of(weights).mark}")
    embedder.Embedder(tiny)  # the record is the user's own, so it is believed
    cache.parent.chmod(0o777)
    with pytest.raises(ArtifactError, match="altered or damaged"):
        embedder.Embedder(tiny)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "both"])
def test_weights_that_are_replaced_while_they_are_packed_are_not_recorded(tiny, cache, monkeypatch, plain, name):
    """Otherwise the form of other weights would be used for ever, under the digests of the right ones."""
    kept = {path: path.read_bytes() for path in tiny.iterdir()}
    save = prepacked.save_prepacked

    def replace_then_save(graph, target):
        for path in (tiny / "model.onnx", tiny / "model.onnx.data"):
            if name in (path.name, "both"):
                content = bytearray(kept[path])
                if path.suffix == ".data":
                    content[::2] = content[1::2]
                path.unlink()
                path.write_bytes(content)
        save(graph, target)

    monkeypatch.setattr(prepacked, "save_prepacked", replace_then_save)
    with suppress(ArtifactError):
        embedder.Embedder(tiny)
    assert not cache.exists() or list(cache.iterdir()) == []
    with pytest.raises(ArtifactError):
        prepacked.prepack(open_artifact(tiny))
    assert list(tiny.rglob("prepacked.json")) == []
    for path, content in kept.items():
        path.write_bytes(content)
    monkeypatch.setattr(prepacked, "save_prepacked", save)
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)


def prepack_into(artifact):
    """Prepack an artifact, and return the directory of its form."""
    (graph,) = prepacked.prepack(open_artifact(artifact))
    return graph.parent


@pytest.mark.parametrize("manifest", ["before", "after"])
def test_a_form_that_a_stranger_put_into_the_artifact_is_not_used(tiny, cache, plain, manifest):
    before = (tiny / "embedder.json").read_bytes()
    form = prepack_into(tiny)
    store_other_weights(form)
    reseal(form)
    if manifest == "before":
        (tiny / "embedder.json").write_bytes(before)
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)
    with pytest.raises(ArtifactError, match=f"{form.name} is not used: it is damaged, or the manifest does not vouch"):
        prepacked.check_prepacked(open_artifact(tiny))


@pytest.mark.parametrize("extra", [{"prepacked": 1}, {"prepacked": {}}, {"prepacked": ["a"]}, {"prepacked": None}, {}])
def test_a_manifest_that_vouches_for_nothing(tiny, cache, plain, extra):
    form = prepack_into(tiny)
    store_other_weights(form)
    reseal(form)
    write_manifest(replace(read_manifest(tiny), extra=extra), tiny)
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)


def test_a_graph_without_large_weights_is_prepacked(tiny, cache, loaded):
    """onnxruntime writes no file of weights for it."""
    add_image_graph(tiny)
    made = prepacked.prepack(open_artifact(tiny))
    assert len(made) == 2
    assert prepacked.check_prepacked(open_artifact(tiny)) == sorted(path.parent for path in made)
    loaded.clear()
    embedder.Embedder(tiny).encode([np.zeros((4, 4, 3), np.uint8)])
    assert set(loaded) <= set(made)


def test_prepack_keeps_good_forms_and_removes_all_others(tiny, cache):
    form = prepack_into(tiny)
    inode = form.stat().st_ino
    (tiny / "prepacked/of another version").mkdir()
    assert prepack_into(tiny) == form
    assert form.stat().st_ino == inode
    assert list((tiny / "prepacked").iterdir()) == [form]
    flip_a_bit(form / "model.onnx")
    assert prepack_into(tiny) == form
    assert prepacked.check_prepacked(open_artifact(tiny)) == [form]


def test_prepack_keeps_other_fields_of_the_manifest(tiny, cache):
    write_manifest(replace(read_manifest(tiny), extra={"of another program": [1, 2]}), tiny)
    before = read_manifest(tiny)
    form = prepack_into(tiny)
    after = read_manifest(tiny)
    assert after.extra["of another program"] == [1, 2]
    assert after.extra["prepacked"] == {form.name: prepacked.sha256_of(form / "prepacked.json")}
    assert replace(after, extra={}) == replace(before, extra={})


def test_prepack_does_not_write_an_old_manifest_over_a_new_one(tiny, cache, monkeypatch):
    save = prepacked.save_prepacked

    def export_meanwhile(graph, target):
        save(graph, target)
        write_manifest(replace(read_manifest(tiny), prompts={"query": "new: "}), tiny)

    monkeypatch.setattr(prepacked, "save_prepacked", export_meanwhile)
    with pytest.raises(ArtifactError, match=r"embedder\.json has changed meanwhile\. Run embedder prepack again"):
        prepacked.prepack(open_artifact(tiny))
    assert read_manifest(tiny).prompts == {"query": "new: "}


def test_forms_of_the_artifact_and_of_the_cache_are_checked(tiny, cache):
    assert prepacked.check_prepacked(open_artifact(tiny)) == []
    embedder.Embedder(tiny)
    (in_cache,) = cache.iterdir()
    in_artifact = prepack_into(tiny)
    assert prepacked.check_prepacked(open_artifact(tiny)) == [in_artifact, in_cache]
    flip_a_bit(in_cache / "model.onnx")
    with pytest.raises(ArtifactError, match=f"{in_cache.name} is damaged. Remove it; the next load makes it again"):
        prepacked.check_prepacked(open_artifact(tiny))
    shutil.rmtree(in_cache)
    (in_artifact / "model.onnx").unlink()
    with pytest.raises(
        ArtifactError, match=r"is damaged, or the manifest does not vouch for it\. Run embedder prepack"
    ):
        prepacked.check_prepacked(open_artifact(tiny))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_a_container_image_that_was_prepacked_by_root_and_runs_as_another_user(tiny, cache, plain, public):
    """The user has no home, and may write nowhere."""
    shutil.copytree(tiny, public / "tiny")
    form = prepack_into(public / "tiny")
    found, opened = call_in_fork(lambda: (os.seteuid(STRANGER), *load_and_note(public / "tiny"))[1:])
    np.testing.assert_array_equal(found, plain)
    assert opened == {form}


def load_and_note(artifact):
    """Return the vectors of a model, and the directories of the graphs that onnxruntime opened."""
    opened, start = set(), onnxruntime.InferenceSession

    def open_and_note(graph, *rest, **options):
        opened.add(Path(graph).parent)
        return start(graph, *rest, **options)

    onnxruntime.InferenceSession = open_and_note
    return embedder.Embedder(artifact).encode(TEXTS), opened


def test_a_form_that_is_removed_while_it_is_used(tiny, cache, plain, monkeypatch):
    """Another process removes it as idle. The second session is then opened from the artifact."""
    monkeypatch.setattr(cpu, "_MIN_SHARED_WORK", 0)
    model = embedder.Embedder(tiny, threads=2)
    np.testing.assert_allclose(model.encode(TEXTS[0]), plain[0], atol=1e-6)
    shutil.rmtree(cache)
    np.testing.assert_allclose(model.encode(TEXTS * 200), np.tile(plain, (200, 1)), atol=1e-6)


def test_processes_that_pack_at_the_same_time(tiny, cache, plain):
    code = "import sys, embedder; print(embedder.Embedder(sys.argv[1]).encode(['dog']).tolist())"
    children = [start_python(code, tiny) for _ in range(4)]
    for child in children:
        out, _ = child.communicate(timeout=120)
        assert child.returncode == 0
        np.testing.assert_allclose(json.loads(out), plain[1:2], atol=1e-6)
    (form,) = cache.iterdir()
    assert prepacked.check_prepacked(open_artifact(tiny)) == [form]


PACK = """
import shutil, sys
from pathlib import Path
from embedder.artifact.locate import open_artifact
from embedder.backends import prepacked, prepacked_form
from embedder.backends.backend import GraphFiles
prepacked_form.cpu_kind = lambda **options: sys.argv[2]
artifact = open_artifact(sys.argv[1])
print("packing", flush=True)
while True:
    form = prepacked.find_prepacked(GraphFiles(artifact, artifact.manifest.graphs[0]))
    form.file.path.write_bytes(b"damaged")
"""


@pytest.mark.slow
def test_packing_that_is_killed_at_any_moment_leaves_nothing(tiny, cache, plain):
    """Each CPU has a form of its own, so the next process may not want the form that was being packed."""
    for moment in range(15):
        with start_python(PACK, tiny, f"CPU {moment % 4}") as child:
            assert child.stdout.readline() == b"packing\n"
            with suppress(subprocess.TimeoutExpired):
                child.wait(moment / 150)
            child.kill()
        assert child.returncode == -signal.SIGKILL
    np.testing.assert_array_equal(embedder.Embedder(tiny).encode(TEXTS), plain)
    assert [path.name for path in cache.parent.rglob("*") if is_staging(path.name)] == []
    assert {len(list(form.iterdir())) for form in cache.iterdir()} == {3}


def start_python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


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


@pytest.mark.skipif(os.name != "posix", reason="makes a link")
def test_prepack_refuses_a_link_in_the_place_of_its_folder(tiny, tmp_path):
    """It removes all that it did not make there, and a stranger's link may lead to any directory."""
    others = tmp_path / "others"
    others.mkdir()
    (others / "precious").touch()
    (tiny / "prepacked").symlink_to(others)
    with pytest.raises(ArtifactError, match=r"prepacked is a link\. Remove it, and run embedder prepack again"):
        prepacked.prepack(open_artifact(tiny))
    assert [path.name for path in others.iterdir()] == ["precious"]
