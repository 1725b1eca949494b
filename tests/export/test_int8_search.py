"""Checkpoints with outliers, as trained models have them: int8 stays close to fp32, and little of it is fp32."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from embedder_export import cli, pipeline
from embedder_export.body.native import build_bodies
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.dtype import outliers, search
from embedder_export.dtype.calibrate import sample_activations
from embedder_export.dtype.outliers import split_outliers
from embedder_export.samples.texts import parity_sentences
from embedder_export.verify import quality
from embedder_export.verify.compare import measure
from safetensors.torch import load_file, save_file

import embedder
from embedder.artifact.int8_products import Int8Products, int8_products
from embedder.artifact.manifest import read_manifest
from embedder.cli import main as runtime_cli
from tests.checkpoints import write_checkpoint
from tests.exports import export_quietly
from tests.native_models import assert_same, batches, change_weights, pad_id, session_of, write_model

TEXTS = [text for text in parity_sentences()[1::5] if text.strip()]
LAYERS = 2


def write_outliers(directory, *, columns=0, norm_columns=0, layers=range(LAYERS), factor=300):
    """Write a small checkpoint with large columns.

    Args:
        directory: the new directory.
        columns: number of columns after the activation function that become larger by `factor`.
        norm_columns: number of columns of each LayerNorm that become 20 times as large.
        layers: the layers with such columns.
        factor: the next layer's weights become smaller by it.
    """
    path = write_checkpoint(directory) / "model.safetensors"
    weights = load_file(path)
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        up, down = weights[f"{name}.intermediate.dense.weight"], weights[f"{name}.output.dense.weight"]
        up *= 20  # random weights are so small that the feed-forward part hardly matters
        down *= 20
        if layer in layers:
            up[:columns] *= factor
            down[:, :columns] /= factor
            for norm in (f"{name}.attention.output.LayerNorm", f"{name}.output.LayerNorm"):
                weights[f"{norm}.weight"][:norm_columns] *= 20
    save_file(weights, path, {"format": "pt"})
    return directory


def cosine_to_fp32(artifact):
    exact, ours = (embedder.Embedder(artifact, dtype=name).encode(TEXTS) for name in ("fp32", "int8"))
    return measure(ours, exact)[0]


def float_products(artifact):
    """Return the weights of the float32 products of the body, (inputs, outputs) or (outputs, inputs) each."""
    nodes = [node for node in ir.load(artifact / "model.int8.onnx").graph if node.op_type in ("Gemm", "MatMul")]
    return [node.inputs[1].const_value for node in nodes if not node.inputs[1].name.startswith("head/")]


def products_of(artifact):
    manifest = read_manifest(artifact)
    return int8_products(manifest, manifest.graphs[1])


@pytest.fixture(scope="module")
def two_columns(tmp_path_factory):
    """The artifact of a checkpoint with two outliers in each layer."""
    directory = tmp_path_factory.mktemp("outliers")
    export_quietly(write_outliers(directory / "checkpoint", columns=2), directory / "artifact")
    return directory / "artifact"


@pytest.fixture(scope="module")
def many_columns(tmp_path_factory):
    """The artifact of a checkpoint with too many outliers to split off, in its last layer. Return its report too."""
    directory = tmp_path_factory.mktemp("outliers")
    checkpoint = write_outliers(directory / "checkpoint", columns=12, layers=[1])
    lines: list[str] = []
    pipeline.export(read_checkpoint(str(checkpoint)), directory / "artifact", lines.append)
    return directory / "artifact", lines


def test_a_few_outliers_after_gelu_are_split_off(two_columns):
    """With the outliers in int8, the smallest cosine would be 0.965, and int8 would not be written."""
    assert products_of(two_columns) == Int8Products(8, fp32=(), split=(3, 7))
    cosine = cosine_to_fp32(two_columns)
    assert cosine.mean() > 0.999
    assert cosine.min() > 0.998
    # For each layer: the outliers' columns of the product before GELU, and their rows of the one after it.
    assert [tuple(weight.shape) for weight in float_products(two_columns)] == 2 * [(32, 4), (4, 32)]


def test_outliers_without_split_would_fall_short(tmp_path, monkeypatch):
    """The checkpoint shows what the tests are for: with everything in int8 it misses the limits."""
    monkeypatch.setattr(outliers, "_MAX_REMAINING_ERROR", 0)
    monkeypatch.setattr(search, "_TARGET_SHARE", 1e9)
    checkpoint = write_outliers(tmp_path / "checkpoint", columns=2)
    assert [graph.dtype for graph in export_quietly(checkpoint, tmp_path / "artifact").graphs] == ["fp32"]


def test_many_outliers_keep_one_product_in_fp32(many_columns):
    artifact, lines = many_columns
    assert products_of(artifact) == Int8Products(8, fp32=(7,), split=())
    assert "1 of 8 products stay in fp32" in lines
    (line,) = [line for line in lines if "searching" in line]
    assert line.startswith("with all products in int8 there is a mean cosine to fp32 of 0.9")
    cosine = cosine_to_fp32(artifact)
    assert cosine.mean() > 0.999
    assert cosine.min() > 0.998
    assert (32, 64) in [tuple(weight.shape) for weight in float_products(artifact)]


def test_large_columns_of_layer_norm(tmp_path):
    export_quietly(write_outliers(tmp_path / "checkpoint", norm_columns=2), tmp_path / "artifact")
    assert len(products_of(tmp_path / "artifact").fp32) <= 2
    cosine = cosine_to_fp32(tmp_path / "artifact")
    assert cosine.mean() >= quality.MIN_MEAN_COSINE
    assert cosine.min() >= quality.MIN_COSINE


@pytest.mark.parametrize("function", ["gated-gelu", "gated-silu"])
def test_gated_units_are_split_too(tmp_path, function):
    """T5 multiplies the activation function's output by another product. The split graph computes the same in fp32."""
    model = write_model("t5", tmp_path / "model", feed_forward_proj=function, tie_word_embeddings=False)

    def with_outliers(weights):
        for name, array in weights.items():
            if ".wi_1." in name:
                array[:2] *= 300
            if ".wo." in name:
                array[:, :2] /= 300
        return weights

    change_weights(tmp_path / "model", with_outliers)
    body = build_bodies(read_checkpoint(str(tmp_path / "model")))["text"]
    plain = session_of(body, tmp_path / "plain")
    singles = [{"input_ids": ids, "attention_mask": mask} for ids, mask in batches(pad_id(model)) if len(ids) == 1]
    split = split_outliers(tmp_path / "plain/model.onnx", singles, tmp_path / "split/model.onnx")
    assert len(split) == 2
    assert_same(onnxruntime.InferenceSession(tmp_path / "split/model.onnx"), plain, pad_id(model))
    before, after = (sample_activations(tmp_path / name / "model.onnx", split, singles) for name in ("plain", "split"))
    for name in split:
        assert np.abs(after[name]).max() < np.abs(before[name]).max() / 10


@pytest.mark.parametrize("name", ["two_columns", "many_columns"])
def test_vectors_do_not_depend_on_their_batch(name, request):
    artifact = request.getfixturevalue(name)
    artifact = artifact if isinstance(artifact, Path) else artifact[0]
    model = embedder.Embedder(artifact, dtype="int8", provider="cpu")
    alone = np.stack([model.encode(text) for text in TEXTS])
    for seed, batch_size in enumerate((None, 1, 2, 3, 7, 64)):
        order = np.random.default_rng(seed).permutation(len(TEXTS))
        together = model.encode([TEXTS[index] for index in order], batch_size=batch_size)
        # The pooling adds in another order. An integer of another value would change more.
        assert np.abs(together - alone[order]).max() <= 1e-6


def test_the_same_checkpoint_gives_the_same_graph(many_columns, tmp_path):
    artifact, _ = many_columns
    checkpoint = write_outliers(tmp_path / "checkpoint", columns=12, layers=[1])
    manifest = export_quietly(checkpoint, tmp_path / "artifact")
    assert manifest.graphs[1].weights.sha256 == read_manifest(artifact).graphs[1].weights.sha256
    assert manifest.graphs[1].file.sha256 == read_manifest(artifact).graphs[1].file.sha256


def test_at_most_half_of_the_weights_stay_in_fp32(tmp_path, monkeypatch):
    """If no graph reaches the target, the one with the most float32 is written, if the user asks for int8."""
    monkeypatch.setattr(search, "_TARGET_SHARE", -1)
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    export_quietly(checkpoint, tmp_path / "artifact", dtypes=("fp32", "int8"))
    weights = float_products(tmp_path / "artifact")
    total = sum(array.size for array in every_weight(tmp_path / "artifact"))
    assert 0.3 * total <= sum(weight.size for weight in weights) <= 0.5 * total


def every_weight(artifact):
    nodes = [node for node in ir.load(artifact / "model.onnx").graph if node.op_type in ("Gemm", "MatMul")]
    return [node.inputs[1].const_value for node in nodes if not node.inputs[1].name.startswith("head/")]


def test_info_says_what_stays_in_fp32(two_columns, many_columns, capsys):
    assert runtime_cli.main(["info", str(two_columns)]) == 0
    assert "products in fp32: 0 of 8, with outliers in fp32: 2" in capsys.readouterr().out
    assert runtime_cli.main(["info", str(many_columns[0])]) == 0
    assert "products in fp32: 1 of 8\n" in capsys.readouterr().out


def test_int8_that_is_not_written_leaves_nothing_in_the_manifest(tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "MIN_COSINE", 1.1)
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    assert cli.main([str(checkpoint), "--output", str(tmp_path / "artifact")]) == 0
    assert "int8_products" not in read_manifest(tmp_path / "artifact").extra


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 9, 1], [9, 1, 1]], [0, 1, 2]),
        ([[0, 0, 0], [0, 0, 0]], []),
        ([[1] * 30], []),
        ([[1] * 29 + [50]], [0, 29]),
    ],
)
def test_columns_that_are_split_off(rows, expected):
    assert outliers._outlier_columns(np.array(rows, np.float32)).tolist() == expected
