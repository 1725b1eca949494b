"""Jina Embeddings v2 (Günther et al., 2023: https://arxiv.org/abs/2310.19923): BERT with ALiBi and gated units.

The Hub's code calls its model type "bert", so only `auto_map` in config.json tells it from BERT. The model
jina-embeddings-v2-base-code has classes of the same names. It normalises queries and keys (Henry et al., 2020:
https://arxiv.org/abs/2010.04245), and the attention's input is added twice. Its weights tell it from the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import onnx_ir as ir

from embedder_export.body.contract import BodySizes
from embedder_export.body.distance_bias import alibi_slopes
from embedder_export.body.network import Network
from embedder_export.body.post_norm import LayerSizes, PostNormLayers, embed, post_norm_layers
from embedder_export.errors import NotNativeError
from embedder_export.families import bert
from embedder_export.families.family import Family, RankHead, text_builder
from embedder_export.families.old_names import OldNames, renamer
from embedder_export.families.settings import Activation, Count, Epsilon, at_least, one_of


@dataclass(frozen=True)
class JinaBertSettings:
    """The settings of config.json that the equations below use, with the defaults of the Hub's code."""

    vocab_size: Count = 30522
    hidden_size: Count = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    intermediate_size: Count = 3072
    hidden_act: Activation = "gelu"
    max_position_embeddings: Count = 512
    type_vocab_size: Annotated[int, at_least(1)] = 2
    layer_norm_eps: Epsilon = 1e-12
    position_embedding_type: Annotated[str, one_of("alibi")] = "absolute"
    feed_forward_type: Annotated[str, one_of("original", "geglu", "reglu")] = "original"


# The activation of each gated unit.
_GATED_UNITS = {"geglu": "gelu", "reglu": "relu"}
# The gate is the first half of the stacked rows, or the second with normalised queries and keys.
_OLD_NAMES = OldNames([], {"mlp.gated_layers": ("mlp.gate", "mlp.up"), "mlp.up_gated_layer": ("mlp.up", "mlp.gate")})
_GATED_NAMES = bert.layer_names(gate="mlp.gate", up="mlp.up", down="mlp.wo", output_norm="mlp.layernorm")
_NORMED_NAMES = replace(
    bert.layer_names(gate="mlp.gate", up="mlp.up", down="mlp.down_layer", output_norm="layer_norm_2"),
    query_norm="attention.self.layer_norm_q",
    key_norm="attention.self.layer_norm_k",
    second_norm="layer_norm_1",
)
# A weight that only models with normalised queries and keys have.
_QUERY_NORM = "encoder.layer.0.attention.self.layer_norm_q.weight"


def token_vectors(net: Network, config: JinaBertSettings) -> ir.Value:
    """Write the token vectors, (batch, sequence, hidden_size)."""
    is_normed, is_gated = net.has(_QUERY_NORM), config.feed_forward_type in _GATED_UNITS
    if is_normed and not is_gated:
        raise NotNativeError(
            f"config.json has {config.feed_forward_type!r:.80} as feed_forward_type beside query norms"
        )
    types = bert.type_embeddings(net, config.type_vocab_size, config.hidden_size)
    x = embed(net, types, config.vocab_size, config.hidden_size, config.layer_norm_eps)
    sizes = LayerSizes(
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        _GATED_UNITS.get(config.feed_forward_type, config.hidden_act),
        config.layer_norm_eps,
        up_bias=not is_gated,
    )
    names = [f"encoder.layer.{index}" for index in range(config.num_hidden_layers)]
    parts = _NORMED_NAMES if is_normed else _GATED_NAMES if is_gated else bert.layer_names()
    layers = PostNormLayers(names, parts, sizes, slopes=alibi_slopes(config.num_attention_heads))
    return post_norm_layers(net, x, layers)


def _body_sizes(config: JinaBertSettings) -> BodySizes:
    """Return the sizes. ALiBi has no table of positions, so any number of positions is usable."""
    return BodySizes(config.hidden_size, config.max_position_embeddings, None, config.vocab_size)


def _is_remote(config: Mapping[str, Any]) -> bool:
    return True  # transformers has no class for it


JINA_BERT = Family(
    "bert",
    "BertTokenizer",
    JinaBertSettings,
    text_builder(token_vectors, _body_sizes),
    has_token_types=True,
    rank_head=RankHead("bert.pooler.dense", "Tanh", "classifier"),
    rename=renamer(_OLD_NAMES),
    remote_classes=tuple(
        f"JinaBert{part}"
        for part in (
            "Config",
            "Model",
            "ForMaskedLM",
            "ForMultipleChoice",
            "ForQuestionAnswering",
            "ForSequenceClassification",
            "ForTokenClassification",
        )
    ),
    is_remote=_is_remote,
)
