"""The native builders: their graphs give the token vectors of transformers, or they refuse the checkpoint."""

import sys
from dataclasses import fields, replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from embedder_export.body.convert import check_converter, convert_bodies
from embedder_export.body.distance_bias import bucket
from embedder_export.body.native import build_bodies
from embedder_export.body.traced import trace_text_encoder
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.errors import NeedsTorchError, NotNativeError
from embedder_export.families.settings import ACTIVATION_NAMES, DERIVED
from embedder_export.families.table import FAMILIES as EXPORTED
from embedder_export.graph.files import save_graph
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import (
    BertConfig,
)
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder
from transformers.models.t5.modeling_t5 import T5Attention

from tests.checkpoints import edit_json, write_checkpoint
from tests.native_models import (
    FAMILIES,
    LENGTH,
    assert_same,
    change_weights,
    native_session,
    pad_id,
    session_of,
    write_model,
)

VARIATIONS = [
    ("bert", {}),
    ("bert", {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 50}),
    ("bert", {"layer_norm_eps": 0.01, "type_vocab_size": 1, "pad_token_id": 7}),
    *(("bert", {"hidden_act": name}) for name in ACTIVATION_NAMES),
    ("distilbert", {}),
    ("distilbert", {"activation": "relu", "n_heads": 2, "sinusoidal_pos_embds": True}),
    ("roberta", {}),
    ("roberta", {"pad_token_id": 0, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    ("xlm-roberta", {"pad_token_id": 3}),
    ("mpnet", {}),
    ("mpnet", {"relative_attention_num_buckets": 40, "hidden_act": "gelu_new", "num_attention_heads": 8}),
    ("camembert", {}),
    ("albert", {}),
    ("albert", {"num_hidden_layers": 5, "num_hidden_groups": 2, "inner_group_num": 2, "hidden_act": "gelu"}),
    ("albert", {"num_hidden_layers": 6, "num_hidden_groups": 6, "embedding_size": 48}),
    ("electra", {}),
    ("electra", {"embedding_size": 32, "hidden_act": "relu"}),
    ("t5", {}),
    ("t5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    ("t5", {"feed_forward_proj": "gated-silu", "layer_norm_epsilon": 0.01}),
    ("t5", {"feed_forward_proj": "gelu", "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}),
    ("t5", {"relative_attention_num_buckets": 9, "relative_attention_max_distance": 17, "num_heads": 4, "d_kv": 8}),
]


@pytest.mark.parametrize(("family", "changes"), VARIATIONS)
def test_same_token_vectors_as_transformers(tmp_path, family, changes):
    model = write_model(family, tmp_path / "checkpoint", **changes)
    assert_same(native_session(tmp_path / "checkpoint", tmp_path / "graph"), model, pad_id(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_same_token_vectors_as_optimums_graph(tmp_path, family):
    model = write_model(family, tmp_path / "checkpoint")
    checkpoint = read_checkpoint(str(tmp_path / "checkpoint"))
    theirs, ours = trace_text_encoder(checkpoint, tmp_path / "traced"), build_bodies(checkpoint)["text"]
    # A traced graph computes its rotations for any text, a native one for as many tokens as a text may have.
    sizes = replace(theirs.sizes, usable_positions=LENGTH + 4) if family == "qwen3" else theirs.sizes
    assert replace(ours, forms=()) == replace(theirs, forms=(), sizes=sizes)
    assert_same(session_of(ours, tmp_path / "ours"), session_of(theirs, tmp_path / "theirs"), pad_id(model))


def test_fewer_nodes_and_no_copies_of_weights(tmp_path):
    """ALBERT's layers share their weights. The file stores them once."""
    write_model("albert", tmp_path / "checkpoint", num_hidden_layers=8)
    body = build_bodies(read_checkpoint(str(tmp_path / "checkpoint")))["text"]
    _, model = next(iter(body.forms))
    assert len(model.graph) < 8 * 25
    save_graph(model, tmp_path / "graph")
    # Each small tensor fills a page.
    assert (tmp_path / "graph/model.onnx.data").stat().st_size < 20 * 4096


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("bert", {"model_type": "deberta-v2"}, "'deberta-v2' as model_type"),
        ("bert", {"model_type": ["bert"]}, r"\['bert'\] as model_type"),
        ("bert", {"hidden_act": "laplace"}, "'laplace' as hidden_act"),
        ("bert", {"hidden_act": {"a": 1}}, "as hidden_act"),
        ("bert", {"position_embedding_type": "relative_key"}, "'relative_key' as position_embedding_type"),
        ("albert", {"position_embedding_type": "relative_key_query"}, "as position_embedding_type"),
        ("roberta", {"pad_token_id": None}, "None as pad_token_id"),
        ("bert", {"is_decoder": True}, "True as is_decoder"),
        ("bert", {"is_decoder": 0}, "0 as is_decoder"),
        ("bert", {"pruned_heads": {"0": [1]}}, "as pruned_heads"),
        ("bert", {"quantization_config": {"quant_method": "awq"}}, "as quantization_config"),
        ("bert", {"dtype": "int8"}, "'int8' as dtype"),
        ("bert", {"torch_dtype": "float8_e4m3fn"}, "as torch_dtype"),
        ("bert", {"num_attention_heads": 5}, "5 attention heads for a width of 32"),
        ("bert", {"num_hidden_layers": 0}, "0 as num_hidden_layers"),
        ("bert", {"hidden_size": 32.0}, "32.0 as hidden_size"),
        ("bert", {"layer_norm_eps": 0}, "0 as layer_norm_eps"),
        ("bert", {"layer_norm_eps": "1e-12"}, "'1e-12' as layer_norm_eps"),
        ("bert", {"type_vocab_size": 0}, "0 as type_vocab_size"),
        ("distilbert", {"hidden_size": 64}, "64 as hidden_size and another dim"),
        ("mpnet", {"relative_attention_num_buckets": 16}, "16 as relative_attention_num_buckets"),
        ("t5", {"feed_forward_proj": "geglu-relu"}, "'geglu-relu' as feed_forward_proj"),
        ("t5", {"dense_act_fn": "laplace"}, "as feed_forward_proj"),
        ("t5", {"feed_forward_proj": "gated", "dense_act_fn": "relu"}, "'gated' as feed_forward_proj"),
        ("t5", {"is_gated_act": None}, "None as is_gated_act"),
        ("bert", {"configuration_files": ["config.4.0.0.json"]}, "as configuration_files"),
        ("bert", {"transformers_weights": "other.safetensors"}, "as transformers_weights"),
        ("bert", {"attribute_map": {"classifier_dropout": "layer_norm_eps"}}, "as attribute_map"),
        ("t5", {"relative_attention_max_distance": 8}, "8 as relative_attention_max_distance of 32 buckets"),
        ("t5", {"num_hidden_layers": 3}, "3 as num_hidden_layers and another num_layers"),
    ],
)
def test_unsupported_settings(tmp_path, family, changes, message):
    write_model(family, tmp_path / "checkpoint")
    edit_json(tmp_path / "checkpoint/config.json", **changes)
    with pytest.raises(NotNativeError, match=message):
        build_bodies(read_checkpoint(str(tmp_path / "checkpoint")))["text"]


@pytest.mark.parametrize("family", FAMILIES)
def test_aliases_of_settings_match_transformers(family):
    known = FAMILIES[family][1].attribute_map.items()
    assert EXPORTED[family].aliases == dict(known)


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_match_transformers(family):
    config = FAMILIES[family][1]()
    for field in fields(EXPORTED[family].settings):
        if field.default not in (None, DERIVED):  # transformers has no default for the others
            assert field.default == getattr(config, field.name), field.name


# Settings of transformers that the builders ignore. They act only in training, or only in other heads and decoders.
TRAINING = {
    "attention_dropout", "attention_probs_dropout_prob", "dropout", "dropout_rate", "hidden_dropout_prob",
    "initializer_factor", "initializer_range", "qa_dropout", "seq_classif_dropout", "classifier_dropout",
    "classifier_dropout_prob", "gradient_checkpointing",
}  # fmt: skip
OTHER_HEADS_AND_DECODERS = {
    "use_cache", "num_decoder_layers", "is_encoder_decoder", "tie_word_embeddings", "tie_encoder_decoder",
    "cross_attention_hidden_size", "n_positions", "decoder_start_token_id", "sinusoidal_pos_embds",
    "summary_activation", "summary_last_dropout", "summary_type", "summary_use_proj",
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_setting_is_honoured_or_has_no_effect(family):
    """This fails if a newer transformers has a new setting. A developer then decides whether a builder must read it."""
    own = FAMILIES[family][1]().to_diff_dict().keys() | FAMILIES[family][1]().to_dict().keys()
    general = BertConfig.__base__().to_dict().keys()
    # The padding's id acts in training alone, except in RoBERTa, which counts positions from it.
    inert = TRAINING | OTHER_HEADS_AND_DECODERS | {"model_type", "pad_token_id"}
    assert own - general - inert - {field.name for field in fields(EXPORTED[family].settings)} == set()


@given(st.integers(4, 80), st.integers(1, 400))
@example(34, 335)
def test_buckets_match_transformers(buckets, beyond):
    max_distance = buckets // 4 + beyond
    distances = np.arange(-2 * max_distance - 5, 2 * max_distance + 6)
    options = {"bidirectional": True, "num_buckets": buckets, "max_distance": max_distance}
    theirs = T5Attention._relative_position_bucket(torch.from_numpy(distances), **options).numpy()
    # At the exact limit of two buckets the last bit of a logarithm decides, which torch and NumPy compute differently.
    exact = buckets // 4
    steps = np.log(np.maximum(np.abs(distances), exact) / exact) / np.log(max_distance / exact)
    steps *= buckets // 2 - exact
    clear = (np.abs(steps - np.rint(steps)) > 1e-5) | (np.abs(distances) <= exact)
    assert (bucket(distances, buckets, max_distance) == theirs)[clear].all()
    # The graph's table ends at `max_distance`.
    clipped = bucket(np.clip(distances, -max_distance, max_distance), buckets, max_distance)
    assert (theirs == clipped)[clear].all()


def test_buckets_of_mpnet():
    distances = np.arange(-600, 601)
    theirs = MPNetEncoder.relative_position_bucket(torch.from_numpy(distances)).numpy()
    assert (bucket(distances, 32, 128) == theirs).all()


@pytest.fixture
def relative_key_bert(tmp_path):
    """Write a checkpoint that only optimum can convert."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    edit_json(checkpoint / "config.json", position_embedding_type="relative_key")
    change_weights(checkpoint, lambda weights: weights | {
        f"encoder.layer.{layer}.attention.self.distance_embedding.weight": torch.randn(127, 8) for layer in range(2)
    })  # fmt: skip
    return read_checkpoint(str(checkpoint))


def test_auto_reports_why_it_uses_optimum(relative_key_bert, tmp_path):
    lines = []
    body = convert_bodies(relative_key_bert, "auto", tmp_path / "body", lines.append)["text"]
    assert next(form for form, _ in body.forms) == "traced"
    assert lines == [
        "no native builder for checkpoint: config.json has 'relative_key' as position_embedding_type; converting it "
        "with optimum"
    ]
    with pytest.raises(NotNativeError, match=r"no native builder for checkpoint: config\.json has 'relative_key'"):
        convert_bodies(relative_key_bert, "native", tmp_path / "body", lines.append)


def test_optimum_without_torch(relative_key_bert, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optimum", None)
    hint = r': that needs torch.*pip install "embedder-export\[torch\]"'
    with pytest.raises(NeedsTorchError, match="'relative_key' as position_embedding_type" + hint):
        convert_bodies(relative_key_bert, "auto", tmp_path / "body", lambda line: None)
    with pytest.raises(NeedsTorchError, match="optimum converts by tracing" + hint):
        check_converter("optimum")


def test_longer_than_the_table_of_positions(tmp_path):
    """The runtime truncates texts first. A graph that is given more tokens fails."""
    for family in ("bert", "roberta", "mpnet", "albert"):
        write_model(family, tmp_path / family)
        session = native_session(tmp_path / family, tmp_path / f"{family}-graph")
        ids = np.full((2, LENGTH + 5), 5)
        with pytest.raises(Exception, match="Non-zero status code"):
            session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})


def test_graph_is_valid(tmp_path):
    """onnx's checker accepts it. The checker ignores onnxruntime's own operators."""
    write_model("t5", tmp_path / "checkpoint")
    body = build_bodies(read_checkpoint(str(tmp_path / "checkpoint")))["text"]
    _, model = next(iter(body.forms))
    path = save_graph(model, tmp_path / "graph")
    onnx.checker.check_model(path)
    assert ir.load(path).opset_imports == {"": 24}
