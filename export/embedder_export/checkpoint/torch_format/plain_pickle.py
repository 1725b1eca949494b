"""Read a pickle of plain tensors without Python's unpickler, which can call any function.

A pickle is a list of instructions for a stack. This interpreter knows only those that tensors by name need, and only
the functions and classes in `_NAMES`. It calls none of them, and only notes the parts of each tensor. Everything else
is refused. Each instruction makes at most one small object, so the limits on size and count also limit the memory.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pickletools import opcodes
from typing import Any

import onnx_ir as ir

# Most bytes of a pickle. The one of a model with 1,000 tensors takes 0.2 MB.
MAX_PICKLE_BYTES = 1 << 23
# Most instructions of a pickle. A tensor takes about 50.
_MAX_INSTRUCTIONS = 500_000
# Most dimensions of a tensor, as in NumPy 1.
_MAX_DIMENSIONS = 32
# Most numbers of a tensor. A dimension of length 0 counts as 1, because NumPy cannot make an empty array whose other
# dimensions are larger.
_MAX_NUMBERS = 1 << 48
# The number formats that a storage may have.
_STORAGES = {
    "torch.DoubleStorage": ir.DataType.DOUBLE,
    "torch.FloatStorage": ir.DataType.FLOAT,
    "torch.HalfStorage": ir.DataType.FLOAT16,
    "torch.BFloat16Storage": ir.DataType.BFLOAT16,
    "torch.LongStorage": ir.DataType.INT64,
    "torch.IntStorage": ir.DataType.INT32,
    "torch.ShortStorage": ir.DataType.INT16,
    "torch.CharStorage": ir.DataType.INT8,
    "torch.ByteStorage": ir.DataType.UINT8,
    "torch.BoolStorage": ir.DataType.BOOL,
}
_ORDERED_DICT, _TENSOR, _PARAMETER = (
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
)
# Every function and class that a pickle may name.
_NAMES = {_ORDERED_DICT, _TENSOR, _PARAMETER, *_STORAGES}
_PROTOCOLS = range(2, 6)


@dataclass(frozen=True, slots=True)
class Storage:
    """The numbers that one or more tensors view.

    Attributes:
        key: its name in the file.
        dtype: its number format.
        count: how many numbers it has.
    """

    key: str
    dtype: ir.DataType
    count: int


@dataclass(frozen=True, slots=True)
class TorchTensor:
    """A tensor: a view of a storage. Every number of it lies in the storage, and it has at most as many numbers.

    Attributes:
        storage: where its numbers are.
        start: the place of its first number in the storage, counted in numbers.
        shape: its shape.
        strides: the distance in the storage between neighbours along each dimension, counted in numbers.
    """

    storage: Storage
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Name:
    """A function or a class that the pickle names. It is never imported."""

    name: str


class _OrderedDict(dict[str, Any]):
    """A dict made by the name collections.OrderedDict. Only such a dict may get attributes, which are ignored."""


def load_plain(data: bytes, start: int = 0) -> tuple[Any, int]:
    """Read one pickle.

    Args:
        data: bytes with the pickle in it.
        start: where it begins.

    Returns:
        What it holds, and where it ends. That is a `TorchTensor`, a dict with strings as keys, a list, a tuple, a
        string, a number or None.

    Raises:
        ValueError: the pickle is damaged, too large, or holds something else.

    Example:
        >>> import pickle
        >>> load_plain(pickle.dumps({"bias": [1, 2]}, protocol=2))[0]
        {'bias': [1, 2]}
    """
    interpreter = _Interpreter(data, start)
    return interpreter.run(), interpreter.position


class _Interpreter:
    def __init__(self, data: bytes, start: int) -> None:
        self.data = data
        self.position = start
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(_MAX_INSTRUCTIONS):
            code = self.take(1)
            if code == b".":
                value = self.pop()
                if self.stack or self.marked:
                    raise ValueError("its pickle ends with values that belong to nothing")
                return value
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise ValueError(f"it has the pickle instruction {_name_of(code)}, which no plain tensor needs")
            instruction(self)
        raise ValueError(f"it has more than {_MAX_INSTRUCTIONS:,} pickle instructions")

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise ValueError("its pickle ends too soon")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def take_line(self) -> str:
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise ValueError("its pickle ends too soon")
        line = self.data[self.position : end]
        self.position = end + 1
        return line.decode("utf-8", "backslashreplace")

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise ValueError("its pickle takes more from the stack than is there")
        return self.stack.pop()

    def pop_several(self, count: int) -> tuple[Any, ...]:
        return tuple(reversed([self.pop() for _ in range(count)]))

    def pop_to_mark(self) -> list[Any]:
        if not self.marked:
            raise ValueError("its pickle has no mark where one is needed")
        values, self.stack = self.stack, self.marked.pop()
        return values

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def protocol(self) -> None:
        protocol = self.unsigned(1)
        if protocol not in _PROTOCOLS:
            raise ValueError(f"it has pickle protocol {protocol}")

    def string(self, length_bytes: int) -> None:
        try:
            self.push(self.take(self.unsigned(length_bytes)).decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError as error:
            raise ValueError("its pickle has a string that is not UTF-8") from error

    def put(self, index: int) -> None:
        value = self.pop()
        self.push(value)
        self.memo[index] = value

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError("its pickle reads what it has not stored")
        self.push(self.memo[index])

    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("its pickle names a function by something that is not a string")
        full_name = f"{module}.{name}"
        if full_name not in _NAMES:
            raise ValueError(f"it holds {_shown(full_name)}, which is not a plain tensor")
        self.push(_Name(full_name))

    def storage(self) -> None:
        self.push(_make_storage(self.pop()))

    def call(self) -> None:
        function, arguments = self.pop_several(2)
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise ValueError("its pickle calls something that is not a function")
        self.push(_note_call(function.name, arguments))

    def set_items(self, items: list[Any]) -> None:
        target = self.pop()
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("its pickle sets items of something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys could be chosen to have equal hashes, which makes a dict slow.
            if not isinstance(key, str):
                raise ValueError(f"a dict in it has the key {_shown(key)}, which is not a name")
            target[key] = value
        self.push(target)

    def append(self, items: list[Any] | tuple[Any, ...]) -> None:
        target = self.pop()
        if not isinstance(target, list):
            raise ValueError("its pickle appends to something that is not a list")
        target.extend(items)
        self.push(target)

    def set_attributes(self) -> None:
        target, attributes = self.pop_several(2)
        if not isinstance(target, _OrderedDict) or not isinstance(attributes, dict):
            raise ValueError("its pickle sets attributes of something that is not an OrderedDict")
        self.push(target)  # the attribute of a state dict is _metadata: versions of modules


def _make_storage(reference: Any) -> Storage:
    if not isinstance(reference, tuple) or len(reference) not in (5, 6) or reference[0] != "storage":
        raise ValueError("its pickle refers to something that is not a storage")
    _, kind, key, _, count, *view = reference
    dtype = _STORAGES.get(kind.name) if isinstance(kind, _Name) else None
    if dtype is None or not isinstance(key, str) or not _is_count(count) or view not in ([], [None]):
        raise ValueError("its pickle refers to a storage that cannot be read")
    return Storage(key, dtype, count)


def _note_call(name: str, arguments: tuple[Any, ...]) -> Any:
    if name == _ORDERED_DICT and not arguments:
        return _OrderedDict()
    if name == _TENSOR and len(arguments) in (6, 7):
        return _make_tensor(*arguments)
    if name == _PARAMETER and len(arguments) == 3:
        tensor, needs_gradient, hooks = arguments
        if isinstance(tensor, TorchTensor) and isinstance(needs_gradient, bool) and _is_empty(hooks):
            return tensor
    raise ValueError(f"it calls {name} with arguments that are not those of a plain tensor")


def _make_tensor(
    storage: Any, start: Any, shape: Any, strides: Any, needs_gradient: Any, hooks: Any, extras: Any = None
) -> TorchTensor:
    if not isinstance(storage, Storage) or not isinstance(needs_gradient, bool) or not _is_empty(hooks):
        raise ValueError("a tensor in it is not a plain view of a storage")
    if not _is_empty(extras):  # torch's marks for conjugated and negated views
        raise ValueError("a tensor in it is a conjugated or negated view, which is not a plain tensor")
    if not _is_count(start) or not _are_counts(shape) or not _are_counts(strides) or len(shape) != len(strides):
        raise ValueError("a tensor in it has a shape, strides or a start that no tensor has")
    if math.prod(max(length, 1) for length in shape) > _MAX_NUMBERS:
        raise ValueError(f"a tensor in it has the shape {_shown(shape)}, which is too large")
    size = math.prod(shape)
    last = start + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if size and (last >= storage.count or size > storage.count):
        raise ValueError(f"a tensor in it has the shape {_shown(shape)}, which its storage is too small for")
    return TorchTensor(storage, start, shape, strides)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _are_counts(values: Any) -> bool:
    return isinstance(values, tuple) and len(values) <= _MAX_DIMENSIONS and all(map(_is_count, values))


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and not value)


def _shown(value: Any) -> str:
    """Return the text that stands for `value` in a message. Only strings, numbers and shapes are shown themselves."""
    if isinstance(value, str):
        return f"{value:.80}" if value.isprintable() else f"{value[:80]!r}"
    if isinstance(value, int | tuple):
        return f"{value!r:.80}" if _is_count(value) or _are_counts(value) else f"of type {type(value).__name__}"
    return f"of type {type(value).__name__}"


def _name_of(code: bytes) -> str:
    names = {instruction.code: instruction.name for instruction in opcodes}
    return names.get(code.decode("latin-1"), repr(code))


_Instruction = Callable[[_Interpreter], object]
_INSTRUCTIONS: dict[bytes, _Instruction] = {
    b"\x80": _Interpreter.protocol,
    b"\x95": lambda pickle: pickle.take(8),  # the length of the frame that follows: only a hint
    # Values.
    b"N": lambda pickle: pickle.push(None),
    b"\x88": lambda pickle: pickle.push(True),
    b"\x89": lambda pickle: pickle.push(False),
    b"K": lambda pickle: pickle.push(pickle.unsigned(1)),
    b"M": lambda pickle: pickle.push(pickle.unsigned(2)),
    b"J": lambda pickle: pickle.push(int.from_bytes(pickle.take(4), "little", signed=True)),
    b"\x8a": lambda pickle: pickle.push(int.from_bytes(pickle.take(pickle.unsigned(1)), "little", signed=True)),
    b"G": lambda pickle: pickle.push(struct.unpack(">d", pickle.take(8))[0]),
    b"\x8c": lambda pickle: pickle.string(1),
    b"X": lambda pickle: pickle.string(4),
    b")": lambda pickle: pickle.push(()),
    b"\x85": lambda pickle: pickle.push(pickle.pop_several(1)),
    b"\x86": lambda pickle: pickle.push(pickle.pop_several(2)),
    b"\x87": lambda pickle: pickle.push(pickle.pop_several(3)),
    b"(": _Interpreter.mark,
    b"t": lambda pickle: pickle.push(tuple(pickle.pop_to_mark())),
    b"]": lambda pickle: pickle.push([]),
    b"a": lambda pickle: pickle.append(pickle.pop_several(1)),
    b"e": lambda pickle: pickle.append(pickle.pop_to_mark()),
    b"}": lambda pickle: pickle.push({}),
    b"s": lambda pickle: pickle.set_items(list(pickle.pop_several(2))),
    b"u": lambda pickle: pickle.set_items(pickle.pop_to_mark()),
    b"b": _Interpreter.set_attributes,
    # Values that are used again.
    b"q": lambda pickle: pickle.put(pickle.unsigned(1)),
    b"r": lambda pickle: pickle.put(pickle.unsigned(4)),
    b"\x94": lambda pickle: pickle.put(len(pickle.memo)),
    b"h": lambda pickle: pickle.get(pickle.unsigned(1)),
    b"j": lambda pickle: pickle.get(pickle.unsigned(4)),
    # Tensors.
    b"c": lambda pickle: pickle.name(pickle.take_line(), pickle.take_line()),
    b"\x93": lambda pickle: pickle.name(*pickle.pop_several(2)),
    b"Q": _Interpreter.storage,
    b"R": _Interpreter.call,
}
