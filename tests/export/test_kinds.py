"""Checkpoints of other models are refused by name. Pretrained models are pooled as in sentence-transformers."""

import json
from pathlib import Path

import pytest
import torch
from embedder_export.checkpoint.kinds import task_of
from embedder_export.checkpoint.layers import Pooling
from embedder_export.checkpoint.modules import Module
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.cli import main
from embedder_export.errors import CheckpointError
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForTokenClassification,
)

from tests.checkpoints import SMALL, VOCABULARY_SIZE, edit_json, write_checkpoint, write_json


@pytest.fixture
def bare(tmp_path):
    """Write a checkpoint of transformers, without modules.json."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    (checkpoint / "modules.json").unlink()
    return checkpoint


def add_weight(checkpoint, name):
    path = checkpoint / "model.safetensors"
    save_file(load_file(path) | {name: torch.ones(2, 2)}, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("model_class", "kind"),
    [
        (BertForTokenClassification, "a token classifier"),
        (BertForQuestionAnswering, "a question-answering model"),
    ],
)
def test_transformers_models_with_another_head(bare, tmp_path, capsys, model_class, kind):
    model_class(BertConfig(vocab_size=VOCABULARY_SIZE, **SMALL)).save_pretrained(bare)
    assert main([str(bare), "--output", str(tmp_path / "artifact")]) == 1
    message = f"checkpoint: the checkpoint is {kind} ({model_class.__name__}): it gives no sentence embeddings"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "artifact").exists()


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("BertForMultipleChoice", "a multiple-choice model"),
        ("BertForNextSentencePrediction", "a next-sentence classifier"),
        ("DebertaV2ForZeroShotClassification", "a classifier"),
        ("ViTForImageClassification", "a classifier"),
        ("JinaColBERTModel", r"a ColBERT \(late interaction\) model"),
    ],
)
def test_architectures_of_other_models(bare, architecture, kind):
    edit_json(bare / "config.json", architectures=[architecture])
    with pytest.raises(CheckpointError, match=rf"the checkpoint is {kind} \({architecture}\)"):
        read_checkpoint(str(bare))


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize(
    ("weight", "kind"),
    [
        ("classifier.weight", "a classifier"),
        ("score.weight", "a classifier"),
        ("qa_outputs.weight", "a question-answering model"),
        ("linear.weight", "a ColBERT"),
    ],
)
def test_weights_of_other_models(bare, weight, kind, pickled):
    """config.json may name no architecture. Then the weights decide."""
    edit_json(bare / "config.json", architectures=None)
    add_weight(bare, weight)
    if pickled:
        torch.save(load_file(bare / "model.safetensors"), bare / "pytorch_model.bin")
        (bare / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=rf"the checkpoint is {kind}.*, as it has the weight {weight}"):
        read_checkpoint(str(bare))


def test_metadata_of_a_colbert(bare):
    write_json(bare / "artifact.metadata", {"dim": 128})
    with pytest.raises(CheckpointError, match=r"a ColBERT .*, as its artifact\.metadata says"):
        read_checkpoint(str(bare))


def test_kind_that_nobody_knows(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config={"model_type": "AudioEncoder"})
    with pytest.raises(CheckpointError, match="the checkpoint is a AudioEncoder, which is not supported"):
        read_checkpoint(str(checkpoint))


@pytest.mark.parametrize(
    ("declared", "modules", "architectures", "chosen", "task"),
    [
        ({}, None, ["BertForMaskedLM"], None, "embed"),
        ({}, None, ["BertForMaskedLM"], "sparse", "sparse"),
        ({}, None, ["BertForSequenceClassification"], None, "rank"),
        ({"model_type": "SparseEncoder"}, ["MLMTransformer", "SpladePooling"], [], None, "sparse"),
        ({}, ["Transformer", "SpladePooling"], [], None, "sparse"),
        ({}, ["Transformer", "Pooling"], [], "multi_vector", "multi_vector"),
        ({}, None, ["HF_ColBERT"], None, "multi_vector"),
        ({"model_type": "ColBERT"}, ["Transformer", "Dense"], [], None, "multi_vector"),
        ({"query_prefix": "[Q] "}, ["Transformer", "Dense"], [], None, "multi_vector"),
        ({"query_prefix": "[Q] "}, None, [], None, "embed"),
        ({"model_type": "MultiVectorEncoder"}, ["Transformer"], [], None, "multi_vector"),
    ],
)
def test_tasks(declared, modules, architectures, chosen, task):
    found = None if modules is None else [Module(kind, Path("module")) for kind in modules]
    assert task_of(declared, found, architectures, chosen) == task


def test_task_that_the_checkpoint_does_not_have():
    with pytest.raises(CheckpointError, match="is for the task 'sparse', so it cannot be exported for 'embed'"):
        task_of({"model_type": "SparseEncoder"}, None, [], "embed")


def test_modules_of_pylate(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", types={"Pooling": "pylate.models.Other.Other"})
    with pytest.raises(CheckpointError, match=r"the module 'pylate\.models\.Other\.Other' is not supported"):
        read_checkpoint(str(checkpoint))


@pytest.mark.parametrize("modules", [True, False])
def test_embedders_are_not_made_late_interaction_models(tmp_path, modules):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    if not modules:
        (checkpoint / "modules.json").unlink()
    with pytest.raises(CheckpointError, match="the checkpoint has no layer for late interaction"):
        read_checkpoint(str(checkpoint), task="multi_vector")


@pytest.mark.parametrize("model_class", [BertForMaskedLM, BertForPreTraining])
def test_pretrained_models_are_pooled_as_sentence_transformers_does(bare, model_class):
    model_class(BertConfig(vocab_size=VOCABULARY_SIZE, **SMALL)).save_pretrained(bare)
    assert read_checkpoint(str(bare)).layers == (Pooling(("mean",), True),)


@pytest.mark.parametrize("architectures", [None, [], ["BertModel"], [3], ["T5ForConditionalGeneration"]])
def test_architectures_of_pretrained_models(bare, architectures):
    edit_json(bare / "config.json", architectures=architectures)
    assert read_checkpoint(str(bare)).layers == (Pooling(("mean",), True),)


def test_modules_count_before_the_architecture(tmp_path):
    """modules.json says what the model is. config.json may name the model from which training began."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    edit_json(checkpoint / "config.json", architectures=["BertForSequenceClassification"])
    assert json.loads((checkpoint / "config.json").read_text())["architectures"] == ["BertForSequenceClassification"]
    assert read_checkpoint(str(checkpoint)).layers[0] == Pooling(("mean",), True)
