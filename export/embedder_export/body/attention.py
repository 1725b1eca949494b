"""Write attention: each token takes a weighted mean of the tokens' values.

There are two operators. Measured in milliseconds, for 12 heads of 32 numbers, one thread with AVX-512:

    tokens                                  16      64      256    512
    ONNX's Attention                        0.015   0.100   1.33   5.5
    MultiHeadAttention with a mask          0.029   0.148   1.89   7.4
    MultiHeadAttention without a mask       0.022   0.118   1.35   5.1

ONNX's Attention takes the number of tokens of each text in the place of a mask. It holds the scores of all pairs of
tokens. MultiHeadAttention without a mask computes flash attention, which holds a block of them: its memory does not
grow with the square of the length.
"""

from dataclasses import dataclass

import onnx_ir as ir
from embedder.artifact.manifest import UNPADDED_FROM_TOKENS

from embedder_export.body.rope import Rope
from embedder_export.errors import NotNativeError
from embedder_export.graph.operators import Operators

# Up to this many tokens, holding all scores is as fast as flash attention or faster.
MAX_SCORED_TOKENS = 256
# The runtime never pads texts of more tokens. So the text's length alone decides which operator computes its vector.
assert MAX_SCORED_TOKENS + 1 >= UNPADDED_FROM_TOKENS


@dataclass(frozen=True)
class Attention:
    """A multi-head attention.

    Attributes:
        query: the name of the linear layer for the queries.
        key: the name of the linear layer for the keys.
        value: the name of the linear layer for the values.
        output: the name of the linear layer after the heads.
        heads: number of heads.
        width: length of a token's vector.
        inner: width of all heads together.
        has_bias: whether the linear layers have a bias.
        scale: factor of the scores. None is 1 / sqrt(inner / heads).
        mask: which tokens a token attends to. "padding": all tokens except padding. "causal": itself and the tokens
            before it. "none": all tokens, padding included.
        rope: the rotation of queries and keys. None does not rotate.
        window: a token attends only to tokens that are at most so many tokens away. None sets no limit.
        slopes: the slope of each head in ALiBi. Empty without ALiBi.
        kv_heads: number of heads of the keys and the values. Each serves heads / kv_heads heads of the queries (Ainslie
            et al., 2023: https://arxiv.org/abs/2305.13245). None is `heads`.
        head_norm: the normalisation of each head's query and key, before the rotation. None does not normalise.
        layer_norm: the normalisation of a token's query and key over all heads. None does not normalise.
        output_has_bias: whether the layer after the heads has a bias. None is `has_bias`.
    """

    query: str
    key: str
    value: str
    output: str
    heads: int
    width: int
    inner: int
    has_bias: bool = True
    scale: float | None = None
    mask: str = "padding"
    rope: Rope | None = None
    window: int | None = None
    slopes: tuple[float, ...] = ()
    kv_heads: int | None = None
    head_norm: "HeadNorm | None" = None
    layer_norm: "QueryKeyNorm | None" = None
    output_has_bias: bool | None = None

    @property
    def key_heads(self) -> int:
        """Number of heads of the keys and the values."""
        return self.kv_heads or self.heads

    @property
    def has_output_bias(self) -> bool:
        """Whether the layer after the heads has a bias."""
        return self.has_bias if self.output_has_bias is None else self.output_has_bias

    def projected_width(self, name: str) -> int:
        """Return the width of all heads together, for the queries, the keys or the values by their layer's name."""
        return self.inner if name == self.query else self.inner // self.heads * self.key_heads


@dataclass(frozen=True)
class HeadNorm:
    """The RMS normalisation of each head's query and key.

    Attributes:
        query: the name of the scale for queries, float32 (inner / heads,).
        key: the name of the scale for keys, of the same shape.
        epsilon: added to the mean of the squares.
    """

    query: str
    key: str
    epsilon: float


@dataclass(frozen=True)
class QueryKeyNorm:
    """The layer normalisation of a token's query and key over all heads.

    Attributes:
        query: the name of the normalisation of queries. Its scale and its bias are float32 (inner,).
        key: the name of the normalisation of keys.
        epsilon: added to the variance.
    """

    query: str
    key: str
    epsilon: float


@dataclass(frozen=True)
class Projections:
    """The inputs of attention.

    Attributes:
        query: (batch, queries, inner).
        key: (batch, sequence, inner), or narrower with `Attention.kv_heads`.
        value: the same.
        bias: added to the scores, (1, heads, queries, sequence). Or which tokens are attended to, bool of a shape that
            broadcasts to it. None adds nothing.
        token_counts: the first so many tokens of each text are attended to, int64 (batch,). None stands for all.
    """

    query: ir.Value
    key: ir.Value
    value: ir.Value
    bias: ir.Value | None = None
    token_counts: ir.Value | None = None


def scored_attention(op: Operators, given: Projections, spec: Attention) -> ir.Value:
    """Write attention by ONNX's Attention: (batch, queries, inner).

    Example:
        >>> mixed = scored_attention(op, projections, spec)  # doctest: +SKIP
    """
    inputs = [given.query, given.key, given.value, given.bias, None, None, given.token_counts]
    while inputs[-1] is None:
        inputs.pop()
    return op.Attention(
        *inputs,
        q_num_heads=spec.heads,
        kv_num_heads=spec.key_heads,
        **({"is_causal": 1} if spec.mask == "causal" else {}),
        **({} if spec.scale is None else {"scale": spec.scale}),
    )


def attention_by_length(op: Operators, given: Projections, spec: Attention, are_long: ir.Value) -> ir.Value:
    """Write attention that is fastest for short texts, and takes little memory for long ones: (batch, sequence, inner).

    Args:
        op: writes the nodes.
        given: the inputs. They have no bias.
        spec: the names and sizes.
        are_long: whether the texts are long and have no padding, bool (1,).

    Example:
        >>> mixed = attention_by_length(op, projections, spec, are_long)  # doctest: +SKIP
    """
    return op.If(
        are_long,
        then_branch=op.branch(f"{spec.output}/long", lambda op: _flash_attention(op, given, spec)),
        else_branch=op.branch(f"{spec.output}/short", lambda op: scored_attention(op, given, spec)),
    )


def _flash_attention(op: Operators, given: Projections, spec: Attention) -> ir.Value:
    scale = {} if spec.scale is None else {"scale": spec.scale}
    return op.microsoft("MultiHeadAttention", given.query, given.key, given.value, num_heads=spec.heads, **scale)


def check_heads(heads: int, width: int) -> None:
    """Check that the number of `heads` divides the `width` of a token's vector.

    Raises:
        NotNativeError: it does not.

    Example:
        >>> check_heads(12, 384)
    """
    if width % heads:
        raise NotNativeError(f"config.json has {heads} attention heads for a width of {width}")
