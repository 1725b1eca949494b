"""Check what a backend returns, and read a value for each input. Every backend's outputs pass here.

Without these checks, NumPy would copy one row to all inputs of a batch, and round another dtype silently.

Values of a fixed size are one float32 array. Other values are an array of objects, one array for each input:

    output   value of one input
    dense    float32 (dimension,)
    score    float32 (labels,)
    token    float32 (tokens, dimension)
    sparse   SPARSE (numbers that are not 0,), by rising index
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.manifest import Output
from embedder.backends.backend import Outputs
from embedder.errors import ArtifactError

_FLOAT32 = np.dtype(np.float32)
# A number of a sparse vector that is not 0, and its place in the vector.
SPARSE = np.dtype([("index", np.int32), ("value", np.float32)])

# The values of inputs: float32 (inputs, *shape), or for kinds without a fixed size an object array (inputs,) of arrays.
Values: TypeAlias = NDArray[Any]


class NotFiniteError(ArtifactError):
    """A graph gave NaN or infinity.

    Example:
        >>> issubclass(NotFiniteError, ArtifactError)
        True
    """


def fixed_shape(output: Output) -> tuple[int, ...]:
    """Return the shape of `output` for one input.

    Raises:
        ArtifactError: the shape depends on the input. This version cannot run such an output.

    Example:
        >>> fixed_shape(Output("embedding", "dense", (384,)))
        (384,)
    """
    if None in output.shape:
        raise ArtifactError(f"this version cannot run the output {output.name!r}: its shape depends on the input")
    return cast("tuple[int, ...]", output.shape)


def values_of(outputs: Outputs, name: str, expected: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the values of an output, float32 of the shape `expected`, from what a backend has returned.

    Args:
        outputs: the result of `Backend.run`.
        name: the name of the output.
        expected: number of inputs in the batch, and the shape of the output for one input.

    Raises:
        ArtifactError: `outputs` is no mapping, or the output is missing, or has another shape or dtype.

    Example:
        >>> values_of({"score": np.ones((2, 1), np.float32)}, "score", (2, 1)).shape
        (2, 1)
    """
    # `dict` comes first, because the check for a Mapping runs Python code.
    if not isinstance(outputs, (dict, Mapping)):
        raise ArtifactError(
            f"the backend gave {type(outputs).__name__} instead of its outputs by name. It should give "
            f"{name!r} as float32 {expected}. Mend the backend"
        )
    values: Any = outputs.get(name)
    if not isinstance(values, np.ndarray) or values.shape != expected or values.dtype != _FLOAT32:
        found = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise ArtifactError(
            f"the graph gave the output {name!r} as {found}. For a batch of {expected[0]} it should be float32 "
            f"{expected}. Export the model again, or mend the backend"
        )
    return values


def empty_values(output: Output, count: int) -> Values:
    """Return an array for the values of `count` inputs.

    Raises:
        ArtifactError: as in `fixed_shape`.

    Example:
        >>> empty_values(Output("embedding", "dense", (384,)), 2).shape
        (2, 384)
        >>> empty_values(Output("tokens", "token", (None, 128)), 2).tolist()
        [None, None]
    """
    if output.kind in _READERS:
        return np.empty(count, object)
    return np.empty((count, *fixed_shape(output)), np.float32)


def read_values(outputs: Outputs, output: Output, lengths: NDArray[np.int64]) -> Values:
    """Return the value of each input of a batch. The backend may own an array of values of a fixed size.

    Args:
        outputs: the result of `Backend.run`.
        output: the output to return.
        lengths: number of tokens of each input, int64 (inputs,). Token vectors of the padding are left out.

    Raises:
        ArtifactError: as in `values_of` and `fixed_shape`.

    Example:
        >>> tokens = {"tokens": np.ones((2, 3, 8), np.float32)}
        >>> values = read_values(tokens, Output("tokens", "token", (None, 8)), np.int64([3, 1]))
        >>> [value.shape for value in values]
        [(3, 8), (1, 8)]
    """
    reader = _READERS.get(output.kind)
    if reader is None:
        return values_of(outputs, output.name, (len(lengths), *fixed_shape(output)))
    values = empty_values(output, len(lengths))
    for row, value in enumerate(reader(outputs, output, lengths)):
        values[row] = value
    return values


def _token_vectors(outputs: Outputs, output: Output, lengths: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    columns = max(1, int(lengths.max(initial=0)))  # as `TokenTable.pad` makes them
    shape = (len(lengths), columns, cast("int", output.shape[1]))
    for vectors, length in zip(values_of(outputs, output.name, shape), lengths.tolist(), strict=True):
        yield vectors[:length].copy()


def _sparse_vectors(outputs: Outputs, output: Output, lengths: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    for vector in values_of(outputs, output.name, (len(lengths), *fixed_shape(output))):
        (indices,) = vector.nonzero()
        found = np.empty(len(indices), SPARSE)
        found["index"], found["value"] = indices, vector[indices]
        yield found


# The kinds of output without a fixed size.
_READERS = {"token": _token_vectors, "sparse": _sparse_vectors}


def check_finite(values: Values, indices: Sequence[int]) -> None:
    """Raise NotFiniteError if a number is NaN or infinite. The message names the input.

    Args:
        values: the values of inputs.
        indices: the caller's index of each input.

    Example:
        >>> check_finite(np.ones((2, 8), np.float32), range(2))
    """
    if values.dtype == object:
        for value, index in zip(values, indices, strict=False):
            numbers = value["value"] if value.dtype == SPARSE else value
            if len(numbers):
                check_finite(numbers.reshape(1, -1), (index,))
        return
    # NaN counts as the largest number and as the smallest one. No array of flags is made, and no ufunc is called.
    if not (math.isfinite(values.item(values.argmax())) and math.isfinite(values.item(values.argmin()))):
        row = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(axis=1)))
        raise NotFiniteError(
            f"the graph gave NaN or infinity for input {indices[row]} (counted from 0). Export the model again, or "
            "load it with another dtype"
        )
