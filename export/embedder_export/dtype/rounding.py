"""Round weights to integers: each to the nearest, or so that the errors of a row compensate each other.

The second way is GPTQ (Frantar et al., 2022, https://arxiv.org/abs/2210.17323). Rounding a column makes an error. GPTQ
corrects the later columns for it, as far as they correlate with this column in a sample of the inputs. Here the
correction stays within groups of 512 columns. That takes a tenth of the time and keeps most of the gain.
"""

from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from embedder_export.checkpoint.weights import Floats

# The integers, int8 (rows, columns), and the scale of each row, float32 (rows, 1).
Rounded: TypeAlias = tuple[NDArray[np.int8], Floats]

_TINY = 1e-12
# Added to the diagonal of the sample's moments, as a share of the diagonal's mean. It stands for inputs that the sample
# lacks.
_DAMPING = 0.1
_GROUP_COLUMNS, _BLOCK_COLUMNS = 512, 64
# The numbers of a table of embeddings are rounded to so many steps on each side of zero, so many rows at a time.
_MAX_TABLE_ENTRY, _TABLE_BLOCK_ROWS = 127, 8192


def round_to_nearest(array: Floats, limit: int) -> Rounded:
    """Round weights to the nearest integers, with a scale for each row.

    Args:
        array: the weights, float32 (rows, columns).
        limit: the integers lie between -`limit` and `limit`.

    Example:
        >>> round_to_nearest(np.array([[0.5, -1.0]], np.float32), 127)
        (array([[  64, -127]], dtype=int8), array([[0.00787402]], dtype=float32))
    """
    scales = _row_scales(array, limit)
    return np.rint(array / scales).astype(np.int8), scales


def round_table(table: ir.TensorProtocol, part: int) -> NDArray[Any]:
    """Round a table of embeddings, with a scale for each row. It is read in blocks, to save memory.

    Args:
        table: float32 (rows, width).
        part: what to return: 0 for the integers, int8 (rows, width); 1 for the scales, float32 (rows, 1).

    Example:
        >>> round_table(ir.tensor(np.array([[0.5, -1.0]], np.float32)), 0)
        array([[  64, -127]], dtype=int8)
    """
    array = table.numpy()
    blocks = (array[start : start + _TABLE_BLOCK_ROWS] for start in range(0, len(array), _TABLE_BLOCK_ROWS))
    return np.concatenate([round_to_nearest(block, _MAX_TABLE_ENTRY)[part] for block in blocks])


def round_with_compensation(array: Floats, limit: int, sample: Floats) -> Rounded:
    """Round weights so that the errors of a row compensate each other, with a scale for each row.

    Args:
        array: the weights, float32 (rows, columns).
        limit: the integers lie between -`limit` and `limit`.
        sample: a sample of the inputs that the rows are multiplied with, float32 (n, columns).

    Example:
        >>> weights, sample = np.array([[0.5, -1.0]], np.float32), np.eye(2, dtype=np.float32)
        >>> round_with_compensation(weights, 127, sample)[0]
        array([[  64, -127]], dtype=int8)
    """
    scales = _row_scales(array, limit)
    rest = np.ascontiguousarray(array.T) / scales[:, 0]
    integers = np.empty(rest.shape, np.int8)
    for start in range(0, len(rest), _GROUP_COLUMNS):
        end = min(start + _GROUP_COLUMNS, len(rest))
        shares = _error_shares(sample[:, start:end])
        # The error of a column changes all later columns. Columns of the same block change at once. The other columns
        # change after the block, by one matrix product.
        for first in range(start, end, _BLOCK_COLUMNS):
            last = min(first + _BLOCK_COLUMNS, end)
            errors = np.empty((last - first, rest.shape[1]), np.float32)
            for column in range(first, last):
                integers[column] = np.clip(np.rint(rest[column]), -limit, limit)
                errors[column - first] = error = rest[column] - integers[column]
                block_shares = shares[column - start, column - start + 1 : last - start]
                rest[column + 1 : last] -= block_shares[:, None] * error
            rest[last:end] -= shares[first - start : last - start, last - start :].T @ errors
    return integers.T, scales


def _error_shares(sample: Floats) -> Floats:
    """Return the share of each column's error that each later column takes, (columns, columns)."""
    moments: Floats = sample.T @ sample
    moments[np.diag_indices_from(moments)] += _DAMPING * np.trace(moments) / len(moments) + _TINY
    factor = np.linalg.cholesky(np.linalg.inv(moments)).T
    shares: Floats = factor / np.diag(factor)[:, None]
    return shares


def _row_scales(array: Floats, limit: int) -> Floats:
    scales: Floats = np.maximum(np.abs(array).max(axis=1, keepdims=True) / limit, _TINY).astype(np.float32)
    return scales
