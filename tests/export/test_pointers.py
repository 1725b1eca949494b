"""A clone without git-lfs has pointers in the place of large files. The message says so."""

import pytest
import torch
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.errors import CheckpointError
from safetensors.torch import load_file

from embedder.common.files import lfs_pointer_problem
from tests import families
from tests.checkpoints import write_checkpoint, write_json
from tests.exports import export_fp32
from tests.hub_server import lfs_pointer

POINTER = lfs_pointer(b"the file")
MESSAGE = r" is a git-lfs pointer, not the file: run `git lfs pull`, or fetch it with `hf download`"


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "tokenizer.json", "config.json", "modules.json", "vocab.txt", "sentence_bert_config.json"],
)
def test_pointer_in_the_place_of_a_file(tmp_path, name):
    checkpoint = write_checkpoint(tmp_path / "small")
    (checkpoint / name).write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=f"small: .*{name}{MESSAGE}"):
        read_checkpoint(str(checkpoint))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pytorch_model.bin"])
def test_pointer_in_a_folder_of_a_module(tmp_path, name):
    checkpoint = families.seeded(families.distiluse, tmp_path / "dense")
    dense = checkpoint / "2_Dense"
    if name == "pytorch_model.bin":
        (dense / "model.safetensors").unlink()
    (dense / name).write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=f"2_Dense/{name}{MESSAGE}"):
        read_checkpoint(str(checkpoint))


def test_pointer_among_weights_in_parts(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "small")
    tensors = dict.fromkeys(load_file(checkpoint / "model.safetensors"), "model-1.safetensors")
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model-1.safetensors").write_bytes(POINTER)
    write_json(checkpoint / "model.safetensors.index.json", {"weight_map": tensors})
    with pytest.raises(CheckpointError, match=f"model-1.safetensors{MESSAGE}"):
        read_checkpoint(str(checkpoint))


def test_pointers_of_files_that_are_not_used_do_no_harm(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "small")
    torch.save({}, checkpoint / "pytorch_model.bin")
    for name in ("pytorch_model.bin", "tf_model.h5", "onnx.onnx"):
        (checkpoint / name).write_bytes(POINTER)
    assert read_checkpoint(str(checkpoint)).name == "small"


def test_own_graph_that_is_a_pointer_is_no_reference(tmp_path, monkeypatch):
    monkeypatch.setattr("embedder_export.verify.reference.is_reference_installed", lambda: False)
    checkpoint = write_checkpoint(tmp_path / "small")
    (checkpoint / "onnx").mkdir()
    (checkpoint / "onnx/model.onnx").write_bytes(POINTER)
    lines = []
    assert export_fp32(checkpoint, tmp_path / "artifact", lines.append).parity is None
    assert any("onnx/model.onnx is no reference: " in line and "is a git-lfs pointer" in line for line in lines)


def test_other_files_are_no_pointers(tmp_path):
    (tmp_path / "text").write_bytes(POINTER[:20])
    for path in (tmp_path / "text", tmp_path, tmp_path / "nothing"):
        assert lfs_pointer_problem(path) is None
