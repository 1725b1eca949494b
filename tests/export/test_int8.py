"""int8 graphs: vectors do not depend on their batch and are close to fp32, and sums fit into 16 bits."""

import csv
import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from embedder_export import cli
from embedder_export.body.native import build_bodies
from embedder_export.checkpoint.layers import Dense, Pooling
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.dtype import convert
from embedder_export.dtype.int8 import MAX_WEIGHT, convert_to_int8
from embedder_export.dtype.rounding import round_to_nearest, round_with_compensation
from embedder_export.errors import GraphError
from embedder_export.graph.files import save_graph
from embedder_export.head.heads import add_head
from embedder_export.samples.texts import parity_sentences
from embedder_export.verify import quality
from embedder_export.verify.compare import measure
from hypothesis import given
from hypothesis import strategies as st

import embedder
from benchmarks.quality import lines, spearman
from embedder.artifact.manifest import GRAPH_INPUTS, read_manifest
from embedder.backends.cuda import CudaDevice
from tests import families
from tests.checkpoints import write_checkpoint
from tests.exports import export_quietly
from tests.families import FAMILIES

TEXTS = [text for text in parity_sentences()[::4] if text.strip()]


def integers_of(path):
    """Return the weights of all integer products, int8 (inputs, outputs) each."""
    graph = ir.load(path).graph
    return [node.inputs[1].const_value.numpy() for node in graph if node.op_type == "MatMulIntegerToFloat"]


def pairwise_sums(x, w):
    """Compute x @ w as AVX2 does for uint8 and int8. It adds products in pairs, and the sums saturate at 16 bits."""
    products = x.astype(np.int64)[:, :, None] * w.astype(np.int64)[None]
    pairs = products[:, ::2] + products[:, 1::2]
    return np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1)


BODIES = [
    "all-MiniLM-L12-v2",
    "all-mpnet-base-v2",
    "all-distilroberta-v1",
    "paraphrase-multilingual-mpnet-base-v2",
    "distiluse-base-multilingual-cased-v2",
    "paraphrase-albert-small-v2",
    "instructor-base",
]


@pytest.fixture(
    scope="module", params=[family for family in FAMILIES if family.name in BODIES], ids=lambda family: family.name
)
def exported(request, tmp_path_factory):
    """Export a small model of each family in fp32 and int8. Return the artifact and the family's prompt."""
    directory = tmp_path_factory.mktemp("int8")
    checkpoint = families.seeded(request.param.make, directory / "checkpoint")
    export_quietly(checkpoint, directory / "artifact", dtypes=("fp32", "int8"))
    return directory / "artifact", request.param.prompt


def test_vectors_do_not_depend_on_their_batch(exported):
    artifact, prompt = exported
    model = embedder.Embedder(artifact, dtype="int8", provider="cpu")
    alone = np.stack([model.encode(text, prompt=prompt) for text in TEXTS])
    lengths = np.linalg.norm(alone, axis=1, keepdims=True)
    for seed, batch_size in enumerate((None, 1, 7, 64)):
        order = np.random.default_rng(seed).permutation(len(TEXTS))
        together = model.encode([TEXTS[index] for index in order], batch_size=batch_size, prompt=prompt)
        assert (np.abs(together - alone[order]) / lengths[order]).max() <= 1e-5


def test_vectors_are_close_to_fp32(exported):
    artifact, prompt = exported
    exact, ours = (embedder.Embedder(artifact, dtype=name).encode(TEXTS, prompt=prompt) for name in ("fp32", "int8"))
    cosine, _ = measure(ours, exact)
    assert cosine.mean() > 0.99
    int8 = read_manifest(artifact).graphs[1]
    assert int8.quality.samples == 120
    assert int8.quality.min_cosine <= int8.quality.mean_cosine <= 1


def test_body_has_only_integer_products_and_their_sums_fit_16_bits(exported):
    artifact, _ = exported
    graph = onnx.load(artifact / "model.int8.onnx", load_external_data=False).graph
    left = [node for node in graph.node if node.op_type in ("Gemm", "MatMul")]
    assert all(name.startswith("head/") for node in left for name in node.input[1:])
    weights = integers_of(artifact / "model.int8.onnx")
    assert len(weights) >= 8
    for array in weights:
        assert array.dtype == np.int8
        array = array.astype(np.int64)
        odd = np.pad(array, ((0, len(array) % 2), (0, 0)))
        for sign in (1, -1):  # the worst case: the largest activation meets every weight of one sign
            sums = 255 * np.maximum(sign * odd, 0)
            assert (sums[::2] + sums[1::2]).max() <= 2**15 - 1


def test_gelu_is_approximated_before_an_integer_product_alone(tmp_path):
    """A GELU of the head stays exact, as the head is fp32."""
    checkpoint = read_checkpoint(str(write_checkpoint(tmp_path / "checkpoint")))
    ((_, model),) = build_bodies(checkpoint)["text"].forms
    dense = Dense(np.eye(32, dtype=np.float32), None, "GELU", "sentence_embedding")
    add_head(model.graph, (Pooling(("mean",), True), dense), 32, checkpoint.task)
    path = save_graph(model, tmp_path / "fp32")
    tokens = np.arange(5, 12)[None]
    singles = [dict(zip(GRAPH_INPUTS, (tokens, np.ones_like(tokens)), strict=True))]
    convert_to_int8(path, singles, tmp_path / "int8" / path.name)
    operators = [node.op_type for node in onnx.load(tmp_path / "int8" / path.name).graph.node]
    assert operators.count("Gelu") == 1
    assert operators.count("FastGelu") == 2


def test_8_bit_weights_would_saturate():
    """With 8-bit weights, products are wrong on a CPU with AVX2 and nothing newer. With `MAX_WEIGHT` they are exact."""
    x, w = np.full((1, 4), 255, np.uint8), np.full((4, 1), 127, np.int8)
    assert pairwise_sums(x, w) != x.astype(int) @ w.astype(int)
    w = np.full((4, 1), MAX_WEIGHT, np.int8)
    assert pairwise_sums(x, w) == x.astype(int) @ w.astype(int)


def test_int8_weights_take_a_quarter_of_the_bytes(exported):
    artifact, _ = exported
    nodes = [node for node in ir.load(artifact / "model.onnx").graph if node.op_type in ("Gemm", "MatMul")]
    weights = [node.inputs[1] for node in nodes if not node.inputs[1].name.startswith("head/")]
    integers = integers_of(artifact / "model.int8.onnx")
    assert len(integers) == len(weights)
    assert 4 * sum(array.nbytes for array in integers) == sum(weight.const_value.nbytes for weight in weights)


def test_int8_of_a_traced_graph(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    manifest = export_quietly(checkpoint, tmp_path / "artifact", converter="optimum", dtypes=("fp32", "int8"))
    assert [candidate.name for candidate in manifest.graphs[1].candidates] == ["fp32", "int8"]
    assert len(integers_of(tmp_path / "artifact/model.int8.onnx")) == 12
    exact, ours = (embedder.Embedder(tmp_path / "artifact", dtype=name).encode(TEXTS) for name in ("fp32", "int8"))
    cosine, _ = measure(ours, exact)
    assert cosine.mean() > 0.99


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "small")


def written_dtypes(directory):
    """Return the dtypes in the manifest, after a check that the directory has exactly their files."""
    files = {path.name for path in directory.glob("*.onnx*")}
    found = [graph.dtype for graph in read_manifest(directory).graphs]
    assert files == {file.name for graph in read_manifest(directory).graphs for file in (graph.file, graph.weights)}
    return found


def test_int8_of_low_quality_is_written_only_on_request(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quality, "MIN_MEAN_COSINE", 1.1)
    assert cli.main([str(checkpoint), "--output", str(tmp_path / "default")]) == 0
    assert ". The limits are" in (err := capsys.readouterr().err)
    assert "so it is not written; --dtypes writes it anyway" in err
    assert written_dtypes(tmp_path / "default") == ["fp32"]
    assert cli.main([str(checkpoint), "--output", str(tmp_path / "asked"), "--dtypes", "fp32,int8"]) == 0
    assert ". The limits are" in (err := capsys.readouterr().err)
    assert "is not written" not in err
    assert written_dtypes(tmp_path / "asked") == ["fp32", "int8"]


@pytest.mark.parametrize(
    ("dtypes", "expected"), [("fp32", ["fp32"]), ("int8", ["int8"]), ("int8, fp32", ["fp32", "int8"])]
)
def test_requested_dtypes(checkpoint, tmp_path, dtypes, expected):
    assert cli.main([str(checkpoint), "--output", str(tmp_path / "artifact"), "--dtypes", dtypes]) == 0
    assert written_dtypes(tmp_path / "artifact") == expected
    model = embedder.Embedder(tmp_path / "artifact")
    assert model.encode("a b").shape == (32,)
    assert model.manifest.parity is not None


def test_dtype_that_cannot_be_made_fails_only_on_request(checkpoint, tmp_path, monkeypatch, capsys):
    def fail(*arguments):
        raise GraphError("it has no products")

    monkeypatch.setitem(convert._CONVERTERS, "int8", fail)
    assert cli.main([str(checkpoint), "--output", str(tmp_path / "default")]) == 0
    assert "int8 is not written, as it cannot be made: it has no products" in capsys.readouterr().err
    assert written_dtypes(tmp_path / "default") == ["fp32"]
    assert cli.main([str(checkpoint), "--output", str(tmp_path / "asked"), "--dtypes", "int8"]) == 1
    assert "small: int8 cannot be made: it has no products" in capsys.readouterr().err
    assert not (tmp_path / "asked").exists()


def test_a_machine_with_a_gpu_gets_fp16_too(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "default_device", lambda: (CudaDevice(), []))
    export_quietly(checkpoint, tmp_path / "artifact")
    assert written_dtypes(tmp_path / "artifact") == ["fp32", "int8", "fp16"]


def test_bugs_in_a_converter_are_not_hidden(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(convert._CONVERTERS, "int8", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_quietly(checkpoint, tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()


def test_graph_without_a_kernel_is_not_written(checkpoint, tmp_path, monkeypatch, capsys):
    def broken(path, singles, target, report):
        model = ir.load(path)
        next(iter(model.graph)).op_type = "NoSuchOperator"
        save_graph(model, target.parent, target.name)

    monkeypatch.setitem(convert._CONVERTERS, "int8", broken)
    assert cli.main([str(checkpoint), "--output", str(tmp_path / "default")]) == 0
    assert "cannot be made: onnxruntime cannot load it: " in capsys.readouterr().err
    assert written_dtypes(tmp_path / "default") == ["fp32"]


@pytest.mark.parametrize("dtypes", ["", "fp8", "fp32,", "INT8"])
def test_unknown_dtypes(checkpoint, tmp_path, capsys, dtypes):
    with pytest.raises(SystemExit):
        cli.main([str(checkpoint), "--output", str(tmp_path / "artifact"), "--dtypes", dtypes])
    assert "is not one of fp32, int8" in capsys.readouterr().err


def test_weights_and_activations_of_zero(tmp_path):
    """Some models have pruned layers, with weights of zero."""
    import torch
    from safetensors.torch import load_file, save_file

    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    for name in ("encoder.layer.0.attention.self.value", "encoder.layer.1.intermediate.dense"):
        for part in ("weight", "bias"):
            weights[f"{name}.{part}"] = torch.zeros_like(weights[f"{name}.{part}"])
    save_file(weights, path, {"format": "pt"})
    export_quietly(checkpoint, tmp_path / "artifact", dtypes=("fp32", "int8"))
    exact, ours = (embedder.Embedder(tmp_path / "artifact", dtype=name).encode(TEXTS) for name in ("fp32", "int8"))
    cosine, _ = measure(ours, exact)
    assert cosine.min() > 0.98


@given(st.integers(1, 9), st.integers(1, 600), st.floats(0, 1e6), st.integers(0, 2**31))
def test_rounded_weights_stay_within_the_limit(rows, columns, size, seed):
    generator = np.random.default_rng(seed)
    array = (size * generator.normal(size=(rows, columns))).astype(np.float32)
    sample = generator.normal(size=(5, columns)).astype(np.float32)
    for integers, scales in (round_to_nearest(array, 63), round_with_compensation(array, 63, sample)):
        assert (integers.dtype, integers.shape, scales.shape) == (np.int8, array.shape, (rows, 1))
        assert np.abs(integers.astype(int)).max() <= 63
        assert np.isfinite(scales).all()
    integers, scales = round_to_nearest(array, 63)
    assert np.abs(integers * scales - array).max() <= 0.51 * scales.max()


def test_compensation_reduces_the_error_on_correlated_inputs():
    generator = np.random.default_rng(0)
    sample = (generator.normal(size=(400, 8)) @ generator.normal(size=(8, 700))).astype(np.float32)
    weights = generator.normal(size=(30, 700)).astype(np.float32)
    errors = []
    for integers, scales in (round_to_nearest(weights, 63), round_with_compensation(weights, 63, sample)):
        errors.append(np.square(sample @ (integers * scales - weights).T).mean())
    assert errors[1] < 0.2 * errors[0]


@pytest.fixture(scope="module")
def real(minilm):
    return {name: embedder.Embedder(minilm, dtype=name, provider="cpu") for name in ("fp32", "int8")}


def test_real_model_on_sts(real, data):
    """The limits are a mean cosine of 0.997, a smallest cosine of 0.985, and a change of the score by 0.2."""
    rows = list(csv.DictReader(lines(data / "sts/stsb-en-dev.tsv"), delimiter="\t", quoting=csv.QUOTE_NONE))
    names = [name for name in rows[0] if name.startswith("sentence")]
    gold = np.array([float(row[next(name for name in row if "score" in name)]) for row in rows])
    vectors = {key: [model.encode([row[name] for row in rows]) for name in names] for key, model in real.items()}
    cosine, _ = measure(np.concatenate(vectors["int8"]), np.concatenate(vectors["fp32"]))
    assert cosine.mean() >= 0.997
    assert cosine.min() >= 0.985
    scores = {key: 100 * spearman((a * b).sum(axis=1), gold) for key, (a, b) in vectors.items()}
    assert abs(scores["int8"] - scores["fp32"]) <= 0.2


def test_real_vectors_do_not_depend_on_their_batch(real, minilm):
    model, texts = real["int8"], parity_sentences()[::3]
    alone = np.stack([model.encode(text) for text in texts])
    order = np.random.default_rng(0).permutation(len(texts))
    assert np.abs(model.encode([texts[index] for index in order]) - alone[order]).max() <= 1e-5
    fp32, int8 = read_manifest(minilm).graphs
    assert int8.weights.size < 0.27 * fp32.weights.size
    assert json.loads((minilm / "embedder.json").read_text())["graphs"][1]["quality"]["min_cosine"] > 0.985
