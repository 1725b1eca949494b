"""GTE (Zhang et al., 2024: https://arxiv.org/abs/2407.19669): BERT with rotary positions and gated units.

gte-en-v1.5, gte-multilingual with its reranker, and snowflake-arctic-embed-m-v2.0. The Hub's code calls the model
"new". Its options for speed (unpad_inputs, use_memory_efficient_attention) change no vector, and are ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import onnx_ir as ir

from embedder_export.body.attention import check_heads
from embedder_export.body.network import Network
from embedder_export.body.post_norm import SELF_ATTENTION_NAMES, LayerNames
from embedder_export.body.rope import Rope
from embedder_export.families import rotary_bert
from embedder_export.families.family import Family, RankHead, text_builder
from embedder_export.families.old_names import OldNames, renamer
from embedder_export.families.rope_settings import RopeSetting, read_rope
from embedder_export.families.settings import Activation, Count, Epsilon, at_least, one_of, read_settings

_DEFAULT_ROPE = Rope(160000.0, 64)


@dataclass(frozen=True, kw_only=True)
class GteSettings(rotary_bert.RotaryBertSettings):
    """The settings of config.json that the equations below use.

    The last three are only in the Hub's layout. `rope` follows from other settings.
    """

    vocab_size: Count = 250048
    hidden_size: Count = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    intermediate_size: Count = 3072
    hidden_act: Activation = "gelu"
    max_position_embeddings: Count = 8192
    type_vocab_size: Annotated[int, at_least(0)] = 1
    layer_norm_eps: Epsilon = 1e-12
    rope: RopeSetting = _DEFAULT_ROPE
    layer_norm_type: Annotated[str, one_of("layer_norm")] = "layer_norm"
    position_embedding_type: Annotated[str, one_of("rope")] = "rope"
    logn_attention_scale: Annotated[bool, one_of(False)] = False


# Theta of configurations without one: of transformers' class, and of the Hub's code.
_THETA, _HUB_THETA = 160000.0, 10000.0
_HUB_TYPE = "new"
_OLD_NAMES = OldNames(
    [
        (r"^new\.", "gte."),
        (r"\bencoder\.layer\.", "layers."),
        (r"\battention\.([qkvo])_proj\.", r"self_attn.\1_proj."),
        (r"\battn_ln\.", "post_attention_layernorm."),
        (r"\bmlp_ln\.", "post_mlp_layernorm."),
    ],
    {
        "attention.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "mlp.up_gate_proj": ("mlp.up_proj", "mlp.gate_proj"),
    },
)
_NAMES = LayerNames(**SELF_ATTENTION_NAMES, gate="mlp.gate_proj", up="mlp.up_proj", down="mlp.down_proj")


def _read_settings(config: Mapping[str, Any], kind: type[GteSettings]) -> GteSettings:
    settings = read_settings({key: value for key, value in config.items() if key != "rope"}, kind)
    check_heads(settings.num_attention_heads, settings.hidden_size)
    theta = _HUB_THETA if config.get("model_type") == _HUB_TYPE else _THETA
    head_width = settings.hidden_size // settings.num_attention_heads
    return replace(settings, rope=read_rope(config, head_width, theta, settings.max_position_embeddings))


def _is_remote(config: Mapping[str, Any]) -> bool:
    """Return whether only the Hub's code knows the model. transformers' class has no such scaling."""
    scaling = config.get("rope_scaling") or {}
    return config.get("model_type") == _HUB_TYPE or "ntk" in (scaling.get("rope_type"), scaling.get("type"))


def token_vectors(net: Network, config: GteSettings) -> ir.Value:
    """Write the token vectors, (batch, sequence, hidden_size)."""
    return rotary_bert.token_vectors(net, config, _NAMES, up_bias=False)


GTE = Family(
    "gte",
    "XLMRobertaTokenizer",
    GteSettings,
    text_builder(token_vectors, rotary_bert.body_sizes, is_rotary=True),
    read_settings=_read_settings,
    has_token_types=True,
    rank_head=RankHead("gte.pooler.dense", "Tanh", "classifier"),
    rename=renamer(_OLD_NAMES),
    remote_classes=tuple(
        f"{name}{part}"
        for name in ("New", "Gte")
        for part in (
            "Config",
            "Model",
            "ForMaskedLM",
            "ForMultipleChoice",
            "ForQuestionAnswering",
            "ForSequenceClassification",
            "ForTokenClassification",
        )
    ),
    is_remote=_is_remote,
)
