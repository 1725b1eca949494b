"""Write the layers of BERT and its relatives, which normalise after each addition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from embedder_export.body.attention import Attention, QueryKeyNorm, check_heads
from embedder_export.body.experts import Experts, mixture
from embedder_export.body.network import Network
from embedder_export.body.rope import Rope


def embed(net: Network, added: ir.Value | None, vocab_size: int, width: int, epsilon: float) -> ir.Value:
    """Write layer_norm(word embeddings + added), the first step of BERT and its relatives: (tokens, width).

    Args:
        net: the network to write into.
        added: the embeddings of positions and token types. None adds nothing.
        vocab_size: rows of the table of word embeddings.
        width: its width.
        epsilon: added to the variance in layer normalisation.
    """
    words = net.embedding("embeddings.word_embeddings.weight", vocab_size, width)
    words = words if added is None else net.op.Add(words, added)
    return net.flat(net.layer_norm(words, "embeddings.LayerNorm", width, epsilon), width)


@dataclass(frozen=True)
class LayerNames:
    """Names of a layer's parts, without the layer's own name before them.

    `gate` is None if there is no gate. The last three are None if queries and keys are not normalised, and if the
    attention's input is added only once.
    """

    query: str
    key: str
    value: str
    output: str
    attention_norm: str
    up: str
    down: str
    output_norm: str
    gate: str | None = None
    query_norm: str | None = None
    key_norm: str | None = None
    second_norm: str | None = None


# The names of transformers' newer classes, without those of the feed-forward part.
SELF_ATTENTION_NAMES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "attention_norm": "post_attention_layernorm",
    "output_norm": "post_mlp_layernorm",
}


@dataclass(frozen=True)
class LayerSizes:
    """Sizes that all layers of a model share.

    Attributes:
        width: length of a token's vector.
        heads: number of attention heads.
        intermediate: width of the feed-forward part.
        activation: transformers' name of the activation.
        epsilon: added to the variance in layer normalisation.
        head_width: width of a head. None is width / heads.
        attention_bias: whether the linear layers of the attention have a bias.
        up_bias: whether `up` and `gate` have a bias.
        down_bias: whether `down` has a bias.
    """

    width: int
    heads: int
    intermediate: int
    activation: str
    epsilon: float
    head_width: int | None = None
    attention_bias: bool = True
    up_bias: bool = True
    down_bias: bool = True


@dataclass(frozen=True)
class PostNormLayers:
    """Layers that compute x = norm(x + attention(x)); x = norm(x + down(activation(up(x)))).

    With a gate, the second step is x = norm(x + down(activation(gate(x)) * up(x))). With a second normalisation, the
    first step is x = norm(x + norm(x + attention(x))).

    Attributes:
        names: the layers' names, in order.
        parts: the names of their parts.
        sizes: their sizes.
        rope: the rotation of queries and keys. None does not rotate.
        slopes: the slope of each head in ALiBi. Empty without ALiBi.
        experts: the experts of layers whose second step is x = norm(x + experts(x)), by the layer's name.
    """

    names: Sequence[str]
    parts: LayerNames
    sizes: LayerSizes
    rope: Rope | None = None
    slopes: tuple[float, ...] = ()
    experts: Mapping[str, Experts] = field(default_factory=dict)


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
    if layers.sizes.head_width is None:
        check_heads(layers.sizes.heads, width)
    for name in layers.names[:-1]:
        x = _full_layer(net, x, name, layers, bias)
    if net.first_token_only:
        return _first_token_layer(net, x, layers.names[-1], layers, bias)
    return net.unflat(_full_layer(net, x, layers.names[-1], layers, bias), width)


def _full_layer(net: Network, x: ir.Value, name: str, layers: PostNormLayers, bias: ir.Value | None) -> ir.Value:
    """Write a layer: (tokens, width)."""
    mixed = net.attention(x, _attention(name, layers), bias)
    return _after_attention(net, mixed, x, name, layers, one_row=False)


def _first_token_layer(net: Network, x: ir.Value, name: str, layers: PostNormLayers, bias: ir.Value | None) -> ir.Value:
    """Write a layer that computes only the first token of each text: (batch, width)."""
    token = net.first_tokens(x, layers.sizes.width)
    mixed = net.first_token_attention(x, token, _attention(name, layers), bias)
    return _after_attention(net, mixed, token, name, layers, one_row=True)


def _attention(name: str, layers: PostNormLayers) -> Attention:
    parts, sizes = layers.parts, layers.sizes
    return Attention(
        query=f"{name}.{parts.query}",
        key=f"{name}.{parts.key}",
        value=f"{name}.{parts.value}",
        output=f"{name}.{parts.output}",
        heads=sizes.heads,
        width=sizes.width,
        inner=sizes.width if sizes.head_width is None else sizes.heads * sizes.head_width,
        has_bias=sizes.attention_bias,
        rope=layers.rope,
        slopes=layers.slopes,
        layer_norm=_query_key_norm(name, layers),
    )


def _query_key_norm(name: str, layers: PostNormLayers) -> QueryKeyNorm | None:
    parts = layers.parts
    if parts.query_norm is None or parts.key_norm is None:
        return None
    return QueryKeyNorm(f"{name}.{parts.query_norm}", f"{name}.{parts.key_norm}", layers.sizes.epsilon)


def _after_attention(
    net: Network, mixed: ir.Value, x: ir.Value, name: str, layers: PostNormLayers, *, one_row: bool
) -> ir.Value:
    """Write the rest of a layer, from the attention's result and its input. `one_row` is as in `Network.linear`."""
    parts, sizes = layers.parts, layers.sizes

    def add_and_norm(y: ir.Value, x: ir.Value, norm: str) -> ir.Value:
        return net.layer_norm(net.add(y, x), f"{name}.{norm}", sizes.width, sizes.epsilon)

    y = add_and_norm(mixed, x, parts.attention_norm)
    x = y if parts.second_norm is None else add_and_norm(y, x, parts.second_norm)
    return add_and_norm(_feed_forward(net, x, name, layers, one_row=one_row), x, parts.output_norm)


def _feed_forward(net: Network, x: ir.Value, name: str, layers: PostNormLayers, *, one_row: bool) -> ir.Value:
    """Write the second step of a layer without its sum: (tokens, width)."""
    sizes = layers.sizes
    if name in layers.experts:
        return mixture(net, x, layers.experts[name], sizes.width, sizes.intermediate, sizes.activation)
    y, down = _raise(net, x, name, layers, one_row=one_row), f"{name}.{layers.parts.down}"
    return net.linear(y, down, sizes.intermediate, sizes.width, has_bias=sizes.down_bias, one_row=one_row)


def _raise(net: Network, x: ir.Value, name: str, layers: PostNormLayers, *, one_row: bool) -> ir.Value:
    """Write activation(up(x)), or activation(gate(x)) * up(x): (tokens, intermediate)."""
    parts, sizes = layers.parts, layers.sizes

    def linear(part: str) -> ir.Value:
        return net.linear(x, f"{name}.{part}", sizes.width, sizes.intermediate, has_bias=sizes.up_bias, one_row=one_row)

    if parts.gate is None:
        return net.activation(linear(parts.up), sizes.activation)
    return net.op.Mul(net.activation(linear(parts.gate), sizes.activation), linear(parts.up))
