"""Write the layers of Llama and its relatives: RMS normalisation before each part, gated feed-forward parts, RoPE."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from embedder_export.body.attention import Attention, HeadNorm
from embedder_export.body.network import Network
from embedder_export.body.rope import Rope
from embedder_export.errors import NotNativeError


@dataclass(frozen=True)
class PreNormSizes:
    """Sizes that all layers of a model share.

    Attributes:
        width: length of a token's vector.
        heads: number of heads of the queries.
        kv_heads: number of heads of the keys and the values. It divides `heads`.
        head_width: width of a head.
        intermediate: width of the feed-forward part.
        activation: transformers' name of the activation.
        epsilon: added to the mean of the squares in RMS normalisation.
        scale: factor of the attention's scores. None is 1 / sqrt(head_width).
        qkv_bias: whether the layers of queries, keys and values have a bias.
        output_bias: whether the layer after the heads has a bias.
        mlp_bias: whether the layers of the feed-forward part have a bias.
        has_head_norms: whether each head's query and key are normalised.
        has_output_norms: whether the result of each part is normalised too, before it is added.
    """

    width: int
    heads: int
    kv_heads: int
    head_width: int
    intermediate: int
    activation: str
    epsilon: float
    scale: float | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    has_head_norms: bool = False
    has_output_norms: bool = False


@dataclass(frozen=True)
class LayerKind:
    """What differs between the layers of a model.

    Attributes:
        rope: the rotation of queries and keys.
        mask: as in `Attention.mask`.
        window: as in `Attention.window`.
    """

    rope: Rope
    mask: str
    window: int | None = None


def pre_norm_layers(net: Network, x: ir.Value, sizes: PreNormSizes, kinds: Sequence[LayerKind]) -> ir.Value:
    """Write the layers, one after another, and the normalisation after them.

    A layer computes x = x + attention(norm(x)); x = x + down(activation(gate(norm(x))) * up(norm(x))).

    Args:
        net: the network to write into.
        x: the tokens' vectors, (tokens, width).
        sizes: the sizes of all layers.
        kinds: the kind of each layer, in order.

    Returns:
        The tokens' vectors, (batch, sequence, width).

    Raises:
        NotNativeError: the number of heads of the keys does not divide that of the queries.
    """
    if sizes.heads % sizes.kv_heads:
        raise NotNativeError(f"config.json has {sizes.heads} attention heads for {sizes.kv_heads} heads of keys")
    for index, kind in enumerate(kinds):
        x = _layer(net, x, f"layers.{index}", sizes, kind)
    if net.first_token_only:
        return net.rms_norm(net.first_tokens(x, sizes.width), "norm", sizes.width, sizes.epsilon)
    return net.unflat(net.rms_norm(x, "norm", sizes.width, sizes.epsilon), sizes.width)


def _layer(net: Network, x: ir.Value, name: str, sizes: PreNormSizes, kind: LayerKind) -> ir.Value:
    def norm(x: ir.Value, part: str) -> ir.Value:
        return net.rms_norm(x, f"{name}.{part}", sizes.width, sizes.epsilon)

    y = net.attention(norm(x, "input_layernorm"), _attention(net, f"{name}.self_attn", sizes, kind))
    if not sizes.has_output_norms:
        x = net.add(y, x)
        return net.add(_feed_forward(net, norm(x, "post_attention_layernorm"), f"{name}.mlp", sizes), x)
    x = net.add(norm(y, "post_attention_layernorm"), x)
    y = _feed_forward(net, norm(x, "pre_feedforward_layernorm"), f"{name}.mlp", sizes)
    return net.add(norm(y, "post_feedforward_layernorm"), x)


def _attention(net: Network, name: str, sizes: PreNormSizes, kind: LayerKind) -> Attention:
    spec = Attention(
        query=f"{name}.q_proj",
        key=f"{name}.k_proj",
        value=f"{name}.v_proj",
        output=f"{name}.o_proj",
        heads=sizes.heads,
        width=sizes.width,
        inner=sizes.heads * sizes.head_width,
        has_bias=sizes.qkv_bias,
        scale=sizes.scale,
        mask=kind.mask,
        rope=kind.rope,
        kv_heads=sizes.kv_heads,
        window=kind.window,
        output_has_bias=sizes.output_bias,
    )
    if kind.window is not None and kind.window >= net.longest_text:  # it has no effect
        spec = replace(spec, window=None)
    if not sizes.has_head_norms:
        return spec
    return replace(spec, head_norm=HeadNorm(f"{name}.q_norm", f"{name}.k_norm", sizes.epsilon))


def _feed_forward(net: Network, x: ir.Value, name: str, sizes: PreNormSizes) -> ir.Value:
    def linear(x: ir.Value, part: str, inputs: int, outputs: int) -> ir.Value:
        return net.linear(x, f"{name}.{part}", inputs, outputs, has_bias=sizes.mlp_bias)

    gate = net.activation(linear(x, "gate_proj", sizes.width, sizes.intermediate), sizes.activation)
    y = net.op.Mul(gate, linear(x, "up_proj", sizes.width, sizes.intermediate))
    return linear(y, "down_proj", sizes.intermediate, sizes.width)
