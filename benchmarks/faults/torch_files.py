"""Write a small file in torch's format without torch, and damage it as an attacker would."""

import io
import pickle
import pickletools
import struct
import sys
import types
import zipfile
from pathlib import Path
from random import Random

import numpy as np
from embedder_export.checkpoint.torch_format.read import read_torch_file

_STATE = {f"layer.{at}.weight": np.arange(12 * at, dtype=np.float32).reshape(at, 12) for at in (1, 2, 3)}
_FOLDER = "archive"
# The audit hook sees it.
_CALL = "import subprocess; subprocess.Popen(['true'])"
# Pickles that run code where they are loaded by Python, or use much memory or time.
_ATTACKS = {
    "call by REDUCE": b"c__builtin__\nexec\n(V%s\ntR" % _CALL.encode(),
    "call by STACK_GLOBAL": b"\x8c\x08builtins\x8c\x04exec\x93(V%s\ntR" % _CALL.encode(),
    "call by INST": b"(V%s\ni__builtin__\nexec\n" % _CALL.encode(),
    "call by OBJ": b"(c__builtin__\nexec\nV%s\no" % _CALL.encode(),
    "call by NEWOBJ": b"csubprocess\nPopen\n(Vtrue\nt\x81",
    "call by BUILD": b"ctorch._utils\n_rebuild_tensor_v2\n}V__call__\nN\x86b",
    "call of a function of torch": b"ctorch.hub\nload\n(Vx\ntR",
    "attribute of an allowed name": b"\x8c\x0ctorch._utils\x8c\x1f_rebuild_tensor_v2.__globals__xx\x93",
    "extension registry": b"\x82\x01",
    "memo of 4 billion": b"Nr\xff\xff\xff\xff",
    "memo that is missing": b"j\xff\xff\xff\x7f",
    "integer of a gigabyte": b"\x8b\xff\xff\xff\x3f",
    "text of 2**63 bytes": b"\x8d" + struct.pack("<Q", 2**63),
    "deep nesting": b"(" * 200_000 + b"t" * 200_000,
    "list that doubles": b"]" + b"q\x01h\x01h\x01\x86" * 200,
    "stack that runs empty": b"0" * 10,
    "endless pickle": b"N" * 2_000_000,
}


def write_torch_file(path: Path) -> None:
    """Write `_STATE` as `torch.save` does."""
    _write_zip(path, {"data.pkl": _pickle(), "byteorder": b"little", **_storages(), "version": b"3\n"})


def _storages() -> dict[str, bytes]:
    return {f"data/{key}": array.tobytes() for key, array in enumerate(_STATE.values())}


def _write_zip(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(f"{_FOLDER}/{name}", content)


def _pickle() -> bytes:
    """Return the pickle of `_STATE`. While it is made, modules of torch's names are there."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, item: object) -> object:
            return item if isinstance(item, tuple) and item and item[0] == "storage" else None

    class Tensor:
        def __init__(self, key: int, array: np.ndarray) -> None:
            self.storage = ("storage", storage_kind, str(key), "cpu", array.size)
            self.shape = array.shape

        def __reduce__(self) -> tuple[object, ...]:
            strides = (self.shape[1], 1)
            return rebuild, (self.storage, 0, self.shape, strides, False, {})

    def rebuild() -> None: ...

    storage_kind = type("FloatStorage", (), {"__module__": "torch"})
    rebuild.__module__, rebuild.__qualname__, rebuild.__name__ = "torch._utils", *["_rebuild_tensor_v2"] * 2
    fakes = {"torch": types.ModuleType("torch"), "torch._utils": types.ModuleType("torch._utils")}
    fakes["torch"].FloatStorage, fakes["torch._utils"]._rebuild_tensor_v2 = storage_kind, rebuild
    stream = io.BytesIO()
    sys.modules.update(fakes)
    try:
        Pickler(stream, 2).dump({name: Tensor(key, array) for key, (name, array) in enumerate(_STATE.items())})
    finally:
        for name in fakes:
            del sys.modules[name]
    return stream.getvalue()


def damage_torch_file(rng: Random, path: Path) -> str:
    """Damage the structure of a file: its pickle, or its zip. Checksums are made right again. Return the kind."""
    with zipfile.ZipFile(path) as archive:
        entries = {name.removeprefix(f"{_FOLDER}/"): archive.read(name) for name in archive.namelist()}
    kind = rng.choice([*_ATTACKS, "opcode", "opcode", "opcode", "operand", "operand", "entry", "compressed"])
    compression = zipfile.ZIP_STORED
    if kind in _ATTACKS:
        entries["data.pkl"] = _insert(rng, entries["data.pkl"], _ATTACKS[kind])
    elif kind == "opcode":
        entries["data.pkl"] = _change_opcode(rng, entries["data.pkl"])
    elif kind == "operand":
        pickled = bytearray(entries["data.pkl"])
        pickled[rng.randrange(len(pickled))] = rng.randrange(256)
        entries["data.pkl"] = bytes(pickled)
    elif kind == "entry":
        name = rng.choice(list(entries))
        content = entries.pop(name)
        entries[rng.choice([name, f"../{name}", f"/{name}", "x", f"{name}\0", "data/0", "data.pkl"])] = content[1:]
    else:
        compression = zipfile.ZIP_DEFLATED
    _write_zip(path, entries, compression)
    return kind


def _insert(rng: Random, pickled: bytes, attack: bytes) -> bytes:
    """Put `attack` before a random opcode. What it leaves on the stack is dropped."""
    place = rng.choice([place for _, _, place in pickletools.genops(pickled)][1:])
    return pickled[:place] + attack + b"0" + pickled[place:]


def _change_opcode(rng: Random, pickled: bytes) -> bytes:
    place = rng.choice([place for _, _, place in pickletools.genops(pickled)])
    opcode = rng.choice(pickletools.opcodes).code.encode("latin-1")
    return pickled[:place] + opcode + pickled[place + 1 :]


def read_state(path: Path) -> np.ndarray:
    """Return the names, the shapes and all numbers of a file in a row. Raises CheckpointError as the reader does."""
    arrays = {name: tensor.numpy() for name, tensor in sorted(read_torch_file(path).items())}
    described = repr([(name, array.shape, str(array.dtype)) for name, array in arrays.items()])
    return np.concatenate([np.frombuffer(described.encode(), np.uint8), *(array.ravel() for array in arrays.values())])
