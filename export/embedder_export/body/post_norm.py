"""Write the layers of BERT and its relatives, which normalise after each addition."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from embedder_export.body.attention import Attention, check_heads
from embedder_export.body.network import Network


def embed(net: Network, positions: ir.Value, vocab_size: int, width: int, epsilon: float) -> ir.Value:
    """Write layer_norm(word embeddings + positions), the first step of BERT and its relatives: (tokens, width)."""
    words = net.embedding("embeddings.word_embeddings.weight", vocab_size, width)
    return net.flat(net.layer_norm(net.op.Add(words, positions), "embeddings.LayerNorm", width, epsilon), width)


@dataclass(frozen=True)
class LayerNames:
    """Names of a layer's parts, without the layer's own name before them."""

    query: str
    key: str
    value: str
    output: str
    attention_norm: str
    up: str
    down: str
    output_norm: str


@dataclass(frozen=True)
class LayerSizes:
    """Sizes that all layers of a model share.

    Attributes:
        width: length of a token's vector.
        heads: number of attention heads.
        intermediate: width of the feed-forward part.
        activation: transformers' name of the activation.
        epsilon: added to the variance in layer normalisation.
    """

    width: int
    heads: int
    intermediate: int
    activation: str
    epsilon: float


@dataclass(frozen=True)
class PostNormLayers:
    """Layers that compute x = norm(x + attention(x)); x = norm(x + down(activation(up(x)))).

    Attributes:
        names: the layers' names, in order.
        parts: the names of their parts.
        sizes: their sizes.
    """

    names: Sequence[str]
    parts: LayerNames
    sizes: LayerSizes


def post_norm_layers(net: Network, x: ir.Value, layers: PostNormLayers, bias: ir.Value | None = None) -> ir.Value:
    """Write `layers`, one after another.

    Args:
        net: the network to write into.
        x: the tokens' vectors, (tokens, width).
        layers: the names and sizes.
        bias: as in `Network.attention`.

    Returns:
        The tokens' vectors, (batch, sequence, width). If the network gives only the first tokens: (batch, width).

    Raises:
        NotNativeError: the number of heads does not divide the width.
    """
    width = layers.sizes.width
    check_heads(layers.sizes.heads, width)
    for name in layers.names[:-1]:
        x = _full_layer(net, x, name, layers, bias)
    if net.first_token_only:
        return _first_token_layer(net, x, layers.names[-1], layers, bias)
    return net.unflat(_full_layer(net, x, layers.names[-1], layers, bias), width)


def _full_layer(net: Network, x: ir.Value, name: str, layers: PostNormLayers, bias: ir.Value | None) -> ir.Value:
    """Write a layer: (tokens, width)."""
    mixed = net.attention(x, _attention(name, layers), bias)
    return _after_attention(net, net.add(mixed, x), name, layers, one_row=False)


def _first_token_layer(net: Network, x: ir.Value, name: str, layers: PostNormLayers, bias: ir.Value | None) -> ir.Value:
    """Write a layer that computes only the first token of each text: (batch, width)."""
    token = net.first_tokens(x, layers.sizes.width)
    mixed = net.first_token_attention(x, token, _attention(name, layers), bias)
    return _after_attention(net, net.add(mixed, token), name, layers, one_row=True)


def _attention(name: str, layers: PostNormLayers) -> Attention:
    parts, width = layers.parts, layers.sizes.width
    return Attention(
        query=f"{name}.{parts.query}",
        key=f"{name}.{parts.key}",
        value=f"{name}.{parts.value}",
        output=f"{name}.{parts.output}",
        heads=layers.sizes.heads,
        width=width,
        inner=width,
    )


def _after_attention(net: Network, x: ir.Value, name: str, layers: PostNormLayers, *, one_row: bool) -> ir.Value:
    """Write the rest of a layer. `one_row` is as in `Network.linear`."""
    parts, sizes = layers.parts, layers.sizes
    x = net.layer_norm(x, f"{name}.{parts.attention_norm}", sizes.width, sizes.epsilon)
    y = net.linear(x, f"{name}.{parts.up}", sizes.width, sizes.intermediate, one_row=one_row)
    y = net.activation(y, sizes.activation)
    y = net.linear(y, f"{name}.{parts.down}", sizes.intermediate, sizes.width, one_row=one_row)
    return net.layer_norm(net.add(y, x), f"{name}.{parts.output_norm}", sizes.width, sizes.epsilon)
