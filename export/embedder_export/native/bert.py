"""BERT (Devlin et al., 2019: https://arxiv.org/abs/1810.04805), as transformers' BertModel computes it."""

from typing import Any

import onnx_ir as ir

from embedder_export.native.family import Family
from embedder_export.native.network import Attention, Network, PostNormLayer, post_norm_layer
from embedder_export.native.settings import activation, check_heads, choice, count, epsilon
from embedder_export.weights import lazy

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


def build(net: Network, config: Any) -> ir.Value:
    """The token vectors, (batch, sequence, hidden_size)."""
    width = config.hidden_size
    words = net.embedding("embeddings.word_embeddings.weight", config.vocab_size, width)
    x = net.op.Add(words, net.first_rows(position_table(net, config, width)))
    x = net.flat(net.layer_norm(x, "embeddings.LayerNorm", width, config.layer_norm_eps), width)
    return net.unflat(encoder(net, x, config), width)


def position_table(net: Network, config: Any, width: int) -> ir.Value:
    """What each position adds to a word, and with it what the token type 0 adds to all: (positions, width)."""
    places = net.tensor("embeddings.position_embeddings.weight", config.max_position_embeddings, width)
    types = net.tensor("embeddings.token_type_embeddings.weight", config.type_vocab_size, width)
    return net.op.initializer(lazy(lambda: places.numpy() + types.numpy()[0], tuple(places.shape.numpy())))


def encoder(net: Network, x: ir.Value, config: Any) -> ir.Value:
    """All layers, of (tokens, hidden_size)."""
    check_heads(config.hidden_size, config.num_attention_heads)
    for index in range(config.num_hidden_layers):
        x = post_norm_layer(net, x, _layer(f"encoder.layer.{index}", config))
    return x


def _layer(name: str, config: Any) -> PostNormLayer:
    return PostNormLayer(
        Attention(
            f"{name}.attention.self.query",
            f"{name}.attention.self.key",
            f"{name}.attention.self.value",
            f"{name}.attention.output.dense",
            heads=config.num_attention_heads,
            width=config.hidden_size,
            inner=config.hidden_size,
        ),
        attention_norm=f"{name}.attention.output.LayerNorm",
        up=f"{name}.intermediate.dense",
        down=f"{name}.output.dense",
        output_norm=f"{name}.output.LayerNorm",
        intermediate=config.intermediate_size,
        activation=config.hidden_act,
        epsilon=config.layer_norm_eps,
    )


BERT = Family("bert", SETTINGS, build, places=lambda config: config.max_position_embeddings)
