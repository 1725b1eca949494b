"""Weights as integers: to the nearest, or such that the errors of a row make up for one another.

The latter is GPTQ (Frantar et al., 2022, https://arxiv.org/abs/2210.17323): column by column the error that rounding
makes is carried to the columns that are still to come, as far as these go together in a sample of what the weights
are multiplied with. Here no further than 512 columns, which costs a tenth of the time and little of the gain.
"""

import numpy as np

_TINY = 1e-12
# Of the mean square of the sample's columns: for what the sample does not know.
_DAMPING = 0.1
_REACH, _BLOCK = 512, 64


def nearest(array: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """`array` (rows, columns) as int8 from -`most` to `most`, and the scale of each row, float32 (rows, 1)."""
    scales = _scales(array, most)
    return np.rint(array / scales).astype(np.int8), scales


def compensated(array: np.ndarray, most: int, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`, with the errors of a row carried from column to column, by `sample`, float32 (n, columns)."""
    scales = _scales(array, most)
    rest = np.ascontiguousarray(array.T) / scales[:, 0]
    integers = np.empty(rest.shape, np.int8)
    for start in range(0, len(rest), _REACH):
        end = min(start + _REACH, len(rest))
        carried = _carried(sample[:, start:end])
        # Each column changes all that follow: those of its block at once, the others by one product for the block.
        for first in range(start, end, _BLOCK):
            last = min(first + _BLOCK, end)
            errors = np.empty((last - first, rest.shape[1]), np.float32)
            for column in range(first, last):
                integers[column] = np.clip(np.rint(rest[column]), -most, most)
                errors[column - first] = error = rest[column] - integers[column]
                behind = carried[column - start, column - start + 1 : last - start]
                rest[column + 1 : last] -= behind[:, None] * error
            rest[last:end] -= carried[first - start : last - start, last - start :].T @ errors
    return integers.T, scales


def _carried(sample: np.ndarray) -> np.ndarray:
    """How much of the error in one column each column behind it has to take, (columns, columns)."""
    moments = sample.T @ sample
    moments[np.diag_indices_from(moments)] += _DAMPING * np.trace(moments) / len(moments) + _TINY
    factor = np.linalg.cholesky(np.linalg.inv(moments)).T
    return factor / np.diag(factor)[:, None]


def _scales(array: np.ndarray, most: int) -> np.ndarray:
    return np.maximum(np.abs(array).max(axis=1, keepdims=True) / most, _TINY).astype(np.float32)
