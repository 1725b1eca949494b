"""RoBERTa (Liu et al., 2019: https://arxiv.org/abs/1907.11692) and XLM-RoBERTa: BERT, but for how positions count."""

from typing import Any

import onnx_ir as ir

from embedder_export.native import bert
from embedder_export.native.family import Family
from embedder_export.native.network import Network
from embedder_export.native.settings import count

_SETTINGS = bert.SETTINGS | {"pad_token_id": count(1, least=0)}


def build(net: Network, config: Any) -> ir.Value:
    """The token vectors, (batch, sequence, hidden_size)."""
    width = config.hidden_size
    words = net.embedding("embeddings.word_embeddings.weight", config.vocab_size, width)
    positions = net.positions_after(config.pad_token_id)
    x = net.op.Add(words, net.op.Gather(bert.position_table(net, config, width), positions))
    x = net.flat(net.layer_norm(x, "embeddings.LayerNorm", width, config.layer_norm_eps), width)
    return net.unflat(bert.encoder(net, x, config), width)


def _places(config: Any) -> int:
    return config.max_position_embeddings - config.pad_token_id - 1


ROBERTA = Family("roberta", _SETTINGS | {"vocab_size": count(50265)}, build, _places)
XLM_ROBERTA = Family("roberta", _SETTINGS, build, _places)
