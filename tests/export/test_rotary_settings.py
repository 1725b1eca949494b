"""Settings of models with rotary positions, and the classes of the Hub's code that config.json may name."""

import numpy as np
import onnx_ir as ir
import pytest
from embedder_export.body.rope import Rope, frequencies
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.errors import CheckpointError, NotNativeError
from embedder_export.families.old_names import OldNames, renamer
from embedder_export.families.table import FAMILIES, OTHER, family_of_config

from tests.checkpoints import edit_json, write_checkpoint

NOMIC = {
    "model_type": "nomic_bert", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 256, "n_positions": 8192,
    "activation_function": "swiglu", "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "qkv_proj_bias": False,
    "mlp_fc1_bias": False, "mlp_fc2_bias": False, "vocab_size": 30522, "pad_vocab_size_multiple": 64,
    "layer_norm_epsilon": 1e-12,
}  # fmt: skip
MOE = NOMIC | {"activation_function": "gelu", "moe_every_n_layers": 2, "num_experts": 8, "moe_top_k": 2}
GTE = {"model_type": "new", "rope_theta": 160000, "num_attention_heads": 4, "hidden_size": 64}
JINA_V3 = {"model_type": "xlm-roberta", "position_embedding_type": "rotary", "rotary_emb_base": 20000.0}
FAMILY_OF = {
    "nomic": FAMILIES["nomic_bert"],
    "gte": FAMILIES["gte"],
    "jina": FAMILIES["jina_embeddings_v3"],
    "modernbert": FAMILIES["modernbert"],
}


def settings_of(name, config):
    family = FAMILY_OF[name]
    return family.read_settings(config, family.settings)


def test_settings_of_the_hubs_nomic_bert():
    settings = settings_of("nomic", NOMIC)
    assert settings == settings_of("nomic", NOMIC | {"hidden_size": 64, "hidden_act": "silu"})
    assert (settings.hidden_size, settings.num_hidden_layers, settings.num_attention_heads) == (64, 2, 4)
    assert (settings.intermediate_size, settings.max_position_embeddings, settings.vocab_size) == (256, 8192, 30528)
    assert settings.rope == Rope(1000.0, 16)
    without = {key: value for key, value in NOMIC.items() if "bias" not in key and key != "n_inner"}
    assert settings_of("nomic", without).intermediate_size == 256
    assert settings_of("nomic", without).qkv_proj_bias
    scaled = settings_of("nomic", NOMIC | {"rotary_scaling_factor": 2, "max_trained_positions": 1024}).rope
    assert scaled == Rope(1000.0, 16, scaling="dynamic", factor=2.0, trained_positions=1024)


def test_settings_of_experts():
    settings = settings_of("nomic", MOE)
    assert (settings.is_gated, settings.hidden_act) == (False, "gelu")
    assert (settings.moe_every_n_layers, settings.num_experts, settings.moe_top_k) == (2, 8, 2)
    without = settings_of("nomic", MOE | {"moe_every_n_layers": 0})
    assert (without.is_gated, without.moe_every_n_layers, without.num_experts) == (False, 0, 0)
    # transformers' class has none of them.
    assert settings_of("nomic", {"moe_every_n_layers": 2, "is_gated": False}) == settings_of("nomic", {})


def test_settings_of_the_hubs_gte_and_jina_v3():
    ntk = {"rope_scaling": {"type": "ntk", "factor": 8.0}, "unpad_inputs": True, "use_memory_efficient_attention": True}
    assert settings_of("gte", GTE | ntk).rope == Rope(160000.0, 16, scaling="ntk", factor=8.0)
    assert settings_of("jina", JINA_V3).rope == Rope(20000.0, 64)


def test_settings_of_modernbert():
    older = {"num_hidden_layers": 4, "global_rope_theta": 80000.0, "local_rope_theta": None}
    settings = settings_of("modernbert", older)
    kinds = ("full_attention", "sliding_attention", "sliding_attention", "full_attention")
    assert settings.layer_types == kinds
    assert settings.ropes == dict.fromkeys(kinds, Rope(80000.0, 64))
    newer = {
        "num_hidden_layers": 4,
        "layer_types": list(kinds),
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": 80000.0} for kind in kinds},
    }
    both = settings_of("modernbert", newer)
    assert (both.layer_types, both.ropes) == (settings.layer_types, settings.ropes)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("nomic", NOMIC | {"prenorm": True}, "True as prenorm"),
        ("nomic", NOMIC | {"moe_every_n_layers": 2}, r"has experts \(moe_every_n_layers\) with 'swiglu'"),
        ("nomic", MOE | {"moe_every_n_layers": "2"}, "'2' as moe_every_n_layers"),
        ("nomic", MOE | {"moe_top_k": 0}, "0 as moe_top_k of 8 experts"),
        ("nomic", MOE | {"num_experts": None}, "2 as moe_top_k of 0 experts"),
        ("nomic", MOE | {"moe_normalize_expert_weights": True}, "True as moe_normalize_expert_weights"),
        ("nomic", MOE | {"expert_choice_router": True}, "True as expert_choice_router"),
        ("nomic", MOE | {"num_shared_experts": 1}, "1 as num_shared_experts"),
        ("nomic", NOMIC | {"norm_mlp": True}, "True as norm_mlp"),
        ("nomic", NOMIC | {"causal": True}, "True as causal"),
        ("nomic", NOMIC | {"use_rms_norm": True}, "True as use_rms_norm"),
        ("nomic", NOMIC | {"activation_function": "gelu_new"}, "'gelu_new' as activation_function"),
        ("nomic", NOMIC | {"hidden_size": 32}, "32 as hidden_size and another n_embd"),
        ("nomic", NOMIC | {"rotary_emb_fraction": 0.0}, "0.0 as rotary_emb_fraction"),
        ("nomic", NOMIC | {"rotary_emb_fraction": 0.1}, "rotates 1 numbers of a head, which are not pairs"),
        ("nomic", NOMIC | {"rotary_emb_interleaved": 1}, "1 as rotary_emb_interleaved"),
        ("nomic", NOMIC | {"rotary_emb_base": "1000"}, "'1000' as rotary_emb_base"),
        ("nomic", NOMIC | {"rotary_scaling_factor": 0.5}, "0.5 as rotary_scaling_factor"),
        ("nomic", NOMIC | {"rotary_scaling_factor": 2, "max_trained_positions": 0}, "0 as max_trained_positions"),
        ("nomic", NOMIC | {"n_head": 5}, "5 attention heads for a width of 64"),
        (
            "nomic",
            {"rope_parameters": {"rope_type": "longrope", "factor": 2.0}},
            "'longrope' as the type of its rotary",
        ),
        ("nomic", {"rope_parameters": [1]}, r"\[1\] as rope_parameters"),
        ("nomic", {"rope_parameters": {"rope_theta": 0}}, "0 as rope_theta"),
        ("nomic", {"head_dim": 15}, "heads of width 15, which cannot be rotated in pairs"),
        ("nomic", {"partial_rotary_factor": 0.5}, "0.5 as partial_rotary_factor"),
        ("gte", GTE | {"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.5}}, "0.5 as mixed_b of its rotary"),
        ("gte", GTE | {"rope_scaling": {"type": "linear"}}, "None as factor"),
        ("gte", GTE | {"position_embedding_type": "absolute"}, "'absolute' as position_embedding_type"),
        ("gte", GTE | {"layer_norm_type": "rms_norm"}, "'rms_norm' as layer_norm_type"),
        ("gte", GTE | {"logn_attention_scale": True}, "True as logn_attention_scale"),
        ("modernbert", {"num_attention_heads": 5}, "5 attention heads for a width of 768"),
        ("modernbert", {"local_attention": 1}, "1 as local_attention"),
        ("modernbert", {"norm_bias": None}, "None as norm_bias"),
        ("modernbert", {"layer_types": ["full_attention"]}, r"\['full_attention'\] as layer_types of 22 layers"),
        ("modernbert", {"rope_parameters": {"rope_theta": 1.0}}, "as rope_parameters"),
        ("modernbert", {"global_rope_theta": "high"}, "'high' as rope_theta"),
        ("modernbert", {"classifier_pooling": "max"}, "'max' as classifier_pooling"),
        ("jina", JINA_V3 | {"position_embedding_type": None}, "None as position_embedding_type"),
    ],
)
def test_unsupported_settings(name, config, message):
    with pytest.raises(NotNativeError, match=message):
        settings_of(name, config)


def test_frequencies_are_their_formulas():
    exponents = np.arange(0, 64, 2) / 64
    np.testing.assert_allclose(frequencies(Rope(1e4, 64)), 1e4**-exponents, rtol=1e-6)
    np.testing.assert_allclose(frequencies(Rope(1e4, 64, scaling="linear", factor=4.0)), 1e4**-exponents / 4, rtol=1e-6)
    ntk = (2e4**-exponents) / 2 ** (2 / 64)
    np.testing.assert_allclose(frequencies(Rope(1e4, 64, scaling="ntk", factor=2.0)), ntk, rtol=1e-6)


def test_classes_of_the_hubs_code_decide_the_family():
    names = {"AutoConfig": "configuration.NewConfig", "AutoModel": "org/new-impl--modeling.NewModel"}
    assert family_of_config({"model_type": "bert", "auto_map": names}) is FAMILIES["gte"]
    tokenizer = {"AutoTokenizer": [None, "tokenization.Other"]}
    assert family_of_config({"model_type": "bert", "auto_map": tokenizer}) is FAMILIES["bert"]
    assert family_of_config({"model_type": "novel"}) is OTHER


@pytest.mark.parametrize(
    ("auto_map", "message"),
    [
        ({"AutoModel": "modeling.MyBertModel"}, r"names 'modeling\.MyBertModel', a class of the repository's own code"),
        ({"AutoConfig": "configuration.MyConfig"}, "That code is never run, and the export does not know this class"),
        ({"AutoModel": ["modeling.NewModel"]}, "a class of the repository's own code"),
        ({"AutoConfig": "c.NewConfig", "AutoModel": "m.NomicBertModel"}, "names classes of different models"),
        (["modeling.NewModel"], r"\['modeling\.NewModel'\] as auto_map"),
    ],
)
def test_unknown_classes_are_refused(tmp_path, auto_map, message):
    write_checkpoint(tmp_path / "checkpoint")
    edit_json(tmp_path / "checkpoint/config.json", auto_map=auto_map)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(str(tmp_path / "checkpoint"))


def test_adapters_are_refused_by_name(tmp_path):
    write_checkpoint(tmp_path / "checkpoint", types={"Transformer": "custom_st.Transformer"})
    edit_json(tmp_path / "checkpoint/config.json", lora_adaptations=["retrieval.query", "text-matching"])
    with pytest.raises(CheckpointError, match=r"has adapters \(retrieval\.query, text-matching\), which are not"):
        read_checkpoint(str(tmp_path / "checkpoint"))


@pytest.mark.parametrize(
    ("weights", "message"),
    [({"old.a": 2, "a": 2}, "the weights have a twice"), ({"qk.weight": 3}, "qk.weight with 3 rows, which are not 2")],
)
def test_names_that_do_not_fit(weights, message):
    given = {name: ir.tensor(np.zeros((rows, 2), np.float32)) for name, rows in weights.items()}
    with pytest.raises(NotNativeError, match=message):
        renamer(OldNames([(r"^old\.", "")], {"qk": ("q", "k")}))(given)
