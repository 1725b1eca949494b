"""Pickles as `torch.save` writes them, and pickles that are written to do harm. Nothing here needs torch."""

import os
import pickle
import struct
from pathlib import Path

TENSOR = "torch._utils _rebuild_tensor_v2"


def text(value: str) -> bytes:
    """Return the instruction that pushes a string."""
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    """Return the instruction that pushes an integer."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def name(full: str) -> bytes:
    """Return the instruction that pushes a function: its module and its name, with a space between."""
    return b"c" + full.replace(" ", "\n", 1).encode() + b"\n"


def tuple_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + b"R"


def storage(key: str = "0", count: int = 6, kind: str = "torch FloatStorage", device: str = "cpu") -> bytes:
    return tuple_of(text("storage"), name(kind), text(key), text(device), integer(count)) + b"Q"


def tensor(
    start: int = 0,
    shape: tuple[int, ...] = (2, 3),
    strides: tuple[int, ...] = (3, 1),
    source: bytes | None = None,
    hooks: bytes | None = None,
    extras: bytes = b"",
) -> bytes:
    """Return the instructions of a tensor. By default it is a plain one."""
    sizes = (tuple_of(*map(integer, numbers)) for numbers in (shape, strides))
    hooks = call(name("collections OrderedDict")) if hooks is None else hooks
    return call(name(TENSOR), source or storage(), integer(start), *sizes, b"\x89", hooks, extras)


def state_dict(value: bytes, key: bytes = text("weight")) -> bytes:
    """Return the pickle of a dict with one value."""
    return b"\x80\x02}" + key + value + b"s."


def _bombs() -> dict[str, bytes]:
    return {
        "memo index of 4 billion": state_dict(b"Nr\xff\xff\xff\xff"),
        "an integer of 2 GB": state_dict(b"\x8b" + struct.pack("<i", 2**31 - 1)),
        "bytes of 2^62": state_dict(b"\x8e" + struct.pack("<Q", 2**62)),
        "a bytearray of 2^62": state_dict(b"\x96" + struct.pack("<Q", 2**62)),
        "a string of 2^62": state_dict(b"\x8d" + struct.pack("<Q", 2**62)),
        "a string of 4 GB": state_dict(b"X\xff\xff\xff\xff"),
        "a frame of 2^63": b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"}.",
        "repeated DUP": state_dict(b"]" + b"2" * 100_000),
        "nested tuples": state_dict(b")" + b"\x85" * 400_000),
        "deeper tuples": state_dict(b")" + b"\x85" * 7_000_000),
        "nested lists": state_dict(b"]" * 400_000 + b"a" * 399_999),
        "nested dicts": state_dict((b"}" + text("a")) * 150_000 + b"N" + b"s" * 150_000),
        "marks": state_dict(b"(" * 7_000_000),
        "empty dicts": state_dict(b"}" * 499_000),
        "empty dicts, more": state_dict(b"}" * 7_000_000),
        "a list of dicts": state_dict(b"](" + b"}" * 499_000 + b"e"),
        "OrderedDicts": state_dict(b"](" + name("collections OrderedDict") + b"q\0" + b"h\0)R" * 160_000 + b"e"),
        "storages": state_dict(b"](" + storage()[:-1] + b"q\0Q" + b"h\0Q" * 240_000 + b"e"),
        "tensors": state_dict(_many_tensors(160_000)),
        "memo of 490,000": state_dict(b"N" + b"".join(b"r" + struct.pack("<I", i) for i in range(490_000))),
        "tuples that double": state_dict(b")" + b"q\0h\0h\0\x86" * 120_000),
        "a tuple of its own parts": state_dict(b")q\0" + b"0h\0h\0\x86q\0" * 100 + b"h\0"),
        "strings of 200 bytes": state_dict(b"](" + (b"\x8c\xc8" + b"a" * 200) * 40_000 + b"e"),
        "a string of 8 MB": state_dict(text("\U0001f600" * 2_000_000)),
        "a long key": state_dict(tensor(), text("a" * 8_000_000)),
        "500,001 instructions": state_dict(b"](" + b"N" * 500_001 + b"e"),
        "9 MB": state_dict(b"](" + b"N" * 9_000_000 + b"e"),
        "equal hashes": state_dict(b"}(" + b"".join(integer(i * (2**61 - 1)) + b"N" for i in range(1, 200_000)) + b"u"),
        "a list in itself": state_dict(b"]q\0h\0a"),
        "a dict in itself": b"\x80\x02}q\0" + text("a") + b"h\0s.",
        "a list of itself, 400,000 times": state_dict(b"]q\0(" + b"h\0" * 400_000 + b"e"),
        "LONG of many digits": state_dict(b"L" + b"9" * 1_000_000 + b"L\n"),
        "INT of many digits": state_dict(b"I" + b"9" * 1_000_000 + b"\n"),
    }


def _many_tensors(count: int) -> bytes:
    arguments = tensor()[: -len(b"R")]  # the function and the tuple of its arguments
    return b"](" + arguments + b"q\1" + b"R" + name(TENSOR) + b"q\0" + b"h\0h\1R" * count + b"e"


def _code() -> dict[str, bytes]:
    run, made = text("touch ran"), {}
    functions = (
        "os system", "posix system", "subprocess Popen", "subprocess check_output", "builtins eval", "builtins exec",
        "builtins getattr", "builtins __import__", "builtins open", "builtins compile", "__builtin__ eval",
        "pickle loads", "_pickle loads", "marshal loads", "torch load", "torch.storage _load_from_bytes",
        "torch.serialization load", "torch.hub load", "torch.jit load", "torch.package PackageImporter",
        "torch._utils _rebuild_wrapper_subclass", "torch._utils _rebuild_qtensor", "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_sparse_tensor",
        "torch._utils _rebuild_meta_tensor_no_storage", "torch._utils _rebuild_parameter_with_state",
        "torch._tensor _rebuild_from_type_v2", "torch.nn.modules.linear Linear", "torch Size", "torch float32",
        "torch device", "torch.storage UntypedStorage", "torch ComplexFloatStorage", "torch.storage TypedStorage",
        "numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct", "numpy.core.multiarray scalar",
        "numpy dtype", "numpy load", "functools partial", "functools reduce", "operator attrgetter",
        "operator methodcaller", "copyreg _reconstructor", "copy_reg _reconstructor", "copyreg __newobj__",
        "codecs encode", "_codecs encode", "types FunctionType", "types CodeType", "importlib import_module",
        "runpy run_path", "webbrowser open", "shutil rmtree", "socket socket", "ctypes CDLL", "timeit timeit",
        "bdb Bdb.run", "code InteractiveInterpreter", "pydoc pipepager", "pip main", "logging Formatter.format",
        "collections OrderedDict.__init__", "collections OrderedDict.fromkeys", "collections defaultdict",
        "torch._utils sys.modules", "torch._utils _rebuild_tensor_v2.__globals__", "torch._utils importlib",
        "collections  OrderedDict", "collections", "tensorflow.python.lib core", "joblib load", "dill loads",
        "torch._utils _rebuild_tensor_v2\x1b[2J", "os \ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    )  # fmt: skip
    for function in functions:
        made[f"call of {function!r}"] = state_dict(call(name(function), run))
        made[f"{function!r} as a value"] = state_dict(name(function))
    return made


class _Reduced:
    """An object whose pickle calls a function."""

    def __init__(self, *parts: object) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[object, ...]:
        return self.parts


def _tricks() -> dict[str, bytes]:
    system, ordered = name("os system"), name("collections OrderedDict")
    run = text("touch ran")
    made = {
        "a name by STACK_GLOBAL": state_dict(text("os") + text("system") + b"\x93" + tuple_of(run) + b"R"),
        "a name by STACK_GLOBAL and the memo": state_dict(
            text("os") + b"q\0" + text("system") + b"q\1" + b"00h\0h\1\x93" + tuple_of(run) + b"R"
        ),
        "a name that is a call": state_dict(call(ordered) + text("system") + b"\x93"),
        "a name that is a tensor": state_dict(text("os") + tensor() + b"\x93"),
        "INST": state_dict(b"(" + run + b"ios\nsystem\n"),
        "OBJ": state_dict(b"(" + system + run + b"o"),
        "OBJ of a known name": state_dict(b"(" + ordered + b"o"),
        "NEWOBJ": state_dict(ordered + b")\x81"),
        "NEWOBJ_EX": state_dict(ordered + b")}\x92"),
        "EXT1": state_dict(b"\x82\x01"),
        "EXT2": state_dict(b"\x83\x01\x00"),
        "EXT4": state_dict(b"\x84\x01\x00\x00\x00"),
        "PERSID": state_dict(b"Pstorage\n"),
        "STRING": state_dict(b"S'a\\qb'\n"),
        "UNICODE": state_dict(b"V\\ud800\n"),
        "NEXT_BUFFER": state_dict(b"\x97"),
        "READONLY_BUFFER": state_dict(b"\x98"),
        "protocol 0": b"cos\nsystem\n(S'touch ran'\ntR.",
        "protocol 200": b"\x80\xc8}.",
        "BUILD on a tensor": state_dict(tensor() + b"}" + text("__class__") + system + b"sb"),
        "BUILD on a tensor, plain": state_dict(tensor() + b"}b"),
        "BUILD on a dict": b"\x80\x02}}b.",
        "BUILD on a name": state_dict(ordered + b"}" + text("__init__") + text("a") + b"sb"),
        "BUILD with a tuple": b"\x80\x02" + ordered + b")RN}\x86b.",
        "BUILD with __setstate__": b"\x80\x02" + ordered + b")R}" + text("__setstate__") + ordered + b"sb.",
        "BUILD with code": b"\x80\x02" + ordered + b")R}" + text("__reduce__") + system + b"sb.",
        "OrderedDict of a list": state_dict(call(ordered, b"]")),
        "OrderedDict of pairs": state_dict(call(ordered, b"]" + text("a") + b"N\x86a")),
        "OrderedDict of itself": state_dict(ordered + ordered + b"\x85R"),
        "a called string": state_dict(text("os.system") + tuple_of(run) + b"R"),
        "a called dict": state_dict(b"})R"),
        "a called storage type": state_dict(name("torch FloatStorage") + tuple_of(integer(10**12)) + b"R"),
        "arguments in a list": state_dict(ordered + b"]R"),
        "a call without arguments": state_dict(ordered + b"R"),
        "a hook": state_dict(tensor(hooks=b"}" + text("0") + system + b"s")),
        "a hook that is a string": state_dict(tensor(hooks=b"}" + text("0") + run + b"s")),
        "a conjugated tensor": state_dict(tensor(extras=b"}" + text("conj") + b"\x88s")),
        "extras that are a tuple": state_dict(tensor(extras=b")")),
        "a parameter of a parameter": state_dict(
            call(name("torch._utils _rebuild_parameter"), tensor(), b"\x88", b"}") + b"\x88}\x87"
        ),
        "a parameter of a string": state_dict(call(name("torch._utils _rebuild_parameter"), run, b"\x88", b"}")),
        "an int as needs_gradient": state_dict(
            call(name("torch._utils _rebuild_parameter"), tensor(), integer(1), b"}")
        ),
        "another reference": state_dict(tensor(source=tuple_of(text("module"), ordered) + b"Q")),
        "a reference that is a string": state_dict(tensor(source=run + b"Q")),
        "a storage with a view": state_dict(
            tensor(source=storage()[:-2] + tuple_of(text("1"), integer(0), integer(1)) + b"tQ")
        ),
        "another file as a storage": state_dict(tensor(source=storage("../data.pkl"))),
        "an absolute path as a storage": state_dict(tensor(source=storage("/etc/passwd"))),
        "no such storage": state_dict(tensor(source=storage("9"))),
        "a storage that is a number": state_dict(
            tensor(
                source=tuple_of(text("storage"), name("torch FloatStorage"), integer(0), text("cpu"), integer(6)) + b"Q"
            )
        ),
        "a storage of True numbers": state_dict(
            tensor(source=tuple_of(text("storage"), name("torch FloatStorage"), text("0"), text("cpu"), b"\x88") + b"Q")
        ),
        "OrderedDict as a storage": state_dict(tensor(source=storage(kind="collections OrderedDict"))),
        "the key 1": state_dict(tensor(), integer(1)),
        "the key None": state_dict(tensor(), b"N"),
        "a tuple as a key": state_dict(tensor(), tuple_of(text("a"))),
        "a list as a key": state_dict(tensor(), b"]"),
        "a tensor as a key": state_dict(tensor(), tensor()),
        "a key that is not Unicode": state_dict(tensor(), text("\ud800")),
        "a key with escapes": state_dict(text("a"), text("\x1b[2J\n")),
        "a string as a value": state_dict(text("a")),
        "nested tensors": state_dict(b"}" + text("weight") + tensor() + b"s"),
        "a tensor alone": b"\x80\x02" + tensor() + b".",
        "a list": b"\x80\x02]" + tensor() + b"a.",
        "None": b"\x80\x02N.",
        "nothing": b"",
        "a stop": b".",
        "an end without a stop": b"\x80\x02}",
        "pop of nothing": b"\x80\x02s.",
        "a mark of nothing": b"\x80\x02t.",
        "items of nothing": b"\x80\x02}(N" + b"u.",
        "a string that is not UTF-8": state_dict(b"\x8c\x01\xff"),
        "a function that is not UTF-8": state_dict(b"cos\n\xff\n"),
        "nested lists, wrong": state_dict(b"]NNa"),
        "a missing memo": state_dict(b"h\x05"),
        "junk after the stop": state_dict(tensor()) + b"cos\nsystem\n.",
        "two values": b"\x80\x02N" + state_dict(tensor())[2:],
        "a second pickle": state_dict(tensor()) + pickle.dumps({"a": 1}),
    }
    made |= {
        f"reduced, protocol {protocol}, {number}": pickle.dumps({"weight": reduced}, protocol)
        for protocol in range(6)
        for number, reduced in enumerate([
            _Reduced(os.system, ("touch ran",)),
            _Reduced(eval, ("open('ran', 'w')",)),
            _Reduced(getattr, (os, "system") if protocol < 0 else ("", "join")),
            _Reduced(pickle.loads, (pickle.dumps(_Reduced(os.system, ("touch ran",))),)),
            _Reduced(Path.touch, (Path("ran"),)),
            _Reduced(dict, (), None, iter([]), iter([("a", _Reduced(os.system, ("touch ran",)))])),
            {1, 2, frozenset([3])},
            bytearray(b"abc"),
            b"abc",
            2**100,
            1.5,
            [{"a": (None, True)}],
        ])
    }  # fmt: skip
    return made


def _shapes() -> dict[str, bytes]:
    big = (-1, 1 << 31, 1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63, 1 << 64, 1 << 2000, -(1 << 63))
    made = {
        "negative strides": tensor(start=5, strides=(-3, -1)),
        "past the end": tensor(start=1),
        "past the end by strides": tensor(strides=(4, 1)),
        "more numbers than the storage": tensor(shape=(7,), strides=(0,)),
        "a huge expanded tensor": tensor(shape=(1 << 30, 1 << 30), strides=(0, 0)),
        "other lengths": tensor(shape=(2, 3, 1)),
        "100 dimensions": tensor(shape=(1,) * 100, strides=(1,) * 100),
        "32 dimensions": tensor(shape=(1,) * 32, strides=(1,) * 32),
        "empty and huge": tensor(shape=(0, 1 << 40, 1 << 40), strides=(1, 1, 1)),
        "empty and large": tensor(shape=(0, 1 << 40), strides=(1, 1)),
        "ones with huge strides": tensor(shape=(1, 3), strides=(1 << 62, 2)),
        "no dimensions": tensor(shape=(), strides=()),
        "a storage of other length": tensor(source=storage(count=5), shape=(5,), strides=(1,)),
        "a storage of another format": tensor(
            source=storage(kind="torch DoubleStorage", count=3), shape=(3,), strides=(1,)
        ),
        "a storage of another size": tensor(source=storage(kind="torch DoubleStorage"), shape=(3,), strides=(1,)),
        "a transposed tensor": tensor(shape=(3, 2), strides=(1, 3)),
        "every second number": tensor(start=1, shape=(3,), strides=(2,)),
    }
    for number in big:
        made |= {
            f"start {number:.2g}" if abs(number) < 1 << 1000 else "a huge start": tensor(start=number),
            f"length {number:.2g}" if abs(number) < 1 << 1000 else "a huge length": tensor(shape=(number, 3)),
            f"stride {number:.2g}" if abs(number) < 1 << 1000 else "a huge stride": tensor(strides=(number, 1)),
            f"count {number:.2g}" if abs(number) < 1 << 1000 else "a huge count": tensor(source=storage(count=number)),
        }
    return {f"tensor: {key}": state_dict(value) for key, value in made.items()}


def hostile_pickles() -> dict[str, bytes]:
    """Return pickles that are written to do harm, by what is special in them. Few of them are valid state dicts."""
    return _bombs() | _code() | _tricks() | _shapes()
