"""The tables of families, poolings and heads: rows are complete, and a new row is all that a new entry needs."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from embedder_export.checkpoint import known_checkpoints
from embedder_export.checkpoint.layers import Pooling, read_layers
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.checkpoint.weights import read_weights
from embedder_export.errors import CheckpointError, GraphError
from embedder_export.families.clip import CLIP
from embedder_export.families.table import FAMILIES, OTHER, family_of
from embedder_export.graph.files import save_graph
from embedder_export.graph.run import Session
from embedder_export.head.heads import HEADS, add_head
from embedder_export.head.poolings import POOLINGS, PoolingMode
from embedder_export.packages import is_installed
from embedder_export.pipeline import ExportSettings, export
from optimum.exporters.onnx import model_configs
from sentence_transformers.sentence_transformer.modules.pooling import Pooling as TheirPooling
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from embedder import Embedder
from embedder.artifact.manifest import OUTPUT_OF_TASK, Head, Output
from tests.checkpoints import edit_json, write_json
from tests.clips import write_clip
from tests.tiny import DIMENSION, TABLE, tiny_body


@pytest.mark.parametrize("model_type", sorted(FAMILIES.keys() & TOKENIZER_MAPPING_NAMES.keys()))
def test_tokenizer_classes_match_transformers(model_type):
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


def test_poolings_match_sentence_transformers():
    assert list(POOLINGS) == list(TheirPooling.POOLING_MODES)
    assert all(pooling.legacy_flag.startswith("pooling_mode_") for pooling in POOLINGS.values())


def test_heads_are_for_tasks_of_the_manifest():
    assert HEADS.keys() <= OUTPUT_OF_TASK.keys()


def test_a_second_family_of_two_transformers_is_a_row_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.setitem(FAMILIES, "two-towers", replace(CLIP, own_pooling="lasttoken"))
    checkpoint = write_clip(tmp_path / "clip")
    edit_json(checkpoint / "config.json", model_type="two-towers")
    settings = ExportSettings(dtypes=("fp32",))
    manifest = export(read_checkpoint(str(checkpoint)), tmp_path / "artifact", lambda line: None, settings)
    assert manifest.modalities == ("text", "image")
    assert manifest.head == Head(("lasttoken",), True, ())
    assert Embedder(tmp_path / "artifact").encode("a cat").shape == (24,)


def test_a_new_pooling_is_a_row_of_the_table(tmp_path, monkeypatch):
    def write_min(op, given):
        return op.ReduceMin(given.tokens, op.constant([1]), keepdims=0)

    monkeypatch.setitem(POOLINGS, "min", PoolingMode("pooling_mode_min_tokens", write_min))
    write_json(tmp_path / "1_Pooling/config.json", {"pooling_mode_min_tokens": True})
    layers = read_layers([("Pooling", tmp_path / "1_Pooling")])
    assert layers == (Pooling(("min",), True),)
    model = tiny_body()
    add_head(model.graph, layers, DIMENSION)
    ids = np.array([[4, 5, 6]])
    (vectors,) = Session(save_graph(model, tmp_path / "graph")).run(
        {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    )
    np.testing.assert_array_equal(vectors, TABLE[ids].min(axis=1))


def test_a_new_kind_of_output_is_a_row_of_the_table(monkeypatch):
    outputs = (Output("score", "score", (1,)),)
    monkeypatch.setitem(HEADS, "rank", lambda graph, layers, width: outputs)
    assert add_head(tiny_body().graph, (), DIMENSION, "rank") == outputs


def test_known_checkpoints_are_full_names():
    assert all(name.count("/") == 1 for name in known_checkpoints.PROMPT_NOT_POOLED)


def test_packages_that_are_installed():
    assert is_installed("torch", "transformers")
    assert not is_installed("torch", "no_such_package")


def test_file_that_is_no_graph(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x00no graph")
    for graph in (tmp_path / "model.onnx", tmp_path / "nowhere.onnx", b"\x00no graph"):
        with pytest.raises(GraphError, match="onnxruntime cannot load it: "):
            Session(graph)


def test_missing_input_is_a_key_error(tmp_path):
    session = Session(save_graph(tiny_body(), tmp_path / "graph"))
    with pytest.raises(KeyError, match="input_ids"):
        session.run({})


@pytest.mark.parametrize("content", [{"a": 1}, {"a": {"b": torch.ones(2)}}])
def test_pickle_without_plain_tensors(tmp_path, content):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be read as plain weights: it does not hold tensors by name"):
        read_weights(tmp_path)
