"""The base of Jina Embeddings v3 (Sturua et al., 2024: https://arxiv.org/abs/2409.10173): XLM-RoBERTa with RoPE.

The Hub's code calls its model type "xlm-roberta", and transformers 5 "jina_embeddings_v3". A checkpoint with the
adapters of the tasks is refused before: see `checkpoint.transformer`.

jina-reranker-v2 is of the same code, without RoPE. It has XLM-RoBERTa's table of positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import onnx_ir as ir
from embedder.artifact.manifest import TEXT

from embedder_export.body.attention import check_heads
from embedder_export.body.contract import Body, BodyRequest, BodySizes
from embedder_export.body.network import Network
from embedder_export.body.post_norm import SELF_ATTENTION_NAMES, LayerNames
from embedder_export.body.rope import Rope
from embedder_export.checkpoint.weights import Weights
from embedder_export.errors import NotNativeError
from embedder_export.families import roberta, rotary_bert
from embedder_export.families.family import Family, RankHead, text_builder
from embedder_export.families.old_names import OldNames, renamer
from embedder_export.families.rope_settings import OptionalRope, read_rope, rope_of
from embedder_export.families.settings import Activation, Count, Epsilon, TokenId, read_settings

_DEFAULT_ROPE = Rope(20000.0, 64)


@dataclass(frozen=True, kw_only=True)
class JinaV3Settings(rotary_bert.RotaryBertSettings):
    """The settings of config.json that the equations below use.

    `rope` follows from other settings. It is None if the model has a table of positions.
    """

    vocab_size: Count = 250002
    hidden_size: Count = 1024
    num_hidden_layers: Count = 24
    num_attention_heads: Count = 16
    intermediate_size: Count = 4096
    hidden_act: Activation = "gelu"
    max_position_embeddings: Count = 8194
    type_vocab_size: Count = 1
    layer_norm_eps: Epsilon = 1e-5
    pad_token_id: TokenId = 1
    rope: OptionalRope = _DEFAULT_ROPE


# The model type of transformers' class, and theta of configurations without one: of this class, and of the Hub's code.
_TYPE, _THETA, _HUB_THETA = "jina_embeddings_v3", 20000.0, 10000.0
_OLD_NAMES = OldNames(
    [
        (r"\bemb_ln\.", "embeddings.LayerNorm."),
        (r"\bencoder\.layers\.", "layers."),
        (r"\bmixer\.out_proj\.", "self_attn.o_proj."),
        (r"\bnorm1\.", "post_attention_layernorm."),
        (r"\bnorm2\.", "post_mlp_layernorm."),
    ],
    {"mixer.Wqkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")},
)
_NAMES = LayerNames(**SELF_ATTENTION_NAMES, up="mlp.fc1", down="mlp.fc2")


def _read_settings(config: Mapping[str, Any], kind: type[JinaV3Settings]) -> JinaV3Settings:
    settings = read_settings({key: value for key, value in config.items() if key != "rope"}, kind)
    check_heads(settings.num_attention_heads, settings.hidden_size)
    width, positions = settings.hidden_size // settings.num_attention_heads, settings.max_position_embeddings
    if config.get("model_type") == _TYPE:
        return replace(settings, rope=read_rope(config, width, _THETA, positions))
    if config.get("position_embedding_type") == "absolute":
        return replace(settings, rope=None)
    if config.get("position_embedding_type") != "rotary":
        raise NotNativeError(
            f"config.json has {config.get('position_embedding_type')!r:.80} as position_embedding_type"
        )
    theta = {"rope_theta": config.get("rotary_emb_base", _HUB_THETA)}
    return replace(settings, rope=rope_of(theta, width, _HUB_THETA, positions))


def token_vectors(net: Network, config: JinaV3Settings) -> ir.Value:
    """Write the token vectors, (batch, sequence, hidden_size)."""
    positions = None if config.rope is not None else roberta.position_embeddings(net, _with_table(config))
    return rotary_bert.token_vectors(net, config, _NAMES, positions=positions)


def _with_table(config: JinaV3Settings) -> roberta.XlmRobertaSettings:
    """Return the settings as those of an XLM-RoBERTa, which has a table of positions."""
    names = [field.name for field in fields(roberta.XlmRobertaSettings) if hasattr(config, field.name)]
    return roberta.XlmRobertaSettings(**{name: getattr(config, name) for name in names})


def _sizes_with_table(config: JinaV3Settings) -> BodySizes:
    return roberta.body_sizes(_with_table(config))


_WITH_ROPE = text_builder(token_vectors, rotary_bert.body_sizes, is_rotary=True)[TEXT]
_WITH_TABLE = text_builder(token_vectors, _sizes_with_table)[TEXT]


def _build(weights: Weights, settings: JinaV3Settings, request: BodyRequest) -> Body:
    builder = _WITH_TABLE if settings.rope is None else _WITH_ROPE
    return builder(weights, settings, request)


JINA_V3 = Family(
    "roberta",
    "XLMRobertaTokenizer",
    JinaV3Settings,
    {TEXT: _build},
    read_settings=_read_settings,
    has_token_types=True,
    rank_head=RankHead("classifier.dense", "Tanh", "classifier.out_proj"),
    rename=renamer(_OLD_NAMES),
    remote_classes=(
        "XLMRobertaFlashConfig",
        "XLMRobertaModel",
        "XLMRobertaForMaskedLM",
        "XLMRobertaForPreTraining",
        "XLMRobertaForSequenceClassification",
        "XLMRobertaLoRA",
    ),
    is_remote=lambda config: config.get("model_type") != _TYPE,
)
