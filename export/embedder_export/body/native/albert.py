"""ALBERT (Lan et al., 2020: https://arxiv.org/abs/1909.11942): BERT, with narrow embeddings and shared layers."""

from typing import Any

import onnx_ir as ir

from embedder_export.body.native import bert
from embedder_export.body.native.family import Family
from embedder_export.body.native.network import LayerNames, Network, embed, post_norm_layer
from embedder_export.body.native.settings import activation, count

_SETTINGS = bert.SETTINGS | {
    "vocab_size": count(30000),
    "embedding_size": count(128),
    "hidden_size": count(4096),
    "num_hidden_groups": count(1),
    "num_attention_heads": count(64),
    "intermediate_size": count(16384),
    "inner_group_num": count(1),
    "hidden_act": activation("gelu_new"),
}
_NAMES = LayerNames(
    query="attention.query",
    key="attention.key",
    value="attention.value",
    output="attention.dense",
    attention_norm="attention.LayerNorm",
    up="ffn",
    down="ffn_output",
    output_norm="full_layer_layer_norm",
)


def build(net: Network, config: Any) -> ir.Value:
    """The token vectors, (batch, sequence, hidden_size)."""
    narrow = config.embedding_size
    positions = net.first_rows(bert.position_table(net, config, narrow))
    x = embed(net, positions, config.vocab_size, narrow, config.layer_norm_eps)
    x = net.linear(x, "encoder.embedding_hidden_mapping_in", narrow, config.hidden_size)
    for index in range(config.num_hidden_layers):
        # In floating point, as transformers has it, for the groups need not divide the layers.
        group = int(index / (config.num_hidden_layers / config.num_hidden_groups))
        for inner in range(config.inner_group_num):
            layer = f"encoder.albert_layer_groups.{group}.albert_layers.{inner}"
            x = post_norm_layer(net, x, layer, _NAMES, bert.sizes(config))
    return net.unflat(x, config.hidden_size)


ALBERT = Family("albert", _SETTINGS, build, lambda config: config.max_position_embeddings)
