"""RoBERTa (Liu et al., 2019: https://arxiv.org/abs/1907.11692), XLM-RoBERTa and CamemBERT.

They are BERT with other positions: tokens count from the padding's id + 1.
"""

from dataclasses import dataclass

import onnx_ir as ir

from embedder_export.body.contract import BodySizes
from embedder_export.body.network import Network
from embedder_export.body.post_norm import embed
from embedder_export.families import bert
from embedder_export.families.family import Family, RankHead, WordHead, text_builder
from embedder_export.families.settings import Count, TokenId


@dataclass(frozen=True)
class XlmRobertaSettings(bert.BertSettings):
    """The settings of config.json that the equations below use, with the defaults of XLM-RoBERTa and CamemBERT."""

    pad_token_id: TokenId = 1


@dataclass(frozen=True)
class RobertaSettings(XlmRobertaSettings):
    """The same settings with RoBERTa's default vocabulary size."""

    vocab_size: Count = 50265


def token_vectors(net: Network, config: XlmRobertaSettings) -> ir.Value:
    """Write the token vectors, (batch, sequence, hidden_size)."""
    positions = position_embeddings(net, config)
    x = embed(net, positions, config.vocab_size, config.hidden_size, config.layer_norm_eps)
    return bert.encoder(net, x, config)


def position_embeddings(net: Network, config: XlmRobertaSettings) -> ir.Value:
    """Write the embeddings of positions and token types, (batch, sequence, hidden_size)."""
    table = bert.position_table(net, config, config.hidden_size)
    positions = net.op.Gather(table, net.positions_after(config.pad_token_id))
    return bert.with_types(net, positions, config, config.hidden_size)


def body_sizes(config: XlmRobertaSettings) -> BodySizes:
    """Return the sizes. The first rows of the table of positions, up to the padding's, serve no token."""
    positions = config.max_position_embeddings
    return BodySizes(config.hidden_size, positions, positions - config.pad_token_id - 1, config.vocab_size)


_BUILDERS = text_builder(token_vectors, body_sizes)
_HEAD = RankHead("classifier.dense", "Tanh", "classifier.out_proj")


def _word_head(config: XlmRobertaSettings) -> WordHead:
    return WordHead(
        dense="lm_head.dense",
        norm="lm_head.layer_norm",
        decoder="lm_head.decoder",
        embeddings="roberta.embeddings.word_embeddings.weight",
        activation="gelu",
        norm_epsilon=config.layer_norm_eps,
        bias="lm_head.bias",
    )


def _family(tokenizer_class: str, settings: type[XlmRobertaSettings]) -> Family[XlmRobertaSettings]:
    return Family(
        "roberta",
        tokenizer_class,
        settings,
        _BUILDERS,
        has_token_types=True,
        rank_head=_HEAD,
        word_head=_word_head,
    )


ROBERTA = _family("RobertaTokenizer", RobertaSettings)
XLM_ROBERTA = _family("XLMRobertaTokenizer", XlmRobertaSettings)
CAMEMBERT = _family("CamembertTokenizer", XlmRobertaSettings)
