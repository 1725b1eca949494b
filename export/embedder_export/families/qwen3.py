"""Qwen3 (Yang et al., 2025: https://arxiv.org/abs/2505.09388): Llama with a normalisation of each head."""

from dataclasses import dataclass

import onnx_ir as ir

from embedder_export.body.network import Network
from embedder_export.families import llama, qwen2
from embedder_export.families.family import Family, text_builder
from embedder_export.families.settings import OptionalCount


@dataclass(frozen=True)
class Qwen3Settings(qwen2.QwenSettings):
    """The settings of config.json that the equations below use."""

    head_dim: OptionalCount = 128
    attention_bias: llama.Flag = False


def token_vectors(net: Network, config: Qwen3Settings) -> ir.Value:
    """Write the token vectors, (batch, sequence, hidden_size)."""
    bias = config.attention_bias
    sizes = llama.layer_sizes(config, config.hidden_act, qkv_bias=bias, output_bias=bias, has_head_norms=True)
    return llama.embed_and_transform(net, config, sizes, qwen2.layer_kinds(config))


QWEN3 = Family(
    "model",
    "Qwen2Tokenizer",
    Qwen3Settings,
    text_builder(token_vectors, llama.body_sizes, is_rotary=True),
    rank_head=llama.rank_head,
)
