"""ELECTRA (Clark et al., 2020: https://arxiv.org/abs/2003.10555): BERT, often with narrow embeddings."""

from dataclasses import dataclass

import onnx_ir as ir

from embedder_export.body.network import Network
from embedder_export.body.post_norm import embed
from embedder_export.families import bert
from embedder_export.families.family import Family, RankHead, WordHead, text_builder
from embedder_export.families.settings import Count


@dataclass(frozen=True)
class ElectraSettings(bert.BertSettings):
    """The settings of config.json that the equations below use."""

    embedding_size: Count = 128
    hidden_size: Count = 256
    num_attention_heads: Count = 4
    intermediate_size: Count = 1024


def token_vectors(net: Network, config: ElectraSettings) -> ir.Value:
    """Write the token vectors, (batch, sequence, hidden_size)."""
    narrow = config.embedding_size
    positions = bert.with_types(net, net.first_rows(bert.position_table(net, config, narrow)), config, narrow)
    x = embed(net, positions, config.vocab_size, narrow, config.layer_norm_eps)
    if narrow != config.hidden_size:
        x = net.linear(x, "embeddings_project", narrow, config.hidden_size)
    return bert.encoder(net, x, config)


def _word_head(config: ElectraSettings) -> WordHead:
    return WordHead(
        dense="generator_predictions.dense",
        norm="generator_predictions.LayerNorm",
        decoder="generator_lm_head",
        embeddings="electra.embeddings.word_embeddings.weight",
        activation="gelu",
        norm_epsilon=config.layer_norm_eps,
    )


ELECTRA = Family(
    "electra",
    "ElectraTokenizer",
    ElectraSettings,
    text_builder(token_vectors, bert.body_sizes),
    has_token_types=True,
    rank_head=RankHead("classifier.dense", "GELU", "classifier.out_proj"),
    word_head=_word_head,
)
