"""The tables that a new family, pooling or output is entered in: each row is whole, and names what exists."""

import pytest
import torch
import transformers
from embedder_export.checkpoint import known_checkpoints
from embedder_export.checkpoint.weights import read_weights
from embedder_export.errors import CheckpointError, GraphError, NeedsTorchError
from embedder_export.families.table import FAMILIES, OTHER, family_of
from embedder_export.graph.files import save_graph
from embedder_export.graph.run import Session
from embedder_export.head.heads import HEADS
from embedder_export.head.poolings import POOLINGS
from embedder_export.packages import import_from_extra, is_installed
from optimum.exporters.onnx import model_configs
from sentence_transformers.sentence_transformer.modules.pooling import Pooling as TheirPooling
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from embedder.artifact.manifest import OUTPUT_OF_TASK
from embedder.errors import DependencyError
from tests.tiny import tiny_body


@pytest.mark.parametrize("model_type", FAMILIES)
def test_tokenizer_classes_are_those_of_transformers(model_type):
    slow, fast = TOKENIZER_MAPPING_NAMES[model_type]
    assert FAMILIES[model_type].tokenizer_class == (slow or fast).removesuffix("Fast")


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_has_a_builder_for_each_modality_or_none(model_type):
    family = FAMILIES[model_type]
    assert tuple(family.builders) in ((), family.modalities)
    assert tuple(family.towers) in ((), family.modalities)
    assert ("image" in family.modalities) == (family.image_processor is not None)
    for tower in family.towers.values():
        assert hasattr(transformers, tower.model_class)
        assert hasattr(model_configs, tower.onnx_config)


@pytest.mark.parametrize("model_type", ["novel", None, ["bert"], 3])
def test_other_model_types(model_type):
    assert family_of(model_type) is OTHER
    assert (OTHER.modalities, OTHER.tokenizer_class, OTHER.own_pooling) == (("text",), "", None)


def test_poolings_are_those_of_sentence_transformers():
    assert list(POOLINGS) == list(TheirPooling.POOLING_MODES)
    assert all(pooling.legacy_flag.startswith("pooling_mode_") for pooling in POOLINGS.values())


def test_heads_are_for_tasks_of_the_manifest():
    assert HEADS.keys() <= OUTPUT_OF_TASK.keys()


def test_known_checkpoints_are_full_names():
    assert all(name.count("/") == 1 for name in known_checkpoints.PROMPT_NOT_POOLED)


def test_packages_of_the_extra(tmp_path, monkeypatch):
    assert is_installed("torch", "transformers")
    assert not is_installed("torch", "no_such_package")
    with pytest.raises(NeedsTorchError, match="a reason: that needs torch and more"):
        import_from_extra("no_such_package.part", "a reason")
    (tmp_path / "broken_package.py").write_text("raise ImportError('libtorch.so is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DependencyError, match=r"its import failed \(libtorch\.so is missing\)"):
        import_from_extra("broken_package", "a reason")


def test_graph_that_is_none(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x00no graph")
    for graph in (tmp_path / "model.onnx", tmp_path / "nowhere.onnx", b"\x00no graph"):
        with pytest.raises(GraphError, match="onnxruntime cannot load it: "):
            Session(graph)


def test_a_missing_input_is_no_error_of_the_graph(tmp_path):
    session = Session(save_graph(tiny_body(), tmp_path / "graph"))
    with pytest.raises(KeyError, match="input_ids"):
        session.run({})


@pytest.mark.parametrize("content", [{"a": 1}, {"a": {"b": torch.ones(2)}}])
def test_pickle_without_plain_tensors(tmp_path, content):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be read as plain weights: it does not hold tensors by name"):
        read_weights(tmp_path)
