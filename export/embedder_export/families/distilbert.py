"""DistilBERT (Sanh et al., 2019: https://arxiv.org/abs/1910.01108): BERT with other names and without token types."""

from dataclasses import dataclass

import onnx_ir as ir

from embedder_export.body.contract import BodySizes
from embedder_export.body.network import Network
from embedder_export.body.post_norm import LayerNames, LayerSizes, PostNormLayers, embed, post_norm_layers
from embedder_export.families.family import Family, RankHead, WordHead, text_builder
from embedder_export.families.settings import Activation, Count


@dataclass(frozen=True)
class DistilBertSettings:
    """The settings of config.json that the equations below use."""

    vocab_size: Count = 30522
    dim: Count = 768
    n_layers: Count = 6
    n_heads: Count = 12
    hidden_dim: Count = 3072
    activation: Activation = "gelu"
    max_position_embeddings: Count = 512


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


def token_vectors(net: Network, config: DistilBertSettings) -> ir.Value:
    """Write the token vectors, (batch, sequence, dim)."""
    table = net.weight("embeddings.position_embeddings.weight", config.max_position_embeddings, config.dim)
    x = embed(net, net.first_rows(table), config.vocab_size, config.dim, _EPSILON)
    sizes = LayerSizes(config.dim, config.n_heads, config.hidden_dim, config.activation, _EPSILON)
    names = [f"transformer.layer.{index}" for index in range(config.n_layers)]
    return post_norm_layers(net, x, PostNormLayers(names, _NAMES, sizes))


def _body_sizes(config: DistilBertSettings) -> BodySizes:
    positions = config.max_position_embeddings
    return BodySizes(config.dim, positions, positions, config.vocab_size)


def _word_head(config: DistilBertSettings) -> WordHead:
    return WordHead(
        dense="vocab_transform",
        norm="vocab_layer_norm",
        decoder="vocab_projector",
        embeddings="distilbert.embeddings.word_embeddings.weight",
        activation=config.activation,
        norm_epsilon=_EPSILON,
    )


DISTILBERT = Family(
    "distilbert",
    "DistilBertTokenizer",
    DistilBertSettings,
    text_builder(token_vectors, _body_sizes),
    aliases=_ALIASES,
    rank_head=RankHead("pre_classifier", "ReLU", "classifier"),
    word_head=_word_head,
)
