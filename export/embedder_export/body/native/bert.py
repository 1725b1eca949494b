"""BERT (Devlin et al., 2019: https://arxiv.org/abs/1810.04805), as transformers' BertModel computes it."""

from typing import Any

import onnx_ir as ir

from embedder_export.body.native.family import Family
from embedder_export.body.native.network import LayerNames, LayerSizes, Network, embed, post_norm_layer
from embedder_export.body.native.settings import activation, choice, count, epsilon
from embedder_export.checkpoint.weights import lazy

SETTINGS = {
    "vocab_size": count(30522),
    "hidden_size": count(768),
    "num_hidden_layers": count(12),
    "num_attention_heads": count(12),
    "intermediate_size": count(3072),
    "hidden_act": activation("gelu"),
    "max_position_embeddings": count(512),
    "type_vocab_size": count(2),
    "layer_norm_eps": epsilon(1e-12),
    "position_embedding_type": choice("absolute"),
}
_NAMES = LayerNames(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    output_norm="output.LayerNorm",
)


def build(net: Network, config: Any) -> ir.Value:
    """The token vectors, (batch, sequence, hidden_size)."""
    positions = net.first_rows(position_table(net, config, config.hidden_size))
    x = embed(net, positions, config.vocab_size, config.hidden_size, config.layer_norm_eps)
    return encoder(net, x, config)


def position_table(net: Network, config: Any, width: int) -> ir.Value:
    """What each position adds to a word, and with it what the token type 0 adds to all: (positions, width)."""
    positions = net.tensor("embeddings.position_embeddings.weight", config.max_position_embeddings, width)
    types = net.tensor("embeddings.token_type_embeddings.weight", config.type_vocab_size, width)
    shape = (config.max_position_embeddings, width)
    return net.op.initializer(lazy(lambda: positions.numpy() + types.numpy()[0], shape))


def sizes(config: Any) -> LayerSizes:
    """The sizes of the layers by BERT's names of the settings."""
    return LayerSizes(
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        config.hidden_act,
        config.layer_norm_eps,
    )


def encoder(net: Network, x: ir.Value, config: Any) -> ir.Value:
    """All layers: from (tokens, hidden_size) to (batch, sequence, hidden_size)."""
    for index in range(config.num_hidden_layers):
        x = post_norm_layer(net, x, f"encoder.layer.{index}", _NAMES, sizes(config))
    return net.unflat(x, config.hidden_size)


BERT = Family("bert", SETTINGS, build, lambda config: config.max_position_embeddings)
