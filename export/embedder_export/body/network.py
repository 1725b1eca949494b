"""Write the pieces of a transformer: embeddings, linear layers, normalisation and attention.

Between the layers token vectors have the shape (tokens, width): the texts of a batch follow one another. Gemm, the
matrix product with a bias, needs this shape. Weights keep torch's layout, so they can be copied from file to file.

Three choices follow from measurements of a call's time (fp32, two AVX2 cores):
- Gemm with its bias takes 0.98 to 1.00 times as long as MatMul and Add.
- Three products, for query, key and value, take 0.97 to 1.00 times as long as one product for all three and a Split.
  Compared with the Attention operator the factor is the same.
- SkipLayerNormalization takes 1.07 times as long as Add and LayerNormalization. onnxruntime fuses the two into it after
  a MatMul, but not after a Gemm.
"""

from dataclasses import replace
from functools import cached_property

import onnx_ir as ir
from embedder.artifact.manifest import GRAPH_INPUTS

from embedder_export.body.attention import (
    MAX_SCORED_TOKENS,
    Attention,
    Projections,
    attention_by_length,
    scored_attention,
)
from embedder_export.body.blocks import attention_in_blocks_if_long
from embedder_export.body.contract import ONE_ROW
from embedder_export.body.distance_bias import RelativeBias, positions, write_alibi_bias, write_relative_bias
from embedder_export.body.long_attention import (
    MAX_BATCHED_WINDOW,
    attention_by_distance,
    write_alibi_biases,
    write_window_biases,
)
from embedder_export.body.rope import Rope, Rotation, write_rotation
from embedder_export.checkpoint.weights import BlankWeights, Weights, is_finite
from embedder_export.errors import CheckpointError
from embedder_export.families.settings import ACTIVATION_NAMES
from embedder_export.graph.operators import ACTIVATIONS, Operators


class Network:
    """Writes the layers of a transformer into a graph. It finds the weights by their names.

    Args:
        graph: the graph to write into.
        weights: the checkpoint's weights by name.
        positions: number of positions of each input, for images and for texts that are all padded to one length. None
            for other texts.
        first_token_only: whether the last layer computes only the first token of each text.
        longest_text: most tokens of a text that rotations serve. 0 for models without rotations.

    Attributes:
        fills_up: as in `BodyRequest`. It may be set before the first layer is written.

    Example:
        >>> import numpy as np
        >>> from embedder_export.graph.operators import new_graph
        >>> weights = {"words": ir.tensor(np.zeros((9, 4), np.float32))}
        >>> Network(new_graph(), weights).embedding("words", 9, 4).producer().op_type
        'Gather'
    """

    def __init__(
        self,
        graph: ir.Graph,
        weights: Weights,
        positions: int | None = None,
        *,
        first_token_only: bool = False,
        longest_text: int = 0,
    ) -> None:
        self.op = Operators(graph, "body")
        self.token_type_ids: ir.Value | None = None
        if graph.inputs[0].name == GRAPH_INPUTS[0]:
            self.input_ids, self.attention_mask, *types = graph.inputs
            self.token_type_ids = types[0] if types else None
        self.first_token_only = first_token_only
        self.fills_up = False
        self._positions = positions
        self.longest_text = longest_text
        self._rotations: dict[Rope, Rotation] = {}
        self._biases: dict[tuple[int | None, tuple[float, ...]], ir.Value] = {}
        self._weights = weights
        self._values: dict[str, ir.Value] = {}
        self._shapes: dict[int, ir.Value] = {}
        self._finite: set[str] = set()

    @cached_property
    def _token_counts(self) -> ir.Value:
        """The number of tokens of each text, int64 (batch,). Padding follows the tokens."""
        return self.op.ReduceSum(self.attention_mask, self.op.constant([1]), keepdims=0)

    @cached_property
    def _are_long(self) -> ir.Value:
        """Whether the texts have more than `MAX_SCORED_TOKENS` tokens each, and no padding."""
        op = self.op
        shortest = op.ReduceMin(self._token_counts, keepdims=1)
        return op.And(op.Greater(self._length, op.constant([MAX_SCORED_TOKENS])), op.Equal(shortest, self._length))

    @cached_property
    def _length(self) -> ir.Value:
        return self.op.Shape(self.input_ids, start=1, end=2)

    def has(self, name: str) -> bool:
        """Return whether the checkpoint has the weight `name`."""
        return name in self._weights

    def tensor(self, name: str, *shape: int) -> ir.TensorProtocol:
        """Return the weight `name`, float32 of `shape`.

        Raises:
            CheckpointError: the weight is missing, has another shape, or has a number that is not finite.
        """
        if isinstance(self._weights, BlankWeights):
            return self._weights.zeros(*shape)
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
        """Return the weight `name`, float32 of `shape`, as a constant. It is stored once, even if it is used often.

        Raises:
            CheckpointError: as `tensor`.
        """
        if name not in self._values:
            self._values[name] = self.op.initializer(self.tensor(name, *shape))
        return self._values[name]

    def embedding(self, name: str, rows: int, width: int) -> ir.Value:
        """Write the lookup of `input_ids` in the table `name`: (batch, sequence, width)."""
        return self.op.Gather(self.weight(name, rows, width), self.input_ids)

    def first_rows(self, table: ir.Value) -> ir.Value:
        """Write the first rows of `table`, one for each position: (sequence, width)."""
        return self.op.Slice(table, self.op.constant([0]), self._length)

    def positions_after(self, padding_id: int) -> ir.Value:
        """Write RoBERTa's positions, int64 (batch, sequence). Tokens count from `padding_id` + 1."""
        op = self.op
        tokens = op.Cast(op.differ(self.input_ids, op.constant(padding_id)), to=ir.DataType.INT64)
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

    def linear(
        self, x: ir.Value, name: str, inputs: int, outputs: int, *, has_bias: bool = True, one_row: bool = False
    ) -> ir.Value:
        """Write x @ weight.T + bias, from (tokens, inputs) to (tokens, outputs).

        Args:
            x: the tokens' vectors.
            name: the layer's name.
            inputs: width of `x`.
            outputs: width of the result.
            has_bias: whether the layer has a bias.
            one_row: whether `x` has only one row for each text. Then int8 leaves the product in float32.
        """
        bias = [self.weight(f"{name}.bias", outputs)] if has_bias else []
        y = self.op.Gemm(x, self.weight(f"{name}.weight", outputs, inputs), *bias, transB=1)
        node = y.producer()
        if one_row and node is not None:
            node.name = f"{ONE_ROW}{name}"
        return y

    def add(self, y: ir.Value, x: ir.Value) -> ir.Value:
        """Write y + x, the result of a layer and its input. Both have the same shape."""
        return self.op.Add(y, x)

    def activation(self, x: ir.Value, name: str) -> ir.Value:
        """Write the activation that transformers calls `name`."""
        return ACTIVATIONS[ACTIVATION_NAMES[name]](self.op, x)

    def layer_norm(self, x: ir.Value, name: str, width: int, epsilon: float, *, has_bias: bool = True) -> ir.Value:
        """Write (x - mean) / sqrt(variance + epsilon) * weight + bias (Ba et al., 2016: https://arxiv.org/abs/1607.06450)."""
        weights = [self.weight(f"{name}.{part}", width) for part in ("weight", "bias")[: 1 + has_bias]]
        return self.op.LayerNormalization(x, *weights, epsilon=epsilon)

    def rms_norm(self, x: ir.Value, name: str, width: int, epsilon: float) -> ir.Value:
        """Write x / sqrt(mean(x**2) + epsilon) * weight (Zhang and Sennrich, 2019: https://arxiv.org/abs/1910.07467).

        onnxruntime fuses this pattern into one operator.
        """
        op = self.op
        square = op.ReduceMean(op.Pow(x, op.constant(2.0)), op.constant([-1]), keepdims=1)
        norm = op.Sqrt(op.Add(square, op.constant(epsilon)))
        return op.Mul(op.Div(x, norm), self.weight(f"{name}.weight", width))

    def attention(self, x: ir.Value, spec: Attention, bias: ir.Value | None = None) -> ir.Value:
        """Write softmax(query @ key.T * scale + bias) @ value for each head, and a linear layer after it.

        The formula is from Vaswani et al., 2017: https://arxiv.org/abs/1706.03762.

        Args:
            x: the tokens' vectors, (tokens, width).
            spec: the names and sizes.
            bias: added to the scores, (1, heads, sequence, sequence).

        Returns:
            (tokens, width).
        """
        queries, keys, values = (self._project(x, name, spec) for name in (spec.query, spec.key, spec.value))
        queries, keys = self._rotate(queries, spec), self._rotate(keys, spec)
        given = Projections(queries, keys, values, bias, self._token_counts if spec.mask == "padding" else None)
        mixed = self._mix(given, spec)
        if self.fills_up:
            mixed = self._without_blind(mixed, spec)
        return self._output(self.flat(mixed, spec.inner), spec)

    def _without_blind(self, mixed: ir.Value, spec: Attention) -> ir.Value:
        """Write zeros for the tokens that see no other token, as torch does: (batch, sequence, inner).

        These are tokens after the end of a text that are farther from it than the window.

        Raises:
            CheckpointError: tokens see only those before them, which would include other tokens after the text.
        """
        if spec.mask == "causal":
            raise CheckpointError(
                "it fills up queries with tokens that are not attended to, and tokens see only those before them. This "
                "is not supported"
            )
        if spec.window is None:
            return mixed
        op = self.op
        ends = op.Add(op.Unsqueeze(self._token_counts, op.constant([1])), op.constant([spec.window]))
        sees = op.Less(op.Unsqueeze(positions(op, self._length), op.constant([0])), ends)
        return op.Mul(mixed, op.Unsqueeze(op.Cast(sees, to=ir.DataType.FLOAT), op.constant([-1])))

    def _mix(self, given: Projections, spec: Attention) -> ir.Value:
        """Write the mean of the values for each query: (batch, sequence, inner)."""
        is_wide = spec.window is not None and spec.window > MAX_BATCHED_WINDOW
        if spec.key_heads != spec.heads or is_wide or (spec.mask == "causal" and self.longest_text):
            return attention_in_blocks_if_long(self.op, given, spec, self._length)
        if spec.window is not None or spec.slopes:
            given = replace(given, bias=self._distance_bias(spec))
            return attention_by_distance(self.op, given, spec, self._length, self._are_long)
        if spec.mask == "padding" and given.bias is None:
            return attention_by_length(self.op, given, spec, self._are_long)
        return scored_attention(self.op, given, spec)

    def _distance_bias(self, spec: Attention) -> ir.Value:
        """Return the bias of a window or of ALiBi. It is written once for all layers with the same."""
        key = spec.window, spec.slopes
        if key not in self._biases:
            self._biases[key] = self._write_distance_bias(spec)
        return self._biases[key]

    def _write_distance_bias(self, spec: Attention) -> ir.Value:
        if spec.window is None:
            return write_alibi_biases(self.op, spec.slopes, self._length, self._are_long)
        return write_window_biases(self.op, spec.window, self._length, self._are_long)

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
        """Write the attention of one token of each text or image: (batch, width).

        Args:
            x: the vectors of all tokens, (tokens, width).
            token: the vectors of the tokens that attend, (batch, width). If the attention rotates, they are the first
                tokens: a rotation leaves position 0 as it is, but for its amplitude.
            spec: the names and sizes.
            token_counts: the first so many tokens of each text are attended to, int64 (batch,). None stands for all.
            bias: added to the scores, (1, heads, 1, sequence).
            one_row: as in `linear`.
        """
        query = self._projection(token, spec.query, spec, one_row=one_row)
        # The query is there twice. For one row onnxruntime has another product, whose rounding depends on the padding.
        query = self._twice(self.op.Unsqueeze(query, self.op.constant([1])), axis=1)
        keys, values = (self._project(x, name, spec) for name in (spec.key, spec.value))
        keys = self._rotate(keys, spec)
        if spec.rope is not None and spec.rope.amplitude != 1:
            query = self.op.Mul(query, self.op.constant(spec.rope.amplitude))
        bias = None if bias is None else self._twice(bias, axis=2)
        given = Projections(query, keys, values, bias, token_counts)
        mixed = scored_attention(self.op, given, replace(spec, mask="none"))
        mixed = self.op.Gather(mixed, self.op.constant(0), axis=1)
        return self._output(mixed, spec, one_row=one_row)

    def _twice(self, x: ir.Value, axis: int) -> ir.Value:
        return self.op.Concat(x, x, axis=axis)

    def first_token_attention(self, x: ir.Value, token: ir.Value, spec: Attention, bias: ir.Value | None) -> ir.Value:
        """Write the attention of the first token of each text: (batch, width).

        Args:
            x: the vectors of all tokens, (tokens, width).
            token: the vectors of the first tokens, (batch, width).
            spec: the names and sizes.
            bias: as in `attention`.
        """
        if bias is not None:
            bias = self.op.Slice(bias, *(self.op.constant([value]) for value in (0, 1, 2)))
        counts = self._token_counts
        if spec.window is not None:
            counts = self.op.Min(counts, self.op.constant([spec.window + 1]))
        if spec.slopes:
            keys = positions(self.op, self._length)
            bias = write_alibi_bias(self.op, spec.slopes, self.op.constant([0]), keys)
        return self.pooled_attention(x, token, spec, counts, bias, one_row=True)

    def first_tokens(self, x: ir.Value, width: int) -> ir.Value:
        """Write the choice of the first token of each text, from (tokens, width) to (batch, width)."""
        return self.op.Gather(self.unflat(x, width), self.op.constant(0), axis=1)

    def _projection(self, x: ir.Value, name: str, spec: Attention, *, one_row: bool = False) -> ir.Value:
        """Write the linear layer of the queries, keys or values: (tokens, inner)."""
        width = spec.projected_width(name)
        y = self.linear(x, name, spec.width, width, has_bias=spec.has_bias, one_row=one_row)
        return self._normalize_projection(y, name, spec)

    def _normalize_projection(self, x: ir.Value, name: str, spec: Attention) -> ir.Value:
        """Write the normalisation of queries and keys over all heads. Without one in `spec`, return `x`."""
        norm = spec.layer_norm
        if norm is None or name == spec.value:
            return x
        return self.layer_norm(x, norm.query if name == spec.query else norm.key, spec.inner, norm.epsilon)

    def _project(self, x: ir.Value, name: str, spec: Attention) -> ir.Value:
        width = spec.projected_width(name)
        projected = self.unflat(self._normalize_heads(self._projection(x, name, spec), name, spec), width)
        # onnxruntime does not find out this width. It would take the width of Attention's output for 0, and warn at
        # each call.
        projected.dtype, projected.shape = ir.DataType.FLOAT, ir.Shape([None, self._positions, width])
        return projected

    def _normalize_heads(self, x: ir.Value, name: str, spec: Attention) -> ir.Value:
        """Write the normalisation of each head, of queries and keys, (heads of all tokens, width of a head).

        Without one in `spec`, and for values, return `x`.
        """
        norm, width = spec.head_norm, spec.inner // spec.heads
        if norm is None or name == spec.value:
            return x
        scale = norm.query if name == spec.query else norm.key
        return self.rms_norm(self.flat(x, width), scale, width, norm.epsilon)

    def _rotate(self, x: ir.Value, spec: Attention) -> ir.Value:
        """Write the rotation of queries or keys, (batch, sequence, inner). Without one in `spec`, return `x`."""
        rope = spec.rope
        if rope is None:
            return x
        if rope not in self._rotations:
            self._rotations[rope] = write_rotation(self.op, rope, self.longest_text, self._length)
        rotation = self._rotations[rope]
        is_partial = rope.width < spec.inner // spec.heads
        return self.op.microsoft(
            "RotaryEmbedding",
            x,
            self.op.constant([0]),  # the position of the first token
            rotation.cosines,
            rotation.sines,
            interleaved=int(rope.interleaved),
            **({"num_heads": spec.heads, "rotary_embedding_dim": rope.width} if is_partial else {}),
        )

    def _output(self, mixed: ir.Value, spec: Attention, *, one_row: bool = False) -> ir.Value:
        """Write the linear layer after the heads, from (tokens, inner) to (tokens, width)."""
        return self.linear(mixed, spec.output, spec.inner, spec.width, has_bias=spec.has_output_bias, one_row=one_row)

    def relative_bias(self, spec: RelativeBias) -> ir.Value:
        """Write the bias of each pair of tokens, (1, heads, sequence, sequence).

        A table of the distances up to `max_distance` serves texts of any length, because larger distances share a
        bucket.
        """
        return write_relative_bias(self.op, self.tensor(spec.name, spec.rows, spec.heads), spec, self._length)
