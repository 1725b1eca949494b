"""What BERTs with rotary positions share: NomicBERT, GTE, and the base of Jina v3."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from embedder_export.body.contract import BodySizes
from embedder_export.body.experts import Experts
from embedder_export.body.network import Network
from embedder_export.body.post_norm import LayerNames, LayerSizes, PostNormLayers, embed, post_norm_layers
from embedder_export.families import bert
from embedder_export.families.rope_settings import OptionalRope
from embedder_export.families.settings import Activation, Count, Epsilon


@dataclass(frozen=True, kw_only=True)
class RotaryBertSettings:
    """The settings of config.json that all of these families have. `rope` follows from other settings.

    It is None if the model has a table of positions instead.
    """

    vocab_size: Count
    hidden_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    intermediate_size: Count
    hidden_act: Activation
    max_position_embeddings: Count
    type_vocab_size: int
    layer_norm_eps: Epsilon
    rope: OptionalRope


def token_vectors(
    net: Network,
    config: RotaryBertSettings,
    names: LayerNames,
    *,
    head_width: int | None = None,
    attention_bias: bool = True,
    up_bias: bool = True,
    down_bias: bool = True,
    positions: ir.Value | None = None,
    experts: Mapping[str, Experts] | None = None,
) -> ir.Value:
    """Write the token vectors, (batch, sequence, hidden_size).

    Args:
        net: the network to write into.
        config: the settings.
        names: the names of a layer's parts.
        head_width: as in `LayerSizes`, like the arguments after it.
        attention_bias: whether the linear layers of the attention have a bias.
        up_bias: whether the layers before the activation have a bias.
        down_bias: whether the layer after the activation has a bias.
        positions: the embeddings of positions and token types. None if the model has no table of positions.
        experts: as in `PostNormLayers`.
    """
    if positions is None:
        positions = bert.type_embeddings(net, config.type_vocab_size, config.hidden_size)
    x = embed(net, positions, config.vocab_size, config.hidden_size, config.layer_norm_eps)
    sizes = LayerSizes(
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        config.hidden_act,
        config.layer_norm_eps,
        head_width,
        attention_bias,
        up_bias,
        down_bias,
    )
    layers = [layer_name(index) for index in range(config.num_hidden_layers)]
    return post_norm_layers(net, x, PostNormLayers(layers, names, sizes, config.rope, experts=experts or {}))


def layer_name(index: int) -> str:
    """Return the name of a layer.

    Example:
        >>> layer_name(3)
        'layers.3'
    """
    return f"layers.{index}"


def body_sizes(config: RotaryBertSettings) -> BodySizes:
    """Return the sizes of the transformer."""
    return BodySizes(config.hidden_size, config.max_position_embeddings, vocabulary_size=config.vocab_size)
