"""Find an artifact by name or path, and check its files; each error names the file at fault."""

import os
from dataclasses import replace

import numpy as np
import pytest

import embedder
from embedder.artifact.manifest import Output, read_manifest, write_manifest
from embedder.common import digests
from embedder.errors import ArtifactError, InputError, ModelNotFoundError
from tests.hub_server import lfs_pointer
from tests.tiny import flip_a_bit, redescribe


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json", "embedder.json"])
def test_git_lfs_pointer_in_the_place_of_a_file(tiny, name):
    (tiny / name).write_bytes(lfs_pointer((tiny / name).read_bytes()))
    message = f"{name} is a git-lfs pointer, not the file: run `git lfs pull`, or fetch it with `hf download`"
    with pytest.raises(ArtifactError, match=message):
        embedder.Embedder(tiny)


def test_unknown_path(tmp_path):
    with pytest.raises(
        ModelNotFoundError, match=r"no exported model at '.*/no/such/place': there is no embedder\.json"
    ):
        embedder.Embedder(tmp_path / "no" / "such" / "place")


@pytest.mark.parametrize("model", ["x" * 5000, "~nobody-of-that-name", "a/b/c", "./tiny", "/"])
def test_odd_names_are_not_found(model):
    with pytest.raises(ModelNotFoundError):
        embedder.Embedder(model)


def test_directory_that_is_not_an_artifact(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"without embedder\.json.*embedder-export"):
        embedder.Embedder(tmp_path)


@pytest.mark.parametrize("model", ["", ".", None, 3, "a\0b", b"x", ["a"]])
def test_model_that_is_neither_a_name_nor_a_path(model):
    with pytest.raises(InputError, match="model should be the name or the path"):
        embedder.Embedder(model)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json"])
def test_missing_file_is_named(tiny, name):
    (tiny / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing: export or copy the model again"):
        embedder.Embedder(tiny)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json"])
def test_truncated_file_is_named(tiny, name):
    content = (tiny / name).read_bytes()
    (tiny / name).write_bytes(content[:-10])
    message = rf"{name} has {len(content) - 10:,} bytes, the manifest says {len(content):,}: it was truncated"
    with pytest.raises(ArtifactError, match=message):
        embedder.Embedder(tiny)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json"])
def test_altered_file_is_named(tiny, name):
    flip_a_bit(tiny / name)
    with pytest.raises(ArtifactError, match=f"{name} has been altered or damaged: its sha256 is"):
        embedder.Embedder(tiny)


def test_right_digest_but_not_a_graph(tiny):
    (tiny / "model.onnx").write_bytes(b"not a graph")
    redescribe(tiny)
    with pytest.raises(ArtifactError, match=r"onnxruntime [0-9.]+ cannot load .*model\.onnx: "):
        embedder.Embedder(tiny)


def test_right_digest_but_not_a_tokenizer(tiny):
    (tiny / "tokenizer.json").write_bytes(b"{}")
    redescribe(tiny)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is not a tokenizer that tokenizers [0-9.]+ reads"):
        embedder.Embedder(tiny)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            Output("embedding", "dense", (9,)),
            r"has the outputs {'embedding': \[8\]}, the manifest says 'embedding' of shape \[9\]",
        ),
        (
            Output("vectors", "dense", (8,)),
            r"has the outputs {'embedding': \[8\]}, the manifest says 'vectors' of shape \[8\]",
        ),
    ],
)
def test_manifest_with_another_output_than_the_graph(tiny, output, message):
    manifest = read_manifest(tiny)
    write_manifest(replace(manifest, graphs=(replace(manifest.graphs[0], outputs=(output,)),)), tiny)
    with pytest.raises(ArtifactError, match=message):
        embedder.Embedder(tiny)


def test_limit_that_leaves_no_room_for_a_text(make_artifact):
    message = "adds 2 special tokens to each text, and max_seq_length is 2: no room"
    with pytest.raises(ArtifactError, match=message):
        embedder.Embedder(make_artifact(max_seq_length=2))


def test_pad_id_that_the_graph_does_not_have(tiny):
    manifest = read_manifest(tiny)
    write_manifest(replace(manifest, tokenizer=replace(manifest.tokenizer, pad_id=99)), tiny)
    with pytest.raises(ArtifactError, match=r"onnxruntime failed on input_ids \(2, 4\), attention_mask \(2, 4\)"):
        embedder.Embedder(tiny).encode(["a", "a a"])


def test_checked_weights_are_not_read_again(tiny, monkeypatch):
    reads = []
    check = digests.check_digest
    monkeypatch.setattr(digests, "check_digest", lambda path, digest: reads.append(path) or check(path, digest))
    monkeypatch.setattr(digests, "_MIN_AGE_NS", 0)
    embedder.Embedder(tiny)
    embedder.Embedder(tiny)
    assert reads.count(tiny / "model.onnx.data") == 1


def test_weights_that_changed_after_the_check_are_read_again(tiny, monkeypatch):
    monkeypatch.setattr(digests, "_MIN_AGE_NS", 0)
    embedder.Embedder(tiny)
    weights = tiny / "model.onnx.data"
    before = weights.stat()
    flip_a_bit(weights)
    # Size and modification time are as before. The change time differs.
    while weights.stat().st_ctime_ns == before.st_ctime_ns:
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ArtifactError, match="altered or damaged"):
        embedder.Embedder(tiny)


def test_weights_that_were_just_written_are_not_recorded(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    embedder.Embedder(tiny)
    assert not (tmp_path / "cache").exists()


def test_a_damaged_cache_is_ignored(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_MIN_AGE_NS", 0)
    embedder.Embedder(tiny)
    records = list((tmp_path / "cache").rglob("verified/*"))
    assert len(records) == 2  # of the weights and of the tokenizer
    for record in records:
        record.write_bytes(b"\xff")
    assert embedder.Embedder(tiny).dimension == 8
    assert all(record.read_bytes() != b"\xff" for record in records)


def test_a_cache_that_cannot_be_written_is_ignored(tiny, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(digests, "_MIN_AGE_NS", 0)
    assert embedder.Embedder(tiny).encode("a").shape == (8,)


def test_an_artifact_can_be_read_only(tiny):
    for path in tiny.iterdir():
        path.chmod(0o444)
    tiny.chmod(0o555)
    try:
        assert np.isfinite(embedder.Embedder(tiny).encode("a")).all()
    finally:
        tiny.chmod(0o755)
