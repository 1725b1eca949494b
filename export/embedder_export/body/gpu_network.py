"""Write the same pieces as `Network` with the operators of onnxruntime's CUDA kernels. In fp16 they are the fastest.

- The texts of a batch lie one after another without padding, so that no product computes padding.
- The product for queries, keys and values is one. The attention adds its bias.
- The bias of a layer, the addition of its input, and the normalisation after it are one operator. So are a bias and the
  activation after it.

onnxruntime has some of these operators only for CUDA. `graph.cpu_equivalent` writes others that run on a CPU.

onnxruntime takes a kernel without an upper limit only for exactly its own version of the operator. Many of CUDA's
kernels are those of opset 18: with a newer opset, onnxruntime would compute Cast, Reshape and others on the CPU.
"""

from collections.abc import Callable
from functools import cached_property

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from embedder_export.body.attention import Attention
from embedder_export.body.network import Network, RelativeBias
from embedder_export.checkpoint.weights import Weights, lazy
from embedder_export.families.settings import ACTIVATION_NAMES

# The opset of the graphs.
_OPSET = 18
# Operators that add a bias and compute an activation, by the activation's formula.
_BIASED_ACTIVATIONS = {"GELU": "BiasGelu", "GELUTanh": "FastGelu"}
# The output of SkipLayerNormalization that has the sum, and the number of its outputs.
_SUM, _OUTPUTS = 3, 4


class GpuNetwork(Network):
    """Writes the layers of a transformer for a GPU. `Network` describes the pieces.

    Example:
        >>> from embedder_export.graph.operators import new_graph
        >>> net = GpuNetwork(new_graph(), {"words": ir.tensor(np.zeros((9, 4), np.float32))})
        >>> net.pack(net.embedding("words", 9, 4), 4).producer().op_type
        'RemovePadding'
    """

    def __init__(
        self, graph: ir.Graph, weights: Weights, positions: int | None = None, *, first_token_only: bool = False
    ) -> None:
        super().__init__(graph, weights, positions, first_token_only=first_token_only)
        graph.opset_imports[""] = _OPSET
        # Where padding is: the positions of the tokens in the padded batch, int32 (batch, sequence), and the first row
        # of each text among the rows without padding, int32 (batch + 1,).
        self._packing: tuple[ir.Value, ir.Value] | None = None
        # Values that an operator after them can compute by itself: sums of a product and a bias, and sums of two
        # values. By the sum.
        self._biased: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        self._sums: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        # Operators that compute a sum as well as its normalisation. By the sum.
        self._normalizations: dict[ir.Value, ir.Node] = {}

    @cached_property
    def _short_token_counts(self) -> ir.Value:
        """The number of tokens of each text, int32 (batch,)."""
        return self.op.Cast(self._token_counts, to=ir.DataType.INT32)

    def pack(self, x: ir.Value, width: int) -> ir.Value:
        """Remove the padding. `Network.pack` describes the shapes."""
        outputs = self.op.microsoft_outputs("RemovePadding", [x, self._short_token_counts], 4)
        packed, *packing, _ = outputs
        self._packing = (packing[0], packing[1])
        return packed

    def unflat(self, x: ir.Value, width: int) -> ir.Value:
        """Reshape (tokens, width) to (batch, sequence, width), with zeros for removed padding."""
        x = self._sum(x)
        if self._packing is None:
            return super().unflat(x, width)
        return self.op.microsoft("RestorePadding", x, self._packing[0])

    def linear(
        self, x: ir.Value, name: str, inputs: int, outputs: int, *, has_bias: bool = True, one_row: bool = False
    ) -> ir.Value:
        """Write a linear layer. The next operator may add its bias. `Network.linear` describes the arguments."""
        product = super().linear(x, name, inputs, outputs, has_bias=False, one_row=one_row)
        if not has_bias:
            return product
        bias = self.weight(f"{name}.bias", outputs)
        y = self.op.Add(product, bias)
        self._biased[y] = product, bias
        return y

    def activation(self, x: ir.Value, name: str) -> ir.Value:
        """Write the activation that transformers calls `name`, together with the bias before it."""
        operator = _BIASED_ACTIVATIONS.get(ACTIVATION_NAMES[name])
        if operator is None or x not in self._biased:
            return super().activation(x, name)
        return self.op.microsoft(operator, *self._biased[x])

    def add(self, y: ir.Value, x: ir.Value) -> ir.Value:
        """Write y + x. A normalisation after it computes the sum by itself."""
        y, x = self._sum(y), self._sum(x)
        total = self.op.Add(y, x)
        self._sums[total] = y, x
        return total

    def layer_norm(self, x: ir.Value, name: str, width: int, epsilon: float) -> ir.Value:
        """Write layer normalisation, together with the additions before it."""
        if x not in self._sums:
            return super().layer_norm(x, name, width, epsilon)
        scale, shift = self.weight(f"{name}.weight", width), self.weight(f"{name}.bias", width)
        return self._normalize_sum("SkipLayerNormalization", x, [scale, shift], epsilon)

    def rms_norm(self, x: ir.Value, name: str, width: int, epsilon: float) -> ir.Value:
        """Write RMS normalisation, together with the additions before it."""
        scale = self.weight(f"{name}.weight", width)
        if x not in self._sums:
            return self.op.SimplifiedLayerNormalization(x, scale, axis=-1, epsilon=epsilon)
        return self._normalize_sum("SkipSimplifiedLayerNormalization", x, [scale], epsilon)

    def _normalize_sum(self, operator: str, x: ir.Value, weights: list[ir.Value], epsilon: float) -> ir.Value:
        y, skip = self._sums[x]
        product, *bias = self._biased.get(y, (y,))
        normed = self.op.microsoft(operator, product, skip, *weights, *bias, epsilon=epsilon)
        node = normed.producer()
        assert node is not None  # the line above wrote it
        self._normalizations[x] = node
        return normed

    def _sum(self, x: ir.Value) -> ir.Value:
        """Return `x`; if a normalisation of it was written, return the sum which that computes too."""
        node = self._normalizations.get(x)
        if node is None:
            return x
        if len(node.outputs) < _OUTPUTS:
            node.resize_outputs(_OUTPUTS)
            for unused in node.outputs[1:_SUM]:
                unused.name = ""
        return node.outputs[_SUM]

    def attention(self, x: ir.Value, spec: Attention, bias: ir.Value | None = None) -> ir.Value:
        """Write attention. `Network.attention` describes the arguments."""
        if spec.mask == "padding":
            assert self._packing is not None  # the tokens of a text attend to each other after `pack`
            return self.linear(
                self._packed_attention(x, spec, bias), spec.output, spec.inner, spec.width, has_bias=spec.has_bias
            )
        queries, keys, values = (
            self.unflat(self._product(x, name, spec), spec.inner) for name in (spec.query, spec.key, spec.value)
        )
        causal = {"unidirectional": 1} if spec.mask == "causal" else {}
        mixed = self.op.microsoft(
            "MultiHeadAttention", queries, keys, values, self._biases(spec), **_attributes(spec), **causal
        )
        return self._output(mixed, spec)

    def _packed_attention(self, x: ir.Value, spec: Attention, bias: ir.Value | None) -> ir.Value:
        """Write attention without padding: (tokens, inner)."""
        assert self._packing is not None  # as in `attention`
        op, size = self.op, spec.inner // spec.heads
        product = op.Gemm(x, self._head_weights(spec), transB=1)
        heads = op.Reshape(product, op.constant([-1, spec.heads, 3, size]))
        inputs = [heads, None, None, self._biases(spec), *self._packing, bias]
        while inputs[-1] is None:
            inputs.pop()
        return op.microsoft("PackedMultiHeadAttention", *inputs, **_attributes(spec))

    def pooled_attention(
        self,
        x: ir.Value,
        token: ir.Value,
        spec: Attention,
        token_counts: ir.Value | None,
        bias: ir.Value | None = None,
        *,
        one_row: bool = False,
    ) -> ir.Value:
        """Write the attention of one token of each text or image. `Network` describes the arguments."""
        op = self.op
        query = op.Unsqueeze(self._product(token, spec.query, spec), op.constant([1]))
        keys, values = (self.unflat(self._product(x, name, spec), spec.inner) for name in (spec.key, spec.value))
        counts = None if token_counts is None else op.Cast(token_counts, to=ir.DataType.INT32)
        inputs = [query, keys, values, self._biases(spec), counts, bias]
        while inputs[-1] is None:
            inputs.pop()
        mixed = op.Squeeze(op.microsoft("MultiHeadAttention", *inputs, **_attributes(spec)), op.constant([1]))
        return self.linear(mixed, spec.output, spec.inner, spec.width, has_bias=spec.has_bias, one_row=one_row)

    def first_tokens(self, x: ir.Value, width: int) -> ir.Value:
        """Write the choice of the first token of each text, from (tokens, width) to (batch, width)."""
        assert self._packing is not None  # only texts have a first token of their own
        starts = self.op.Slice(self._packing[1], self.op.constant([0]), self.op.constant([-1]))
        return self.op.Gather(self._sum(x), starts)

    def _product(self, x: ir.Value, name: str, spec: Attention) -> ir.Value:
        """Write the product of a projection, without its bias: (tokens, inner)."""
        return self.op.Gemm(x, self.weight(f"{name}.weight", spec.inner, spec.width), transB=1)

    def _biases(self, spec: Attention) -> ir.Value | None:
        """Return the biases for queries, keys and values one after another, as a constant: (3 * inner,)."""
        if not spec.has_bias:
            return None
        names = (spec.query, spec.key, spec.value)
        biases = [self.tensor(f"{name}.bias", spec.inner) for name in names]
        key = "+".join(f"{name}.bias" for name in names)
        return self._joined(key, lambda: np.concatenate([bias.numpy() for bias in biases]), 3 * spec.inner)

    def _head_weights(self, spec: Attention) -> ir.Value:
        """Return the weights for queries, keys and values, head after head, as a constant: (3 * inner, width)."""
        names = (spec.query, spec.key, spec.value)
        weights = [self.tensor(f"{name}.weight", spec.inner, spec.width) for name in names]
        by_head = (spec.heads, spec.inner // spec.heads, spec.width)

        def read() -> NDArray[np.float32]:
            parts = [weight.numpy().reshape(by_head) for weight in weights]
            return np.stack(parts, axis=1).reshape(3 * spec.inner, spec.width)

        return self._joined("+".join(f"{name}.weight" for name in names), read, 3 * spec.inner, spec.width)

    def _joined(self, name: str, read: Callable[[], NDArray[np.float32]], *shape: int) -> ir.Value:
        """Return joined weights as a constant. They are stored once, even if they are used often."""
        if name not in self._values:
            self._values[name] = self.op.initializer(lazy(read, shape))
        return self._values[name]

    def relative_bias(self, spec: RelativeBias) -> ir.Value:
        """Write the bias of each pair of tokens, (1, heads, sequence, sequence).

        onnxruntime computes with the sequence's length on the CPU. So only 2 * sequence numbers depend on it: the
        distances 0 to sequence - 1 and -sequence to -1. Repeated, and cut into rows that are one number shorter, each
        row begins one distance lower than the row before it.
        """
        op, furthest = self.op, spec.max_distance
        table = op.initializer(self.distance_biases(spec, by_head=True))
        length = op.Squeeze(self._length)
        zero, one, negative = op.constant(0), op.constant(1), op.Neg(length)
        distances = op.Concat(op.Range(zero, length, one), op.Range(negative, zero, one), axis=0)
        distances = op.Clip(distances, op.constant(-furthest), op.constant(furthest))
        biases = op.Gather(table, op.Add(distances, op.constant(furthest)), axis=1)
        twice = op.Mul(self._length, op.constant([2]))
        shorter = op.Sub(twice, op.constant([1]))
        repeated = op.Expand(
            op.Unsqueeze(biases, op.constant([1])), op.Concat(op.constant([1]), self._length, op.constant([1]), axis=0)
        )
        flat = op.Reshape(repeated, op.constant([spec.heads, -1]))
        cut = op.Slice(flat, op.constant([0]), op.Mul(self._length, shorter), op.constant([1]))
        rows = op.Reshape(cut, op.Concat(op.constant([1, spec.heads]), self._length, shorter, axis=0))
        return op.Slice(rows, op.constant([0]), self._length, op.constant([3]))


def _attributes(spec: Attention) -> dict[str, int | float]:
    scale = {} if spec.scale is None else {"scale": spec.scale}
    return {"num_heads": spec.heads, **scale}
