"""The native builders: the same token vectors as transformers and as optimum's graph, or a refusal."""

import json
import shutil
import sys
from dataclasses import fields, replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from embedder_export.body.contract import Body
from embedder_export.body.convert import check_converter, convert_bodies
from embedder_export.body.native import build_bodies
from embedder_export.body.network import bucket
from embedder_export.body.traced import trace_text_encoder
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.errors import CheckpointError, NeedsTorchError, NotNativeError
from embedder_export.families.settings import ACTIVATION_NAMES, DERIVED
from embedder_export.families.table import FAMILIES as EXPORTED
from embedder_export.graph.files import save_graph
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    CamembertConfig,
    CamembertModel,
    DistilBertConfig,
    DistilBertModel,
    MPNetConfig,
    MPNetForMaskedLM,
    MPNetModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaModel,
)
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder
from transformers.models.t5.modeling_t5 import T5Attention

from tests.checkpoints import SMALL, edit_json, write_checkpoint

ROWS, LENGTH = 90, 40
SIZES = {"vocab_size": ROWS, "max_position_embeddings": LENGTH + 4, **SMALL}
DISTILBERT = {"vocab_size": ROWS, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4}
T5 = {"vocab_size": ROWS, "d_model": 32, "d_ff": 48, "d_kv": 12, "num_layers": 2, "num_heads": 3}
FAMILIES = {
    "bert": (BertModel, BertConfig, SIZES),
    "distilbert": (DistilBertModel, DistilBertConfig, DISTILBERT),
    "roberta": (RobertaModel, RobertaConfig, SIZES),
    "xlm-roberta": (XLMRobertaModel, XLMRobertaConfig, SIZES),
    "camembert": (CamembertModel, CamembertConfig, SIZES),
    "mpnet": (MPNetModel, MPNetConfig, SIZES),
    "albert": (AlbertModel, AlbertConfig, SIZES | {"embedding_size": 16}),
    "t5": (T5EncoderModel, T5Config, T5),
}
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
    ("t5", {}),
    ("t5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    ("t5", {"feed_forward_proj": "gated-silu", "layer_norm_epsilon": 0.01}),
    ("t5", {"feed_forward_proj": "gelu", "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}),
    ("t5", {"relative_attention_num_buckets": 9, "relative_attention_max_distance": 17, "num_heads": 4, "d_kv": 8}),
]


def write_model(family: str, directory, **changes) -> PreTrainedModel:
    """Write a random model into the directory of a checkpoint. Its tokenizer does not matter here."""
    model_class, config_class, sizes = FAMILIES[family]
    torch.manual_seed(0)
    model = model_class(config_class(attn_implementation="eager", **(sizes | changes)))
    with torch.no_grad():
        for parameter in model.parameters():  # biases and scales as training leaves them, not 0 and 1
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    write_checkpoint(directory)
    model.save_pretrained(directory)
    return model.eval()


def session_of(body: Body, directory):
    _, model = next(iter(body.forms))
    return onnxruntime.InferenceSession(save_graph(model, directory))


def native_session(checkpoint, directory):
    return session_of(build_bodies(read_checkpoint(str(checkpoint)))["text"], directory)


def batches(pad: int):
    """Yield ids and masks: a batch of several lengths, with the padding's id inside a text; and single texts."""
    generator = np.random.default_rng(0)
    for rows, length in ((4, 20), (1, 1), (1, LENGTH)):
        ids = generator.integers(0, ROWS, (rows, length))
        mask = (np.arange(length) < np.linspace(length, 1, rows).astype(int)[:, None]).astype(np.int64)
        yield np.where(mask, ids, pad), mask


def assert_same(session, expected, pad: int):
    """Compare with `expected`, another session or a model of transformers."""
    for ids, mask in batches(pad):
        feed = {"input_ids": ids, "attention_mask": mask}
        (ours,) = session.run(None, feed)
        if isinstance(expected, PreTrainedModel):
            with torch.no_grad():
                tokens = expected(**{name: torch.from_numpy(value) for name, value in feed.items()})
            theirs = tokens.last_hidden_state.numpy()
        else:
            (theirs,) = expected.run(None, feed)
        difference = np.abs(ours - theirs)[mask.astype(bool)].max() / np.abs(theirs).max()
        assert difference < 3e-6


def pad_id(model) -> int:
    return 1 if model.config.model_type == "mpnet" else model.config.pad_token_id


@pytest.mark.parametrize(("family", "changes"), VARIATIONS)
def test_same_token_vectors_as_transformers(tmp_path, family, changes):
    model = write_model(family, tmp_path / "checkpoint", **changes)
    assert_same(native_session(tmp_path / "checkpoint", tmp_path / "graph"), model, pad_id(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_same_token_vectors_as_optimums_graph(tmp_path, family):
    model = write_model(family, tmp_path / "checkpoint")
    checkpoint = read_checkpoint(str(tmp_path / "checkpoint"))
    theirs, ours = trace_text_encoder(checkpoint, tmp_path / "traced"), build_bodies(checkpoint)["text"]
    assert replace(ours, forms=()) == replace(theirs, forms=())
    assert_same(session_of(ours, tmp_path / "ours"), session_of(theirs, tmp_path / "theirs"), pad_id(model))


def test_fewer_nodes_and_no_copies_of_weights(tmp_path):
    """ALBERT's layers share their weights, also in the file."""
    write_model("albert", tmp_path / "checkpoint", num_hidden_layers=8)
    body = build_bodies(read_checkpoint(str(tmp_path / "checkpoint")))["text"]
    _, model = next(iter(body.forms))
    assert len(model.graph) < 8 * 25
    save_graph(model, tmp_path / "graph")
    # Each small tensor fills a page.
    assert (tmp_path / "graph/model.onnx.data").stat().st_size < 20 * 4096


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_of_the_weights(tmp_path, dtype):
    model = write_model("bert", tmp_path / "checkpoint").to(dtype)
    model.save_pretrained(tmp_path / "checkpoint")
    assert json.loads((tmp_path / "checkpoint/config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    assert_same(native_session(tmp_path / "checkpoint", tmp_path / "graph"), model.float(), 0)


@pytest.mark.parametrize("safe", [True, False])
def test_weights_in_parts(tmp_path, safe):
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


def change_weights(checkpoint, change):
    path = checkpoint / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def test_weights_of_a_larger_model_by_their_old_names(tmp_path):
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


def test_table_of_words_by_the_encoders_name(tmp_path):
    model = write_model("t5", tmp_path / "checkpoint")
    change_weights(
        tmp_path / "checkpoint",
        lambda weights: weights | {"encoder.embed_tokens.weight": weights.pop("shared.weight")},
    )
    assert_same(native_session(tmp_path / "checkpoint", tmp_path / "graph"), model, 0)


@pytest.mark.parametrize("changes", [{"alien.weight": torch.ones(2)}, {"position_ids": torch.arange(9)}])
def test_weights_that_the_model_has_no_use_for(tmp_path, changes):
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
    """Of two weights of one name, versions of transformers take different ones. Unused parts do not count."""
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
def test_settings_that_no_builder_honours(tmp_path, family, changes, message):
    write_model(family, tmp_path / "checkpoint")
    edit_json(tmp_path / "checkpoint/config.json", **changes)
    with pytest.raises(NotNativeError, match=message):
        build_bodies(read_checkpoint(str(tmp_path / "checkpoint")))["text"]


@pytest.mark.parametrize("family", FAMILIES)
def test_other_names_of_settings_are_those_of_transformers(family):
    known = FAMILIES[family][1].attribute_map.items()
    assert EXPORTED[family].aliases == dict(known)


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_those_of_transformers(family):
    config = FAMILIES[family][1]()
    for field in fields(EXPORTED[family].settings):
        if field.default not in (None, DERIVED):  # what a configuration need not have at all
            assert field.default == getattr(config, field.name), field.name


# Settings of transformers that the builders do not read, and why they change no token vector.
TRAINING = {
    "attention_dropout", "attention_probs_dropout_prob", "dropout", "dropout_rate", "hidden_dropout_prob",
    "initializer_factor", "initializer_range", "qa_dropout", "seq_classif_dropout", "classifier_dropout",
    "classifier_dropout_prob", "gradient_checkpointing",
}  # fmt: skip
OTHER_HEADS_AND_DECODERS = {
    "use_cache", "num_decoder_layers", "is_encoder_decoder", "tie_word_embeddings", "tie_encoder_decoder",
    "cross_attention_hidden_size", "n_positions", "decoder_start_token_id", "sinusoidal_pos_embds",
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_setting_that_a_model_reads_is_honoured_or_inert(family):
    """This fails if a newer transformers has a new setting. Somebody then has to look at it."""
    own = FAMILIES[family][1]().to_diff_dict().keys() | FAMILIES[family][1]().to_dict().keys()
    general = BertConfig.__base__().to_dict().keys()
    # The padding's id acts in training alone, except in RoBERTa, which counts positions from it.
    inert = TRAINING | OTHER_HEADS_AND_DECODERS | {"model_type", "pad_token_id"}
    assert own - general - inert - {field.name for field in fields(EXPORTED[family].settings)} == set()


@given(st.integers(4, 80), st.integers(1, 400))
@example(34, 335)
def test_buckets_are_those_of_transformers(buckets, beyond):
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
    """A checkpoint that optimum can convert and no builder can."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    edit_json(checkpoint / "config.json", position_embedding_type="relative_key")
    change_weights(checkpoint, lambda weights: weights | {
        f"encoder.layer.{layer}.attention.self.distance_embedding.weight": torch.randn(127, 8) for layer in range(2)
    })  # fmt: skip
    return read_checkpoint(str(checkpoint))


def test_what_no_builder_honours_goes_to_optimum_with_a_line(relative_key_bert, tmp_path):
    lines = []
    body = convert_bodies(relative_key_bert, "auto", tmp_path / "body", lines.append)["text"]
    assert next(form for form, _ in body.forms) == "traced"
    assert lines == [
        "no native builder for checkpoint: config.json has 'relative_key' as position_embedding_type; converting it "
        "with optimum"
    ]
    with pytest.raises(NotNativeError, match=r"no native builder for checkpoint: config\.json has 'relative_key'"):
        convert_bodies(relative_key_bert, "native", tmp_path / "body", lines.append)


def test_what_needs_torch_where_that_is_not_installed(relative_key_bert, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optimum", None)
    hint = r": that needs torch.*pip install './export\[torch\]'"
    with pytest.raises(NeedsTorchError, match="'relative_key' as position_embedding_type" + hint):
        convert_bodies(relative_key_bert, "auto", tmp_path / "body", lambda line: None)
    with pytest.raises(NeedsTorchError, match="optimum converts by tracing" + hint):
        check_converter("optimum")


def test_torchs_own_format_where_torch_is_not_installed(tmp_path, monkeypatch):
    model = write_model("bert", tmp_path / "checkpoint")
    model.save_pretrained(tmp_path / "checkpoint", safe_serialization=False)
    (tmp_path / "checkpoint/model.safetensors").unlink(missing_ok=True)
    checkpoint = read_checkpoint(str(tmp_path / "checkpoint"))
    assert_same(session_of(build_bodies(checkpoint)["text"], tmp_path / "graph"), model, 0)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(NeedsTorchError, match=r"pytorch_model\.bin is in torch's own format: that needs torch"):
        build_bodies(checkpoint)["text"]


def test_weights_behind_a_link(tmp_path):
    """As in the Hub's cache."""
    model = write_model("bert", tmp_path / "checkpoint")
    (tmp_path / "blobs").mkdir()
    shutil.move(tmp_path / "checkpoint/model.safetensors", tmp_path / "blobs/0123")
    (tmp_path / "checkpoint/model.safetensors").symlink_to("../blobs/0123")
    assert_same(native_session(tmp_path / "checkpoint", tmp_path / "graph"), model, 0)


def test_weights_with_another_name(tmp_path):
    """A second hard link, as backups make them."""
    model = write_model("bert", tmp_path / "checkpoint")
    (tmp_path / "backup").hardlink_to(tmp_path / "checkpoint/model.safetensors")
    assert_same(native_session(tmp_path / "checkpoint", tmp_path / "graph"), model, 0)


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
    assert ir.load(path).opset_imports == {"": 18, "com.microsoft": 1}
