"""NomicBERT (Nussbaum et al., 2024: https://arxiv.org/abs/2402.01613): BERT with rotary positions and gated units.

nomic-embed-text v1 and v1.5, and snowflake-arctic-embed-m-long. The repositories on the Hub have the settings and the
weights under the names of their own code. transformers 5 has other names. Both are read.

nomic-embed-text-v2-moe (Nussbaum and Duderstadt, 2025: https://arxiv.org/abs/2502.07972) has no gates, and experts in
every second layer. Only the Hub's code knows such models.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import onnx_ir as ir
from embedder.artifact.manifest import TEXT

from embedder_export.body.contract import Body, BodyRequest
from embedder_export.body.experts import Experts
from embedder_export.body.network import Network
from embedder_export.body.post_norm import SELF_ATTENTION_NAMES, LayerNames
from embedder_export.body.rope import Rope
from embedder_export.checkpoint.weights import Weights
from embedder_export.errors import GraphError, NotNativeError
from embedder_export.families import rotary_bert
from embedder_export.families.family import Family, RankHead, text_builder
from embedder_export.families.old_names import OldNames, renamer
from embedder_export.families.rope_settings import RopeSetting, number, read_rope
from embedder_export.families.settings import (
    Activation,
    Count,
    Epsilon,
    Flag,
    OptionalCount,
    at_least,
    one_of,
    read_settings,
)

_DEFAULT_ROPE = Rope(1000.0, 64)


@dataclass(frozen=True, kw_only=True)
class NomicBertSettings(rotary_bert.RotaryBertSettings):
    """The settings of config.json that the equations below use, by transformers' names.

    Attributes:
        qkv_proj_bias: whether the attention's layers have a bias.
        mlp_fc1_bias: whether the layers before the gate have a bias.
        mlp_fc2_bias: whether the layer after the gate has a bias.
        is_gated: whether the feed-forward parts are gated units.
        moe_every_n_layers: the layers 1, 1 + n, 1 + 2 n and so on have experts. 0: none has.
        num_experts: number of experts of such a layer.
        moe_top_k: how many experts a token takes.
        rope: the rotation, which follows from other settings.
    """

    vocab_size: Count = 30528
    hidden_size: Count = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    head_dim: OptionalCount = None
    intermediate_size: Count = 3072
    hidden_act: Activation = "silu"
    max_position_embeddings: Count = 2048
    type_vocab_size: Annotated[int, at_least(0)] = 2
    layer_norm_eps: Epsilon = 1e-12
    qkv_proj_bias: Flag = False
    mlp_fc1_bias: Flag = False
    mlp_fc2_bias: Flag = False
    is_gated: Flag = True
    moe_every_n_layers: Annotated[int, at_least(0)] = 0
    num_experts: Annotated[int, at_least(0)] = 0
    moe_top_k: Annotated[int, at_least(0)] = 0
    rope: RopeSetting = _DEFAULT_ROPE


_THETA = 1000.0
# The Hub's name of each setting, with transformers' name.
_HUB_NAMES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
    "activation_function": "hidden_act",
}
# transformers' name of the function of each gated unit, and of units without a gate.
_GATED_UNITS = {"swiglu": "silu", "geglu": "gelu", "glu": "sigmoid"}
_FUNCTIONS = _GATED_UNITS | {"gelu": "gelu"}
# Settings of the Hub's layout that change the equations, with the values that the equations honour. The first value is
# the default of the repository's code.
_HUB_RULES: dict[str, tuple[Any, ...]] = {
    "causal": (False,),
    "prenorm": (False,),
    "parallel_block": (False,),
    "use_rms_norm": (False, None),
    "rotary_emb_scale_base": (None,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "norm_mlp": (False,),
    "expert_choice_router": (False, None),
    "moe_normalize_expert_weights": (False, None),
    "num_shared_experts": (0, None),
    "ffn_div": (1, None),
}
# Settings that only the Hub's layout has.
_EXPERTS = ("moe_every_n_layers", "num_experts", "moe_top_k")
_HUB_ONLY = ("is_gated", *_EXPERTS)
_OLD_NAMES = OldNames(
    [
        (r"^bert\.", "nomic_bert."),
        (r"\bemb_ln\.", "embeddings.LayerNorm."),
        (r"\bencoder\.layers\.", "layers."),
        (r"\battn\.out_proj\.", "self_attn.o_proj."),
        (r"\bmlp\.fc11?\.", "mlp.up_proj."),
        (r"\bmlp\.fc12\.", "mlp.gate_proj."),
        (r"\bmlp\.fc2\.", "mlp.down_proj."),
        (r"\bnorm1\.", "post_attention_layernorm."),
        (r"\bnorm2\.", "post_mlp_layernorm."),
    ],
    {"attn.Wqkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")},
)
_NAMES = LayerNames(**SELF_ATTENTION_NAMES, gate="mlp.gate_proj", up="mlp.up_proj", down="mlp.down_proj")


def _read_settings(config: Mapping[str, Any], kind: type[NomicBertSettings]) -> NomicBertSettings:
    is_of_hub = "n_embd" in config
    own = {key: value for key, value in config.items() if key not in ("rope", *_HUB_ONLY)}
    settings = read_settings(_with_new_names(own) | _experts_of_hub(config) if is_of_hub else own, kind)
    if settings.head_dim is None and settings.hidden_size % settings.num_attention_heads:
        raise NotNativeError(
            f"config.json has {settings.num_attention_heads} attention heads for a width of {settings.hidden_size}"
        )
    head_width = settings.head_dim or settings.hidden_size // settings.num_attention_heads
    if is_of_hub:
        return replace(settings, rope=_rope_of_hub(config, head_width))
    rope = read_rope(config, head_width, _THETA, settings.max_position_embeddings)
    # transformers' class has no biases.
    return replace(settings, qkv_proj_bias=False, mlp_fc1_bias=False, mlp_fc2_bias=False, rope=rope)


def _with_new_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the Hub's layout under transformers' names.

    Raises:
        NotNativeError: the equations do not honour a setting, or it has two values.
    """
    for name, values in _HUB_RULES.items():
        if not one_of(*values).honours(config.get(name, values[0])):
            raise NotNativeError(f"config.json has {config[name]!r:.80} as {name}")
    function = config.get("activation_function")
    if function not in _FUNCTIONS:
        raise NotNativeError(f"config.json has {function!r:.80} as activation_function")
    found = dict(config)
    for old, new in _HUB_NAMES.items():
        if config.get(old) is None:
            continue
        value = _FUNCTIONS[function] if old == "activation_function" else config[old]
        if new != "max_position_embeddings" and config.get(new, value) != value:
            raise NotNativeError(f"config.json has {config[new]!r:.80} as {new} and another {old}")
        found[new] = value
    for name in ("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"):
        found.setdefault(name, True)
    found.setdefault("layer_norm_eps", 1e-5)
    width, rows, step = config["n_embd"], config.get("vocab_size"), config.get("pad_vocab_size_multiple", 1)
    if type(width) is int:
        found.setdefault("intermediate_size", 4 * width)
    if type(rows) is int and type(step) is int and step > 0:
        found["vocab_size"] = -(-rows // step) * step
    return found


def _experts_of_hub(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that only the Hub's layout has.

    Raises:
        NotNativeError: the equations do not honour a setting of the experts.
    """
    is_gated = config.get("activation_function") in _GATED_UNITS
    every, count, chosen = (config.get(name) or 0 for name in _EXPERTS)
    if not every:
        return {"is_gated": is_gated}
    if is_gated:
        raise NotNativeError(f"config.json has experts (moe_every_n_layers) with {config['activation_function']!r:.80}")
    if type(count) is not int or type(chosen) is not int or not 0 < chosen <= count:
        raise NotNativeError(f"config.json has {chosen!r:.80} as moe_top_k of {count!r:.80} experts")
    return {"is_gated": False, "moe_every_n_layers": every, "num_experts": count, "moe_top_k": chosen}


def _rope_of_hub(config: Mapping[str, Any], head_width: int) -> Rope:
    fraction, interleaved = config.get("rotary_emb_fraction", 0.0), config.get("rotary_emb_interleaved", False)
    if type(fraction) not in (int, float) or not 0 < fraction <= 1:
        raise NotNativeError(f"config.json has {fraction!r:.80} as rotary_emb_fraction")
    if type(interleaved) is not bool:
        raise NotNativeError(f"config.json has {interleaved!r:.80} as rotary_emb_interleaved")
    width = int(head_width * fraction)
    if width < 4 or width % 2:
        raise NotNativeError(f"config.json rotates {width} numbers of a head, which are not pairs")
    rope = Rope(number(config.get("rotary_emb_base", 10000.0), "rotary_emb_base"), width, interleaved)
    if config.get("rotary_scaling_factor") is None:
        return rope
    factor = number(config["rotary_scaling_factor"], "rotary_scaling_factor")
    trained = config.get("max_trained_positions", 2048)
    if type(trained) is not int or trained < 1:
        raise NotNativeError(f"config.json has {trained!r:.80} as max_trained_positions")
    return replace(rope, scaling="dynamic", factor=factor, trained_positions=trained)


def token_vectors(net: Network, config: NomicBertSettings) -> ir.Value:
    """Write the token vectors, (batch, sequence, hidden_size)."""
    return rotary_bert.token_vectors(
        net,
        config,
        _NAMES if config.is_gated else replace(_NAMES, gate=None),
        head_width=config.head_dim,
        attention_bias=config.qkv_proj_bias,
        up_bias=config.mlp_fc1_bias,
        down_bias=config.mlp_fc2_bias,
        experts=_experts(config),
    )


def _experts(config: NomicBertSettings) -> dict[str, Experts]:
    """Return the experts by the name of their layer."""
    every = config.moe_every_n_layers
    layers = [index for index in range(config.num_hidden_layers) if every and index % every == 1]
    return {name: _experts_of_layer(name, config) for name in map(rotary_bert.layer_name, layers)}


def _experts_of_layer(layer: str, config: NomicBertSettings) -> Experts:
    experts = f"{layer}.mlp.experts"
    return Experts(
        router=f"{layer}.mlp.router.layer",
        up=f"{experts}.mlp.w1",
        down=f"{experts}.mlp.w2",
        bias=f"{experts}.bias",
        count=config.num_experts,
        chosen=config.moe_top_k,
    )


_BUILD = text_builder(token_vectors, rotary_bert.body_sizes, is_rotary=True)[TEXT]


def _build(weights: Weights, settings: NomicBertSettings, request: BodyRequest) -> Body:
    """Build a NomicBERT. One with experts has no form for GPUs: NonZero has no kernel for fp16 there."""

    def refuse() -> ir.Model:
        raise GraphError("onnxruntime has no kernels for experts in float16")

    body = _BUILD(weights, settings, request)
    return replace(body, write_for_gpu=refuse) if _experts(settings) else body


NOMIC_BERT = Family(
    "nomic_bert",
    "BertTokenizer",
    NomicBertSettings,
    {TEXT: _build},
    read_settings=_read_settings,
    has_token_types=True,
    rank_head=RankHead("nomic_bert.pooler.dense", "Tanh", "classifier"),
    rename=renamer(_OLD_NAMES),
    remote_classes=(
        "NomicBertConfig",
        "NomicBertModel",
        "NomicBertForPreTraining",
        "NomicBertForSequenceClassification",
        "NomicBertForMultipleChoice",
        "NomicBertForQuestionAnswering",
        "NomicBertForTokenClassification",
    ),
    is_remote=lambda config: "n_embd" in config,
)
