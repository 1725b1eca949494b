"""Fourth stage: pooling and normalisation as nodes of the graph, so that the runtime needs to know of neither.

The formulas, epsilons included, are those of sentence-transformers' Pooling and Normalize modules.
"""

import numpy as np
import onnx
from embedder.manifest import Head
from onnx import TensorProto, helper, numpy_helper

OUTPUT = "embedding"
_PREFIX = "head"


def add_head(body: onnx.ModelProto, head: Head, dimension: int) -> onnx.ModelProto:
    """`body`, changed to have one output, `embedding`, float32 of shape (batch, dimension)."""
    graph = body.graph
    pooled = _mean_pooling(graph, graph.output[0].name)
    last = _normalize(graph, pooled) if head.normalize else pooled
    _node(graph, "Identity", [last], OUTPUT)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch_size", dimension]))
    return body


def _mean_pooling(graph: onnx.GraphProto, tokens: str) -> str:
    """sum(tokens * mask) / max(sum(mask), 1e-9), over the sequence."""
    mask = _node(graph, "Cast", ["attention_mask"], to=TensorProto.FLOAT)
    mask = _node(graph, "Unsqueeze", [mask, _constant(graph, "last_axis", np.array([-1]))])
    sequence_axis = _constant(graph, "sequence_axis", np.array([1]))
    masked = _node(graph, "Mul", [tokens, mask])
    total = _node(graph, "ReduceSum", [masked, sequence_axis], keepdims=0)
    count = _node(graph, "ReduceSum", [mask, sequence_axis], keepdims=0)
    count = _node(graph, "Max", [count, _constant(graph, "smallest_count", np.float32(1e-9))])
    return _node(graph, "Div", [total, count])


def _normalize(graph: onnx.GraphProto, vectors: str) -> str:
    """Vectors / max(|vectors|, 1e-12)."""
    norm = _node(graph, "ReduceL2", [vectors, _constant(graph, "vector_axis", np.array([1]))], keepdims=1)
    norm = _node(graph, "Max", [norm, _constant(graph, "smallest_norm", np.float32(1e-12))])
    return _node(graph, "Div", [vectors, norm])


def _node(graph: onnx.GraphProto, operator: str, inputs: list[str], output: str = "", **attributes: int) -> str:
    output = output or f"{_PREFIX}/{operator}_{len(graph.node)}"
    graph.node.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
    return output


def _constant(graph: onnx.GraphProto, name: str, value: np.ndarray | np.generic) -> str:
    name = f"{_PREFIX}/{name}"
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name
