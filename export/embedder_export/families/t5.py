"""The encoder of T5 (Raffel et al., 2020: https://arxiv.org/abs/1910.10683), as in transformers' T5EncoderModel."""

from dataclasses import dataclass
from typing import Annotated

import onnx_ir as ir

from embedder_export.body.attention import Attention
from embedder_export.body.contract import BodySizes
from embedder_export.body.distance_bias import RelativeBias
from embedder_export.body.network import Network
from embedder_export.errors import NotNativeError
from embedder_export.families.family import Family, text_builder
from embedder_export.families.settings import (
    ACTIVATION_NAMES,
    DERIVED,
    Count,
    Derived,
    DerivedFlag,
    DerivedName,
    Epsilon,
    OptionalCount,
    Rule,
    at_least,
)


@dataclass(frozen=True)
class T5Settings:
    """The settings of config.json that the equations below use."""

    vocab_size: Count = 32128
    d_model: Count = 512
    d_kv: Count = 64
    d_ff: Count = 2048
    num_layers: Count = 6
    num_heads: Count = 8
    relative_attention_num_buckets: Annotated[int, at_least(4)] = 32
    relative_attention_max_distance: Count = 128
    layer_norm_epsilon: Epsilon = 1e-6
    max_position_embeddings: OptionalCount = None
    feed_forward_proj: Annotated[str, Rule(lambda value: isinstance(value, str))] = "relu"
    # These two follow from feed_forward_proj.
    dense_act_fn: DerivedName = DERIVED
    is_gated_act: DerivedFlag = DERIVED


_ALIASES = {
    "hidden_size": "d_model",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "head_dim": "d_kv",
}


def token_vectors(net: Network, config: T5Settings) -> ir.Value:
    """Write the token vectors, (batch, sequence, d_model)."""
    width = config.d_model
    # The word embeddings have two names. Some checkpoints have them only under the encoder's name.
    words = "shared.weight" if net.has("shared.weight") else "encoder.embed_tokens.weight"
    x = net.flat(net.embedding(words, config.vocab_size, width), width)
    bias = _relative_bias(net, config)
    for index in range(config.num_layers):
        name = f"encoder.block.{index}"
        y = net.rms_norm(x, f"{name}.layer.0.layer_norm", width, config.layer_norm_epsilon)
        x = net.add(net.attention(y, _attention(f"{name}.layer.0.SelfAttention", config), bias), x)
        y = net.rms_norm(x, f"{name}.layer.1.layer_norm", width, config.layer_norm_epsilon)
        x = net.add(_feed_forward(net, y, f"{name}.layer.1.DenseReluDense", config), x)
    return net.unflat(net.rms_norm(x, "encoder.final_layer_norm", width, config.layer_norm_epsilon), width)


def _relative_bias(net: Network, config: T5Settings) -> ir.Value:
    """Write the bias of the first layer. All layers share it."""
    buckets, max_distance = config.relative_attention_num_buckets, config.relative_attention_max_distance
    if max_distance <= buckets // 4:
        raise NotNativeError(f"config.json has {max_distance} as relative_attention_max_distance of {buckets} buckets")
    name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return net.relative_bias(RelativeBias(name, buckets, config.num_heads, buckets, max_distance))


def _attention(name: str, config: T5Settings) -> Attention:
    """Return a layer's attention. Its scores are not scaled: T5 makes up for it by its initialisation."""
    return Attention(
        query=f"{name}.q",
        key=f"{name}.k",
        value=f"{name}.v",
        output=f"{name}.o",
        heads=config.num_heads,
        width=config.d_model,
        inner=config.num_heads * config.d_kv,
        has_bias=False,
        scale=1.0,
    )


def _feed_forward(net: Network, x: ir.Value, name: str, config: T5Settings) -> ir.Value:
    """Write down(activation(up(x))), or the gated down(activation(gate(x)) * up(x))."""
    function, gated = _feed_forward_kind(config)
    width, inner = config.d_model, config.d_ff
    y = net.linear(x, f"{name}.{'wi_0' if gated else 'wi'}", width, inner, has_bias=False)
    y = net.activation(y, function)
    if gated:
        y = net.op.Mul(y, net.linear(x, f"{name}.wi_1", width, inner, has_bias=False))
    return net.linear(y, f"{name}.wo", inner, width, has_bias=False)


def _feed_forward_kind(config: T5Settings) -> tuple[str, bool]:
    """Return the activation of the feed-forward layers, and whether they are gated."""
    *gate, function = config.feed_forward_proj.split("-")
    function = "gelu_new" if config.feed_forward_proj == "gated-gelu" else function
    function = function if isinstance(config.dense_act_fn, Derived) else config.dense_act_fn
    if gate not in ([], ["gated"]) or config.feed_forward_proj == "gated" or function not in ACTIVATION_NAMES:
        raise NotNativeError(f"config.json has {config.feed_forward_proj!r:.80} as feed_forward_proj")
    gated = gate == ["gated"] if isinstance(config.is_gated_act, Derived) else config.is_gated_act
    return function, gated


def _body_sizes(config: T5Settings) -> BodySizes:
    """Return the sizes. T5 has no position table, so any number of positions is usable."""
    return BodySizes(config.d_model, config.max_position_embeddings, None, config.vocab_size)


T5 = Family("transformer", "T5Tokenizer", T5Settings, text_builder(token_vectors, _body_sizes), aliases=_ALIASES)
