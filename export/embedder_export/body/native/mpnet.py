"""MPNet (Song et al., 2020: https://arxiv.org/abs/2004.09297): BERT, with a bias by the distance of two tokens."""

from typing import Any

import onnx_ir as ir

from embedder_export.body.native import bert
from embedder_export.body.native.family import Family
from embedder_export.body.native.network import LayerNames, Network, embed, post_norm_layer
from embedder_export.body.native.settings import activation, count, epsilon

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
_NAMES = LayerNames(
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    output="attention.attn.o",
    attention_norm="attention.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    output_norm="output.LayerNorm",
)


def build(net: Network, config: Any) -> ir.Value:
    """The token vectors, (batch, sequence, hidden_size)."""
    table = net.weight("embeddings.position_embeddings.weight", config.max_position_embeddings, config.hidden_size)
    positions = net.op.Gather(table, net.positions_after(_PADDING_ID))
    x = embed(net, positions, config.vocab_size, config.hidden_size, config.layer_norm_eps)
    rows, heads = config.relative_attention_num_buckets, config.num_attention_heads
    bias = net.relative_bias("encoder.relative_attention_bias.weight", rows, heads, _BUCKETS, _MAX_DISTANCE)
    for index in range(config.num_hidden_layers):
        x = post_norm_layer(net, x, f"encoder.layer.{index}", _NAMES, bert.sizes(config), bias)
    return net.unflat(x, config.hidden_size)


MPNET = Family("mpnet", _SETTINGS, build, lambda config: config.max_position_embeddings - _PADDING_ID - 1)
