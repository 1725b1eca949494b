"""Jina Embeddings v2 (Günther et al., 2023: https://arxiv.org/abs/2310.19923): BERT with ALiBi and gated units.

The Hub's code calls its model type "bert", so only `auto_map` in config.json tells it from BERT. The model
jina-embeddings-v2-base-code has other code, with normalised queries and keys, and is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
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
# The first half of the stacked rows is the gate.
_OLD_NAMES = OldNames([], {"mlp.gated_layers": ("mlp.gate", "mlp.up")})
_GATED_NAMES = bert.layer_names(gate="mlp.gate", up="mlp.up", down="mlp.wo", output_norm="mlp.layernorm")
# A weight of models with other equations under the same class names.
_FOREIGN = "encoder.layer.0.attention.self.layer_norm_q.weight"


def token_vectors(net: Network, config: JinaBertSettings) -> ir.Value:
    """Write the token vectors, (batch, sequence, hidden_size)."""
    if net.has(_FOREIGN):
        raise NotNativeError(f"the weights have {_FOREIGN}, a part of a model that is not known")
    types = bert.type_embeddings(net, config.type_vocab_size, config.hidden_size)
    x = embed(net, types, config.vocab_size, config.hidden_size, config.layer_norm_eps)
    is_gated = config.feed_forward_type in _GATED_UNITS
    sizes = LayerSizes(
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        _GATED_UNITS.get(config.feed_forward_type, config.hidden_act),
        config.layer_norm_eps,
        up_bias=not is_gated,
    )
    names = [f"encoder.layer.{index}" for index in range(config.num_hidden_layers)]
    parts = _GATED_NAMES if is_gated else bert.layer_names()
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
