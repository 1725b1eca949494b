"""The pieces that families are built of: embeddings, linear and normalisation layers, attention.

Between the layers token vectors are (tokens, width): all texts of a batch one after the other. A matrix product with
its bias (Gemm) needs this shape. Weights keep torch's layout, so that they are copied from file to file.

These choices were measured (fp32, two AVX2 cores, the time of a call as a ratio):
- Gemm with its bias takes 0.98 to 1.00 of MatMul and Add.
- One product each for query, key and value takes 0.97 to 1.00 of one product for all three and a Split, and of the
  Attention operator.
- After a MatMul, onnxruntime fuses Add and LayerNormalization into SkipLayerNormalization, which takes 1.07 of the
  two. After a Gemm it does not.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from embedder_export.checkpoint.weights import Weights, is_finite, lazy
from embedder_export.errors import CheckpointError, NotNativeError
from embedder_export.families.settings import ACTIVATION_NAMES
from embedder_export.graph.operators import ACTIVATIONS, Operators

_LOWEST_FLOAT32 = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Attention:
    """A multi-head attention.

    Attributes:
        query: the name of its linear layer for the queries. `key`, `value` and `output` are the others.
        heads: their number.
        width: length of a token's vector.
        inner: width of all heads together.
        has_bias: whether its linear layers have one.
        scale: of the scores. None is 1 / sqrt(inner / heads).
        mask: the tokens that a token attends to: "padding", all but the padding; "causal", those up to itself; or
            "none", all.
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


@dataclass(frozen=True)
class RelativeBias:
    """A learnt bias of the attention scores, for each head and each bucket of distances.

    Attributes:
        name: of its table, (rows, heads).
        rows: of the table.
        heads: their number.
        buckets: how many of the rows are used.
        max_distance: distances from here on share a bucket.
    """

    name: str
    rows: int
    heads: int
    buckets: int
    max_distance: int


class Network:
    """A graph in the making, with the weights of a checkpoint at hand by their names.

    Args:
        graph: where nodes are written.
        weights: of the checkpoint.
        positions: of each image, for a graph that takes images.
    """

    def __init__(self, graph: ir.Graph, weights: Weights, positions: int | None = None) -> None:
        self.op = Operators(graph, "body")
        if positions is None:
            self.input_ids, self.attention_mask = graph.inputs
        self._positions = positions
        self._weights = weights
        self._values: dict[str, ir.Value] = {}
        self._shapes: dict[int, ir.Value] = {}
        self._finite: set[str] = set()

    @cached_property
    def _mask(self) -> ir.Value:
        return self.op.Cast(self.attention_mask, to=ir.DataType.INT32)

    @cached_property
    def _length(self) -> ir.Value:
        return self.op.Shape(self.input_ids, start=1, end=2)

    def has(self, name: str) -> bool:
        """Whether the checkpoint has the weight `name`."""
        return name in self._weights

    def tensor(self, name: str, *shape: int) -> ir.TensorProtocol:
        """Return the weight `name`, float32 of `shape`.

        Raises:
            CheckpointError: there is none, it has another shape, or a number in it is not finite.
        """
        if not self.has(name):
            raise CheckpointError(f"the weights lack {name}")
        tensor = self._weights[name]
        if tuple(tensor.shape.numpy()) != shape:
            raise CheckpointError(f"the weights have {name} of shape {tuple(tensor.shape.numpy())}, not {shape}")
        if name not in self._finite:
            if not is_finite(tensor):
                raise CheckpointError(f"the weights are not finite: {name} has NaN or infinity in it")
            self._finite.add(name)
        return tensor

    def weight(self, name: str, *shape: int) -> ir.Value:
        """Return the weight `name` as a constant of the graph. A weight that is used twice is stored once."""
        if name not in self._values:
            self._values[name] = self.op.initializer(self.tensor(name, *shape))
        return self._values[name]

    def embedding(self, name: str, rows: int, width: int) -> ir.Value:
        """Return the table's row for each of `input_ids`: (batch, sequence, width)."""
        return self.op.Gather(self.weight(name, rows, width), self.input_ids)

    def first_rows(self, table: ir.Value) -> ir.Value:
        """Return as many rows of `table` as the sequence is long."""
        return self.op.Slice(table, self.op.constant([0]), self._length)

    def positions_after(self, padding_id: int) -> ir.Value:
        """Return RoBERTa's positions: `padding_id` for padding, and numbers from `padding_id` + 1 on for tokens."""
        op = self.op
        tokens = op.Cast(op.Not(op.Equal(self.input_ids, op.constant(padding_id))), to=ir.DataType.INT64)
        return op.Add(op.Mul(op.CumSum(tokens, op.constant(1)), tokens), op.constant(padding_id))

    def flat(self, x: ir.Value, width: int) -> ir.Value:
        """Reshape (batch, sequence, width) to (tokens, width)."""
        return self.op.Reshape(x, self.op.constant([-1, width]))

    def unflat(self, x: ir.Value, width: int) -> ir.Value:
        """Reshape (tokens, width) to (batch, sequence, width)."""
        if self._positions is not None:
            return self.op.Reshape(x, self.op.constant([-1, self._positions, width]))
        if width not in self._shapes:
            texts = self.op.Shape(self.input_ids)
            self._shapes[width] = self.op.Concat(texts, self.op.constant([width]), axis=0)
        return self.op.Reshape(x, self._shapes[width])

    def linear(self, x: ir.Value, name: str, inputs: int, outputs: int, *, has_bias: bool = True) -> ir.Value:
        """Write x @ weight.T + bias."""
        bias = [self.weight(f"{name}.bias", outputs)] if has_bias else []
        return self.op.Gemm(x, self.weight(f"{name}.weight", outputs, inputs), *bias, transB=1)

    def activation(self, x: ir.Value, name: str) -> ir.Value:
        """Write the activation with transformers' name `name`."""
        return ACTIVATIONS[ACTIVATION_NAMES[name]](self.op, x)

    def layer_norm(self, x: ir.Value, name: str, width: int, epsilon: float) -> ir.Value:
        """Write (x - mean) / sqrt(variance + epsilon) * weight + bias."""
        scale, shift = self.weight(f"{name}.weight", width), self.weight(f"{name}.bias", width)
        return self.op.LayerNormalization(x, scale, shift, epsilon=epsilon)

    def rms_norm(self, x: ir.Value, name: str, width: int, epsilon: float) -> ir.Value:
        """Write x / sqrt(mean(x**2) + epsilon) * weight. onnxruntime fuses this pattern into one operator."""
        op = self.op
        square = op.ReduceMean(op.Pow(x, op.constant(2.0)), op.constant([-1]), keepdims=1)
        norm = op.Sqrt(op.Add(square, op.constant(epsilon)))
        return op.Mul(op.Div(x, norm), self.weight(f"{name}.weight", width))

    def attention(self, x: ir.Value, spec: Attention, bias: ir.Value | None = None) -> ir.Value:
        """Write softmax(query @ key.T * scale + bias) @ value for each head, and then a linear layer.

        Args:
            x: the tokens' vectors, (tokens, width).
            spec: the names and sizes.
            bias: (batch, heads, sequence, sequence). It includes the mask.
        """
        projections = tuple(self._project(x, name, spec) for name in (spec.query, spec.key, spec.value))
        mask = self._mask if spec.mask == "padding" and bias is None else None
        return self._mix(projections, spec, mask, bias)

    def pooled_attention(self, x: ir.Value, token: ir.Value, spec: Attention, mask: ir.Value | None) -> ir.Value:
        """Write the attention for one token of each text or image: (batch, width).

        Args:
            x: the vectors of all tokens, (tokens, width).
            token: the vectors of the tokens that attend, (batch, width).
            spec: the names and sizes.
            mask: int32 (batch, sequence), 1 for each token that is attended to. None is all.
        """
        query = self.op.Unsqueeze(self.linear(token, spec.query, spec.width, spec.inner), self.op.constant([1]))
        return self._mix((query, *(self._project(x, name, spec) for name in (spec.key, spec.value))), spec, mask, None)

    def _project(self, x: ir.Value, name: str, spec: Attention) -> ir.Value:
        return self.unflat(self.linear(x, name, spec.width, spec.inner, has_bias=spec.has_bias), spec.inner)

    def _mix(
        self, projections: tuple[ir.Value, ...], spec: Attention, mask: ir.Value | None, bias: ir.Value | None
    ) -> ir.Value:
        attributes: dict[str, float] = {} if spec.scale is None else {"scale": spec.scale}
        if spec.mask == "causal" and mask is None:
            attributes["unidirectional"] = 1
        mixed = self.op.microsoft(
            "MultiHeadAttention",
            *(*projections, None, mask, bias),
            num_heads=spec.heads,
            mask_filter_value=_LOWEST_FLOAT32,
            **attributes,
        )
        mixed = self.flat(mixed, spec.inner)
        return self.linear(mixed, spec.output, spec.inner, spec.width, has_bias=spec.has_bias)

    def relative_bias(self, spec: RelativeBias) -> ir.Value:
        """Write the bias of each pair of tokens, (batch, heads, sequence, sequence). It masks padding too.

        All distances from `max_distance` on share a bucket, so a table for distances up to there serves any length.
        With the mask in it, each layer adds both at once.
        """
        table, op, furthest = self.tensor(spec.name, spec.rows, spec.heads), self.op, spec.max_distance
        distances = np.arange(-furthest, furthest + 1)
        numbers = bucket(distances, spec.buckets, furthest)
        biases = op.initializer(lazy(lambda: table.numpy()[numbers], (len(distances), spec.heads)))
        zero, one = (op.constant(value) for value in (0, 1))
        positions = op.Range(zero, op.Squeeze(self._length), one)
        distance = op.Sub(op.Unsqueeze(positions, op.constant([0])), op.Unsqueeze(positions, op.constant([1])))
        distance = op.Clip(distance, op.constant(-furthest), op.constant(furthest))
        by_pair = op.Gather(biases, op.Add(distance, op.constant(furthest)))
        by_head = op.Unsqueeze(op.Transpose(by_pair, perm=[2, 0, 1]), op.constant([0]))
        is_token = op.Cast(self.attention_mask, to=ir.DataType.BOOL)
        mask = op.Where(is_token, op.constant(0.0), op.constant(_LOWEST_FLOAT32))
        return op.Add(by_head, op.Unsqueeze(mask, op.constant([1, 2])))


def bucket(distances: NDArray[np.int64], buckets: int, max_distance: int) -> NDArray[np.int64]:
    """Return T5's bucket, from 0 to `buckets` - 1, of each distance: a key's position less the query's.

    Half of the buckets are for keys behind the query, half for keys before it. The first half of each is for one
    distance each, the rest for distances that grow logarithmically up to `max_distance` (Raffel et al., 2020, section
    2.1: https://arxiv.org/abs/1910.10683). It computes in float32, as transformers does: at a bucket's limit another
    precision gives another bucket.
    """
    half = buckets // 2
    exact = half // 2
    far = np.maximum(np.abs(distances), exact).astype(np.float32) / np.float32(exact)
    steps = np.log(far) / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    logarithmic = np.minimum(exact + steps.astype(np.int64), half - 1)
    within = np.where(np.abs(distances) < exact, np.abs(distances), logarithmic)
    return np.where(distances > 0, half, 0) + within


def embed(net: Network, positions: ir.Value, vocab_size: int, width: int, epsilon: float) -> ir.Value:
    """Write norm(words + positions), the first step of BERT and its relatives: (tokens, width)."""
    words = net.embedding("embeddings.word_embeddings.weight", vocab_size, width)
    return net.flat(net.layer_norm(net.op.Add(words, positions), "embeddings.LayerNorm", width, epsilon), width)


@dataclass(frozen=True)
class LayerNames:
    """Names of a layer's parts, after the name of the layer."""

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
    """Sizes that all layers of a model share."""

    width: int
    heads: int
    intermediate: int
    activation: str
    epsilon: float


@dataclass(frozen=True)
class PostNormLayer:
    """A layer that normalises after each addition: its name, the names of its parts, and its sizes."""

    name: str
    parts: LayerNames
    sizes: LayerSizes


def post_norm_layer(net: Network, x: ir.Value, layer: PostNormLayer, bias: ir.Value | None = None) -> ir.Value:
    """Write x = norm(x + attention(x)); x = norm(x + down(activation(up(x)))), as in BERT.

    Raises:
        NotNativeError: the number of heads does not divide the width.
    """
    name, parts, sizes = layer.name, layer.parts, layer.sizes
    if sizes.width % sizes.heads:
        raise NotNativeError(f"config.json has {sizes.heads} attention heads for a width of {sizes.width}")
    attention = Attention(
        query=f"{name}.{parts.query}",
        key=f"{name}.{parts.key}",
        value=f"{name}.{parts.value}",
        output=f"{name}.{parts.output}",
        heads=sizes.heads,
        width=sizes.width,
        inner=sizes.width,
    )
    x = net.op.Add(net.attention(x, attention, bias), x)
    x = net.layer_norm(x, f"{name}.{parts.attention_norm}", sizes.width, sizes.epsilon)
    y = net.activation(net.linear(x, f"{name}.{parts.up}", sizes.width, sizes.intermediate), sizes.activation)
    x = net.op.Add(net.linear(y, f"{name}.{parts.down}", sizes.intermediate, sizes.width), x)
    return net.layer_norm(x, f"{name}.{parts.output_norm}", sizes.width, sizes.epsilon)
