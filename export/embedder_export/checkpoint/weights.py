"""A checkpoint's weights: tensors by their names, read only when they are written to the artifact."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from embedder.errors import EmbedderError
from safetensors import safe_open

from embedder_export.checkpoint.files import find_weights
from embedder_export.errors import CheckpointError, NeedsTorchError, NotNativeError

# Those that transformers, too, loads into a float32 model as they are.
_DTYPES = {
    "F64": ir.DataType.DOUBLE,
    "F32": ir.DataType.FLOAT,
    "F16": ir.DataType.FLOAT16,
    "BF16": ir.DataType.BFLOAT16,
}
# Buffers of ids and the like.
_NO_WEIGHTS = ("BOOL", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64")
Weights = dict[str, ir.TensorProtocol]


def read_weights(directory: Path) -> Weights:
    """The floating-point tensors of `directory`, whole or in parts, float32 whatever they are stored as.

    Raises:
        CheckpointError: there are none, they are damaged, or would run code.
        NotNativeError: they are in a precision that is not known here.
        NeedsTorchError: they are in torch's format, and torch is not installed.
    """
    weights: Weights = {}
    for path, names in find_weights(directory).items():
        try:
            part = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
        except EmbedderError:
            raise
        except Exception as error:  # the libraries raise whatever the damage led to
            kind = type(error).__name__
            raise CheckpointError(f"{path} cannot be read as plain weights: {kind}: {error}") from error
        weights |= {name: tensor for name, tensor in part.items() if names is None or name in names}
    return weights


def read_arrays(directory: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The tensors of a small module, float32: those of `shapes`, all of them and no others.

    Raises:
        CheckpointError: as `read_weights`, or there are other tensors.
    """
    try:
        arrays = {name: tensor.numpy() for name, tensor in read_weights(directory).items()}
    except NotNativeError as error:
        raise CheckpointError(str(error)) from error
    found = {name: array.shape for name, array in arrays.items()}
    if found != shapes:
        raise CheckpointError(f"{directory} holds the tensors {found}, not {shapes}")
    return arrays


def _read_safetensors(path: Path) -> Weights:
    """The format is https://github.com/huggingface/safetensors#format; the library checks it, and we map it."""
    with safe_open(path, "np"):
        pass
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    header.pop("__metadata__", None)
    stored = {name: entry for name, entry in header.items() if entry["dtype"] not in _NO_WEIGHTS}
    for name, entry in stored.items():
        if entry["dtype"] not in _DTYPES:
            raise NotNativeError(f"{path.name} has {name} as {entry['dtype']}")
    return {name: _float32(_mapped(path, name, 8 + size, entry)) for name, entry in stored.items()}


def _mapped(path: Path, name: str, start: int, entry: dict[str, Any]) -> ir.ExternalTensor:
    begin, end = entry["data_offsets"]
    dtype, shape = _DTYPES[entry["dtype"]], ir.Shape(entry["shape"])
    # An absolute path is ours, not a stranger's: onnx_ir lets it be a link, as in the Hub's cache.
    place = str(path.absolute())
    return ir.ExternalTensor(place, start + begin, end - begin, dtype, shape=shape, name=name)


def _float32(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if tensor.dtype == ir.DataType.FLOAT:
        return tensor
    return lazy(lambda: tensor.numpy().astype(np.float32), tuple(tensor.shape.numpy()))


def lazy(
    read: Callable[[], np.ndarray], shape: tuple[int, ...], dtype: ir.DataType = ir.DataType.FLOAT
) -> ir.LazyTensor:
    """A tensor that `read` makes each time it is asked for."""
    return ir.LazyTensor(lambda: ir.tensor(read()), dtype, ir.Shape(shape))


def _read_pickle(path: Path) -> Weights:
    """Torch's own format, of which only plain tensors are read: `weights_only` runs nothing."""
    try:
        import torch
    except ImportError as error:
        raise NeedsTorchError(f"{path.name} is in torch's own format") from error
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    return {
        name: lazy(lambda tensor=tensor: tensor.detach().float().numpy(), tuple(tensor.shape))
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
    }
