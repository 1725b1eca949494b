"""The encoder of T5 (Raffel et al., 2020: https://arxiv.org/abs/1910.10683), as transformers' T5EncoderModel has it."""

from typing import Any

import onnx_ir as ir

from embedder_export.body.native.family import Family
from embedder_export.body.native.network import Attention, Network
from embedder_export.body.native.settings import ACTIVATION_NAMES, DERIVED, Setting, count, derived, epsilon, optional
from embedder_export.errors import NotNativeError

_SETTINGS = {
    "vocab_size": count(32128),
    "d_model": count(512),
    "d_kv": count(64),
    "d_ff": count(2048),
    "num_layers": count(6),
    "num_heads": count(8),
    "relative_attention_num_buckets": count(32, least=4),
    "relative_attention_max_distance": count(128),
    "layer_norm_epsilon": epsilon(1e-6),
    "max_position_embeddings": optional(count(1)),
    "feed_forward_proj": Setting("relu", lambda value: isinstance(value, str)),
    # From feed_forward_proj.
    "dense_act_fn": derived(str),
    "is_gated_act": derived(bool),
}
_ALIASES = {
    "hidden_size": "d_model",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "head_dim": "d_kv",
}


def build(net: Network, config: Any) -> ir.Value:
    """The token vectors, (batch, sequence, d_model)."""
    width = config.d_model
    # One table by two names, of which the encoder's is used where a checkpoint has only that.
    words = "shared.weight" if net.has("shared.weight") else "encoder.embed_tokens.weight"
    x = net.flat(net.embedding(words, config.vocab_size, width), width)
    bias = _relative_bias(net, config)
    for index in range(config.num_layers):
        name = f"encoder.block.{index}"
        y = net.rms_norm(x, f"{name}.layer.0.layer_norm", width, config.layer_norm_epsilon)
        x = net.op.Add(net.attention(y, _attention(f"{name}.layer.0.SelfAttention", config), bias), x)
        y = net.rms_norm(x, f"{name}.layer.1.layer_norm", width, config.layer_norm_epsilon)
        x = net.op.Add(_feed_forward(net, y, f"{name}.layer.1.DenseReluDense", config), x)
    return net.unflat(net.rms_norm(x, "encoder.final_layer_norm", width, config.layer_norm_epsilon), width)


def _relative_bias(net: Network, config: Any) -> ir.Value:
    """The first layer's, which all share."""
    buckets, max_distance = config.relative_attention_num_buckets, config.relative_attention_max_distance
    if max_distance <= buckets // 4:
        raise NotNativeError(f"config.json has {max_distance} as relative_attention_max_distance of {buckets} buckets")
    name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return net.relative_bias(name, buckets, config.num_heads, buckets, max_distance)


def _attention(name: str, config: Any) -> Attention:
    """Not scaled: T5's initialisation does that."""
    return Attention(
        f"{name}.q",
        f"{name}.k",
        f"{name}.v",
        f"{name}.o",
        heads=config.num_heads,
        width=config.d_model,
        inner=config.num_heads * config.d_kv,
        has_bias=False,
        scale=1.0,
    )


def _feed_forward(net: Network, x: ir.Value, name: str, config: Any) -> ir.Value:
    """down(activation(up(x))), or down(activation(gate(x)) * up(x))."""
    function, gated = _projection(config)
    width, inner = config.d_model, config.d_ff
    y = net.linear(x, f"{name}.{'wi_0' if gated else 'wi'}", width, inner, has_bias=False)
    y = net.activation(y, function)
    if gated:
        y = net.op.Mul(y, net.linear(x, f"{name}.wi_1", width, inner, has_bias=False))
    return net.linear(y, f"{name}.wo", inner, width, has_bias=False)


def _projection(config: Any) -> tuple[str, bool]:
    """The feed-forward layers' activation, and whether they are gated."""
    *gate, function = config.feed_forward_proj.split("-")
    function = "gelu_new" if config.feed_forward_proj == "gated-gelu" else function
    function = function if config.dense_act_fn is DERIVED else config.dense_act_fn
    if gate not in ([], ["gated"]) or config.feed_forward_proj == "gated" or function not in ACTIVATION_NAMES:
        raise NotNativeError(f"config.json has {config.feed_forward_proj!r:.80} as feed_forward_proj")
    return function, gate == ["gated"] if config.is_gated_act is DERIVED else config.is_gated_act


T5 = Family("transformer", _SETTINGS, build, lambda config: None, width="d_model", aliases=_ALIASES)
