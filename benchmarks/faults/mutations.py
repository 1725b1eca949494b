"""Damage bytes, JSON documents and ONNX graphs. Every function takes its choices from the `Random` that it is given."""

import base64
import json
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, TensorProto, helper

Bytes = Callable[[Random, bytes], bytes]

_MAX_FLIPS = 8
_MAX_INSERTED_BYTES = 64
_NESTING = 100_000
_LONG = 1_000_000


def flip(rng: Random, content: bytes) -> bytes:
    """Flip one to eight bits."""
    changed = bytearray(content or b"\0")
    for _ in range(rng.randint(1, _MAX_FLIPS)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng: Random, content: bytes) -> bytes:
    return content[: rng.choice([0, 1, len(content) // 2, len(content) - 1, rng.randrange(len(content) + 1)])]


def insert(rng: Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.randbytes(rng.randint(1, _MAX_INSERTED_BYTES)) + content[at:]


def overwrite(rng: Random, content: bytes) -> bytes:
    """Replace a part by zeros, by 0xff or by random bytes of the same number."""
    at = rng.randrange(len(content) + 1)
    size = min(len(content) - at, rng.randint(1, _MAX_INSERTED_BYTES))
    return content[:at] + rng.choice([bytes(size), b"\xff" * size, rng.randbytes(size)]) + content[at + size :]


def splice(rng: Random, content: bytes) -> bytes:
    """Copy a part of the content to another place."""
    start, at = rng.randrange(len(content) + 1), rng.randrange(len(content) + 1)
    return content[:at] + content[start : start + rng.randint(1, 4096)] + content[at:]


BYTES: dict[str, Bytes] = {
    "flip": flip,
    "truncate": truncate,
    "insert": insert,
    "overwrite": overwrite,
    "splice": splice,
}

# JSON texts to put in the place of a value. Some are no JSON, but Python's reader accepts them.
_ODD_VALUES = {
    "null": "null",
    "true": "true",
    "zero": "0",
    "negative": "-1",
    "2**31": str(2**31),
    "2**62": str(2**62),
    "2**64": str(2**64),
    "2**1100": str(2**1100),
    "10,000 digits": "9" * 10_000,
    "1e308": "1e308",
    "1e999": "1e999",
    "fraction": "0.5",
    "NaN": "NaN",
    "-Infinity": "-Infinity",
    "empty string": '""',
    "lone surrogate": r'"\ud800"',
    "NUL": r'"\u0000"',
    "terminal escape": r'"\u001b[2Jx\u0007"',
    "long string": '"' + "x" * _LONG + '"',
    "parent path": '"../outside/canary.bin"',
    "absolute path": '"/etc/passwd"',
    "device path": '"/dev/zero"',
    "windows path": r'"..\\outside\\canary.bin"',
    "regex": '"(x+x+)+y"',
    "empty list": "[]",
    "empty object": "{}",
    "list of null": "[null]",
    "nested list": "[" * _NESTING + "]" * _NESTING,
    "nested object": '{"a":' * _NESTING + "0" + "}" * _NESTING,
}
_HOLE = "@@hole@@"
# How likely the way from the root to a value stops at each step.
_STOP = 0.2


def mutate_json(rng: Random, content: bytes) -> tuple[str, bytes]:
    """Change the structure of a JSON document. Return the kind of the change, and the document."""
    document = json.loads(content)
    kind = rng.choice(["odd value"] * 6 + ["delete", "duplicate", "rename", "unknown key", "swap", "wrap", "binary"])
    holder, key = _place(rng, document)
    filling = json.dumps(None)
    if kind == "odd value":
        name = rng.choice(list(_ODD_VALUES))
        kind, filling = f"odd value: {name}", _ODD_VALUES[name]
        holder[key] = _HOLE
    elif kind == "delete":
        del holder[key]
    elif kind == "swap":
        other, other_key = _place(rng, document)
        holder[key], other[other_key] = json.loads(json.dumps([other[other_key], holder[key]]))
    elif kind == "wrap":
        holder[key] = [holder[key], holder[key]]
    elif kind == "binary":  # a charsmap is in base64
        size = rng.choice([2**32 - 1, 2**32 - 4, 2**31, 4, 0])
        holder[key] = base64.b64encode(size.to_bytes(4, "little") + rng.randbytes(rng.randrange(64))).decode()
    elif isinstance(holder, list):
        holder.insert(key, holder[key])
    elif kind == "duplicate":
        return kind, json.dumps(document).replace(
            json.dumps(key) + ":", f"{json.dumps(key)}: null, {json.dumps(key)}:", 1
        ).encode()
    elif kind == "rename":
        holder[key + "_"] = holder.pop(key)
    else:
        holder["unknown"] = holder[key]
    return kind, json.dumps(document).replace(json.dumps(_HOLE), filling, 1).encode()


def _place(rng: Random, document: Any) -> tuple[Any, Any]:
    """Walk from the root to a value, and return what holds it and its key."""
    holder: Any = {"": document}
    key: Any = ""
    while isinstance(holder[key], dict | list) and holder[key] and (holder[key] is document or rng.random() > _STOP):
        holder = holder[key]
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    return holder, key


_OPERATORS = (
    *("Gather", "MatMul", "Div", "Mul", "Add", "Cast", "Tanh", "ReduceSum", "Reshape", "Transpose", "Softmax", "Gemm"),
    *("Concat", "Split", "Squeeze", "Expand", "Tile", "Range", "ConstantOfShape", "NonZero", "Resize", "TopK", "Slice"),
    *("Identity", "Shape", "Pad", "OneHot", "Where", "Einsum", "Scan", "If", "Conv", "LSTM", "DFT", "NoSuchOperator"),
)
_ALIKE = (
    ("Tanh", "Sigmoid", "Relu", "Neg", "Abs", "Sqrt", "Log", "Exp", "Identity", "Reciprocal", "IsNaN", "Not", "Floor"),
    ("Mul", "Add", "Sub", "Div", "Pow", "Max", "Min", "MatMul", "Mod", "Less", "Gather"),
    ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSumExp"),
)
_LOCATIONS = (
    *("../outside/canary.bin", "/etc/passwd", "/dev/zero", "/proc/self/environ", "", ".", "..", "model.onnx", "\0"),
    *("./../outside/canary.bin", "model.onnx.data/../../outside/canary.bin", "*/_ORT_MEM_ADDR_/*", "x" * 5000),
    *("sub/../../outside/canary.bin", "file:///etc/passwd", "embedder.json", "tokenizer.json", "\ud7ff", "~/.bashrc"),
)
_NUMBERS = (
    "-1",
    "0",
    "1",
    "4096",
    str(2**31),
    str(2**63 - 1),
    str(2**63),
    str(2**64),
    "9" * 40,
    "x",
    "",
    "1e9",
    "0x10",
)
_SIZES = (-1, 0, 1, 3, 2**31, 2**40, 2**62, 2**63 - 1)


def mutate_graph(rng: Random, content: bytes, *, outside: str = "") -> tuple[str, bytes]:
    """Change the structure of an ONNX graph. Return the kind of the change, and the graph.

    `outside` is the absolute path of a file that no graph may read.
    """
    model = onnx.load_from_string(content)
    change = rng.choice(_GRAPH_CHANGES)
    if change is _change_location:
        _change_location(rng, model, outside)
    else:
        change(rng, model)
    return change.__name__.strip("_").replace("_", " "), model.SerializeToString()


def _change_location(rng: Random, model: ModelProto, outside: str) -> None:
    _set_external(rng, model, "location", rng.choice([*_LOCATIONS, outside]))


def _change_offset(rng: Random, model: ModelProto) -> None:
    _set_external(rng, model, "offset", rng.choice(_NUMBERS))


def _change_length(rng: Random, model: ModelProto) -> None:
    _set_external(rng, model, "length", rng.choice(_NUMBERS))


def _set_external(rng: Random, model: ModelProto, key: str, value: str) -> None:
    tensor = rng.choice([tensor for tensor in model.graph.initializer if tensor.external_data])
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value
            return
    tensor.external_data.add(key=key, value=value)


def _change_operator(rng: Random, model: ModelProto) -> None:
    rng.choice(model.graph.node).op_type = rng.choice(_OPERATORS)


def _change_domain(rng: Random, model: ModelProto) -> None:
    rng.choice(model.graph.node).domain = rng.choice(["com.microsoft", "ai.onnx.ml", "no.such.domain", "x" * 5000])


def _delete_node(rng: Random, model: ModelProto) -> None:
    del model.graph.node[rng.randrange(len(model.graph.node))]


def _repeat_node(rng: Random, model: ModelProto) -> None:
    model.graph.node.insert(rng.randrange(len(model.graph.node)), rng.choice(model.graph.node))


def _rewire(rng: Random, model: ModelProto) -> None:
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    node = rng.choice(model.graph.node)
    ends = rng.choice([node.input, node.output])
    if ends:
        ends[rng.randrange(len(ends))] = rng.choice([*names, "", "no such value"])


def _change_attribute(rng: Random, model: ModelProto) -> None:
    node = rng.choice(model.graph.node)
    name = rng.choice([attribute.name for attribute in node.attribute] or ["axis", "to", "keepdims", "perm", "shape"])
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    value = rng.choice([*_SIZES, 1.5, float("nan"), "text", [2**62] * 4, [-1, -1], [0.5], ["a"]])
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _change_attribute_kind(rng: Random, model: ModelProto) -> None:
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    rng.choice(attributes).type = rng.choice(list(AttributeProto.AttributeType.values()))


def _change_tensor_shape(rng: Random, model: ModelProto) -> None:
    tensor = rng.choice(model.graph.initializer)
    dims = [rng.choice(_SIZES) for _ in range(rng.randint(0, 4))]
    if rng.random() < 0.5 and tensor.dims:
        dims = list(tensor.dims)
        dims[rng.randrange(len(dims))] = rng.choice(_SIZES)
    del tensor.dims[:]
    tensor.dims.extend(dims)


def _change_tensor_kind(rng: Random, model: ModelProto) -> None:
    rng.choice(model.graph.initializer).data_type = rng.choice([*TensorProto.DataType.values(), 99, -1])


def _change_constant(rng: Random, model: ModelProto) -> None:
    """Change the numbers of a small tensor, which lies in the graph."""
    tensor = rng.choice([tensor for tensor in model.graph.initializer if not tensor.external_data])
    values = onnx.numpy_helper.to_array(tensor)
    changed = values.dtype.type(rng.choice([-2, -1, 0, 1, 2, 3, 1000, 2**62]))
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(values, changed), tensor.name))


def _change_constant_bytes(rng: Random, model: ModelProto) -> None:
    tensor = rng.choice([tensor for tensor in model.graph.initializer if not tensor.external_data])
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    tensor.raw_data = rng.choice([*BYTES.values()])(rng, tensor.raw_data)


def _swap_tensors(rng: Random, model: ModelProto) -> None:
    first, second = rng.sample(list(model.graph.initializer), 2)
    first.name, second.name = second.name, first.name


def _change_operator_to_a_like(rng: Random, model: ModelProto) -> None:
    """Change an operator to one that takes the same inputs. Most of these graphs run."""
    node = rng.choice([node for node in model.graph.node if any(node.op_type in group for group in _ALIKE)])
    node.op_type = rng.choice(next(group for group in _ALIKE if node.op_type in group))


def _change_value_shape(rng: Random, model: ModelProto) -> None:
    value = rng.choice([*model.graph.input, *model.graph.output])
    dims = value.type.tensor_type.shape.dim
    if dims and rng.random() < 0.8:
        rng.choice(dims).dim_value = rng.choice(_SIZES)
    else:
        dims.add(dim_value=rng.choice(_SIZES))


def _change_value_kind(rng: Random, model: ModelProto) -> None:
    rng.choice([*model.graph.input, *model.graph.output]).type.tensor_type.elem_type = rng.randint(-1, 25)


def _change_value_name(rng: Random, model: ModelProto) -> None:
    rng.choice([*model.graph.input, *model.graph.output]).name = rng.choice(["", "x", "input_ids", "embedding"])


def _change_versions(rng: Random, model: ModelProto) -> None:
    model.ir_version = rng.choice([0, 1, 10, 99, 2**62])
    model.opset_import[0].version = rng.choice([-1, 0, 1, 7, 13, 18, 99, 2**62])


def _add_function(rng: Random, model: ModelProto) -> None:
    """Define a function that calls itself, under the name of an operator or another one."""
    name = rng.choice(["Div", "Gather", "Loop"])
    node = helper.make_node(name, ["a"], ["b"], domain="own")
    model.functions.append(helper.make_function("own", name, ["a"], ["b"], [node], [helper.make_opsetid("own", 1)]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    rng.choice(model.graph.node).domain = "own"


_GRAPH_CHANGES = (
    *(_change_location, _change_location, _change_offset, _change_length, _change_operator, _change_domain),
    *(_delete_node, _repeat_node, _rewire, _change_attribute, _change_attribute_kind, _change_tensor_shape),
    *(_change_tensor_kind, _change_constant, _change_constant, _change_constant_bytes, _swap_tensors),
    *(_change_operator_to_a_like, _change_operator_to_a_like, _change_operator_to_a_like, _change_value_shape),
    *(_change_value_kind, _change_value_name, _change_versions, _add_function),
)
