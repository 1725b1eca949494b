"""Write the words of texts that are all padded to one length, whatever the padding of their batch is.

The graph's inputs are padded on the right to the longest text of the batch. So a vector does not depend on its batch.
"""

import numpy as np
import onnx_ir as ir

from embedder_export.body.contract import TextPadding
from embedder_export.body.network import Network
from embedder_export.checkpoint.weights import lazy


def padded_words(net: Network, name: str, shape: tuple[int, int], padding: TextPadding) -> ir.Value:
    """Write the word embeddings of each text and of the padding that follows or precedes it.

    The lookup takes the graph's input as it is, because the runtime maps the table of such a lookup into memory.

    Args:
        net: writes the nodes.
        name: the name of the table of word embeddings.
        shape: number of words, and length of an embedding.
        padding: how the texts are padded.

    Returns:
        (batch, padding.tokens, length of an embedding).
    """
    op, (rows, width) = net.op, shape
    words = net.embedding(name, rows, width)
    # The last row is that of a padding token. Every position that is no token takes it. It is a constant of its own, so
    # that an int8 graph has the table in int8 alone.
    table, pad_id = net.tensor(name, rows, width), padding.pad_id
    row = op.initializer(lazy(lambda: np.array(table.numpy()[pad_id : pad_id + 1]), (1, width)))
    row_shape = op.Concat(op.Shape(net.input_ids, start=0, end=1), op.constant([1, width]), axis=0)
    words = op.Concat(words, op.Expand(row, row_shape), axis=1)
    end = op.Shape(net.input_ids, start=1, end=2)
    places = op.Where(_are_tokens(net, padding), _places(net, padding), end)
    return op.GatherND(words, op.Unsqueeze(places, op.constant([2])), batch_dims=1)


def padding_mask(net: Network, padding: TextPadding) -> ir.Value:
    """Write which positions are tokens of the text, bool (batch, 1, 1, padding.tokens)."""
    return net.op.Unsqueeze(_are_tokens(net, padding), net.op.constant([1, 2]))


def expand_mask(net: Network, mask: ir.Value, padding: TextPadding) -> ir.Value:
    """Repeat the result of `padding_mask` for each position that attends: (batch, 1, tokens, padding.tokens)."""
    return net.op.Expand(mask, net.op.constant([1, 1, padding.tokens, 1]))


def _places(net: Network, padding: TextPadding) -> ir.Value:
    """Write where in the input the token of each position is, int64 (batch, padding.tokens) or (1, padding.tokens)."""
    positions = net.op.constant(np.arange(padding.tokens)[None])
    if padding.side == "right":
        return positions
    return net.op.Sub(positions, net.op.Sub(net.op.constant([padding.tokens]), _counts(net)))


def _are_tokens(net: Network, padding: TextPadding) -> ir.Value:
    """Write whether each position is a token of the text, bool (batch, padding.tokens).

    On a GPU, onnxruntime compares no integers. So the number of tokens from a position on is clipped to 0 and 1.
    """
    op, places = net.op, _places(net, padding)
    left = op.Sub(_counts(net), places) if padding.side == "right" else op.Add(places, op.constant(1))
    return op.Cast(op.Clip(left, op.constant(0), op.constant(1)), to=ir.DataType.BOOL)


def _counts(net: Network) -> ir.Value:
    """Write the number of tokens of each text, int64 (batch, 1)."""
    return net.op.ReduceSum(net.attention_mask, net.op.constant([1]), keepdims=1)
