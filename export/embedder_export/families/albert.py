"""ALBERT (Lan et al., 2020: https://arxiv.org/abs/1909.11942): BERT with narrow embeddings and shared layers."""

from dataclasses import dataclass

import onnx_ir as ir

from embedder_export.body.network import Network
from embedder_export.body.post_norm import LayerNames, PostNormLayers, embed, post_norm_layers
from embedder_export.families import bert
from embedder_export.families.family import Family, RankHead, WordHead, text_builder
from embedder_export.families.settings import Activation, Count


@dataclass(frozen=True)
class AlbertSettings(bert.BertSettings):
    """The settings of config.json that the equations below use."""

    vocab_size: Count = 30000
    embedding_size: Count = 128
    hidden_size: Count = 4096
    num_hidden_groups: Count = 1
    num_attention_heads: Count = 64
    intermediate_size: Count = 16384
    inner_group_num: Count = 1
    hidden_act: Activation = "gelu_new"


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


def token_vectors(net: Network, config: AlbertSettings) -> ir.Value:
    """Write the token vectors, (batch, sequence, hidden_size)."""
    narrow = config.embedding_size
    positions = bert.with_types(net, net.first_rows(bert.position_table(net, config, narrow)), config, narrow)
    x = embed(net, positions, config.vocab_size, narrow, config.layer_norm_eps)
    x = net.linear(x, "encoder.embedding_hidden_mapping_in", narrow, config.hidden_size)
    # A division of floats, as in transformers: the number of groups need not divide the number of layers.
    layers = range(config.num_hidden_layers)
    groups = [int(index / (config.num_hidden_layers / config.num_hidden_groups)) for index in layers]
    names = [
        f"encoder.albert_layer_groups.{group}.albert_layers.{inner}"
        for group in groups
        for inner in range(config.inner_group_num)
    ]
    return post_norm_layers(net, x, PostNormLayers(names, _NAMES, bert.layer_sizes(config)))


def _word_head(config: AlbertSettings) -> WordHead:
    return WordHead(
        dense="predictions.dense",
        norm="predictions.LayerNorm",
        decoder="predictions.decoder",
        embeddings="albert.embeddings.word_embeddings.weight",
        activation=config.hidden_act,
        norm_epsilon=config.layer_norm_eps,
        bias="predictions.bias",
    )


ALBERT = Family(
    "albert",
    "AlbertTokenizer",
    AlbertSettings,
    text_builder(token_vectors, bert.body_sizes),
    has_token_types=True,
    rank_head=RankHead("albert.pooler", "Tanh", "classifier"),
    word_head=_word_head,
)
