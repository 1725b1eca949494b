"""Mistral (Jiang et al., 2023: https://arxiv.org/abs/2310.06825): Llama with a window in all layers."""

from dataclasses import dataclass

import onnx_ir as ir

from embedder_export.body.network import Network
from embedder_export.body.pre_norm import LayerKind
from embedder_export.errors import NotNativeError
from embedder_export.families import llama
from embedder_export.families.family import Family, text_builder
from embedder_export.families.settings import Count, OptionalCount


@dataclass(frozen=True)
class MistralSettings(llama.GatedSettings):
    """The settings of config.json that the equations below use."""

    intermediate_size: Count = 14336
    num_key_value_heads: OptionalCount = 8
    max_position_embeddings: Count = 131072
    sliding_window: OptionalCount = 4096


def token_vectors(net: Network, config: MistralSettings) -> ir.Value:
    """Write the token vectors, (batch, sequence, hidden_size)."""
    mask = llama.mask(config)
    if mask != "causal" and config.sliding_window is not None:
        raise NotNativeError(f"config.json has {config.sliding_window} as sliding_window and False as is_causal")
    window = None if config.sliding_window is None else config.sliding_window - 1  # it counts the token itself
    kinds = [LayerKind(llama.rope(config), mask, window)] * config.num_hidden_layers
    return llama.embed_and_transform(net, config, llama.layer_sizes(config, config.hidden_act), kinds)


MISTRAL = Family(
    "model",
    "LlamaTokenizer",
    MistralSettings,
    text_builder(token_vectors, llama.body_sizes, is_rotary=True),
    rank_head=llama.rank_head,
)
