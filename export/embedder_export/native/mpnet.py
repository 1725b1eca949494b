"""MPNet (Song et al., 2020: https://arxiv.org/abs/2004.09297): BERT, with a bias by the distance of two tokens."""

from typing import Any

import onnx_ir as ir

from embedder_export.native.family import Family
from embedder_export.native.network import Attention, Network, PostNormLayer, post_norm_layer
from embedder_export.native.settings import activation, check_heads, count, epsilon

# transformers computes with these whatever the configuration says; the table may be larger.
_PADDING_ID, _BUCKETS, _MAX_DISTANCE = 1, 32, 128

_SETTINGS = {
    "vocab_size": count(30527),
    "hidden_size": count(768),
    "num_hidden_layers": count(12),
    "num_attention_heads": count(12),
    "intermediate_size": count(3072),
    "hidden_act": activation("gelu"),
    "max_position_embeddings": count(512),
    "layer_norm_eps": epsilon(1e-12),
    "relative_attention_num_buckets": count(32, least=_BUCKETS),
}


def build(net: Network, config: Any) -> ir.Value:
    """The token vectors, (batch, sequence, hidden_size)."""
    width, heads = config.hidden_size, config.num_attention_heads
    check_heads(width, heads)
    words = net.embedding("embeddings.word_embeddings.weight", config.vocab_size, width)
    places = net.weight("embeddings.position_embeddings.weight", config.max_position_embeddings, width)
    x = net.op.Add(words, net.op.Gather(places, net.positions_after(_PADDING_ID)))
    x = net.flat(net.layer_norm(x, "embeddings.LayerNorm", width, config.layer_norm_eps), width)
    rows = config.relative_attention_num_buckets
    bias = net.relative_bias("encoder.relative_attention_bias.weight", rows, heads, _BUCKETS, _MAX_DISTANCE)
    for index in range(config.num_hidden_layers):
        x = post_norm_layer(net, x, _layer(f"encoder.layer.{index}", config), bias)
    return net.unflat(x, width)


def _layer(name: str, config: Any) -> PostNormLayer:
    return PostNormLayer(
        Attention(
            f"{name}.attention.attn.q",
            f"{name}.attention.attn.k",
            f"{name}.attention.attn.v",
            f"{name}.attention.attn.o",
            heads=config.num_attention_heads,
            width=config.hidden_size,
            inner=config.hidden_size,
        ),
        attention_norm=f"{name}.attention.LayerNorm",
        up=f"{name}.intermediate.dense",
        down=f"{name}.output.dense",
        output_norm=f"{name}.output.LayerNorm",
        intermediate=config.intermediate_size,
        activation=config.hidden_act,
        epsilon=config.layer_norm_eps,
    )


MPNET = Family("mpnet", _SETTINGS, build, lambda config: config.max_position_embeddings - _PADDING_ID - 1)
