"""DistilBERT (Sanh et al., 2019: https://arxiv.org/abs/1910.01108): BERT's layers under other names, no token types."""

from typing import Any

import onnx_ir as ir

from embedder_export.body.native.family import Family
from embedder_export.body.native.network import LayerNames, LayerSizes, Network, embed, post_norm_layer
from embedder_export.body.native.settings import activation, count

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
_NAMES = LayerNames(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    output="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    output_norm="output_layer_norm",
)
_EPSILON = 1e-12


def build(net: Network, config: Any) -> ir.Value:
    """The token vectors, (batch, sequence, dim)."""
    table = net.weight("embeddings.position_embeddings.weight", config.max_position_embeddings, config.dim)
    x = embed(net, net.first_rows(table), config.vocab_size, config.dim, _EPSILON)
    sizes = LayerSizes(config.dim, config.n_heads, config.hidden_dim, config.activation, _EPSILON)
    for index in range(config.n_layers):
        x = post_norm_layer(net, x, f"transformer.layer.{index}", _NAMES, sizes)
    return net.unflat(x, config.dim)


DISTILBERT = Family(
    "distilbert", _SETTINGS, build, lambda config: config.max_position_embeddings, width="dim", aliases=_ALIASES
)
