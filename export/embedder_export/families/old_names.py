"""Rename weights that a checkpoint has under older names, and split weights that it has stacked."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import onnx_ir as ir

from embedder_export.checkpoint.weights import Floats, Weights, lazy
from embedder_export.errors import NotNativeError


@dataclass(frozen=True)
class OldNames:
    """A family's older names of weights.

    Attributes:
        changes: pairs of a regular expression and its replacement. They are applied in this order.
        stacks: for each name of a layer whose weights are stacked, the names of the layers, in the order of the stack.
            `changes` come first.
    """

    changes: Sequence[tuple[str, str]]
    stacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def renamer(names: OldNames) -> Callable[[Weights], Weights]:
    """Return a function that returns weights under their new names. New names stay as they are.

    The function raises NotNativeError if two weights get the same name, or a stack cannot be split evenly.

    Example:
        >>> import numpy as np
        >>> rename = renamer(OldNames([("^old", "new")], {"new.qk": ("q", "k")}))
        >>> list(rename({"old.qk.weight": ir.tensor(np.zeros((4, 2), np.float32))}))
        ['q.weight', 'k.weight']
    """
    return partial(_rename, names)


def _rename(names: OldNames, weights: Weights) -> Weights:
    renamed: Weights = {}
    for name, tensor in weights.items():
        for old, new in names.changes:
            name = re.sub(old, new, name)
        for new_name, part in _unstacked(names, name, tensor):
            if new_name in renamed:
                raise NotNativeError(f"the weights have {new_name} twice")
            renamed[new_name] = part
    return renamed


def _unstacked(names: OldNames, name: str, tensor: ir.TensorProtocol) -> list[tuple[str, ir.TensorProtocol]]:
    """Return the parts of `tensor` with their names. A tensor that is no stack is its only part."""
    layer, _, kind = name.rpartition(".")
    for stack, parts in names.stacks.items():
        if layer == stack or layer.endswith(f".{stack}"):
            begin = layer.removesuffix(stack)
            split = _split(name, tensor, len(parts))
            return [(f"{begin}{part}.{kind}", rows) for part, rows in zip(parts, split, strict=True)]
    return [(name, tensor)]


def _split(name: str, tensor: ir.TensorProtocol, count: int) -> list[ir.TensorProtocol]:
    """Split `tensor` into `count` parts of equally many rows. A part is read only when it is needed."""
    rows, *rest = tensor.shape.numpy()
    if rows % count:
        raise NotNativeError(f"the weights have {name} with {rows} rows, which are not {count} equal parts")
    size = rows // count
    return [lazy(partial(_rows, tensor, at * size, size), (size, *rest)) for at in range(count)]


def _rows(tensor: ir.TensorProtocol, start: int, count: int) -> Floats:
    rows: Floats = tensor.numpy()[start : start + count]
    return rows
