"""An artifact of one dtype whose weights file holds the plain and the packed weights, for cloud functions."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from embedder_export.errors import OutputError
from embedder_export.write.prepacked import write_prepacked_artifact

import embedder
from embedder.artifact.locate import open_artifact
from embedder.artifact.manifest import read_manifest, write_manifest
from embedder.backends import prepacked, prepacked_form
from embedder.cli import main as cli
from embedder.errors import ArtifactError, InputError
from tests.checkpoints import write_checkpoint
from tests.exports import export_quietly
from tests.tiny import add_image_graph, flip_a_bit

TEXTS = ["Hello, World!", "", "a" * 300, "one two three four five six seven eight nine"]


@pytest.fixture(autouse=True)
def _prepack_by_default(monkeypatch):
    monkeypatch.delenv("EMBEDDER_PREPACK")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """An artifact of fp32 and int8. Its weights are large enough to lie in a file."""
    directory = tmp_path_factory.mktemp("models")
    checkpoint = write_checkpoint(directory / "checkpoint")
    export_quietly(checkpoint, directory / "small", dtypes=("fp32", "int8"))
    return directory / "small"


@pytest.fixture
def shared(artifact, tmp_path):
    return write_prepacked_artifact(open_artifact(artifact), "fp32", tmp_path / "shared")


@pytest.fixture
def opened(monkeypatch):
    """The names of the graphs that onnxruntime opens."""
    names, start = set(), onnxruntime.InferenceSession

    def open_and_note(graph, *rest, **options):
        names.add(os.fspath(graph))
        return start(graph, *rest, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_and_note)
    return names


def on_another_cpu(monkeypatch):
    monkeypatch.setattr(prepacked_form, "cpu_kind", lambda **options: "another")


def plain_vectors(artifact, dtype, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("EMBEDDER_PREPACK", "0")
        return embedder.Embedder(artifact, dtype=dtype).encode(TEXTS)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_either_graph_gives_the_vectors_of_the_original(artifact, tmp_path, monkeypatch, opened, dtype):
    expected = plain_vectors(artifact, dtype, monkeypatch)
    shared = write_prepacked_artifact(open_artifact(artifact), dtype, tmp_path / "shared")
    (graph,) = read_manifest(shared).graphs
    packed = f"{graph.file.name.removesuffix('.onnx')}.prepacked.onnx"
    assert sorted(path.name for path in shared.iterdir()) == sorted(
        ["embedder.json", "tokenizer.json", graph.file.name, f"{graph.file.name}.data", packed]
    )
    opened.clear()
    np.testing.assert_array_equal(embedder.Embedder(shared).encode(TEXTS), expected)
    assert opened == {str(shared / packed)}

    on_another_cpu(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared / "embedder.json"))  # no directory: nothing can be written there
    opened.clear()
    np.testing.assert_array_equal(embedder.Embedder(shared).encode(TEXTS), expected)
    assert opened == {str(shared / graph.file.name)}


def test_each_weight_is_there_once(artifact, shared):
    """The file holds the packed weights, and beside them no more than the original."""
    graph = onnx.load(shared / "model.prepacked.onnx", load_external_data=False).graph
    packed = 0
    for tensor in graph.initializer:
        for entry in tensor.external_data:
            if entry.key.startswith("prepacked"):
                packed += sum(int(blob.split(";")[1]) for blob in entry.value.split("|")[1:])
    assert packed > 0
    original = (artifact / "model.onnx.data").stat().st_size
    assert (shared / "model.onnx.data").stat().st_size <= (original + packed) * 1.2


def test_manifest_describes_the_kept_graph(artifact, shared):
    before, after = read_manifest(artifact), read_manifest(shared)
    (graph,) = after.graphs
    assert graph.dtype == "fp32"
    assert replace(after, graphs=before.graphs, extra=before.extra) == before
    assert set(after.extra) == {"positions", "prepacked"}
    ((name, entry),) = after.extra["prepacked"].items()
    assert name == prepacked_form.form_name(graph)
    assert entry == {
        "name": "model.prepacked.onnx",
        "size": (shared / "model.prepacked.onnx").stat().st_size,
        "sha256": prepacked.sha256_of(shared / "model.prepacked.onnx"),
    }


def test_a_plain_copy_for_another_architecture(artifact, tmp_path, monkeypatch):
    copy = write_prepacked_artifact(open_artifact(artifact), "int8", tmp_path / "copy", prepack=False)
    assert sorted(path.name for path in copy.iterdir()) == [
        "embedder.json",
        "model.int8.onnx",
        "model.int8.onnx.data",
        "tokenizer.json",
    ]
    assert "prepacked" not in read_manifest(copy).extra
    for name in ("model.int8.onnx", "model.int8.onnx.data"):
        assert (copy / name).read_bytes() == (artifact / name).read_bytes()
    expected = plain_vectors(artifact, "int8", monkeypatch)
    np.testing.assert_array_equal(embedder.Embedder(copy).encode(TEXTS), expected)


def test_the_same_inputs_give_the_same_bytes(artifact, shared, tmp_path):
    again = write_prepacked_artifact(open_artifact(artifact), "fp32", tmp_path / "again")
    for path in shared.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_it_can_be_written_again_and_made_from_itself(artifact, shared, tmp_path, monkeypatch):
    expected = plain_vectors(artifact, "fp32", monkeypatch)
    assert write_prepacked_artifact(open_artifact(artifact), "fp32", shared) == shared
    second = write_prepacked_artifact(open_artifact(shared), "fp32", tmp_path / "second")
    np.testing.assert_array_equal(embedder.Embedder(second).encode(TEXTS), expected)
    assert (second / "model.onnx.data").stat().st_size == (shared / "model.onnx.data").stat().st_size


def test_files_with_two_names_are_read(artifact, tmp_path):
    """onnx itself refuses weights that are a link, as those in the cache of the Hub are."""
    (tmp_path / "linked").mkdir()
    for path in artifact.iterdir():
        (tmp_path / "linked" / path.name).symlink_to(path)
    shared = write_prepacked_artifact(open_artifact(tmp_path / "linked"), "fp32", tmp_path / "shared")
    assert not any(path.is_symlink() for path in shared.iterdir())


def test_a_weight_that_onnxruntime_replaces_is_added(tiny, tmp_path, monkeypatch):
    """Its optimisations join two constants to one. The plain graph needs both."""
    model = onnx.load(tiny / "model.onnx")
    (table,) = [tensor for tensor in model.graph.initializer if tensor.name == "table"]
    left = onnx.numpy_helper.to_array(table) / 2
    right = onnx.numpy_helper.to_array(table) - left
    model.graph.initializer.remove(table)
    model.graph.initializer.extend(
        [onnx.numpy_helper.from_array(left, "left"), onnx.numpy_helper.from_array(right, "right")]
    )
    model.graph.node.insert(0, onnx.helper.make_node("Add", ["left", "right"], ["table"]))
    write_graph(tiny, model)
    expected = plain_vectors(tiny, "fp32", monkeypatch)
    shared = write_prepacked_artifact(open_artifact(tiny), "fp32", tmp_path / "shared")
    np.testing.assert_array_equal(embedder.Embedder(shared).encode(TEXTS), expected)
    np.testing.assert_array_equal(plain_vectors(shared, "fp32", monkeypatch), expected)


def write_graph(directory, model):
    """Write the graph of a tiny artifact, with all large tensors in the file of the weights."""
    path = directory / "model.onnx"
    path.unlink()
    path.with_name("model.onnx.data").unlink()
    onnx.save_model(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=1024)
    manifest = read_manifest(directory)
    described = [replace(file, size=size, sha256=digest) for file, size, digest in measured(directory, manifest)]
    graph = replace(manifest.graphs[0], file=described[0], weights=described[1])
    write_manifest(replace(manifest, graphs=(graph,)), directory)


def measured(directory, manifest):
    for file in (manifest.graphs[0].file, manifest.graphs[0].weights):
        path = directory / file.name
        yield file, path.stat().st_size, prepacked.sha256_of(path)


def test_both_modalities_are_written(tiny, tmp_path):
    add_image_graph(tiny)
    shared = write_prepacked_artifact(open_artifact(tiny), "fp32", tmp_path / "shared")
    manifest = read_manifest(shared)
    assert [graph.modality for graph in manifest.graphs] == ["text", "image"]
    assert {entry["name"] for entry in manifest.extra["prepacked"].values()} == {
        "model.prepacked.onnx",
        "image.prepacked.onnx",
    }
    image = np.zeros((4, 4, 3), np.uint8)
    np.testing.assert_array_equal(embedder.Embedder(shared).encode([image]), embedder.Embedder(tiny).encode([image]))


def test_a_dtype_that_is_not_there(artifact, tmp_path):
    with pytest.raises(InputError, match=r"no graph of dtype 'fp16' for each modality; it has 'fp32', 'int8'"):
        write_prepacked_artifact(open_artifact(artifact), "fp16", tmp_path / "shared")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_artifact(shared, tmp_path):
    flip_a_bit(shared / "model.onnx.data")
    for prepack in (True, False):
        with pytest.raises(ArtifactError, match=r"model\.onnx\.data has been altered or damaged"):
            write_prepacked_artifact(open_artifact(shared), "fp32", tmp_path / "new", prepack=prepack)
    assert not (tmp_path / "new").exists()


def test_a_directory_of_other_files_is_not_replaced(artifact, tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OutputError, match=r"holds 'thesis\.txt', which is not part of an artifact"):
        write_prepacked_artifact(open_artifact(artifact), "fp32", tmp_path)


def test_an_unknown_kind_of_cpu(artifact, tmp_path, monkeypatch):
    monkeypatch.setattr(prepacked_form, "cpu_kind", lambda **options: None)
    with pytest.raises(ArtifactError, match=r"weights cannot be prepacked here: /proc/cpuinfo does not show"):
        write_prepacked_artifact(open_artifact(artifact), "fp32", tmp_path / "new")
    write_prepacked_artifact(open_artifact(artifact), "fp32", tmp_path / "new", prepack=False)


@pytest.mark.parametrize("damage", [flip_a_bit, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_packed_graph_is_not_used(artifact, shared, monkeypatch, capsys, damage):
    expected = plain_vectors(artifact, "fp32", monkeypatch)
    packed = shared / "model.prepacked.onnx"
    damage(packed)
    np.testing.assert_array_equal(embedder.Embedder(shared).encode(TEXTS), expected)
    assert cli.main(["verify", str(shared)]) == int(packed.exists())
    assert packed.exists() == ("model.prepacked.onnx" in capsys.readouterr().out)


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "../model.prepacked.onnx"},
        {"name": "model.prepacked.ort"},
        {"name": 1},
        {"sha256": "0" * 64},
        {"size": "many"},
        {"extra": 1},
    ],
)
def test_a_wrong_entry_of_the_manifest_is_not_used(artifact, shared, monkeypatch, opened, entry):
    expected = plain_vectors(artifact, "fp32", monkeypatch)
    content = json.loads((shared / "embedder.json").read_text())
    for found in content["extra"]["prepacked"].values():
        found |= entry
    (shared / "embedder.json").write_text(json.dumps(content))
    opened.clear()
    np.testing.assert_array_equal(embedder.Embedder(shared).encode(TEXTS), expected)
    assert str(shared / "model.prepacked.onnx") not in opened


def test_a_packed_graph_takes_weights_from_the_artifacts_file_alone(shared, artifact, monkeypatch, opened):
    """A hostile one could return another file as vectors."""
    expected = plain_vectors(artifact, "fp32", monkeypatch)
    path = shared / "model.prepacked.onnx"
    (shared / "model.other.data").write_bytes((shared / "model.onnx.data").read_bytes())
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "model.other.data"
    onnx.save_model(model, path)
    content = json.loads((shared / "embedder.json").read_text())
    for found in content["extra"]["prepacked"].values():
        found["sha256"] = prepacked.sha256_of(path)
    (shared / "embedder.json").write_text(json.dumps(content))
    opened.clear()
    np.testing.assert_array_equal(embedder.Embedder(shared).encode(TEXTS), expected)
    assert str(path) not in opened


def test_verify_info_and_prepack_know_it(shared, monkeypatch, capsys):
    assert cli.main(["verify", str(shared)]) == 0
    assert "ok       prepacked weights" in capsys.readouterr().out
    assert cli.main(["info", str(shared)]) == 0
    assert "prepacked       model.prepacked.onnx, for this CPU" in capsys.readouterr().out
    before = (shared / "embedder.json").read_bytes()
    assert cli.main(["prepack", str(shared)]) == 0  # nothing to do
    assert capsys.readouterr().out == f"{shared}\n"
    assert (shared / "embedder.json").read_bytes() == before
    assert not (shared / "prepacked").exists()


def test_prepack_on_another_cpu_keeps_the_shared_form(shared, monkeypatch, capsys):
    ((name, entry),) = read_manifest(shared).extra["prepacked"].items()
    with monkeypatch.context() as patch:
        on_another_cpu(patch)
        assert cli.main(["info", str(shared)]) == 0
        assert "prepacked       model.prepacked.onnx, for another CPU or another onnxruntime" in capsys.readouterr().out
        (made,) = prepacked.prepack(open_artifact(shared))
        assert made.parent.parent == shared / "prepacked"
        assert prepacked.check_prepacked(open_artifact(shared)) == [shared, made.parent]
    forms = read_manifest(shared).extra["prepacked"]
    assert forms[name] == entry
    assert len(forms) == 2


def test_prepack_replaces_a_damaged_shared_form(shared, opened):
    flip_a_bit(shared / "model.prepacked.onnx")
    (made,) = prepacked.prepack(open_artifact(shared))
    assert made.parent.parent == shared / "prepacked"
    opened.clear()
    embedder.Embedder(shared).encode(TEXTS)
    assert opened == {str(made)}
