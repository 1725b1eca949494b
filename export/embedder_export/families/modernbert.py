"""ModernBERT (Warner et al., 2024: https://arxiv.org/abs/2412.13663): rotary positions, windows and gated units.

It normalises before each part. Most layers attend only to near tokens, with frequencies of their own. modernbert-embed,
gte-modernbert, granite-embedding r2, mmBERT and ettin are ModernBERTs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import onnx_ir as ir

from embedder_export.body.attention import Attention, check_heads
from embedder_export.body.contract import BodySizes
from embedder_export.body.network import Network
from embedder_export.body.rope import Rope
from embedder_export.errors import NotNativeError
from embedder_export.families.family import Family, RankHead, WordHead, text_builder
from embedder_export.families.old_names import OldNames, renamer
from embedder_export.families.rope_settings import parameters_of_layers, rope_of
from embedder_export.families.settings import (
    ACTIVATION_NAMES,
    DERIVED,
    Activation,
    Anything,
    Count,
    Epsilon,
    Flag,
    at_least,
    one_of,
    read_settings,
)

_FULL, _SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class ModernBertSettings:
    """The settings of config.json that the equations below use.

    Attributes:
        local_attention: width of the window in tokens, before and after the token together.
        layer_types: the kind of each layer, "full_attention" or "sliding_attention".
        ropes: the rotation of each kind of layer. It follows from other settings.
    """

    vocab_size: Count = 50368
    hidden_size: Count = 768
    intermediate_size: Count = 1152
    num_hidden_layers: Count = 22
    num_attention_heads: Count = 12
    hidden_activation: Activation = "gelu"
    max_position_embeddings: Count = 8192
    norm_eps: Epsilon = 1e-5
    norm_bias: Flag = False
    attention_bias: Flag = False
    mlp_bias: Flag = False
    global_attn_every_n_layers: Count = 3
    local_attention: Annotated[int, at_least(2)] = 128
    global_rope_theta: Anything = 160000.0
    local_rope_theta: Anything = 10000.0
    classifier_pooling: Annotated[str, one_of("cls", "mean")] = "cls"
    classifier_bias: Flag = False
    classifier_activation: Activation = "gelu"
    decoder_bias: Flag = True
    layer_types: Anything = DERIVED
    ropes: Anything = DERIVED


_OLD_NAMES = OldNames([], {"attn.Wqkv": ("attn.q", "attn.k", "attn.v"), "mlp.Wi": ("mlp.gate", "mlp.up")})


def _read_settings(config: Mapping[str, Any], kind: type[ModernBertSettings]) -> ModernBertSettings:
    settings = read_settings({key: value for key, value in config.items() if key != "ropes"}, kind)
    check_heads(settings.num_attention_heads, settings.hidden_size)
    return replace(settings, layer_types=_layer_types(config, settings), ropes=_ropes(config, settings))


def _layer_types(config: Mapping[str, Any], settings: ModernBertSettings) -> tuple[str, ...]:
    """Return the kind of each layer. transformers 5 lists them; before it, every n-th layer attends to all tokens."""
    given = config.get("layer_types")
    count, step = settings.num_hidden_layers, settings.global_attn_every_n_layers
    if given is None:
        return tuple(_SLIDING if index % step else _FULL for index in range(count))
    if not isinstance(given, list) or len(given) != count or not set(given) <= {_FULL, _SLIDING}:
        raise NotNativeError(f"config.json has {given!r:.80} as layer_types of {count} layers")
    return tuple(given)


def _ropes(config: Mapping[str, Any], settings: ModernBertSettings) -> dict[str, Rope]:
    """Return the rotation of each kind of layer. transformers 5 has them in rope_parameters."""
    local = settings.global_rope_theta if settings.local_rope_theta is None else settings.local_rope_theta
    width = settings.hidden_size // settings.num_attention_heads
    thetas = {_FULL: settings.global_rope_theta, _SLIDING: local}
    found = parameters_of_layers(config.get("rope_parameters"), config.get("rope_scaling"), thetas)
    return {
        kind: rope_of({"rope_theta": theta} | found[kind], width, theta, settings.max_position_embeddings)
        for kind, theta in thetas.items()
    }


def token_vectors(net: Network, config: ModernBertSettings) -> ir.Value:
    """Write the token vectors, (batch, sequence, width). If the network gives only the first tokens: (batch, width)."""
    width = config.hidden_size
    x = net.flat(net.embedding("embeddings.tok_embeddings.weight", config.vocab_size, width), width)
    x = _norm(net, x, "embeddings.norm", config)
    last = config.num_hidden_layers - 1
    for index in range(last):
        x = _layer(net, x, index, config)
    if net.first_token_only:
        return _norm(net, _first_token_layer(net, x, last, config), "final_norm", config)
    return net.unflat(_norm(net, _layer(net, x, last, config), "final_norm", config), width)


def _norm(net: Network, x: ir.Value, name: str, config: ModernBertSettings) -> ir.Value:
    return net.layer_norm(x, name, config.hidden_size, config.norm_eps, has_bias=config.norm_bias)


def _before_attention(net: Network, x: ir.Value, index: int, config: ModernBertSettings) -> ir.Value:
    """Write the normalisation before the attention. The first layer has none: the embeddings are normalised."""
    return _norm(net, x, f"layers.{index}.attn_norm", config) if index else x


def _layer(net: Network, x: ir.Value, index: int, config: ModernBertSettings) -> ir.Value:
    """Write a layer: (tokens, width)."""
    mixed = net.attention(_before_attention(net, x, index, config), _attention(net, index, config))
    return _feed_forward(net, net.add(mixed, x), index, config, one_row=False)


def _first_token_layer(net: Network, x: ir.Value, index: int, config: ModernBertSettings) -> ir.Value:
    """Write a layer that computes only the first token of each text: (batch, width)."""
    y = _before_attention(net, x, index, config)
    normed, token = (net.first_tokens(vectors, config.hidden_size) for vectors in (y, x))
    mixed = net.first_token_attention(y, normed, _attention(net, index, config), None)
    return _feed_forward(net, net.add(mixed, token), index, config, one_row=True)


def _attention(net: Network, index: int, config: ModernBertSettings) -> Attention:
    name, kind, width = f"layers.{index}.attn", config.layer_types[index], config.hidden_size
    window = config.local_attention // 2
    has_effect = kind == _SLIDING and window < net.longest_text
    return Attention(
        query=f"{name}.q",
        key=f"{name}.k",
        value=f"{name}.v",
        output=f"{name}.Wo",
        heads=config.num_attention_heads,
        width=width,
        inner=width,
        has_bias=config.attention_bias,
        rope=config.ropes[kind],
        window=window if has_effect else None,
    )


def _feed_forward(net: Network, x: ir.Value, index: int, config: ModernBertSettings, *, one_row: bool) -> ir.Value:
    """Write x + down(activation(gate(norm(x))) * up(norm(x)))."""
    name, width, inner = f"layers.{index}", config.hidden_size, config.intermediate_size
    y = _norm(net, x, f"{name}.mlp_norm", config)
    gate, up = (
        net.linear(y, f"{name}.mlp.{part}", width, inner, has_bias=config.mlp_bias, one_row=one_row)
        for part in ("gate", "up")
    )
    y = net.op.Mul(net.activation(gate, config.hidden_activation), up)
    return net.add(net.linear(y, f"{name}.mlp.Wo", inner, width, has_bias=config.mlp_bias, one_row=one_row), x)


def _body_sizes(config: ModernBertSettings) -> BodySizes:
    return BodySizes(config.hidden_size, config.max_position_embeddings, vocabulary_size=config.vocab_size)


def _rank_head(config: Mapping[str, Any]) -> RankHead:
    settings = read_settings(config, ModernBertSettings)
    return RankHead(
        "head.dense",
        ACTIVATION_NAMES[settings.classifier_activation],
        "classifier",
        pooling=settings.classifier_pooling,
        has_bias=settings.classifier_bias,
        norm="head.norm",
        norm_has_bias=settings.norm_bias,
        norm_epsilon=settings.norm_eps,
    )


def _word_head(config: ModernBertSettings) -> WordHead:
    return WordHead(
        dense="head.dense",
        norm="head.norm",
        decoder="decoder",
        embeddings="model.embeddings.tok_embeddings.weight",
        activation=config.classifier_activation,
        norm_epsilon=config.norm_eps,
        dense_has_bias=config.classifier_bias,
        norm_has_bias=config.norm_bias,
        decoder_has_bias=config.decoder_bias,
    )


MODERNBERT = Family(
    "model",
    "PreTrainedTokenizer",
    ModernBertSettings,
    text_builder(token_vectors, _body_sizes, is_rotary=True),
    read_settings=_read_settings,
    rank_head=_rank_head,
    word_head=_word_head,
    rename=renamer(_OLD_NAMES),
)
