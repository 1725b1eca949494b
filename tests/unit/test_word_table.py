"""The word table of a graph: found in the file, mapped, and given back."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

import embedder
from embedder.backends import cpu, word_table
from embedder.backends.word_table import map_word_table
from tests.tiny import TABLE, redescribe

TEXTS = [f"{text} {number}" for number in range(100) for text in ("the cat sat on the mat", "dog")]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pages are given back on Linux alone")


def table_of(directory):
    return map_word_table(directory / "model.onnx", directory / "model.onnx.data")


def graph_of(directory):
    return onnx.load(directory / "model.onnx", load_external_data=False)


def table_in(graph):
    return next(tensor for tensor in graph.graph.initializer if tensor.name == "table")


def write(directory, graph):
    (directory / "model.onnx").write_bytes(graph if isinstance(graph, bytes) else graph.SerializeToString())


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_the_table_is_found(tiny, dtype):
    graph, numbers = graph_of(tiny), np.round(TABLE * 20).astype(dtype)
    tensor = table_in(graph)
    tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(numbers.dtype)
    for entry in tensor.external_data:
        if entry.key == "offset":
            entry.value = "12288"
    write(tiny, graph)
    (tiny / "model.onnx.data").write_bytes(b"x" * 12288 + numbers.tobytes())
    table = table_of(tiny)
    assert table.name == "table"
    np.testing.assert_array_equal(table.value.numpy(), numbers)


def test_pages_are_given_back_and_come_again(tiny):
    """A large table: what the system says of it is counted in pages."""
    rows = np.arange(100_000, dtype=np.float32).reshape(-1, 8)
    graph = graph_of(tiny)
    tensor = table_in(graph)
    tensor.dims[:] = rows.shape
    write(tiny, graph)
    (tiny / "model.onnx.data").write_bytes(rows.tobytes())
    table = table_of(tiny)
    assert table.value.numpy().sum() == rows.sum()
    assert mapped_kilobytes(tiny / "model.onnx.data") > 300
    table.release_pages()
    assert mapped_kilobytes(tiny / "model.onnx.data") == 0
    np.testing.assert_array_equal(table.value.numpy(), rows)


def mapped_kilobytes(path):
    """Return how much of the mappings of `path` counts as memory of this process."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    total = 0
    for line in lines:
        if line.endswith(str(path)):
            total += int(next(line for line in lines if line.startswith("Rss:")).split()[1])
    return total


def test_vectors_are_the_same_with_and_without(tiny, monkeypatch):
    vectors = embedder.Embedder(tiny).encode(TEXTS)
    for prepack in ("0", "1"):
        monkeypatch.setenv("EMBEDDER_PREPACK", prepack)
        assert embedder.Embedder(tiny).encode(TEXTS).tobytes() == vectors.tobytes()
        with monkeypatch.context() as patch:
            patch.setattr(cpu, "map_word_table", lambda graph, weights: None)
            assert embedder.Embedder(tiny).encode(TEXTS).tobytes() == vectors.tobytes()


def test_pages_are_given_back_while_others_read(tiny, monkeypatch):
    monkeypatch.setattr(cpu, "_RELEASE_PAGES_FACTOR", 1 / 512)  # after each text
    released = []
    release = word_table.WordTable.release_pages
    monkeypatch.setattr(word_table.WordTable, "release_pages", lambda self: (release(self), released.append(1)))
    model = embedder.Embedder(tiny, threads=2)
    expected = model.encode(TEXTS)
    assert released
    with ThreadPoolExecutor(8) as threads:
        np.testing.assert_allclose(list(threads.map(model.encode, TEXTS)), expected, atol=1e-6)


def without_gather(graph, tensor):
    graph.node[0].op_type = "GatherElements"


def of_other_rows(graph, tensor):
    graph.node[0].input[1] = "attention_mask"


def in_the_graph(graph, tensor):
    del tensor.external_data[:]


def of_another_dtype(graph, tensor):
    tensor.data_type = onnx.TensorProto.DOUBLE


def too_long(graph, tensor):
    tensor.dims[0] = 10**6


def of_no_number(graph, tensor):
    tensor.dims[0] = 2**62


def behind_the_end(graph, tensor):
    tensor.external_data[1].value = str(2**40)


def before_the_start(graph, tensor):
    tensor.external_data[1].value = "-4096"


CHANGES = [
    without_gather,
    of_other_rows,
    in_the_graph,
    of_another_dtype,
    too_long,
    of_no_number,
    behind_the_end,
    before_the_start,
]


@pytest.mark.parametrize("change", CHANGES)
def test_no_table(tiny, change):
    graph = graph_of(tiny)
    tensor = table_in(graph)
    assert tensor.external_data[1].key == "offset"
    change(graph.graph, tensor)
    write(tiny, graph)
    assert table_of(tiny) is None


def test_damaged_graphs_have_no_table_or_the_right_one(tiny):
    content = (tiny / "model.onnx").read_bytes()
    for end in range(len(content)):
        write(tiny, content[:end])
        table = table_of(tiny)
        assert table is None or table.value.shape() == list(TABLE.shape)
    write(tiny, b"\xff" * 100)
    assert table_of(tiny) is None


def test_a_missing_file_of_weights(tiny):
    (tiny / "model.onnx.data").unlink()
    assert table_of(tiny) is None


def test_other_systems(tiny, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert table_of(tiny) is None


def test_a_graph_without_a_table_runs(tiny):
    """The graph looks its rows up by a sum, so that no table is found."""
    expected = embedder.Embedder(tiny).encode(TEXTS)
    graph = graph_of(tiny)
    zero = onnx.numpy_helper.from_array(np.zeros(1, np.int64), "zero")
    graph.graph.initializer.append(zero)
    graph.graph.node[0].input[1] = "rows"
    graph.graph.node.insert(0, onnx.helper.make_node("Add", ["input_ids", "zero"], ["rows"]))
    write(tiny, graph)
    redescribe(tiny)
    assert table_of(tiny) is None
    assert embedder.Embedder(tiny).encode(TEXTS).tobytes() == expected.tobytes()
