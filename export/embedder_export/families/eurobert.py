"""EuroBERT (Boizard et al., 2025: https://arxiv.org/abs/2503.05500): Llama whose tokens attend to all tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import onnx_ir as ir

from embedder_export.body.network import Network
from embedder_export.body.pre_norm import LayerKind
from embedder_export.families import llama
from embedder_export.families.family import Family, RankHead, text_builder
from embedder_export.families.settings import Count, Epsilon, one_of, read_settings

# The name of each pooling of the sequence classifier. "late" is the mean of the scores of all tokens.
_POOLINGS = {"bos": "cls", "mean": "mean", "late": "mean"}


@dataclass(frozen=True)
class EuroBertSettings(llama.LlamaSettings):
    """The settings of config.json that the equations below use."""

    vocab_size: Count = 128256
    hidden_size: Count = 768
    intermediate_size: Count = 3072
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    max_position_embeddings: Count = 8192
    rms_norm_eps: Epsilon = 1e-5
    classifier_pooling: Annotated[str, one_of(*_POOLINGS)] = "late"


def token_vectors(net: Network, config: EuroBertSettings) -> ir.Value:
    """Write the token vectors, (batch, sequence, hidden_size)."""
    bias = config.attention_bias
    sizes = llama.layer_sizes(config, config.hidden_act, qkv_bias=bias, output_bias=bias, mlp_bias=config.mlp_bias)
    kinds = [LayerKind(llama.rope(config), "padding")] * config.num_hidden_layers
    return llama.embed_and_transform(net, config, sizes, kinds)


def _rank_head(config: Mapping[str, Any]) -> RankHead:
    pooling = read_settings(config, EuroBertSettings).classifier_pooling
    return RankHead("dense", "GELU", "classifier", pooling=_POOLINGS[pooling], pools_last=pooling == "late")


EUROBERT = Family(
    "model",
    "PreTrainedTokenizerFast",
    EuroBertSettings,
    text_builder(token_vectors, llama.body_sizes, is_rotary=True),
    rank_head=_rank_head,
    remote_classes=(
        "EuroBertConfig",
        "EuroBertModel",
        "EuroBertForMaskedLM",
        "EuroBertForSequenceClassification",
        "EuroBertForTokenClassification",
        "EuroBertPreTrainedModel",
    ),
)
