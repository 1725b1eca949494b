"""MPNet (Song et al., 2020: https://arxiv.org/abs/2004.09297): BERT with an attention bias for each distance."""

from dataclasses import dataclass
from typing import Annotated

import onnx_ir as ir

from embedder_export.body.contract import BodySizes
from embedder_export.body.distance_bias import RelativeBias
from embedder_export.body.network import Network
from embedder_export.body.post_norm import LayerNames, LayerSizes, PostNormLayers, embed, post_norm_layers
from embedder_export.families.family import Family, RankHead, WordHead, text_builder
from embedder_export.families.settings import Activation, Count, Epsilon, at_least

# transformers uses these values and ignores config.json's. The table may have more rows.
_PADDING_ID, _BUCKETS, _MAX_DISTANCE = 1, 32, 128


@dataclass(frozen=True)
class MPNetSettings:
    """The settings of config.json that the equations below use."""

    vocab_size: Count = 30527
    hidden_size: Count = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    intermediate_size: Count = 3072
    hidden_act: Activation = "gelu"
    max_position_embeddings: Count = 512
    layer_norm_eps: Epsilon = 1e-12
    relative_attention_num_buckets: Annotated[int, at_least(_BUCKETS)] = 32


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
_BIAS = "encoder.relative_attention_bias.weight"


def token_vectors(net: Network, config: MPNetSettings) -> ir.Value:
    """Write the token vectors, (batch, sequence, hidden_size)."""
    table = net.weight("embeddings.position_embeddings.weight", config.max_position_embeddings, config.hidden_size)
    positions = net.op.Gather(table, net.positions_after(_PADDING_ID))
    x = embed(net, positions, config.vocab_size, config.hidden_size, config.layer_norm_eps)
    heads = config.num_attention_heads
    bias = net.relative_bias(RelativeBias(_BIAS, config.relative_attention_num_buckets, heads, _BUCKETS, _MAX_DISTANCE))
    sizes = LayerSizes(config.hidden_size, heads, config.intermediate_size, config.hidden_act, config.layer_norm_eps)
    names = [f"encoder.layer.{index}" for index in range(config.num_hidden_layers)]
    return post_norm_layers(net, x, PostNormLayers(names, _NAMES, sizes), bias)


def _body_sizes(config: MPNetSettings) -> BodySizes:
    positions = config.max_position_embeddings
    return BodySizes(config.hidden_size, positions, positions - _PADDING_ID - 1, config.vocab_size)


def _word_head(config: MPNetSettings) -> WordHead:
    return WordHead(
        dense="lm_head.dense",
        norm="lm_head.layer_norm",
        decoder="lm_head.decoder",
        embeddings="mpnet.embeddings.word_embeddings.weight",
        activation="gelu",
        norm_epsilon=config.layer_norm_eps,
        bias="lm_head.bias",
    )


MPNET = Family(
    "mpnet",
    "MPNetTokenizer",
    MPNetSettings,
    text_builder(token_vectors, _body_sizes),
    rank_head=RankHead("classifier.dense", "Tanh", "classifier.out_proj"),
    word_head=_word_head,
)
