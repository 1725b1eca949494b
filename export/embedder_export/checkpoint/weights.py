"""Read a checkpoint's weights: tensors by name. Values are read only when they are checked or written to a graph."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from embedder.common.files import check_regular, open_regular
from embedder.common.panics import PanicError, panics_as_exceptions
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from embedder_export.checkpoint.files import are_weights_blank, find_weights
from embedder_export.checkpoint.torch_format.read import read_torch_file, torch_tensor_names
from embedder_export.errors import CheckpointError, NotNativeError

# Floating-point formats of safetensors. transformers too loads them into a float32 model.
_DTYPES = {
    "F64": ir.DataType.DOUBLE,
    "F32": ir.DataType.FLOAT,
    "F16": ir.DataType.FLOAT16,
    "BF16": ir.DataType.BFLOAT16,
}
# Formats of buffers, such as position ids. Buffers are not weights.
_INTEGERS = {
    "I8": ir.DataType.INT8,
    "I16": ir.DataType.INT16,
    "I32": ir.DataType.INT32,
    "I64": ir.DataType.INT64,
    "U8": ir.DataType.UINT8,
    "U16": ir.DataType.UINT16,
    "U32": ir.DataType.UINT32,
    "U64": ir.DataType.UINT64,
}
_BUFFER_DTYPES = ("BOOL", *_INTEGERS)
# How many numbers are checked at once. It limits the memory of a check.
_NUMBERS_PER_CHECK = 1 << 20
# Tensors by name.
Weights: TypeAlias = dict[str, ir.TensorProtocol]
Floats: TypeAlias = NDArray[np.float32]


class BlankWeights(dict[str, ir.TensorProtocol]):
    """Stands for weights inside of `files.blank_weights`. It names none, and gives zeros of any shape.

    Example:
        >>> BlankWeights().zeros(2, 3).shape
        Shape([2, 3])
    """

    def zeros(self, *shape: int) -> ir.TensorProtocol:
        """Return a float32 tensor of zeros. It takes memory only while its values are read."""
        return lazy(lambda: np.zeros(shape, np.float32), shape)


def read_weights(directory: Path) -> Weights:
    """Return the floating-point tensors of `directory` as float32, by name; `BlankWeights` inside of `blank_weights`.

    Raises:
        CheckpointError: the weights are missing or damaged, or hold something that is not a plain tensor.
        NotNativeError: a weight has a number format that is not known here.

    Example:
        >>> len(read_weights(Path("checkpoints/all-MiniLM-L6-v2")))  # doctest: +SKIP
        103
    """
    weights: Weights = BlankWeights() if are_weights_blank() else {}
    for path, names in find_weights(directory).items():
        part = _read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path)
        weights |= {name: as_float32(tensor) for name, tensor in part.items() if names is None or name in names}
    return weights


def read_integers(directory: Path) -> Weights:
    """Return the tensors of integers in the safetensors files of `directory`, by name. Other files have none.

    Raises:
        CheckpointError: the weights are missing or damaged.

    Example:
        >>> list(read_integers(Path("checkpoints/potion-base-32M")))  # doctest: +SKIP
        ['mapping']
    """
    tensors: Weights = {}
    for path in find_weights(directory):
        if path.suffix != ".safetensors":
            continue
        header, start = _read_header(path)
        for name, entry in header.items():
            if entry["dtype"] in _INTEGERS:
                tensors[name] = _map_tensor(path, name, start, entry, _INTEGERS)
    return tensors


def read_arrays(directory: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Floats]:
    """Return the tensors of a small module as float32 arrays.

    Args:
        directory: the module's directory.
        shapes: the shape of each tensor by name. There must be exactly these tensors.

    Raises:
        CheckpointError: the weights cannot be read, there are other tensors, or a number is not finite.

    Example:
        >>> list(read_arrays(Path("2_Dense"), {"linear.weight": (512, 768)}))  # doctest: +SKIP
        ['linear.weight']
    """
    if are_weights_blank():
        return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    try:
        arrays = {name: tensor.numpy() for name, tensor in read_weights(directory).items()}
    except NotNativeError as error:
        raise CheckpointError(str(error)) from error
    found = {name: array.shape for name, array in arrays.items()}
    if found != shapes:
        raise CheckpointError(f"{directory} holds the tensors {found!s:.200}, not {dict(shapes)}")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise CheckpointError(f"the weights in {directory} are not finite: {name} has NaN or infinity in it")
    return arrays


def tensor_names(directory: Path) -> set[str]:
    """Return the names of all tensors of `directory`, also of those that are no weights.

    Raises:
        CheckpointError: the weights are missing or damaged, or hold something that is not a plain tensor.

    Example:
        >>> "pooler.dense.bias" in tensor_names(Path("checkpoints/all-MiniLM-L6-v2"))  # doctest: +SKIP
        True
    """
    names: set[str] = set()
    for path in find_weights(directory):
        names |= _read_header(path)[0].keys() if path.suffix == ".safetensors" else torch_tensor_names(path)
    return names


def is_finite(tensor: ir.TensorProtocol) -> bool:
    """Return whether every number of a float32 tensor is finite.

    Example:
        >>> is_finite(ir.tensor(np.array([1, np.nan], np.float32)))
        False
    """
    if not isinstance(tensor, ir.ExternalTensor):
        return bool(np.isfinite(tensor.numpy()).all())
    # The file is read and not mapped, because the pages of a mapped file stay in memory.
    left = math.prod(tensor.shape.numpy())
    with open_regular(tensor.path) as stream:
        stream.seek(tensor.offset or 0)
        while left > 0:
            numbers = np.fromfile(stream, "<f4", min(left, _NUMBERS_PER_CHECK))
            if not len(numbers) or not np.isfinite(numbers).all():
                return False
            left -= len(numbers)
    return True


def lazy(
    read: Callable[[], NDArray[Any]], shape: tuple[int, ...], dtype: ir.DataType = ir.DataType.FLOAT
) -> ir.LazyTensor:
    """Return a tensor that calls `read` each time its values are needed.

    Args:
        read: returns the values, of `shape` and `dtype`.
        shape: the tensor's shape.
        dtype: the tensor's number format.

    Example:
        >>> lazy(lambda: np.zeros(2, np.float32), (2,)).numpy()
        array([0., 0.], dtype=float32)
    """
    return ir.LazyTensor(lambda: ir.tensor(read()), dtype, ir.Shape(shape))


def _read_safetensors(path: Path) -> Weights:
    header, start = _read_header(path)
    stored = {name: entry for name, entry in header.items() if entry["dtype"] not in _BUFFER_DTYPES}
    for name, entry in stored.items():
        if entry["dtype"] not in _DTYPES:
            raise NotNativeError(f"{path.name} has {name} as {entry['dtype']}")
    return {name: _map_tensor(path, name, start, entry, _DTYPES) for name, entry in stored.items()}


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the entries of a safetensors file by name, and the offset of its data in bytes.

    The library checks the file first. The format is described at https://github.com/huggingface/safetensors#format.
    """
    try:
        check_regular(path)
        with panics_as_exceptions(), safe_open(path, "np"):
            pass
        with open_regular(path) as stream:
            size = int.from_bytes(stream.read(8), "little")
            header: dict[str, Any] = json.loads(stream.read(size))
    except (SafetensorError, PanicError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    header.pop("__metadata__", None)
    return header, 8 + size


def _map_tensor(
    path: Path, name: str, start: int, entry: dict[str, Any], dtypes: Mapping[str, ir.DataType]
) -> ir.ExternalTensor:
    begin, end = entry["data_offsets"]
    dtype, shape = dtypes[entry["dtype"]], ir.Shape(entry["shape"])
    # onnx_ir accepts a link if its path is absolute. Files of the Hub's cache are links.
    place = str(path.absolute())
    return ir.ExternalTensor(place, start + begin, end - begin, dtype, shape=shape, name=name)


def as_float32(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return `tensor` as float32. Its values are converted when they are needed.

    Example:
        >>> as_float32(ir.tensor(np.array([1, 2], np.int8))).numpy()
        array([1., 2.], dtype=float32)
    """
    if tensor.dtype == ir.DataType.FLOAT:
        return tensor
    return lazy(lambda: tensor.numpy().astype(np.float32), shape_of(tensor))


def shape_of(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """Return the shape of `tensor`.

    Example:
        >>> shape_of(ir.tensor(np.zeros((2, 3), np.float32)))
        (2, 3)
    """
    return tuple(tensor.shape.numpy())


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read as plain weights: {type(error).__name__}: {error}")
