"""BERT (Devlin et al., 2019: https://arxiv.org/abs/1810.04805), as transformers' BertModel computes it."""

from dataclasses import dataclass
from typing import Annotated

import onnx_ir as ir

from embedder_export.body.contract import BodySizes
from embedder_export.body.network import LayerNames, LayerSizes, Network, PostNormLayer, embed, post_norm_layer
from embedder_export.checkpoint.weights import lazy
from embedder_export.families.family import Family, text_builder
from embedder_export.families.settings import Activation, Count, Epsilon, one_of


@dataclass(frozen=True)
class BertSettings:
    """The settings of config.json that the equations below use."""

    vocab_size: Count = 30522
    hidden_size: Count = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    intermediate_size: Count = 3072
    hidden_act: Activation = "gelu"
    max_position_embeddings: Count = 512
    type_vocab_size: Count = 2
    layer_norm_eps: Epsilon = 1e-12
    position_embedding_type: Annotated[str, one_of("absolute")] = "absolute"


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


def token_vectors(net: Network, config: BertSettings) -> ir.Value:
    """Write the token vectors, (batch, sequence, hidden_size)."""
    positions = net.first_rows(position_table(net, config, config.hidden_size))
    x = embed(net, positions, config.vocab_size, config.hidden_size, config.layer_norm_eps)
    return encoder(net, x, config)


def position_table(net: Network, config: BertSettings, width: int) -> ir.Value:
    """Return the position embeddings plus the embedding of token type 0, as a constant: (positions, width)."""
    positions = net.tensor("embeddings.position_embeddings.weight", config.max_position_embeddings, width)
    types = net.tensor("embeddings.token_type_embeddings.weight", config.type_vocab_size, width)
    shape = (config.max_position_embeddings, width)
    return net.op.initializer(lazy(lambda: positions.numpy() + types.numpy()[0], shape))


def layer_sizes(config: BertSettings) -> LayerSizes:
    """Return the sizes that all layers share."""
    return LayerSizes(
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        config.hidden_act,
        config.layer_norm_eps,
    )


def encoder(net: Network, x: ir.Value, config: BertSettings) -> ir.Value:
    """Write all layers, from (tokens, hidden_size) to (batch, sequence, hidden_size)."""
    for index in range(config.num_hidden_layers):
        x = post_norm_layer(net, x, PostNormLayer(f"encoder.layer.{index}", _NAMES, layer_sizes(config)))
    return net.unflat(x, config.hidden_size)


def body_sizes(config: BertSettings) -> BodySizes:
    """Return the sizes of a model with one row of its table for each position."""
    positions = config.max_position_embeddings
    return BodySizes(config.hidden_size, positions, positions, config.vocab_size)


BERT = Family("bert", "BertTokenizer", BertSettings, text_builder(token_vectors, body_sizes))
