"""The pieces that the families are built of: embeddings, linear and normalisation layers, attention.

Token vectors are (tokens, width) between the layers, all texts of a batch one after the other, because a matrix product
with its bias (Gemm) wants them so. Weights stay as torch lays them out, so that they are copied from file to file.

Chosen by measurement (fp32, two AVX2 cores, time of a call): a Gemm with its bias takes 0.98 to 1.00 of MatMul and
Add; a product each for query, key and value 0.97 to 1.00 of one for all three with a Split, or of the Attention
operator. After a MatMul onnxruntime makes SkipLayerNormalization of Add and LayerNormalization, which takes 1.07 of
the two; after a Gemm it does not.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from embedder_export.body.native.settings import ACTIVATION_NAMES
from embedder_export.checkpoint.weights import Weights, lazy
from embedder_export.errors import CheckpointError, NotNativeError
from embedder_export.graph.operators import ACTIVATIONS, Operators

_LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Attention:
    """The names of an attention's four linear layers, the number of its heads and its widths.

    width: of a token's vector; inner: of all heads' together.
    scale: of the scores; None for 1 / sqrt(inner / heads).
    sees: which tokens a token mixes: "text", those in the mask; "before", those up to itself; or "all".
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
    sees: str = "text"


class Network:
    """A graph in the making, with the weights of a checkpoint at hand by their names.

    positions: of a graph of images, how many each has.
    """

    def __init__(self, graph: ir.Graph, weights: Weights, positions: int | None = None) -> None:
        self.op = Operators(graph, "body")
        if positions is None:
            self.input_ids, self.attention_mask = graph.inputs
        self._positions = positions
        self._weights = weights
        self._values: dict[str, ir.Value] = {}
        self._shapes: dict[int, ir.Value] = {}

    @cached_property
    def _mask(self) -> ir.Value:
        return self.op.Cast(self.attention_mask, to=ir.DataType.INT32)

    @cached_property
    def _length(self) -> ir.Value:
        return self.op.Shape(self.input_ids, start=1, end=2)

    def has(self, name: str) -> bool:
        """Whether the checkpoint has a weight called `name`."""
        return name in self._weights

    def tensor(self, name: str, *shape: int) -> ir.TensorProtocol:
        """The weight called `name`, float32 of `shape`.

        Raises:
            CheckpointError: there is none, or it has another shape.
        """
        if not self.has(name):
            raise CheckpointError(f"the weights lack {name}")
        tensor = self._weights[name]
        if tuple(tensor.shape.numpy()) != shape:
            raise CheckpointError(f"the weights have {name} of shape {tuple(tensor.shape.numpy())}, not {shape}")
        return tensor

    def weight(self, name: str, *shape: int) -> ir.Value:
        """The same as a constant of the graph; one that is used twice is stored once."""
        if name not in self._values:
            self._values[name] = self.op.initializer(self.tensor(name, *shape))
        return self._values[name]

    def embedding(self, name: str, rows: int, width: int) -> ir.Value:
        """The rows of a table for `input_ids`: (batch, sequence, width)."""
        return self.op.Gather(self.weight(name, rows, width), self.input_ids)

    def first_rows(self, table: ir.Value) -> ir.Value:
        """As many rows of `table` as the sequence is long."""
        return self.op.Slice(table, self.op.constant([0]), self._length)

    def positions_after(self, padding_id: int) -> ir.Value:
        """RoBERTa's numbers of the positions: of tokens from `padding_id` + 1 on, of padding `padding_id`."""
        op = self.op
        tokens = op.Cast(op.Not(op.Equal(self.input_ids, op.constant(padding_id))), to=ir.DataType.INT64)
        return op.Add(op.Mul(op.CumSum(tokens, op.constant(1)), tokens), op.constant(padding_id))

    def flat(self, x: ir.Value, width: int) -> ir.Value:
        """(batch, sequence, width) as (tokens, width)."""
        return self.op.Reshape(x, self.op.constant([-1, width]))

    def unflat(self, x: ir.Value, width: int) -> ir.Value:
        """(tokens, width) as (batch, sequence, width)."""
        if self._positions is not None:
            return self.op.Reshape(x, self.op.constant([-1, self._positions, width]))
        if width not in self._shapes:
            texts = self.op.Shape(self.input_ids)
            self._shapes[width] = self.op.Concat(texts, self.op.constant([width]), axis=0)
        return self.op.Reshape(x, self._shapes[width])

    def linear(self, x: ir.Value, name: str, inputs: int, outputs: int, *, has_bias: bool = True) -> ir.Value:
        """The layer x @ weight.T + bias."""
        bias = [self.weight(f"{name}.bias", outputs)] if has_bias else []
        return self.op.Gemm(x, self.weight(f"{name}.weight", outputs, inputs), *bias, transB=1)

    def activation(self, x: ir.Value, name: str) -> ir.Value:
        """The activation that transformers calls `name`."""
        return ACTIVATIONS[ACTIVATION_NAMES[name]](self.op, x)

    def layer_norm(self, x: ir.Value, name: str, width: int, epsilon: float) -> ir.Value:
        """(x - mean) / sqrt(variance + epsilon) * weight + bias."""
        scale, shift = self.weight(f"{name}.weight", width), self.weight(f"{name}.bias", width)
        return self.op.LayerNormalization(x, scale, shift, epsilon=epsilon)

    def rms_norm(self, x: ir.Value, name: str, width: int, epsilon: float) -> ir.Value:
        """The layer x / sqrt(mean(x**2) + epsilon) * weight, in the pattern that onnxruntime makes one operator of."""
        op = self.op
        square = op.ReduceMean(op.Pow(x, op.constant(2.0)), op.constant([-1]), keepdims=1)
        norm = op.Sqrt(op.Add(square, op.constant(epsilon)))
        return op.Mul(op.Div(x, norm), self.weight(f"{name}.weight", width))

    def attention(self, x: ir.Value, spec: Attention, bias: ir.Value | None = None) -> ir.Value:
        """softmax(query @ key.T * scale + bias) @ value, by heads; then a linear layer.

        bias: (batch, heads, sequence, sequence); without one, all tokens in the mask count alike.
        """
        query, key, value = (self._projected(x, name, spec) for name in (spec.query, spec.key, spec.value))
        mask = self._mask if spec.sees == "text" and bias is None else None
        return self._mixed(query, key, value, spec, mask, bias)

    def pooled_attention(self, x: ir.Value, token: ir.Value, spec: Attention, mask: ir.Value | None) -> ir.Value:
        """The same for one token of each text or image: (batch, width), of which `token` has the vectors before.

        mask: of the tokens that it mixes, int32 (batch, sequence); None for all.
        """
        query = self.op.Unsqueeze(self.linear(token, spec.query, spec.width, spec.inner), self.op.constant([1]))
        key, value = (self._projected(x, name, spec) for name in (spec.key, spec.value))
        return self._mixed(query, key, value, spec, mask, None)

    def _projected(self, x: ir.Value, name: str, spec: Attention) -> ir.Value:
        return self.unflat(self.linear(x, name, spec.width, spec.inner, has_bias=spec.has_bias), spec.inner)

    def _mixed(
        self,
        query: ir.Value,
        key: ir.Value,
        value: ir.Value,
        spec: Attention,
        mask: ir.Value | None,
        bias: ir.Value | None,
    ) -> ir.Value:
        attributes: dict[str, float] = {} if spec.scale is None else {"scale": spec.scale}
        if spec.sees == "before" and mask is None:
            attributes["unidirectional"] = 1
        mixed = self.op.microsoft(
            "MultiHeadAttention",
            query, key, value, None, mask, bias,
            num_heads=spec.heads,
            mask_filter_value=_LOWEST,
            **attributes,
        )  # fmt: skip
        mixed = self.flat(mixed, spec.inner)
        return self.linear(mixed, spec.output, spec.inner, spec.width, has_bias=spec.has_bias)

    def relative_bias(self, name: str, rows: int, heads: int, buckets: int, max_distance: int) -> ir.Value:
        """A learnt bias for each head and distance of two tokens, and of none outside of the mask.

        All distances from `max_distance` on share a bucket, so that a table of twice as many serves any length. With
        the mask in it each layer adds both in one go: (batch, heads, sequence, sequence).
        """
        table = self.tensor(name, rows, heads)
        distances = np.arange(-max_distance, max_distance + 1)
        numbers = bucket(distances, buckets, max_distance)
        biases = self.op.initializer(lazy(lambda: table.numpy()[numbers], (len(distances), heads)))
        op = self.op
        ends = [op.constant(value) for value in (0, 1)]
        positions = op.Range(ends[0], op.Squeeze(self._length), ends[1])
        distance = op.Sub(op.Unsqueeze(positions, op.constant([0])), op.Unsqueeze(positions, op.constant([1])))
        distance = op.Clip(distance, op.constant(-max_distance), op.constant(max_distance))
        by_pair = op.Gather(biases, op.Add(distance, op.constant(max_distance)))
        by_head = op.Unsqueeze(op.Transpose(by_pair, perm=[2, 0, 1]), op.constant([0]))
        outside = op.Where(op.Cast(self.attention_mask, to=ir.DataType.BOOL), op.constant(0.0), op.constant(_LOWEST))
        return op.Add(by_head, op.Unsqueeze(outside, op.constant([1, 2])))


def bucket(distances: np.ndarray, buckets: int, max_distance: int) -> np.ndarray:
    """T5's number for each of `distances` (a key's position less the query's), int64 from 0 to `buckets` - 1.

    Half of the buckets are for keys behind the query, half for those before it. Of each half the first half is for one
    distance each, the rest for distances that grow logarithmically up to `max_distance` (Raffel et al., 2020, section
    2.1: https://arxiv.org/abs/1910.10683). In float32, for a bucket's limit is where another precision would differ.
    """
    half = buckets // 2
    exact = half // 2
    far = np.maximum(np.abs(distances), exact).astype(np.float32) / np.float32(exact)
    steps = np.log(far) / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    logarithmic = np.minimum(exact + steps.astype(np.int64), half - 1)
    return np.where(distances > 0, half, 0) + np.where(np.abs(distances) < exact, np.abs(distances), logarithmic)


def embed(net: Network, positions: ir.Value, vocab_size: int, width: int, epsilon: float) -> ir.Value:
    """norm(words + positions), as BERT and its kin begin: (tokens, width)."""
    words = net.embedding("embeddings.word_embeddings.weight", vocab_size, width)
    return net.flat(net.layer_norm(net.op.Add(words, positions), "embeddings.LayerNorm", width, epsilon), width)


@dataclass(frozen=True)
class LayerNames:
    """What the parts of a layer are called, after the name of the layer."""

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
    """What the layers of a model have in common."""

    width: int
    heads: int
    intermediate: int
    activation: str
    epsilon: float


def post_norm_layer(
    net: Network, x: ir.Value, layer: str, names: LayerNames, sizes: LayerSizes, bias: ir.Value | None = None
) -> ir.Value:
    """A layer as BERT has it: x = norm(x + attention(x)); x = norm(x + down(activation(up(x)))).

    Raises:
        NotNativeError: the heads do not divide the width.
    """
    if sizes.width % sizes.heads:
        raise NotNativeError(f"config.json has {sizes.heads} attention heads for a width of {sizes.width}")
    parts = (f"{layer}.{part}" for part in (names.query, names.key, names.value, names.output))
    attention = Attention(*parts, heads=sizes.heads, width=sizes.width, inner=sizes.width)
    x = net.op.Add(net.attention(x, attention, bias), x)
    x = net.layer_norm(x, f"{layer}.{names.attention_norm}", sizes.width, sizes.epsilon)
    y = net.activation(net.linear(x, f"{layer}.{names.up}", sizes.width, sizes.intermediate), sizes.activation)
    x = net.op.Add(net.linear(y, f"{layer}.{names.down}", sizes.intermediate, sizes.width), x)
    return net.layer_norm(x, f"{layer}.{names.output_norm}", sizes.width, sizes.epsilon)
