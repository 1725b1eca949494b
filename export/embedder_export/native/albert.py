"""ALBERT (Lan et al., 2020: https://arxiv.org/abs/1909.11942): BERT, with narrow embeddings and shared layers."""

from typing import Any

import onnx_ir as ir

from embedder_export.native.bert import position_table
from embedder_export.native.family import Family
from embedder_export.native.network import Attention, Network, PostNormLayer, post_norm_layer
from embedder_export.native.settings import activation, check_heads, choice, count, epsilon

_SETTINGS = {
    "vocab_size": count(30000),
    "embedding_size": count(128),
    "hidden_size": count(4096),
    "num_hidden_layers": count(12),
    "num_hidden_groups": count(1),
    "num_attention_heads": count(64),
    "intermediate_size": count(16384),
    "inner_group_num": count(1),
    "hidden_act": activation("gelu_new"),
    "max_position_embeddings": count(512),
    "type_vocab_size": count(2),
    "layer_norm_eps": epsilon(1e-12),
    "position_embedding_type": choice("absolute"),
}


def build(net: Network, config: Any) -> ir.Value:
    """The token vectors, (batch, sequence, hidden_size)."""
    check_heads(config.hidden_size, config.num_attention_heads)
    narrow = config.embedding_size
    words = net.embedding("embeddings.word_embeddings.weight", config.vocab_size, narrow)
    x = net.op.Add(words, net.first_rows(position_table(net, config, narrow)))
    x = net.flat(net.layer_norm(x, "embeddings.LayerNorm", narrow, config.layer_norm_eps), narrow)
    x = net.linear(x, "encoder.embedding_hidden_mapping_in", narrow, config.hidden_size)
    for index in range(config.num_hidden_layers):
        # In floating point, as transformers has it, for the groups need not divide the layers.
        group = int(index / (config.num_hidden_layers / config.num_hidden_groups))
        for inner in range(config.inner_group_num):
            name = f"encoder.albert_layer_groups.{group}.albert_layers.{inner}"
            x = post_norm_layer(net, x, _layer(name, config))
    return net.unflat(x, config.hidden_size)


def _layer(name: str, config: Any) -> PostNormLayer:
    return PostNormLayer(
        Attention(
            f"{name}.attention.query",
            f"{name}.attention.key",
            f"{name}.attention.value",
            f"{name}.attention.dense",
            heads=config.num_attention_heads,
            width=config.hidden_size,
            inner=config.hidden_size,
        ),
        attention_norm=f"{name}.attention.LayerNorm",
        up=f"{name}.ffn",
        down=f"{name}.ffn_output",
        output_norm=f"{name}.full_layer_layer_norm",
        intermediate=config.intermediate_size,
        activation=config.hidden_act,
        epsilon=config.layer_norm_eps,
    )


ALBERT = Family("albert", _SETTINGS, build, lambda config: config.max_position_embeddings)
