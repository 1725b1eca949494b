"""The native builders read the weights of every layout of a checkpoint, or say what is wrong with them."""

import json
import shutil
import sys

import pytest
import torch
from embedder_export.body.native import build_bodies
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.errors import CheckpointError, NotNativeError
from embedder_export.families.table import FAMILIES as EXPORTED
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    MPNetForMaskedLM,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.checkpoints import edit_json, write_checkpoint
from tests.native_models import (
    FAMILIES,
    SIZES,
    T5,
    assert_same,
    change_weights,
    native_session,
    pad_id,
    session_of,
    write_model,
)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_formats_of_weights(tmp_path, dtype):
    model = write_model("bert", tmp_path / "checkpoint").to(dtype)
    model.save_pretrained(tmp_path / "checkpoint")
    assert json.loads((tmp_path / "checkpoint/config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    assert_same(native_session(tmp_path / "checkpoint", tmp_path / "graph"), model.float(), 0)


@pytest.mark.parametrize("safe", [True, False])
def test_weights_in_several_files(tmp_path, safe):
    model = write_model("t5", tmp_path / "checkpoint")
    (tmp_path / "checkpoint/model.safetensors").unlink()
    model.save_pretrained(tmp_path / "checkpoint", max_shard_size="20KB", safe_serialization=safe)
    assert len(list((tmp_path / "checkpoint").glob("*-of-*"))) > 1
    assert_same(native_session(tmp_path / "checkpoint", tmp_path / "graph"), model, 0)
    # transformers fills weights that the index lacks with random numbers, even if a file has them.
    (index,) = (tmp_path / "checkpoint").glob("*.index.json")
    names = json.loads(index.read_text())["weight_map"]
    del names["encoder.final_layer_norm.weight"]
    edit_json(index, weight_map=names)
    with pytest.raises(CheckpointError, match=r"the weights lack encoder\.final_layer_norm\.weight"):
        native_session(tmp_path / "checkpoint", tmp_path / "another")


def test_old_weight_names_of_a_larger_model(tmp_path):
    write_checkpoint(tmp_path / "checkpoint")
    model = BertForMaskedLM(BertConfig(**SIZES)).eval()
    model.save_pretrained(tmp_path / "checkpoint")

    change_weights(tmp_path / "checkpoint", lambda weights: {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in weights.items()
    })  # fmt: skip
    names = load_file(tmp_path / "checkpoint/model.safetensors")
    assert {"cls.predictions.bias", "bert.embeddings.LayerNorm.gamma"} <= names.keys()
    assert_same(native_session(tmp_path / "checkpoint", tmp_path / "graph"), model.bert, 0)


def test_encoder_of_an_encoder_and_decoder(tmp_path):
    write_checkpoint(tmp_path / "checkpoint")
    model = T5ForConditionalGeneration(T5Config(**T5)).eval()
    model.save_pretrained(tmp_path / "checkpoint")
    assert_same(native_session(tmp_path / "checkpoint", tmp_path / "graph"), model.encoder, 0)


def test_word_embeddings_under_the_encoders_name(tmp_path):
    model = write_model("t5", tmp_path / "checkpoint")
    change_weights(
        tmp_path / "checkpoint",
        lambda weights: weights | {"encoder.embed_tokens.weight": weights.pop("shared.weight")},
    )
    assert_same(native_session(tmp_path / "checkpoint", tmp_path / "graph"), model, 0)


@pytest.mark.parametrize("changes", [{"alien.weight": torch.ones(2)}, {"position_ids": torch.arange(9)}])
def test_unused_weights(tmp_path, changes):
    model = write_model("bert", tmp_path / "checkpoint")
    change_weights(tmp_path / "checkpoint", lambda weights: weights | changes)
    assert_same(native_session(tmp_path / "checkpoint", tmp_path / "graph"), model, 0)


PARTS = [
    ("bert", BertForMaskedLM, "encoder.layer.1.output.dense.bias"),
    ("roberta", RobertaForMaskedLM, "embeddings.LayerNorm.bias"),
    ("mpnet", MPNetForMaskedLM, "encoder.relative_attention_bias.weight"),
]


@pytest.mark.parametrize(("family", "model_class", "name"), PARTS)
def test_weights_with_and_without_the_prefix(tmp_path, family, model_class, name):
    """Versions of transformers choose differently between the two weights. Unused weights may be there twice."""
    prefix = EXPORTED[family].prefix
    write_checkpoint(tmp_path / "checkpoint")
    model = model_class(FAMILIES[family][1](**SIZES)).eval()
    model.save_pretrained(tmp_path / "checkpoint")
    pooler = {f"{pre}pooler.dense.weight": torch.ones(32, 32) for pre in ("", f"{prefix}.")}
    change_weights(tmp_path / "checkpoint", lambda weights: weights | pooler | {"classifier.bias": torch.ones(2)})
    body = getattr(model, prefix)
    assert_same(native_session(tmp_path / "checkpoint", tmp_path / "graph"), body, pad_id(body))
    old_name = name.replace("LayerNorm.bias", "LayerNorm.beta")
    change_weights(tmp_path / "checkpoint", lambda weights: weights | {old_name: 2 * weights[f"{prefix}.{name}"]})
    with pytest.raises(NotNativeError, match=f"the weights have {name} twice"):
        native_session(tmp_path / "checkpoint", tmp_path / "another")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda w: w | {"embeddings.LayerNorm.gamma": torch.ones(32)}, NotNativeError, "the weights have .* twice"),
        (
            lambda w: w | {"encoder.layer.1.output.dense.bias": torch.ones(32, dtype=torch.int8)},
            CheckpointError,
            r"the weights lack encoder\.layer\.1\.output\.dense\.bias",
        ),
        (
            lambda w: w | {"bert_extra.weight": torch.ones(2)},
            CheckpointError,
            r"the weights lack embeddings\.position_embeddings\.weight",
        ),
        (
            lambda w: w | {"encoder.layer.0.output.dense.bias": torch.ones(32).to(torch.float8_e4m3fn)},
            NotNativeError,
            r"model\.safetensors has encoder\.layer\.0\.output\.dense\.bias as F8_E4M3",
        ),
        (
            lambda w: w | {"embeddings.position_embeddings.weight": torch.ones(7, 32)},
            CheckpointError,
            r"have embeddings\.position_embeddings\.weight of shape \(7, 32\), not \(44, 32\)",
        ),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, error, message):
    write_model("bert", tmp_path / "checkpoint")
    change_weights(tmp_path / "checkpoint", change)
    with pytest.raises(error, match=message):
        build_bodies(read_checkpoint(str(tmp_path / "checkpoint")))["text"]


def test_torch_weights_without_torch(tmp_path, monkeypatch):
    model = write_model("bert", tmp_path / "checkpoint")
    model.save_pretrained(tmp_path / "checkpoint", safe_serialization=False)
    (tmp_path / "checkpoint/model.safetensors").unlink(missing_ok=True)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        bodies = build_bodies(read_checkpoint(str(tmp_path / "checkpoint")))
        session = session_of(bodies["text"], tmp_path / "graph")
    assert_same(session, model, 0)


def test_weights_behind_a_link(tmp_path):
    """The Hub's cache holds links."""
    model = write_model("bert", tmp_path / "checkpoint")
    (tmp_path / "blobs").mkdir()
    shutil.move(tmp_path / "checkpoint/model.safetensors", tmp_path / "blobs/0123")
    (tmp_path / "checkpoint/model.safetensors").symlink_to("../blobs/0123")
    assert_same(native_session(tmp_path / "checkpoint", tmp_path / "graph"), model, 0)


def test_weights_with_a_second_hard_link(tmp_path):
    """Backups make such links."""
    model = write_model("bert", tmp_path / "checkpoint")
    (tmp_path / "backup").hardlink_to(tmp_path / "checkpoint/model.safetensors")
    assert_same(native_session(tmp_path / "checkpoint", tmp_path / "graph"), model, 0)
