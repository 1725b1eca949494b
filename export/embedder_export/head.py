"""Fourth stage: pooling and what follows it as nodes of the graph, so that the runtime needs to know of none of it.

The formulas, epsilons included, are those of sentence-transformers' modules of the same names.
"""

import numpy as np
import onnx
from embedder.manifest import GRAPH_INPUTS, POOLING_MASK
from onnx import TensorProto, helper, numpy_helper

from embedder_export.errors import CheckpointError
from embedder_export.layers import TOKENS, Dense, Layer, LayerNorm, Normalize, Pooling, Truncate

OUTPUT = "embedding"
_PREFIX = "head"
_TORCH_LAYER_NORM_EPSILON = 1e-5

# torch's class to ONNX's operator, where its formula and defaults are the same.
_OPERATORS = {
    "Tanh": "Tanh",
    "ReLU": "Relu",
    "Sigmoid": "Sigmoid",
    "LeakyReLU": "LeakyRelu",
    "ELU": "Elu",
    "SELU": "Selu",
    "Softplus": "Softplus",
    "Softsign": "Softsign",
}


def add_head(body: onnx.ModelProto, layers: tuple[Layer, ...], hidden_size: int) -> int:
    """Change `body` to have one output, `embedding`, float32 of shape (batch, dimension); returns the dimension.

    Raises:
        CheckpointError: a layer is made for vectors of another length than the layer before it gives.
    """
    graph = body.graph
    tokens, vectors, dimension = graph.output[0].name, "", hidden_size
    for layer in layers:
        _check_width(layer, dimension)
        if isinstance(layer, Pooling):
            vectors = _pool(graph, tokens, layer)
            dimension *= len(layer.modes)
        elif isinstance(layer, Dense):
            if layer.feature == TOKENS:
                tokens = _dense(graph, tokens, layer)
            else:
                vectors = _dense(graph, vectors, layer)
            dimension = len(layer.weight)
        elif isinstance(layer, LayerNorm):
            vectors = _layer_norm(graph, vectors, layer)
        elif isinstance(layer, Normalize):
            vectors = _normalize(graph, vectors)
        elif isinstance(layer, Truncate):
            dimension = min(dimension, layer.dimension)
            vectors = _truncate(graph, vectors, dimension)
    _node(graph, "Identity", [vectors], OUTPUT)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch_size", dimension]))
    return dimension


def _check_width(layer: Layer, dimension: int) -> None:
    if isinstance(layer, Dense | LayerNorm) and layer.weight.shape[-1] != dimension:
        raise CheckpointError(
            f"the checkpoint's {type(layer).__name__} takes vectors of {layer.weight.shape[-1]} numbers, and is given "
            f"ones of {dimension}"
        )


def _pool(graph: onnx.GraphProto, tokens: str, pooling: Pooling) -> str:
    name = GRAPH_INPUTS[1]
    if not pooling.include_prompt:
        (mask_input,) = (value for value in graph.input if value.name == name)
        name = POOLING_MASK
        graph.input.add(name=name, type=mask_input.type)
    mask = _node(graph, "Cast", [name], to=TensorProto.FLOAT)
    pooled = [_POOLINGS[mode](graph, tokens, mask) for mode in pooling.modes]
    return pooled[0] if len(pooled) == 1 else _node(graph, "Concat", pooled, axis=1)


def _cls(graph: onnx.GraphProto, tokens: str, mask: str) -> str:
    """The first token in the mask; without any, the first."""
    return _token(graph, tokens, _node(graph, "ArgMax", [mask], axis=1))


def _last_token(graph: onnx.GraphProto, tokens: str, mask: str) -> str:
    """The last token in the mask; without any, zero."""
    positions = _node(graph, "Mul", [mask, _positions(graph, mask)])
    return _token(graph, _masked(graph, tokens, mask), _node(graph, "ArgMax", [positions], axis=1))


def _max(graph: onnx.GraphProto, tokens: str, mask: str) -> str:
    outside = _node(graph, "Equal", [_column(graph, mask), _constant(graph, np.float32(0))])
    masked = _node(graph, "Where", [outside, _constant(graph, np.float32(-np.inf)), tokens])
    return _node(graph, "ReduceMax", [masked, _constant(graph, np.array([1]))], keepdims=0)


def _mean(graph: onnx.GraphProto, tokens: str, weights: str) -> str:
    """sum(tokens * weights) / max(sum(weights), 1e-9), over the sequence."""
    total, count = _total_and_count(graph, tokens, weights)
    return _node(graph, "Div", [total, count])


def _mean_sqrt_len(graph: onnx.GraphProto, tokens: str, mask: str) -> str:
    total, count = _total_and_count(graph, tokens, mask)
    return _node(graph, "Div", [total, _node(graph, "Sqrt", [count])])


def _weighted_mean(graph: onnx.GraphProto, tokens: str, mask: str) -> str:
    """The mean weighted by position, from 1, which the prompt's tokens count for too."""
    attention = _node(graph, "Cast", [GRAPH_INPUTS[1]], to=TensorProto.FLOAT)
    return _mean(graph, tokens, _node(graph, "Mul", [mask, _positions(graph, attention)]))


_POOLINGS = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last_token,
}


def _total_and_count(graph: onnx.GraphProto, tokens: str, weights: str) -> tuple[str, str]:
    axis = _constant(graph, np.array([1]))
    total = _node(graph, "ReduceSum", [_masked(graph, tokens, weights), axis], keepdims=0)
    count = _node(graph, "ReduceSum", [_column(graph, weights), axis], keepdims=0)
    return total, _node(graph, "Max", [count, _constant(graph, np.float32(1e-9))])


def _token(graph: onnx.GraphProto, tokens: str, index: str) -> str:
    return _node(graph, "GatherND", [tokens, index], batch_dims=1)


def _positions(graph: onnx.GraphProto, mask: str) -> str:
    return _node(graph, "CumSum", [mask, _constant(graph, np.array(1))])


def _masked(graph: onnx.GraphProto, tokens: str, mask: str) -> str:
    return _node(graph, "Mul", [tokens, _column(graph, mask)])


def _column(graph: onnx.GraphProto, mask: str) -> str:
    return _node(graph, "Unsqueeze", [mask, _constant(graph, np.array([-1]))])


def _dense(graph: onnx.GraphProto, vectors: str, layer: Dense) -> str:
    vectors = _node(graph, "MatMul", [vectors, _constant(graph, layer.weight.T)])
    if layer.bias is not None:
        vectors = _node(graph, "Add", [vectors, _constant(graph, layer.bias)])
    return _activation(graph, vectors, layer.activation)


def _activation(graph: onnx.GraphProto, x: str, name: str) -> str:
    if name == "Identity":
        return x
    if name == "SiLU":
        return _node(graph, "Mul", [x, _node(graph, "Sigmoid", [x])])
    if name == "GELU":  # x * (1 + erf(x / sqrt(2))) / 2
        erf = _node(graph, "Erf", [_node(graph, "Mul", [x, _constant(graph, np.float32(0.5**0.5))])])
        erf = _node(graph, "Add", [erf, _constant(graph, np.float32(1))])
        return _node(graph, "Mul", [x, _node(graph, "Mul", [erf, _constant(graph, np.float32(0.5))])])
    return _node(graph, _OPERATORS[name], [x])


def _layer_norm(graph: onnx.GraphProto, vectors: str, layer: LayerNorm) -> str:
    scale, shift = _constant(graph, layer.weight), _constant(graph, layer.bias)
    return _node(graph, "LayerNormalization", [vectors, scale, shift], epsilon=_TORCH_LAYER_NORM_EPSILON)


def _normalize(graph: onnx.GraphProto, vectors: str) -> str:
    """Vectors / max(|vectors|, 1e-12)."""
    norm = _node(graph, "ReduceL2", [vectors, _constant(graph, np.array([1]))], keepdims=1)
    norm = _node(graph, "Max", [norm, _constant(graph, np.float32(1e-12))])
    return _node(graph, "Div", [vectors, norm])


def _truncate(graph: onnx.GraphProto, vectors: str, dimension: int) -> str:
    start, end, axis = (_constant(graph, np.array([value])) for value in (0, dimension, 1))
    return _node(graph, "Slice", [vectors, start, end, axis])


def _node(graph: onnx.GraphProto, operator: str, inputs: list[str], output: str = "", **attributes: int | float) -> str:
    output = output or f"{_PREFIX}/{operator}_{len(graph.node)}"
    graph.node.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
    return output


def _constant(graph: onnx.GraphProto, value: np.ndarray | np.generic) -> str:
    name = f"{_PREFIX}/constant_{len(graph.initializer)}"
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name
