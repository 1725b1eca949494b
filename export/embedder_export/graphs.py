"""Graphs as files: the graph itself, and its weights beside it, where onnxruntime can map them instead of copying.

The weights of a large model must never be all in memory, nor in one protobuf message, which ends at 2 GB. So the
stages work on graphs of which the tensors are references into such a file, and take in only what they must see.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import onnx
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor, uses_external_data

# Smaller tensors stay in the graph, where onnxruntime's own optimisations can see them.
_EXTERNAL_BYTES = 1024
# Vectorised kernels read by cache lines.
_ALIGNMENT = 64


def save_graph(graph: onnx.ModelProto, directory: Path, source: Path | None = None) -> Path:
    """Write `graph` to a new `directory` and return its path; `graph` then refers to its weights there.

    `source` is the directory of the files that the tensors of `graph` refer to, if they do already.
    """
    directory.mkdir()
    path = directory / "model.onnx"
    # Large constants are written as nodes by some converters, and as tensors by others.
    for tensor in _constants(graph.graph):
        if uses_external_data(tensor):
            load_tensor(tensor, source or directory)
    with weights_of(path).open("wb") as stream:
        for tensor in graph.graph.initializer:
            if uses_external_data(tensor) or tensor_bytes(tensor) >= _EXTERNAL_BYTES:
                _move_out(tensor, source, stream, weights_of(path).name)
    onnx.save(graph, path)
    return path


def weights_of(path: Path) -> Path:
    """Where the weights of the graph at `path` lie."""
    return path.with_name(f"{path.name}.data")


def load_tensor(tensor: TensorProto, source: Path) -> None:
    """Take into `tensor` the data that it refers to in a file of `source`."""
    load_external_data_for_tensor(tensor, str(source))
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _move_out(tensor: TensorProto, source: Path | None, stream: IO[bytes], name: str) -> None:
    stream.seek(-stream.tell() % _ALIGNMENT, 1)
    offset = stream.tell()
    if uses_external_data(tensor):
        assert source is not None
        info = ExternalDataInfo(tensor)
        with (source / info.location).open("rb") as data:
            data.seek(info.offset or 0)
            _copy(data, stream, tensor_bytes(tensor))
    else:
        stream.write(numpy_helper.to_array(tensor).tobytes())
    for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "external_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": name, "offset": offset, "length": stream.tell() - offset}.items():
        tensor.external_data.add(key=key, value=str(value))


def _copy(data: IO[bytes], stream: IO[bytes], size: int) -> None:
    while size > 0:
        chunk = data.read(min(size, 1 << 24))
        if not chunk:
            raise EOFError("a file of weights ends before its last tensor")
        stream.write(chunk)
        size -= len(chunk)


def tensor_bytes(tensor: TensorProto) -> int:
    """The size of the data of `tensor`, wherever it lies."""
    return math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _constants(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
