"""Files of torch.save are read without torch: the same numbers as torch reads, or a message that says what is wrong."""

import itertools
import json
import os
import random
import re
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from embedder_export.checkpoint.torch_format.read import read_torch_file, torch_tensor_names
from embedder_export.errors import CheckpointError
from hypothesis import given
from hypothesis import strategies as st

from tests.torch_pickles import hostile_pickles, state_dict, storage, tensor
from tests.torch_zips import NUMBERS, PLAIN, archive_of, hostile_zips, mutations, pickle_mutations

DTYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.float64: ir.DataType.DOUBLE,
}
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
WAYS_TO_SAVE = {
    "zip": {},
    "old": {"_use_new_zipfile_serialization": False},
    "protocol 4": {"pickle_protocol": 4},
    "old, protocol 3": {"_use_new_zipfile_serialization": False, "pickle_protocol": 3},
}
# Views of a tensor. Some of them are not contiguous, and some are empty.
VIEWS = [
    lambda tensor: tensor,
    lambda tensor: tensor.T,
    lambda tensor: tensor[1:],
    lambda tensor: tensor[:, ::2],
    lambda tensor: tensor[:0],
    lambda tensor: tensor[0, 0],
    lambda tensor: tensor.reshape(1, -1, 1),
    lambda tensor: tensor[:1].expand(tensor.shape[0], -1),
    lambda tensor: torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor,
]


@st.composite
def state_dicts(draw):
    """State dicts of tensors that may be views of one another."""
    tensors = []
    for dtype in draw(st.lists(st.sampled_from([*DTYPES, *INTEGERS]), min_size=1, max_size=3)):
        shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
        tensors.append(torch.arange(shape[0] * shape[1]).reshape(shape).to(dtype))
    names = draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), unique=True, max_size=6))
    state = {name: draw(st.sampled_from(VIEWS))(draw(st.sampled_from(tensors))) for name in names}
    return OrderedDict(state) if draw(st.booleans()) else state


@given(state_dicts(), st.sampled_from(list(WAYS_TO_SAVE)), st.booleans())
def test_the_numbers_are_those_of_torch(tmp_path_factory, state, way, checksums):
    path = tmp_path_factory.mktemp("file") / "pytorch_model.bin"
    torch.serialization.set_crc32_options(checksums)
    try:
        torch.save(state, path, **WAYS_TO_SAVE[way])
    finally:
        torch.serialization.set_crc32_options(True)
    expected = {name: saved.detach() for name, saved in torch.load(path, weights_only=False).items()}
    read = read_torch_file(path)
    assert torch_tensor_names(path) == expected.keys()
    assert list(read) == [name for name, saved in expected.items() if saved.is_floating_point()]
    for name, weight in read.items():
        assert tuple(weight.shape) == tuple(expected[name].shape)
        assert weight.dtype == DTYPES[expected[name].dtype]
        np.testing.assert_array_equal(weight.numpy().astype(np.float64), expected[name].double().numpy(), strict=True)


def test_values_stay_in_the_file(tmp_path):
    """Values that lie in the file as the graph needs them are copied from file to file."""
    table = torch.ones(4, 2)
    torch.save({"table": table, "rows": table[1:], "columns": table.T}, tmp_path / "weights.bin")
    read = read_torch_file(tmp_path / "weights.bin")
    assert [type(tensor) for tensor in read.values()] == [ir.ExternalTensor, ir.ExternalTensor, ir.LazyTensor]


@pytest.mark.parametrize("way", WAYS_TO_SAVE.values(), ids=WAYS_TO_SAVE)
def test_state_of_a_model(tmp_path, way):
    """Such a state dict has an attribute, the versions of the modules."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    torch.save(model.state_dict(), tmp_path / "weights.bin", **way)
    expected = {name: tensor.tolist() for name, tensor in model.state_dict().items()}
    assert expected.pop("1.num_batches_tracked") == 0
    assert {k: v.numpy().tolist() for k, v in read_torch_file(tmp_path / "weights.bin").items()} == expected


def test_the_device_of_a_tensor_does_not_matter(tmp_path):
    content = archive_of(state_dict(tensor(source=storage(device="cuda:3"))))
    assert read_bytes(tmp_path, content)["weight"].numpy().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_sizes_in_64_bits(tmp_path, monkeypatch):
    """A zip gives sizes above 4 GB in 64 bits. Here small sizes are given so too."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    with zipfile.ZipFile(tmp_path / "weights.bin", "w") as stream:
        stream.writestr("archive/data.pkl", PLAIN)
        stream.writestr("archive/data/0", NUMBERS)
    content = (tmp_path / "weights.bin").read_bytes()
    assert content.count(b"\xff" * 8) == 4  # in the list, and before the bytes
    assert read_bytes(tmp_path, content)["weight"].numpy().tolist() == [[0, 1, 2], [3, 4, 5]]
    # Two numbers need 16 bytes.
    with pytest.raises(CheckpointError, match="its zip is damaged"):
        read_bytes(tmp_path, content.replace(b"\x01\x00\x10\x00", b"\x01\x00\x08\x00"))


def read_bytes(tmp_path, content):
    (tmp_path / "weights.bin").write_bytes(content)
    return read_torch_file(tmp_path / "weights.bin")


PICKLES = hostile_pickles()
HOSTILE_PICKLES = [
    ("call of 'os system'", r"it holds os\.system, which is not a plain tensor"),
    ("'builtins getattr' as a value", r"it holds builtins\.getattr, which is not"),
    (
        "'torch._utils _rebuild_sparse_tensor' as a value",
        r"it holds torch\._utils\._rebuild_sparse_tensor, which is not",
    ),
    (
        "call of 'torch._utils _rebuild_meta_tensor_no_storage'",
        r"it holds torch\._utils\._rebuild_meta_tensor_no_storage",
    ),
    ("'torch ComplexFloatStorage' as a value", r"it holds torch\.ComplexFloatStorage, which is not a plain tensor"),
    ("'torch._utils _rebuild_tensor_v2\\x1b[2J' as a value", r"it holds 'torch\._utils\._rebuild_tensor_v2\\x1b\[2J'"),
    ("a name by STACK_GLOBAL", r"it holds os\.system, which is not"),
    ("a name that is a tensor", "its pickle names a function by something that is not a string"),
    ("OBJ of a known name", "it has the pickle instruction OBJ, which no plain tensor needs"),
    ("repeated DUP", "it has the pickle instruction DUP, which no plain tensor needs"),
    ("an integer of 2 GB", "it has the pickle instruction LONG4, which no plain tensor needs"),
    ("a string that is not UTF-8", "its pickle has a string that is not UTF-8"),
    ("a function that is not UTF-8", r"it holds os\.\\xff, which is not a plain tensor"),
    ("protocol 200", "it has pickle protocol 200"),
    ("500,001 instructions", "it has more than 500,000 pickle instructions"),
    ("9 MB", r"an entry of its zip has 9,000,019 bytes; at most 8,388,608 are read"),
    ("a string of 4 GB", "its pickle ends too soon"),
    ("an end without a stop", "its pickle ends too soon"),
    ("pop of nothing", "its pickle takes more from the stack than is there"),
    ("a mark of nothing", "its pickle has no mark where one is needed"),
    ("a missing memo", "its pickle reads what it has not stored"),
    ("two values", "its pickle ends with values that belong to nothing"),
    ("junk after the stop", "its pickle does not end where it should"),
    ("a called string", "its pickle calls something that is not a function"),
    ("a called storage type", r"it calls torch\.FloatStorage with arguments that are not those of a plain tensor"),
    ("OrderedDict of a list", r"it calls collections\.OrderedDict with arguments that are not"),
    ("BUILD on a tensor", r"it holds os\.system"),
    ("BUILD on a dict", "its pickle sets attributes of something that is not an OrderedDict"),
    ("items of nothing", "its pickle sets items of something that is not a dict"),
    ("nested lists, wrong", "its pickle appends to something that is not a list"),
    ("another reference", "its pickle refers to something that is not a storage"),
    ("OrderedDict as a storage", "its pickle refers to a storage that cannot be read"),
    ("a hook that is a string", "a tensor in it is not a plain view of a storage"),
    ("a conjugated tensor", "a tensor in it is a conjugated or negated view"),
    ("no such storage", "it does not have the 6 numbers that 'weight' is a part of"),
    ("tensor: a storage of other length", "it does not have the 5 numbers that 'weight' is a part of"),
    ("tensor: negative strides", "a tensor in it has a shape, strides or a start that no tensor has"),
    ("tensor: past the end", r"a tensor in it has the shape \(2, 3\), which its storage is too small for"),
    ("tensor: more numbers than the storage", r"has the shape \(7,\), which its storage is too small for"),
    ("tensor: a huge expanded tensor", r"has the shape \(1073741824, 1073741824\), which is too large"),
    ("the key 1", "a dict in it has the key 1, which is not a name"),
    ("a tuple as a key", "a dict in it has the key of type tuple, which is not a name"),
    ("a key that is not Unicode", r"it has the name '\\ud800', which is not valid Unicode"),
    ("nested tensors", "it does not hold tensors by name: 'weight' is a dict"),
    ("a tensor alone", "it does not hold tensors by name, but a TorchTensor"),
    ("a list", "it does not hold tensors by name, but a list"),
]


@pytest.mark.parametrize(("name", "message"), HOSTILE_PICKLES, ids=[name for name, _ in HOSTILE_PICKLES])
def test_hostile_pickles_are_refused_by_name(tmp_path, name, message):
    with pytest.raises(CheckpointError, match=rf"weights\.bin cannot be read as plain weights: .*{message}"):
        read_bytes(tmp_path, archive_of(PICKLES[name]))


ZIPS = hostile_zips()
HOSTILE_ZIPS = [
    ("no pickle", r"its zip has 0 entries of the name data\.pkl, not one"),
    ("two folders", r"its zip has 2 entries of the name data\.pkl, not one"),
    ("TorchScript", r"it is a TorchScript program: only a model's state_dict\(\) can be read"),
    ("big-endian", "its numbers are not in little-endian byte order"),
    ("names that are not UTF-8", r"its zip has the name b'archive/\\xff', which is not UTF-8"),
    ("cut short", "its zip has no end: the file is cut short, or something was added to it"),
    ("only the magic", "it ends too soon"),
    ("method 8", "its zip is compressed or encrypted, which torch.save never does"),
    ("flags 1", "its zip is compressed or encrypted"),
    ("crc 1", "it is damaged: its bytes do not have the checksum that was saved with them"),
    ("size 4294967295", "its zip is compressed or encrypted"),
    ("header 1", "its zip is damaged"),
    ("list_start 1", "its zip is damaged"),
    ("two entries of one name", "its zip has two entries of the name 'archive/data/0'"),
    ("entries that overlap", "the entry .* of its zip reaches into the next"),
    ("a 64-bit end that lies", "its zip is damaged"),
    ("70,000 entries", "its zip has 70,000 entries; at most 65,536 are read"),
]


@pytest.mark.parametrize(("name", "message"), HOSTILE_ZIPS, ids=[name for name, _ in HOSTILE_ZIPS])
def test_hostile_zips_are_refused(tmp_path, name, message):
    with pytest.raises(CheckpointError, match=rf"weights\.bin cannot be read as plain weights: {message}"):
        read_bytes(tmp_path, ZIPS[name])


def old_format(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    return (tmp_path / "old.bin").read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "it ends too soon"),
        (lambda content: content + b"x", "it does not end after its last storage"),
        (lambda content: content[:100], "its pickle ends too soon"),
        (lambda content: content.replace(b"l\xfc\x9c", b"l\xfc\x9d"), "it is not in torch's format"),
        (lambda content: content.replace(b"little_endian", b"little_endiam"), "its numbers are not in little-endian"),
        (lambda content: content[:-16] + bytes([3]) + content[-15:], "it ends too soon"),
        (lambda content: content[:-16] + bytes([1]) + content[-15:], "it does not end after its last storage"),
        (
            lambda content: content.replace(b"torch\nFloatStorage", b"posix\nsystem\x00\x00\x00\x00\x00\x00"),
            "it holds 'posix",
        ),
        (lambda content: b"junk", "it is not in torch's format"),
        (lambda content: b"", "it is not in torch's format"),
    ],
)
def test_damaged_files_from_before_torch_1_6(tmp_path, damage, message):
    with pytest.raises(CheckpointError, match=message):
        read_bytes(tmp_path, damage(old_format(tmp_path)))


def test_list_of_storages_that_lacks_one(tmp_path):
    content = old_format(tmp_path)
    key = re.findall(rb"X.\x00\x00\x00(\d+)", content)[-1]
    head, _, tail = content.rpartition(key)
    with pytest.raises(CheckpointError, match="it does not list the storages of its tensors"):
        read_bytes(tmp_path, head + b"9" * len(key) + tail)


def test_one_damaged_bit_is_found(tmp_path):
    torch.save({"weight": torch.ones(100)}, tmp_path / "saved.bin")
    content = bytearray((tmp_path / "saved.bin").read_bytes())
    content[content.index(torch.ones(4).numpy().tobytes())] ^= 1
    with pytest.raises(CheckpointError, match="it is damaged: its bytes do not have the checksum"):
        read_bytes(tmp_path, content)


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "weights.bin")
    with pytest.raises(CheckpointError, match="it is not a regular file"):
        read_torch_file(tmp_path / "weights.bin")


def attack(directory, files):
    """Try the files in child processes. Return what happened by file."""
    for name, content in files.items():
        (directory / name).write_bytes(content)
    command = [sys.executable, "-m", "tests.torch_attacks", directory]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    outcomes = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(outcomes) == len(files)
    assert not [outcome for outcome in outcomes if "fault" in outcome]
    return {outcome["file"]: outcome.get("read") for outcome in outcomes}


def numbers_of_torch(path):
    """Return what torch reads, as the program describes it. None if torch refuses a part that is not read here."""
    try:
        # The pickle was accepted here, so it runs no code. With `weights_only`, torch knows fewer instructions.
        tensors = torch.load(path, weights_only=False)
    except (RuntimeError, ValueError):
        return None
    tensors = {name: tensor.detach() for name, tensor in tensors.items() if tensor.is_floating_point()}
    return {
        name: [list(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes().hex()]
        for name, tensor in tensors.items()
    }


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_attacks_neither_run_code_nor_take_memory(tmp_path):
    """Another exception, a command, an import, a file opened for writing, or 100 MB is a fault."""
    attacks = [*PICKLES.values()]
    files = {f"pickle {number:04}": archive_of(content) for number, content in enumerate(attacks)}
    files |= {f"zip {number:04}": content for number, content in enumerate(ZIPS.values())}
    read = attack(tmp_path, files | {"a plain file": archive_of()})
    assert read["a plain file"] == {"weight": ["FLOAT", [2, 3], NUMBERS.hex()]}
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_damaged_files_give_the_numbers_of_torch_or_an_error(tmp_path, tmp_path_factory):
    source, table = tmp_path_factory.mktemp("source"), torch.arange(12.0).reshape(4, 3)
    state = {"table": table, "turned": table.T, "half": table.half(), "part": table[1:, ::2], "empty": table[:0]}
    saved = []
    for number, way in enumerate(WAYS_TO_SAVE.values()):
        torch.save(state, source / f"{number}", **way)
        saved.append((source / f"{number}").read_bytes())
    files = itertools.islice(mutations(saved, random.Random(0)), 300)
    pickles = itertools.islice(pickle_mutations([PLAIN], random.Random(0)), 300)
    read = attack(tmp_path, {f"{number:04}": content for number, content in enumerate([*files, *pickles])})
    assert sum(tensors is not None for tensors in read.values()) > 10
    for name, tensors in read.items():
        if tensors is not None:
            numbers = {key: value[1:] for key, value in tensors.items()}
            assert numbers_of_torch(tmp_path / name) in (numbers, None)
