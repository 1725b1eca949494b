"""RoBERTa (Liu et al., 2019: https://arxiv.org/abs/1907.11692) and its kin: BERT, but for how positions count."""

from typing import Any

import onnx_ir as ir

from embedder_export.body.native import bert
from embedder_export.body.native.family import Family
from embedder_export.body.native.network import Network, embed
from embedder_export.body.native.settings import count

_SETTINGS = bert.SETTINGS | {"pad_token_id": count(1, least=0)}


def build(net: Network, config: Any) -> ir.Value:
    """The token vectors, (batch, sequence, hidden_size)."""
    table = bert.position_table(net, config, config.hidden_size)
    positions = net.op.Gather(table, net.positions_after(config.pad_token_id))
    x = embed(net, positions, config.vocab_size, config.hidden_size, config.layer_norm_eps)
    return bert.encoder(net, x, config)


def _usable_positions(config: Any) -> int:
    return config.max_position_embeddings - config.pad_token_id - 1


ROBERTA = Family("roberta", _SETTINGS | {"vocab_size": count(50265)}, build, _usable_positions)
# CamemBERT, too, has XLM-RoBERTa's defaults.
XLM_ROBERTA = Family("roberta", _SETTINGS, build, _usable_positions)
