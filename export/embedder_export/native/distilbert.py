"""DistilBERT (Sanh et al., 2019: https://arxiv.org/abs/1910.01108): BERT's layers under other names, no token types."""

from typing import Any

import onnx_ir as ir

from embedder_export.native.family import Family
from embedder_export.native.network import Attention, Network, PostNormLayer, post_norm_layer
from embedder_export.native.settings import activation, check_heads, count

_SETTINGS = {
    "vocab_size": count(30522),
    "dim": count(768),
    "n_layers": count(6),
    "n_heads": count(12),
    "hidden_dim": count(3072),
    "activation": activation("gelu"),
    "max_position_embeddings": count(512),
}
_ALIASES = {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}
_EPSILON = 1e-12


def build(net: Network, config: Any) -> ir.Value:
    """The token vectors, (batch, sequence, dim)."""
    check_heads(config.dim, config.n_heads)
    words = net.embedding("embeddings.word_embeddings.weight", config.vocab_size, config.dim)
    places = net.weight("embeddings.position_embeddings.weight", config.max_position_embeddings, config.dim)
    x = net.op.Add(words, net.first_rows(places))
    x = net.flat(net.layer_norm(x, "embeddings.LayerNorm", config.dim, _EPSILON), config.dim)
    for index in range(config.n_layers):
        x = post_norm_layer(net, x, _layer(f"transformer.layer.{index}", config))
    return net.unflat(x, config.dim)


def _layer(name: str, config: Any) -> PostNormLayer:
    return PostNormLayer(
        Attention(
            f"{name}.attention.q_lin",
            f"{name}.attention.k_lin",
            f"{name}.attention.v_lin",
            f"{name}.attention.out_lin",
            heads=config.n_heads,
            width=config.dim,
            inner=config.dim,
        ),
        attention_norm=f"{name}.sa_layer_norm",
        up=f"{name}.ffn.lin1",
        down=f"{name}.ffn.lin2",
        output_norm=f"{name}.output_layer_norm",
        intermediate=config.hidden_dim,
        activation=config.activation,
        epsilon=_EPSILON,
    )


DISTILBERT = Family(
    "distilbert", _SETTINGS, build, lambda config: config.max_position_embeddings, width="dim", aliases=_ALIASES
)
