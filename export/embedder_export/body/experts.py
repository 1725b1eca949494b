"""Write a mixture of experts: feed-forward parts of which each token takes only a few.

The router gives each token a share for each expert. The token takes the experts with its largest shares (Shazeer et
al., 2017: https://arxiv.org/abs/1701.06538). Here the shares are a softmax over all experts, and the chosen ones are
not scaled to sum to 1. An expert computes only the tokens that chose it.
"""

from dataclasses import dataclass

import onnx_ir as ir

from embedder_export.body.contract import ONE_ROW
from embedder_export.body.network import Network
from embedder_export.checkpoint.weights import Floats, lazy


@dataclass(frozen=True)
class Experts:
    """The experts of a layer, in the layout of megablocks: the rows of all experts follow one another.

    Attributes:
        router: the name of the linear layer that gives the scores, float32 (count, width), without a bias.
        up: the name of the first weights, float32 (count * intermediate, width). An expert's product is x @ up.T.
        down: the name of the second weights, of the same shape. An expert's product is y @ down.
        bias: the name of the bias that is added once, float32 (width,).
        count: number of experts.
        chosen: how many experts a token takes.
    """

    router: str
    up: str
    down: str
    bias: str
    count: int
    chosen: int


def mixture(net: Network, x: ir.Value, experts: Experts, width: int, intermediate: int, activation: str) -> ir.Value:
    """Write bias + sum of share * activation(x @ up.T) @ down over the chosen experts: (tokens, width).

    Args:
        net: the network to write into.
        x: the tokens' vectors, (tokens, width).
        experts: the names and sizes.
        width: length of a token's vector.
        intermediate: width between the two products of an expert.
        activation: transformers' name of the activation.

    Example:
        >>> y = mixture(net, x, experts, 768, 3072, "gelu")  # doctest: +SKIP
    """
    op, rows = net.op, (experts.count * intermediate, width)
    tables = [net.tensor(name, *rows) for name in (experts.up, experts.down)]
    shares, choices = _route(net, x, experts, width)
    total = op.Expand(op.constant(0.0), op.Shape(x))
    for index in range(experts.count):
        others = op.differ(choices, op.constant(index))
        share = op.ReduceSum(op.Where(others, op.constant(0.0), shares), op.constant([1]), keepdims=0)
        tokens = op.Squeeze(op.NonZero(share), op.constant([0]))
        up, down = (_part(table, index, intermediate) for table in tables)
        y = op.Gemm(op.Gather(x, tokens), op.initializer(up), transB=1)
        y = op.Gemm(net.activation(y, activation), op.initializer(_transposed(down)), transB=1)
        y = op.Mul(y, op.Unsqueeze(op.Gather(share, tokens), op.constant([1])))
        total = op.ScatterND(total, op.Unsqueeze(tokens, op.constant([1])), y, reduction="add")
    return op.Add(total, net.weight(experts.bias, width))


def _route(net: Network, x: ir.Value, experts: Experts, width: int) -> tuple[ir.Value, ir.Value]:
    """Write the largest shares of each token and the numbers of their experts, (tokens, chosen) each.

    int8 leaves the router in float32. Its rounding would change the choice.
    """
    op = net.op
    scores = op.Gemm(x, net.weight(f"{experts.router}.weight", experts.count, width), transB=1)
    node = scores.producer()
    assert node is not None  # the line above wrote it
    node.name = f"{ONE_ROW}{experts.router}"
    return op.top(op.Softmax(scores, axis=-1), experts.chosen)


def _part(table: ir.TensorProtocol, index: int, rows: int) -> ir.TensorProtocol:
    """Return the rows of one expert. They are read only when they are needed."""

    def read() -> Floats:
        found: Floats = table.numpy()[index * rows : (index + 1) * rows]
        return found

    return lazy(read, (rows, table.shape.numpy()[1]))


def _transposed(matrix: ir.TensorProtocol) -> ir.TensorProtocol:
    rows, columns = matrix.shape.numpy()
    return lazy(lambda: matrix.numpy().T.copy(), (columns, rows))
