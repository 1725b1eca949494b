"""Read the tensors of a file that `torch.save` wrote. Their values stay in the file until they are needed."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import onnx_ir as ir
from embedder.common.checks import find_surrogate
from embedder.common.files import open_regular
from numpy.lib.stride_tricks import as_strided

from embedder_export.checkpoint.torch_format import archive
from embedder_export.checkpoint.torch_format.plain_pickle import MAX_PICKLE_BYTES, Storage, TorchTensor, load_plain
from embedder_export.errors import CheckpointError

# Entries of the zip. Only TorchScript writes the last one.
_PICKLE, _BYTE_ORDER, _PROGRAM = "data.pkl", "byteorder", "constants.pkl"
_MAX_ORDER_BYTES = 16
# What a pickle begins with. A file from before torch 1.6 begins with five: the first two are these numbers.
_PICKLE_MAGIC, _OLD_PICKLES = b"\x80", 5
_OLD_MAGIC, _OLD_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# Length of the number before each storage of such a file. It says how many numbers the storage has.
_COUNT_BYTES = 8
_Tensors: TypeAlias = dict[str, TorchTensor]
_Entries: TypeAlias = dict[str, archive.Entry]


def read_torch_file(path: Path) -> dict[str, ir.TensorProtocol]:
    """Return the floating-point tensors of a file by name. Integers are buffers, not weights, and are left out.

    All bytes of the tensors are checked against their checksums once. Files from before torch 1.6 have none.

    Raises:
        CheckpointError: the file is damaged, or holds anything but plain tensors by name.

    Example:
        >>> read_torch_file(Path("2_Dense/pytorch_model.bin"))["linear.bias"].shape  # doctest: +SKIP
        Shape([768])
    """
    with _opened(path) as stream:
        tensors, entries = _find_tensors(stream)
        for entry in entries.values():
            archive.check_entry(stream, entry)
    return {
        name: _to_weight(path, name, tensor, entries[tensor.storage.key].start)
        for name, tensor in tensors.items()
        if tensor.storage.dtype.is_floating_point()
    }


def torch_tensor_names(path: Path) -> set[str]:
    """Return the names of the tensors in a file. Their values are not read.

    Raises:
        CheckpointError: as `read_torch_file`.

    Example:
        >>> torch_tensor_names(Path("2_Dense/pytorch_model.bin"))  # doctest: +SKIP
        {'linear.weight', 'linear.bias'}
    """
    with _opened(path) as stream:
        return set(_find_tensors(stream)[0])


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open_regular(path) as stream:
            yield stream
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as plain weights: {error}") from error


def _find_tensors(stream: BinaryIO) -> tuple[_Tensors, _Entries]:
    """Return the tensors by name, and where the bytes of each of their storages are."""
    magic = stream.read(len(archive.MAGIC))
    if magic == archive.MAGIC:
        return _find_in_zip(stream)
    if magic[:1] == _PICKLE_MAGIC:
        return _find_in_old_format(stream)
    raise ValueError("it is not in torch's format")


def _find_in_zip(stream: BinaryIO) -> tuple[_Tensors, _Entries]:
    entries = archive.read_entries(stream)
    folder = _find_folder(entries)
    if f"{folder}/{_PROGRAM}" in entries:
        raise ValueError("it is a TorchScript program: only a model's state_dict() can be read")
    order = entries.get(f"{folder}/{_BYTE_ORDER}")
    if order is not None and archive.read_entry(stream, order, _MAX_ORDER_BYTES) != b"little":
        raise ValueError("its numbers are not in little-endian byte order")
    data = archive.read_entry(stream, entries[f"{folder}/{_PICKLE}"], MAX_PICKLE_BYTES)
    content, end = load_plain(data)
    if end < len(data):
        raise ValueError("its pickle does not end where it should")
    tensors = _check_tensors(content)
    storages = {key: entries.get(f"{folder}/data/{key}") for key in _storages_of(tensors)}
    return tensors, _check_sizes(tensors, {key: entry for key, entry in storages.items() if entry is not None})


def _find_folder(entries: _Entries) -> str:
    """Return the folder that all of torch's entries have. Its name is that of the file that was saved first."""
    folders = [name.removesuffix(f"/{_PICKLE}") for name in entries if name.endswith(f"/{_PICKLE}")]
    top = [folder for folder in folders if "/" not in folder]
    if len(top) != 1:
        raise ValueError(f"its zip has {len(top)} entries of the name {_PICKLE}, not one")
    return top[0]


def _find_in_old_format(stream: BinaryIO) -> tuple[_Tensors, _Entries]:
    """Read the format from before torch 1.6: five pickles, and after them each storage with its length before it."""
    stream.seek(0)
    data = stream.read(MAX_PICKLE_BYTES)
    place, pickles = 0, []
    for _ in range(_OLD_PICKLES):
        content, place = load_plain(data, place)
        pickles.append(content)
        if pickles[0] != _OLD_MAGIC:
            raise ValueError("it is not in torch's format")
    _, protocol, system, content, keys = pickles
    if protocol != _OLD_PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("its numbers are not in little-endian byte order")
    tensors = _check_tensors(content)
    return tensors, _check_sizes(tensors, _walk_storages(stream, place, keys, _storages_of(tensors)))


def _walk_storages(stream: BinaryIO, place: int, keys: Any, storages: dict[str, Storage]) -> _Entries:
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
        raise ValueError("it does not list the storages of its tensors")
    file_size, entries = stream.seek(0, 2), {}
    for key in keys:
        stream.seek(place)
        count = int.from_bytes(stream.read(_COUNT_BYTES), "little")
        entries[key] = archive.Entry(place + _COUNT_BYTES, count * int(storages[key].dtype.itemsize), None)
        place += _COUNT_BYTES + entries[key].size
        if place > file_size:
            raise ValueError("it ends too soon")
    if place != file_size or len(keys) != len(storages):
        raise ValueError("it does not end after its last storage")
    return entries


def _check_tensors(content: Any) -> _Tensors:
    if not isinstance(content, dict):
        raise ValueError(f"it does not hold tensors by name, but a {type(content).__name__}")
    for name, tensor in content.items():
        if not isinstance(tensor, TorchTensor):
            raise ValueError(f"it does not hold tensors by name: {name!r:.80} is a {type(tensor).__name__}")
        if find_surrogate(name):
            raise ValueError(f"it has the name {name!r:.80}, which is not valid Unicode")
    return content


def _storages_of(tensors: _Tensors) -> dict[str, Storage]:
    return {tensor.storage.key: tensor.storage for tensor in tensors.values()}


def _check_sizes(tensors: _Tensors, entries: _Entries) -> _Entries:
    for name, tensor in tensors.items():
        storage = tensor.storage
        entry = entries.get(storage.key)
        if entry is None or entry.size != storage.count * storage.dtype.itemsize:
            raise ValueError(f"it does not have the {storage.count:,} numbers that {name!r:.80} is a part of")
    return entries


def _to_weight(path: Path, name: str, tensor: TorchTensor, storage_start: int) -> ir.TensorProtocol:
    dtype, shape = tensor.storage.dtype, tensor.shape
    if not math.prod(shape):  # onnx_ir cannot write an empty tensor that lies in a file
        return ir.tensor(np.empty(shape, dtype.numpy()), name=name)
    span = 1 + sum((length - 1) * stride for length, stride in zip(shape, tensor.strides, strict=True))
    itemsize = int(dtype.itemsize)
    begin = storage_start + tensor.start * itemsize

    def in_file(shape: tuple[int, ...]) -> ir.ExternalTensor:
        # onnx_ir accepts a link if its path is absolute. Files of the Hub's cache are links.
        return ir.ExternalTensor(str(path.absolute()), begin, span * itemsize, dtype, shape=ir.Shape(shape), name=name)

    if _is_contiguous(tensor):
        return in_file(shape)
    # The stride of a dimension of length 1 has no effect, and may be any number.
    strides = [stride * itemsize if length > 1 else 0 for length, stride in zip(shape, tensor.strides, strict=True)]

    def read_view() -> ir.TensorProtocol:
        return ir.tensor(as_strided(in_file((span,)).numpy(), shape, strides).copy())

    return ir.LazyTensor(read_view, dtype, ir.Shape(shape), name=name)


def _is_contiguous(tensor: TorchTensor) -> bool:
    expected = 1
    for length, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if length > 1 and stride != expected:
            return False
        expected *= length
    return True
