"""The text model of Gemma 3 (2025: https://arxiv.org/abs/2503.19786), and EmbeddingGemma.

Most layers have a window and a rotation of their own. Scales of normalisations are stored minus 1.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import onnx_ir as ir

from embedder_export.body.contract import Body, BodyRequest
from embedder_export.body.network import Network
from embedder_export.body.pre_norm import LayerKind, pre_norm_layers
from embedder_export.body.rope import Rope
from embedder_export.checkpoint.weights import Floats, Weights, lazy
from embedder_export.errors import GraphError, NotNativeError
from embedder_export.families import llama, qwen2
from embedder_export.families.family import Builder, Family, text_builder
from embedder_export.families.qwen2 import FULL, SLIDING
from embedder_export.families.rope_settings import parameters_of_layers, rope_of
from embedder_export.families.settings import Activation, Count, OptionalCount, one_of

_THETAS = {FULL: 1_000_000.0, SLIDING: 10_000.0}
# The default of pad_token_id in transformers.
_PADDING_ID = 0
# The setting that is the theta of each layer type in checkpoints of transformers 4.
_OLD_NAMES = {FULL: "rope_theta", SLIDING: "rope_local_base_freq"}


@dataclass(frozen=True)
class Gemma3Settings(llama.DecoderSettings):
    """The settings of config.json that the equations below use."""

    vocab_size: Count = 262208
    hidden_size: Count = 2304
    intermediate_size: Count = 9216
    num_hidden_layers: Count = 26
    num_attention_heads: Count = 8
    num_key_value_heads: OptionalCount = 4
    head_dim: OptionalCount = 256
    hidden_activation: Activation = "gelu_pytorch_tanh"
    max_position_embeddings: Count = 131072
    rope_local_base_freq: llama.OfRope = None
    attention_bias: llama.Flag = False
    query_pre_attn_scalar: Count = 256
    sliding_window: Count = 4096
    sliding_window_pattern: OptionalCount = None
    layer_types: qwen2.LayerTypes = None
    attn_logit_softcapping: Annotated[None, one_of(None)] = None
    use_bidirectional_attention: Annotated[bool | None, one_of(False, True, None)] = False


def token_vectors(net: Network, config: Gemma3Settings) -> ir.Value:
    """Write the token vectors, (batch, sequence, hidden_size)."""
    width, bias = config.hidden_size, config.attention_bias
    words = net.embedding("embed_tokens.weight", config.vocab_size, width)
    x = net.flat(net.op.Mul(words, net.op.constant(math.sqrt(width))), width)
    sizes = llama.layer_sizes(config, config.hidden_activation, qkv_bias=bias, output_bias=bias, has_head_norms=True)
    sizes = replace(
        sizes,
        scale=1 / math.sqrt(config.query_pre_attn_scalar),
        has_output_norms=True,
    )
    return pre_norm_layers(net, x, sizes, _layer_kinds(config))


def _layer_kinds(config: Gemma3Settings) -> list[LayerKind]:
    pattern = config.sliding_window_pattern or 6
    types = [SLIDING if (index + 1) % pattern else FULL for index in range(config.num_hidden_layers)]
    types = qwen2.check_layer_types(config.layer_types, types)
    mask, window = llama.mask(config), config.sliding_window - 1  # sliding_window counts the token itself
    if config.use_bidirectional_attention:
        mask, window = "padding", config.sliding_window // 2
    elif mask != "causal":
        raise NotNativeError("config.json has False as is_causal and no use_bidirectional_attention")
    kinds = {
        FULL: LayerKind(rope(config, FULL), mask),
        SLIDING: LayerKind(rope(config, SLIDING), mask, window),
    }
    return [kinds[kind] for kind in types]


def rope(config: Gemma3Settings, kind: str) -> Rope:
    """Return the rotation of the layers of a type. rope_scaling acts on the layers without a window alone."""
    scaling = config.rope_scaling if kind == FULL else None
    own = parameters_of_layers(config.rope_parameters, scaling, _THETAS)[kind]
    if getattr(config, _OLD_NAMES[kind]) is not None:
        own.setdefault("rope_theta", getattr(config, _OLD_NAMES[kind]))
    return rope_of(own, llama.head_width(config), _THETAS[kind], config.max_position_embeddings)


def _with_whole_scales(weights: Weights) -> Weights:
    """Return the weights with 1 added to the scales of normalisations."""

    def whole(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        return lazy(partial(_plus_one, tensor), tuple(tensor.shape.numpy()))

    return {name: whole(tensor) if name.endswith("norm.weight") else tensor for name, tensor in weights.items()}


def _plus_one(tensor: ir.TensorProtocol) -> Floats:
    ones: Floats = tensor.numpy() + 1
    return ones


def _without_gpu_form(build: Builder[Gemma3Settings]) -> Builder[Gemma3Settings]:
    """Return a builder that refuses the form for GPUs in fp16."""

    def refuse() -> ir.Model:
        raise GraphError("activations of Gemma 3 exceed the range of float16")

    def build_fp32(weights: Weights, settings: Gemma3Settings, request: BodyRequest) -> Body:
        return replace(build(weights, settings, request), write_for_gpu=refuse)

    return build_fp32


_BUILDERS = text_builder(token_vectors, llama.body_sizes, is_rotary=True)
GEMMA3 = Family(
    "model",
    "GemmaTokenizer",
    Gemma3Settings,
    {modality: _without_gpu_form(build) for modality, build in _BUILDERS.items()},
    rank_head=lambda config: llama.rank_head({"pad_token_id": _PADDING_ID, **config}),
    rename=_with_whole_scales,
)
