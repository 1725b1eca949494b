"""Qwen2 (Yang et al., 2024: https://arxiv.org/abs/2407.10671): Llama with biases, and with a window in some layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import onnx_ir as ir

from embedder_export.body.network import Network
from embedder_export.body.pre_norm import LayerKind
from embedder_export.errors import CheckpointError, NotNativeError
from embedder_export.families import llama
from embedder_export.families.family import Family, text_builder
from embedder_export.families.settings import Count, OptionalCount, Rule, at_least, read_settings

FULL, SLIDING = "full_attention", "sliding_attention"
# The type of each layer. None if it follows from other settings.
LayerTypes = Annotated[
    list[str] | None,
    Rule(lambda value: value is None or (isinstance(value, list) and all(kind in (FULL, SLIDING) for kind in value))),
]


@dataclass(frozen=True)
class QwenSettings(llama.GatedSettings):
    """The settings of config.json that Qwen2 and Qwen3 share."""

    vocab_size: Count = 151936
    intermediate_size: Count = 22016
    num_key_value_heads: OptionalCount = 32
    max_position_embeddings: Count = 32768
    use_sliding_window: llama.Flag = False
    sliding_window: OptionalCount = None
    max_window_layers: Annotated[int, at_least(0)] = 28
    layer_types: LayerTypes = None


def layer_kinds(config: QwenSettings) -> list[LayerKind]:
    """Return the kind of each layer.

    Raises:
        NotNativeError: the settings of the window contradict one another.
    """
    mask, rope = llama.mask(config), llama.rope(config)
    if not config.use_sliding_window:
        window, types = None, [FULL] * config.num_hidden_layers
    else:
        first, window = config.max_window_layers, config.sliding_window
        types = [SLIDING if index >= first else FULL for index in range(config.num_hidden_layers)]
    types = check_layer_types(config.layer_types, types)
    if SLIDING in types and (window is None or mask != "causal"):
        raise NotNativeError(f"config.json has a window in some layers, and {window} as sliding_window of {mask}")
    full = LayerKind(rope, mask)
    sliding = full if window is None else LayerKind(rope, mask, window - 1)  # sliding_window counts the token itself
    return [sliding if kind == SLIDING else full for kind in types]


def check_layer_types(given: Any, usual: list[str]) -> list[str]:
    """Return the layer types of config.json, or the `usual` ones if it has none.

    Raises:
        NotNativeError: their number is not that of the layers.
    """
    if given is None:
        return usual
    if len(given) != len(usual):
        raise NotNativeError(f"config.json has {len(given)} layer_types for {len(usual)} layers")
    return list(given)


def token_vectors(net: Network, config: QwenSettings) -> ir.Value:
    """Write the token vectors, (batch, sequence, hidden_size)."""
    return llama.embed_and_transform(
        net, config, llama.layer_sizes(config, config.hidden_act, qkv_bias=True), layer_kinds(config)
    )


def _read_settings(config: Mapping[str, Any], kind: type[QwenSettings]) -> QwenSettings:
    """Read the settings. Code in repositories, such as that of gte-Qwen2, has another default of is_causal.

    Raises:
        CheckpointError: config.json names such code, and does not say which tokens a token attends to.
        NotNativeError: the equations do not honour a value.
    """
    if config.get("auto_map") and "is_causal" not in config:
        raise CheckpointError(
            "config.json names classes of the repository's own code (auto_map), and does not say whether a token "
            "attends only to tokens before it (is_causal)"
        )
    return read_settings(config, kind)


QWEN2 = Family(
    "model",
    "Qwen2Tokenizer",
    QwenSettings,
    text_builder(token_vectors, llama.body_sizes, is_rotary=True),
    read_settings=_read_settings,
    rank_head=llama.rank_head,
    remote_classes=("Qwen2Model", "Qwen2ForCausalLM", "Qwen2ForSequenceClassification"),
)
