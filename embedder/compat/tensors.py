"""Tensors of torch at the border: numbers come in as tensors or arrays, and leave as what the program works with.

torch is never imported here unless the caller asks for a tensor.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.common.imports import import_optional
from embedder.compat.numpy_tensor import NumpyTensor
from embedder.errors import InputError


def imported_torch() -> Any:
    """Return torch if the program has imported it, otherwise None."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "Tensor") else None


def is_tensor(value: object) -> bool:
    """Return whether `value` is a tensor of torch."""
    torch = imported_torch()
    return torch is not None and isinstance(value, torch.Tensor)


def as_array(value: Any) -> Any:
    """Return the numbers of a tensor as an array, also of tensors in a list. Other values are returned as they are.

    Raises:
        InputError: a tensor carries gradients, which would be lost.
    """
    if isinstance(value, NumpyTensor):
        return value.numpy()
    if isinstance(value, list | tuple):
        return [as_array(item) for item in value] if any(map(_has_numbers, value)) else value
    if not is_tensor(value):
        return value
    if value.requires_grad:
        raise InputError("this tensor requires gradients, which embedder does not compute. Pass tensor.detach()")
    dense = value.to_dense() if value.is_sparse else value
    half = dense.is_floating_point() and dense.element_size() < np.dtype(np.float32).itemsize
    return (dense.float() if half else dense).cpu().numpy()


def _has_numbers(value: object) -> bool:
    return isinstance(value, NumpyTensor) or is_tensor(value)


def import_torch() -> Any:
    """Import and return torch.

    Raises:
        DependencyError: torch is not installed.
    """
    return import_optional("torch", needed_for="A tensor", requirement="torch")


def as_tensor(array: NDArray[Any]) -> Any:
    """Return `array` as a tensor of torch, on the CPU.

    Raises:
        DependencyError: torch is not installed.
    """
    torch = import_torch()
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def as_scores(array: NDArray[Any], *sources: Any) -> Any:
    """Return `array` as a tensor if the program has imported torch, otherwise as a `NumpyTensor`.

    Args:
        array: the numbers.
        sources: what they were computed of. The tensor is on the device of the first tensor among them.
    """
    if imported_torch() is None:
        return NumpyTensor(array)
    tensor = as_tensor(array)
    for source in sources:
        first = source[0] if isinstance(source, list | tuple) and source else source
        if is_tensor(first):
            return tensor.to(first.device)
    return tensor
