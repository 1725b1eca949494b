"""Llama (Touvron et al., 2023: https://arxiv.org/abs/2302.13971), and what its relatives share with it.

A language model gives embeddings as sentence-transformers uses it: each token attends to itself and the tokens before
it, and the last token's vector stands for the text. With `is_causal` false, each token attends to all tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import onnx_ir as ir

from embedder_export.body.attention import check_heads
from embedder_export.body.contract import BodySizes
from embedder_export.body.network import Network
from embedder_export.body.pre_norm import LayerKind, PreNormSizes, pre_norm_layers
from embedder_export.body.rope import Rope
from embedder_export.errors import CheckpointError
from embedder_export.families.family import Family, RankHead, text_builder
from embedder_export.families.rope_settings import read_rope
from embedder_export.families.settings import (
    DERIVED,
    Activation,
    Count,
    DerivedFlag,
    Epsilon,
    OptionalCount,
    Rule,
    one_of,
)

# A setting that `rope_settings` checks.
OfRope = Annotated[Any, Rule(lambda value: True)]
Flag = Annotated[bool, one_of(False, True)]
_THETA = 10_000.0


@dataclass(frozen=True)
class DecoderSettings:
    """The settings of config.json that Llama and all its relatives have."""

    vocab_size: Count = 32000
    hidden_size: Count = 4096
    intermediate_size: Count = 11008
    num_hidden_layers: Count = 32
    num_attention_heads: Count = 32
    num_key_value_heads: OptionalCount = None
    head_dim: OptionalCount = None
    max_position_embeddings: Count = 2048
    original_max_position_embeddings: OfRope = None
    rms_norm_eps: Epsilon = 1e-6
    rope_parameters: OfRope = None
    rope_scaling: OfRope = None
    rope_theta: OfRope = None
    partial_rotary_factor: OfRope = None
    is_causal: DerivedFlag = DERIVED


@dataclass(frozen=True)
class GatedSettings(DecoderSettings):
    """The same settings, with the name that most relatives have for the activation."""

    hidden_act: Activation = "silu"


@dataclass(frozen=True)
class LlamaSettings(GatedSettings):
    """The settings of config.json that the equations below use."""

    attention_bias: Flag = False
    mlp_bias: Flag = False


def head_width(config: DecoderSettings) -> int:
    """Return the width of a head.

    Raises:
        NotNativeError: the number of heads does not divide the width.
    """
    if config.head_dim is not None:
        return config.head_dim
    check_heads(config.num_attention_heads, config.hidden_size)
    return config.hidden_size // config.num_attention_heads


def rope(config: DecoderSettings) -> Rope:
    """Return the rotation that all layers share.

    Raises:
        NotNativeError: the equations do not honour a setting of it.
    """
    return read_rope(asdict(config), head_width(config), _THETA, config.max_position_embeddings)


def mask(config: DecoderSettings) -> str:
    """Return which tokens a token attends to, as `Attention.mask` names it."""
    return "padding" if config.is_causal is False else "causal"


def layer_sizes(
    config: DecoderSettings,
    activation: str,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
    has_head_norms: bool = False,
) -> PreNormSizes:
    """Return the sizes that all layers share. `PreNormSizes` describes the other arguments.

    Raises:
        NotNativeError: as `head_width`.
    """
    return PreNormSizes(
        width=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_width=head_width(config),
        intermediate=config.intermediate_size,
        activation=activation,
        epsilon=config.rms_norm_eps,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        mlp_bias=mlp_bias,
        has_head_norms=has_head_norms,
    )


def embed_and_transform(
    net: Network, config: DecoderSettings, sizes: PreNormSizes, kinds: Sequence[LayerKind]
) -> ir.Value:
    """Write the word embeddings and the layers: (batch, sequence, hidden_size)."""
    words = net.embedding("embed_tokens.weight", config.vocab_size, config.hidden_size)
    return pre_norm_layers(net, net.flat(words, config.hidden_size), sizes, kinds)


def token_vectors(net: Network, config: LlamaSettings) -> ir.Value:
    """Write the token vectors, (batch, sequence, hidden_size)."""
    bias = config.attention_bias
    sizes = layer_sizes(config, config.hidden_act, qkv_bias=bias, output_bias=bias, mlp_bias=config.mlp_bias)
    kinds = [LayerKind(rope(config), mask(config))] * config.num_hidden_layers
    return embed_and_transform(net, config, sizes, kinds)


def body_sizes(config: DecoderSettings) -> BodySizes:
    """Return the sizes of the transformer."""
    return BodySizes(config.hidden_size, config.max_position_embeddings, vocabulary_size=config.vocab_size)


def rank_head(config: Mapping[str, Any]) -> RankHead:
    """Return the head for sequence classification: a linear layer on the last token that is not padding.

    Raises:
        CheckpointError: config.json names no token for padding.
    """
    padding_id = config.get("pad_token_id")
    if type(padding_id) is not int:
        raise CheckpointError(
            f"config.json has {padding_id!r:.80} as pad_token_id. The score of a pair is that of its last token which "
            "is not padding, so the id of a token is needed"
        )
    return RankHead(None, "Identity", "score", pooling="lasttoken", padding_id=padding_id, out_has_bias=False)


LLAMA = Family(
    "model",
    "LlamaTokenizer",
    LlamaSettings,
    text_builder(token_vectors, body_sizes, is_rotary=True),
    rank_head=rank_head,
)
