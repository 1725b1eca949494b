"""Graphs of strangers: weights from other files, and graphs that onnxruntime cannot run."""

import copy

import numpy as np
import onnx
import pytest

import embedder
from embedder.backends.external_data import check_external_data
from embedder.errors import ArtifactError
from tests.tiny import TABLE, redescribe

REFUSED = r"model\.onnx takes weights from another file than model\.onnx\.data: export the model again"


def graph_of(directory):
    return onnx.load(directory / "model.onnx", load_external_data=False)


def write(directory, content):
    (directory / "model.onnx").write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    redescribe(directory)
    return directory


def entries(graph):
    return [entry for tensor in graph.graph.initializer for entry in tensor.external_data]


@pytest.fixture
def secret(tiny):
    path = tiny.parent / "secret"
    path.write_bytes(np.full_like(TABLE, 7).tobytes())
    (tiny / "link").symlink_to(path)
    (tiny / "beside").write_bytes(path.read_bytes())
    return path


@pytest.mark.parametrize("place", ["SECRET", "../secret", "tiny/../../secret", "link", "beside", "tokenizer.json", ""])
def test_weights_in_another_file(place, secret, tiny):
    graph = graph_of(tiny)
    for entry in entries(graph):
        if entry.key == "location":
            entry.value = place.replace("SECRET", str(secret))
    with pytest.raises(ArtifactError, match=REFUSED):
        embedder.Embedder(write(tiny, graph))


def hidden_entry(form):
    """Return an entry for the place "../secret" as a program may write it to hide it."""
    key, value = b"\x0a\x08location", b"\x12\x09../secret"
    good = b"\x12\x0fmodel.onnx.data"
    return {
        "value first": value + key,
        "long length": b"\x0a\x88\x00location" + value,
        "longer length": b"\x0a\x88\x80\x80\x00location" + value,
        "two values": key + good + value,
        "two keys": b"\x0a\x08checksum" + value + key,
    }[form]


@pytest.mark.parametrize("form", ["value first", "long length", "longer length", "two values", "two keys"])
def test_hidden_place_of_weights(form, secret, tiny):
    """In the format of protobuf, one message can be written in several ways."""
    graph = graph_of(tiny)
    tensor = copy.deepcopy(next(tensor for tensor in graph.graph.initializer if tensor.external_data))
    del tensor.external_data[:]
    entry = hidden_entry(form)
    content = tensor.SerializeToString() + b"\x6a" + bytes([len(entry)]) + entry
    read = onnx.TensorProto.FromString(content)  # another program understands it
    assert (read.external_data[0].key, read.external_data[0].value) == ("location", "../secret")
    graph.graph.initializer.remove(next(t for t in graph.graph.initializer if t.name == tensor.name))
    whole = graph.SerializeToString()
    field = b"\x2a" + bytes([len(content)]) + content
    write(tiny, whole + b"\x3a" + bytes([len(field)]) + field)  # two graphs in a model are merged
    assert tensor.name in [found.name for found in graph_of(tiny).graph.initializer]
    with pytest.raises(ArtifactError, match=REFUSED):
        embedder.Embedder(tiny)


@pytest.mark.parametrize("word", ["locations", "relocation", "/location/x", "location" * 9])
def test_name_that_holds_the_word_of_the_key(word, tmp_path):
    node = onnx.helper.make_node("Identity", [word], ["y"], name=word)
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.helper.make_model(onnx.helper.make_graph([node], word, [], [])).SerializeToString())
    check_external_data(path)


def test_long_name_of_the_weights(tmp_path):
    name = "x" * 245 + ".onnx"
    tensor = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL, name="weights")
    tensor.external_data.add(key="location", value=f"{name}.data")
    graph = onnx.helper.make_graph([], "graph", [], [], [tensor])
    (tmp_path / name).write_bytes(onnx.helper.make_model(graph).SerializeToString())
    check_external_data(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"\0", b"\xff" * 99, b"\x3a\xff\xff\xff\xff\x0f"])
def test_file_that_is_no_graph(content, tiny):
    with pytest.raises(ArtifactError, match=r"cannot load|has the outputs"):
        embedder.Embedder(write(tiny, content))


HEADER = '<ir_version: 10, opset_import: ["": 18]>\nembedder (int64[b, s] input_ids, int64[b, s] attention_mask)'
BODIES = {
    "division by zero": "{ z = Sub(input_ids, input_ids) d = Div(input_ids, z) embedding = Cast<to = 1>(d) }",
    "terabytes": "<int64[2] n = {1000000000, 8000}> { z = ConstantOfShape(n) i = Cast<to = 1>(input_ids) "
    "m = ReduceMean(z) embedding = Add(i, m) }",
    "operator of nobody": "{ embedding = Unheard(input_ids) }",
    "cycle": "{ a = Add(b, input_ids) b = Add(a, input_ids) embedding = Cast<to = 1>(b) }",
}


@pytest.mark.parametrize("body", BODIES)
def test_graph_that_cannot_be_run(body, tiny):
    graph = onnx.parser.parse_model(f"{HEADER} => (float[b, 8] embedding)\n{BODIES[body]}")
    with pytest.raises(ArtifactError, match="onnxruntime"):
        embedder.Embedder(write(tiny, graph)).encode("a")


def test_output_whose_name_is_not_utf_8(tiny):
    content = (tiny / "model.onnx").read_bytes().replace(b"embedding", b"\xffmbedding")
    with pytest.raises(ArtifactError, match="has an output whose name is not UTF-8"):
        embedder.Embedder(write(tiny, content))
