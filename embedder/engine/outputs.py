"""Check what a backend returns. Every backend's outputs pass here, also those of a caller's own backend.

Without these checks, NumPy would copy one row to all inputs of a batch, and round another dtype silently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.manifest import Output
from embedder.backends.backend import Outputs
from embedder.errors import ArtifactError

_FLOAT32 = np.dtype(np.float32)


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


def check_finite(values: NDArray[np.float32], indices: Sequence[int]) -> None:
    """Raise NotFiniteError if a number is NaN or infinite. The message names the input.

    Args:
        values: the outputs of inputs, float32 (inputs, *shape).
        indices: the caller's index of each input.

    Example:
        >>> check_finite(np.ones((2, 8), np.float32), range(2))
    """
    # NaN counts as the largest number and as the smallest one. No array of flags is made, and no ufunc is called.
    if not (math.isfinite(values.item(values.argmax())) and math.isfinite(values.item(values.argmin()))):
        row = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(axis=1)))
        raise NotFiniteError(
            f"the graph gave NaN or infinity for input {indices[row]} (counted from 0). Export the model again, or "
            "load it with another dtype"
        )
