"""int4: what its graph computes, and that a text's result does not depend on its batch."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from embedder_export.dtype.int4 import ACCURACY_LEVEL, BITS, BLOCK, convert_to_int4
from embedder_export.dtype.rounding import round_blocks_with_compensation
from embedder_export.graph.files import save_graph
from embedder_export.graph.operators import Operators, new_graph, new_model
from embedder_export.samples.feeds import Samples
from embedder_export.write.prepacked import write_prepacked_artifact

import embedder
from embedder.artifact.locate import open_artifact
from embedder.artifact.manifest import Graph
from embedder.backends.backend import GraphFiles
from embedder.backends.prepacked import find_prepacked, prepack
from tests.checkpoints import write_checkpoint
from tests.exports import export_quietly

TEXTS = [f"{'the cat sat ' * (index % 9)}on mat {index}" for index in range(40)]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def write_product(directory: Path, rows: int, columns: int) -> Path:
    """Write a graph that looks vectors up by token ids, and multiplies them with weights and adds a bias."""
    graph = new_graph()
    op = Operators(graph, "body")
    x = op.Reshape(op.Gather(op.constant(random(50, columns)), graph.inputs[0]), op.constant([-1, columns]))
    y = op.Gemm(x, op.constant(random(rows, columns, seed=1)), op.constant(random(rows, seed=2)), transB=1)
    y = op.Reshape(y, op.Concat(op.Shape(graph.inputs[0]), op.constant([rows]), axis=0))
    return save_graph(new_model(graph, y, rows), directory, "model.onnx")


def feed(*ids: int) -> dict[str, np.ndarray]:
    return {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}


def session_of(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("rows", "columns"), [(48, 96), (24, 80), (640, 384), (384, 1536)])
def test_a_product_is_close_and_its_rows_do_not_depend_on_each_other(tmp_path, rows, columns):
    path = write_product(tmp_path / "fp32", rows, columns)
    singles = [feed(*range(start, start + 10)) for start in range(0, 50, 10)]
    target = tmp_path / "int4/model.onnx"
    convert_to_int4(path, Samples(singles, singles, singles), target, print)
    ids = list(range(50)) * 3
    expected = session_of(path).run(None, feed(*ids))[0][0]
    for threads in (1, 2):
        session = session_of(target, threads)
        found = session.run(None, feed(*ids))[0][0]
        error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert error.mean() < 0.12
        for count in (1, 2, 3, 5, 8, 17, 33, 64):
            for start in range(0, 3 * count, count):
                part = session.run(None, feed(*ids[start : start + count]))[0][0]
                np.testing.assert_array_equal(part, found[start : start + count])


def test_a_graph_has_the_settings_whose_rows_are_independent(tmp_path):
    path = write_product(tmp_path / "fp32", 32, 64)
    convert_to_int4(path, Samples([feed(1)], [feed(1)], [feed(1)]), tmp_path / "int4/model.onnx", print)
    (node,) = (node for node in onnx.load(tmp_path / "int4/model.onnx").graph.node if node.op_type == "MatMulNBits")
    settings = {entry.name: entry.i for entry in node.attribute}
    assert settings == {"K": 64, "N": 32, "bits": 4, "block_size": 32, "accuracy_level": 4}
    assert (BITS, BLOCK, ACCURACY_LEVEL) == (4, 32, 4)


def test_compensation_lowers_the_error():
    weights, mixing = random(20, 70), random(70, 70, seed=3)
    sample = (random(200, 70, seed=4) @ mixing).astype(np.float32)
    rounded = round_blocks_with_compensation(weights, 15, 32, sample)
    alone = round_blocks_with_compensation(weights, 15, 32, np.eye(70, dtype=np.float32))
    assert rounded.integers.shape == (20, 3, 32)
    assert rounded.integers.min() >= 0
    assert rounded.integers.max() <= 15
    errors = [np.linalg.norm((weights - found.weights(70)) @ sample.T) for found in (rounded, alone)]
    assert errors[0] < 0.9 * errors[1]
    step = rounded.scales.max()
    assert np.abs(weights - alone.weights(70)).max() < 2 * step


def test_blocks_of_zeros_stay_zeros():
    rounded = round_blocks_with_compensation(np.zeros((2, 40), np.float32), 15, 32, np.ones((3, 40), np.float32))
    np.testing.assert_array_equal(rounded.weights(40), 0)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    directory = tmp_path_factory.mktemp("int4")
    checkpoint = write_checkpoint(directory / "checkpoint")
    export_quietly(checkpoint, directory / "artifact", dtypes=("fp32", "int4"))
    return directory / "artifact"


def test_it_is_not_prepacked(artifact, tmp_path):
    """Kernels of CPUs of one kind may pack its weights in different ways."""
    copy = shutil.copytree(artifact, tmp_path / "copy")
    made = prepack(open_artifact(copy))
    assert [path.name for path in made] == ["model.onnx"]
    assert find_prepacked(GraphFiles(open_artifact(copy), graph_of(copy))) is None
    written = write_prepacked_artifact(open_artifact(artifact), "int4", tmp_path / "one")
    assert {path.suffix for path in written.iterdir()} == {".onnx", ".data", ".json"}
    assert "prepacked" not in open_artifact(written).manifest.extra
    found = embedder.Embedder(written, provider="cpu").encode(TEXTS)
    np.testing.assert_array_equal(found, embedder.Embedder(artifact, provider="cpu", dtype="int4").encode(TEXTS))


def graph_of(directory: Path) -> Graph:
    return next(graph for graph in open_artifact(directory).manifest.graphs if graph.dtype == "int4")


def test_an_artifact(artifact):
    with embedder.Embedder(artifact, provider="cpu", dtype="int4") as model:
        assert model.dtype == "int4"
        graph = next(graph for graph in model.manifest.graphs if graph.dtype == "int4")
        assert graph.quality.samples > 100
        assert graph.quality.mean_cosine > 0.9
        together = model.encode(TEXTS)
        alone = np.stack([model.encode(text) for text in TEXTS])
    # Sums over the tokens of a padded batch are rounded in another order. A step of 4 bits would be 1,000 times as far.
    np.testing.assert_allclose(together, alone, rtol=0, atol=5e-7)
    exact = embedder.Embedder(artifact, provider="cpu", dtype="fp32").encode(TEXTS)
    assert ((exact * together).sum(axis=1) > 0.9).all()
    automatic = embedder.Embedder(artifact, provider="cpu", dtype="auto")
    assert automatic.dtype == "fp32"  # int4 has to be asked for
