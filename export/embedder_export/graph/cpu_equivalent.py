"""Replace the operators that onnxruntime has only for GPUs by others that compute the same on a CPU.

The export measures a graph for GPUs in this way. Each replaced operator rounds its results as the one for GPUs does: to
the number format of the graph.
"""

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from embedder_export.graph.operators import MICROSOFT, Operators


def write_cpu_equivalent(path: Path, target: Path) -> Path:
    """Write a graph that computes the same as the graph at `path`, and that a CPU can run.

    Args:
        path: the graph's file.
        target: the new file. Its weights are those of `path`, under the same name in the directory of `target`.

    Returns:
        `target`.

    Example:
        >>> write_cpu_equivalent(Path("model.fp16.onnx"), Path("on_cpu.onnx"))  # doctest: +SKIP
        PosixPath('on_cpu.onnx')
    """
    model = ir.load(path)
    replace_gpu_operators(model)
    ir.save(model, target)
    return target


def replace_gpu_operators(model: ir.Model) -> None:
    """Change `model` so that a CPU can run it.

    Example:
        >>> replace_gpu_operators(ir.load("model.fp16.onnx"))  # doctest: +SKIP
    """
    op = Operators(model.graph, "cpu")
    for node in list(model.graph):
        write = _EQUIVALENTS.get(node.op_type) if node.domain == MICROSOFT else None
        if write is not None:
            for old, new in zip(node.outputs, write(op, node), strict=False):
                new.name, new.type, new.shape = old.name, old.type, old.shape
                old.replace_all_uses_with(new, replace_graph_outputs=True)
    model.graph.sort()
    RemoveUnusedNodesPass()(model)


def _remove_padding(op: Operators, node: ir.Node) -> list[ir.Value]:
    """Return the rows without padding, their positions in the padded batch, and the first row of each text.

    The inputs have the shapes (batch, sequence, width) and (batch,). The results have the shapes (tokens, width),
    (batch, sequence) and (batch + 1,). The positions of the padding follow those of the tokens.
    """
    padded, counts = _required(node, 0, 1)
    zero, one = op.constant(0), op.constant(1)
    length = op.Squeeze(op.Shape(padded, start=1, end=2))
    columns = op.Cast(op.Range(zero, length, one), to=ir.DataType.INT32)
    is_token = op.Less(columns, op.Unsqueeze(counts, op.constant([1])))
    flat = op.Reshape(is_token, op.constant([-1]))
    tokens, padding = (op.Reshape(op.NonZero(which), op.constant([-1])) for which in (flat, op.Not(flat)))
    offsets = op.Reshape(op.Concat(tokens, padding, axis=0), op.Shape(padded, start=0, end=2))
    ends = op.CumSum(op.Cast(counts, to=ir.DataType.INT64), zero)
    starts = op.Concat(op.constant([0]), ends, axis=0)
    return [
        op.Gather(_rows(op, padded), tokens),
        *(op.Cast(value, to=ir.DataType.INT32) for value in (offsets, starts)),
    ]


def _restore_padding(op: Operators, node: ir.Node) -> list[ir.Value]:
    return [_restored(op, *_required(node, 0, 1))]


def _packed_attention(op: Operators, node: ir.Node) -> list[ir.Value]:
    """Return the attention of rows without padding: (tokens, inner). Queries, keys and values lie head after head."""
    packed, offsets, starts = _required(node, 0, 4, 5)
    bias, scores_bias = node.inputs[3], node.inputs[6:]
    inner = op.Mul(op.Shape(packed, start=1, end=2), op.Shape(packed, start=3, end=4))
    shape = op.Concat(op.constant([-1]), inner, axis=0)
    parts = (op.Gather(packed, op.constant(number), axis=2) for number in range(3))
    padded = [_restored(op, op.Reshape(part, shape), offsets) for part in parts]
    ends = op.Slice(starts, op.constant([1]), op.Shape(starts))
    counts = op.Sub(ends, op.Slice(starts, op.constant([0]), op.constant([-1])))
    mixed = op.microsoft("MultiHeadAttention", *padded, bias, counts, *scores_bias, **node.attributes)
    return [op.Gather(_rows(op, mixed), _token_positions(op, packed, offsets))]


def _required(node: ir.Node, *positions: int) -> list[ir.Value]:
    """Return the inputs of `node` at these positions. The operator demands them."""
    inputs = [node.inputs[position] for position in positions]
    return [value for value in inputs if value is not None]


def _restored(op: Operators, rows: ir.Value, offsets: ir.Value) -> ir.Value:
    """Write the rows into a batch with zeros for padding: (batch, sequence, width)."""
    width = op.Shape(rows, start=1, end=2)
    blank = op.CastLike(op.constant(0.0), rows)
    blanks = op.Expand(blank, op.Concat(op.Reshape(op.Size(offsets), op.constant([1])), width, axis=0))
    positions = op.Unsqueeze(_token_positions(op, rows, offsets), op.constant([1]))
    return op.Reshape(op.ScatterND(blanks, positions, rows), op.Concat(op.Shape(offsets), width, axis=0))


def _token_positions(op: Operators, rows: ir.Value, offsets: ir.Value) -> ir.Value:
    """Return the position of each row in the padded batch, int64 (tokens,)."""
    flat = op.Cast(op.Reshape(offsets, op.constant([-1])), to=ir.DataType.INT64)
    return op.Slice(flat, op.constant([0]), op.Shape(rows, start=0, end=1))


def _rows(op: Operators, padded: ir.Value) -> ir.Value:
    """Reshape (batch, sequence, width) to (batch * sequence, width)."""
    return op.Reshape(padded, op.Concat(op.constant([-1]), op.Shape(padded, start=2, end=3), axis=0))


# By the operator's name. Each function returns the values that replace the node's outputs, as many as are used.
_EQUIVALENTS: dict[str, Callable[[Operators, ir.Node], list[ir.Value]]] = {
    "RemovePadding": _remove_padding,
    "RestorePadding": _restore_padding,
    "PackedMultiHeadAttention": _packed_attention,
}
