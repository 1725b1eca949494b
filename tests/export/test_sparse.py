"""Sparse checkpoints that the export refuses, and the routers that it reads."""

import json

import numpy as np
import pytest
import torch
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.checkpoint.routers import read_routes
from embedder_export.checkpoint.sparse_heads import read_splade_pooling, read_static_weights
from embedder_export.checkpoint.sparse_layers import SpladePooling
from embedder_export.errors import CheckpointError
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from tests.checkpoints import SMALL, VOCABULARY_SIZE, edit_json, write_checkpoint, write_json, write_modules


@pytest.fixture
def bare(tmp_path):
    """Write a masked language model without modules.json."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    (checkpoint / "modules.json").unlink()
    BertForMaskedLM(BertConfig(vocab_size=VOCABULARY_SIZE, **SMALL)).save_pretrained(checkpoint)
    return checkpoint


@pytest.fixture
def splade(bare):
    """Write a SPLADE in the layout of sentence-transformers 5."""
    write_modules(bare, ("MLMTransformer", "SpladePooling"))
    write_json(bare / "1_SpladePooling/config.json", {"pooling_strategy": "max"})
    return bare


def refused(checkpoint, problem, task=None):
    with pytest.raises(CheckpointError, match=problem):
        read_checkpoint(str(checkpoint), task=task)


def change_weights(checkpoint, change):
    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, {"format": "pt"})


def test_language_model_without_modules(bare):
    assert read_checkpoint(str(bare)).task == "embed"
    read = read_checkpoint(str(bare), task="sparse")
    assert read.task == "sparse"
    assert read.similarity == "dot"
    assert read.layers[1] == SpladePooling("max", "relu")
    edit_json(bare / "config.json", architectures=["BertModel"])
    refused(bare, "needs a masked language model, and config.json has BertModel", "sparse")


def test_weights_of_the_head(splade):
    assert read_checkpoint(str(splade)).layers[0].bias.shape == (VOCABULARY_SIZE,)

    def spoil(weights):
        weights["cls.predictions.bias"][3] = np.nan

    change_weights(splade, spoil)
    refused(splade, r"not finite: cls\.predictions\.bias has NaN")
    change_weights(splade, lambda weights: weights.update({"cls.predictions.bias": torch.zeros(3)}))
    refused(splade, r"cls\.predictions\.bias of shape \(3,\)")
    change_weights(splade, lambda weights: weights.pop("cls.predictions.bias"))
    refused(splade, r"the weights lack cls\.predictions\.bias, a part of the head of a masked language model")
    edit_json(splade / "config.json", tie_word_embeddings=False)
    refused(splade, r"the weights lack cls\.predictions\.decoder\.weight")


def test_settings_of_the_pooling(splade):
    for settings, problem in (
        ({"pooling_strategy": "mean"}, "has the pooling 'mean' with 'relu', which is not known"),
        ({"activation_function": "gelu"}, "has the pooling 'max' with 'gelu'"),
        ({"chunk": 3}, "has the unknown setting 'chunk'"),
    ):
        write_json(splade / "1_SpladePooling/config.json", settings)
        refused(splade, problem)
    write_json(splade / "1_SpladePooling/config.json", {})
    assert read_splade_pooling(splade / "1_SpladePooling") == SpladePooling()


def test_modules_that_are_not_known(splade):
    write_modules(splade, ("MLMTransformer", "SpladePooling", "Normalize"))
    refused(splade, "has the modules MLMTransformer, SpladePooling, Normalize, which are not supported")
    write_modules(splade, ("Transformer", "SpladePooling"))
    refused(splade, "needs a transformer for the task 'fill-mask'")
    write_modules(splade, ("Transformer", "Pooling", "SparseAutoEncoder"))
    refused(splade, r"has a SparseAutoEncoder \(CSR\), which is not supported")


def test_declared_settings(splade):
    path = splade / "config_sentence_transformers.json"
    write_json(path, {"model_type": "SparseEncoder", "max_active_dims": 0})
    refused(splade, "has 0 as max_active_dims")
    write_json(path, {"model_type": "SparseEncoder", "similarity_fn_name": "euclidean"})
    refused(splade, "compares sparse vectors by 'euclidean'; only dot and cosine are supported")
    write_json(path, {"model_type": "SparseEncoder", "similarity_fn_name": "cosine", "max_active_dims": 7})
    assert read_checkpoint(str(splade)).max_active_dims == 7
    refused(splade, "is for the task 'sparse', so it cannot be exported for 'embed'", "embed")


def test_embedder_without_a_sparse_head(tmp_path):
    refused(write_checkpoint(tmp_path / "checkpoint"), "has the modules Transformer, Pooling, Normalize", "sparse")


def test_routers(tmp_path):
    path = tmp_path / "router_config.json"
    static, splade = "s.SparseStaticEmbedding", ["s.MLMTransformer", "s.SpladePooling"]
    good = {
        "types": {"query_0": static, "document_0": splade[0], "document_1": splade[1]},
        "structure": {"query": ["query_0"], "document": ["document_0", "document_1"]},
        "parameters": {"default_route": "document", "allow_empty_key": True},
    }
    write_json(path, good)
    routes = read_routes(tmp_path)
    assert [module.kind for module in routes["document"]] == ["MLMTransformer", "SpladePooling"]
    assert routes["query"][0].directory == tmp_path / "query_0"
    for change, problem in (
        ({"types": []}, "is not the settings of a router"),
        ({"parameters": {}}, "has the default route 'query'; only 'document' is supported"),
        ({"types": {}}, "has the module 'query_0', which has no type or no folder"),
        ({"types": {"../x": static}, "structure": {"query": ["../x"]}}, "has the module '../x'"),
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(CheckpointError, match=problem):
            read_routes(tmp_path)


def test_routers_with_other_modules(splade):
    write_modules(splade, ("Router",))
    settings = {
        "types": {"a": "s.MLMTransformer", "b": "s.SpladePooling"},
        "structure": {"query": ["a", "b"], "document": ["a", "b"]},
        "parameters": {"default_route": "document"},
    }
    write_json(splade / "router_config.json", settings)
    write_json(splade / "config_sentence_transformers.json", {"model_type": "SparseEncoder"})
    refused(splade, "a router needs static weights for queries and a SPLADE for documents. Here it has query: MLM")


def test_static_weights(tmp_path):
    directory = write_checkpoint(tmp_path / "checkpoint")
    write_json(directory / "config.json", {"path": "elsewhere/idf.json"})
    write_json(directory / "idf.json", {"a": 0.5, "##b": 2})
    weights = read_static_weights(directory)
    assert weights.shape == (VOCABULARY_SIZE,)
    assert sorted(weights[weights > 0].tolist()) == [0.5, 2.0]
    write_json(directory / "idf.json", {"no such token": 1.0})
    with pytest.raises(CheckpointError, match=r"has the weight 1\.0 for the token 'no such token'"):
        read_static_weights(directory)
    write_json(directory / "config.json", {"frozen": True, "scale": 1})
    with pytest.raises(CheckpointError, match="has the unknown setting 'scale'"):
        read_static_weights(directory)
