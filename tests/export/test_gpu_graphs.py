"""Graphs for GPUs: onnxruntime's CUDA has a kernel for every node, and they compute what the fp32 graphs compute.

No GPU is needed. A CPU runs the graphs too, and rounds to fp16 in the same places. `tests/gpu` runs them on a GPU.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from embedder_export.body.contract import ALL_TOKENS, BodyRequest
from embedder_export.body.native import build_bodies
from embedder_export.checkpoint.layers import SENTENCE, TOKENS, Dense, LayerNorm, Normalize, Pooling, Truncate
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.dtype.fp16 import convert_model
from embedder_export.families.settings import ACTIVATION_NAMES
from embedder_export.graph.files import save_graph
from embedder_export.graph.operators import ACTIVATIONS, Operators, new_graph, new_model
from embedder_export.head.heads import add_head
from embedder_export.head.poolings import POOLINGS

from tests.clips import write_clip
from tests.native_models import FAMILIES, batches, write_model

KERNELS = Path(__file__).with_name("cuda_kernels.txt")
TYPES = {"FLOAT16": "float16", "FLOAT": "float", "DOUBLE": "double", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}
# The parameters of operators that onnx does not describe: the types of the inputs, and those of the outputs.
PARAMETERS = {
    "BiasGelu": ("T T", "T"),
    "FastGelu": ("T T", "T"),
    "Gelu": ("T", "T"),
    "QuickGelu": ("T", "T"),
    "SimplifiedLayerNormalization": ("T V", "V"),
    "SkipLayerNormalization": ("T T T T T", "T float float T"),
    "SkipSimplifiedLayerNormalization": ("T T T T", "T float float T"),
}
# Activations of a Dense that onnxruntime computes on the CPU. Few models have them.
HOST_ACTIVATIONS = ("ELU", "SELU", "Softplus", "Softsign")
MEAN = (Pooling(("mean",), True), Normalize())
WIDTH = 32


@dataclass(frozen=True)
class Kernel:
    """A row of the file of kernels."""

    first: int
    last: int | None
    types: dict[str, set[str]]

    def takes(self, version: int) -> bool:
        """Return whether onnxruntime takes it for an operator of `version`, as its KernelRegistry decides."""
        return version == self.first or (self.last is not None and self.first <= version <= self.last)


def read_kernels() -> dict[tuple[str, str], Kernel]:
    kernels = {}
    for line in KERNELS.read_text().splitlines():
        if line.startswith("#"):
            continue
        domain, operator, versions, *types = line.split()
        first, _, last = versions.removesuffix("+").partition("-")
        names = {name: set(listed.split(",")) for name, listed in (entry.split("=") for entry in types)}
        kernels["" if domain == "ai.onnx" else domain, operator] = Kernel(
            int(first), int(last) if last else None, names
        )
    return kernels


def parameters_of(node: ir.Node, opset: int) -> tuple[int, list[str], list[str]]:
    """Return the operator's version, and the types of its inputs and outputs: a name such as "T", or a type."""
    if node.op_type in PARAMETERS:
        inputs, outputs = PARAMETERS[node.op_type]
        return 1, inputs.split(), outputs.split()
    schema = onnx.defs.get_schema(node.op_type, opset)
    fixed = {
        kind.type_param_str: kind.allowed_type_strs[0]
        for kind in schema.type_constraints
        if len(kind.allowed_type_strs) == 1
    }
    kinds = []
    for formals, count in ((schema.inputs, len(node.inputs)), (schema.outputs, len(node.outputs))):
        names = [fixed.get(formal.type_str, formal.type_str) for formal in formals]
        names = [name.removeprefix("tensor(").removesuffix(")") for name in names]
        kinds.append((names + names[-1:] * count)[:count])
    return schema.since_version, *kinds


def nodes_without_kernel(model: ir.Model) -> list[str]:
    """Return a line for each node that CUDA would leave to the CPU. The arithmetic of shapes belongs there."""
    kernels, opset = read_kernels(), model.graph.opset_imports[""]
    types = {value: TYPES[value.dtype.name] for value in model.graph.inputs}
    types |= {value: TYPES[value.const_value.dtype.name] for value in model.graph.initializers.values()}
    on_host = {value for value in model.graph.initializers.values() if value.dtype == ir.DataType.INT64}
    found = []
    for node in model.graph:
        version, inputs, outputs = parameters_of(node, opset)
        bound = {name: types[value] for name, value in zip(inputs, node.inputs, strict=False) if value is not None}
        if node.op_type == "Cast":
            bound["T2"] = TYPES[ir.DataType(node.attributes["to"].as_int()).name]
        for name, value in zip(outputs, node.outputs, strict=False):
            types[value] = bound.get(name, name)
        if node.op_type == "Shape" or all(value in on_host for value in node.inputs):
            on_host |= set(node.outputs)
            continue
        kernel = kernels.get((node.domain, node.op_type))
        if kernel is None or not kernel.takes(version):
            found.append(f"{node.op_type} of version {version}")
        else:
            wrong = {name: bound[name] for name in bound.keys() & kernel.types if bound[name] not in kernel.types[name]}
            found += [f"{node.op_type} of {name}={kind}" for name, kind in wrong.items()]
    return found


def fp16_graph(body, layers) -> ir.Model:
    """Return the fp16 graph for GPUs with a head."""
    model = body.write_for_gpu()
    add_head(model.graph, layers, body.sizes.width)
    convert_model(model)
    return model


def session_of(model: ir.Model, directory: Path) -> onnxruntime.InferenceSession:
    """Return a session of the graph on the CPU."""
    return onnxruntime.InferenceSession(save_graph(model, directory))


def fp32_session(body, layers, directory: Path) -> onnxruntime.InferenceSession:
    ((_, model),) = body.forms
    add_head(model.graph, layers, body.sizes.width)
    return onnxruntime.InferenceSession(save_graph(model, directory))


def text_body(directory: Path, family: str, request: BodyRequest = ALL_TOKENS, **changes):
    write_model(family, directory / "checkpoint", **changes)
    return build_bodies(read_checkpoint(str(directory / "checkpoint")), request)["text"]


def smallest_cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    cosine = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    return float(cosine.min())


class TestKernels:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_of_texts(self, tmp_path, family):
        assert nodes_without_kernel(fp16_graph(text_body(tmp_path, family), MEAN)) == []

    @pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "albert"])
    def test_of_pairs(self, tmp_path, family):
        types = family != "mpnet"
        body = text_body(tmp_path, family, BodyRequest(token_types=types, first_token_only=True))
        dense = Dense(np.zeros((1, WIDTH), np.float32), np.zeros(1, np.float32), "Tanh", SENTENCE)
        assert nodes_without_kernel(fp16_graph(body, (dense,))) == []

    @pytest.mark.parametrize("activation", ["quick_gelu", "relu", "silu", "tanh", "sigmoid", "linear", "leaky_relu"])
    def test_of_other_activations(self, tmp_path, activation):
        assert nodes_without_kernel(fp16_graph(text_body(tmp_path, "bert", hidden_act=activation), MEAN)) == []

    def test_of_gated_activations(self, tmp_path):
        body = text_body(tmp_path, "t5", feed_forward_proj="gated-gelu")
        assert nodes_without_kernel(fp16_graph(body, MEAN)) == []

    def test_of_every_layer_of_a_head(self, tmp_path):
        square = np.zeros((WIDTH, WIDTH), np.float32)
        layers = (
            *(Dense(square, square[0], name, TOKENS) for name in ACTIVATIONS if name not in HOST_ACTIVATIONS),
            Pooling(tuple(POOLINGS), include_prompt=False),
            LayerNorm(np.zeros(len(POOLINGS) * WIDTH, np.float32), np.zeros(len(POOLINGS) * WIDTH, np.float32)),
            Truncate(8),
            Normalize(),
        )
        # The pooling "max" is slow on a GPU. Few models have it.
        assert nodes_without_kernel(fp16_graph(text_body(tmp_path, "bert"), layers)) == ["ReduceMax of version 20"]

    @pytest.mark.parametrize("text", [{}, {"eos_token_id": 2}], ids=["end", "wrong end"])
    def test_of_clip(self, tmp_path, text):
        bodies = build_bodies(read_checkpoint(str(write_clip(tmp_path / "clip", text=text))))
        for body in bodies.values():
            assert nodes_without_kernel(fp16_graph(body, (Normalize(),))) == []

    def test_an_operator_of_a_newer_opset_is_found(self):
        graph = new_graph()
        op = Operators(graph, "body")
        model = new_model(graph, op.Equal(op.ArgMax(graph.inputs[0]), op.constant(0)), 1)
        assert nodes_without_kernel(model) == ["ArgMax of T=int64", "Equal of version 19"]


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_fp32_in_any_batch(tmp_path, family):
    body = text_body(tmp_path, family)
    ours = session_of(fp16_graph(body, MEAN), tmp_path / "fp16")
    theirs = fp32_session(body, MEAN, tmp_path / "fp32")
    for ids, mask in batches(1):
        vectors, exact = (
            session.run(None, {"input_ids": ids, "attention_mask": mask})[0] for session in (ours, theirs)
        )
        assert smallest_cosine(vectors, exact) >= 0.9999
        for row, length in enumerate(mask.sum(axis=1)):
            feed = {"input_ids": ids[row : row + 1, :length], "attention_mask": mask[row : row + 1, :length]}
            (alone,) = ours.run(None, feed)
            np.testing.assert_allclose(vectors[row], alone[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("activation", sorted(set(ACTIVATION_NAMES.values())))
def test_activations_are_those_of_fp32(tmp_path, activation):
    name = next(name for name, formula in ACTIVATION_NAMES.items() if formula == activation)
    body = text_body(tmp_path, "bert", hidden_act=name, num_hidden_layers=1)
    ids, mask = next(batches(0))
    feed = {"input_ids": ids, "attention_mask": mask}
    (vectors,) = session_of(fp16_graph(body, MEAN), tmp_path / "fp16").run(None, feed)
    (exact,) = fp32_session(body, MEAN, tmp_path / "fp32").run(None, feed)
    assert smallest_cosine(vectors, exact) >= 0.9999


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_scores_of_the_first_token_are_those_of_fp32(tmp_path, family):
    body = text_body(tmp_path, family, BodyRequest(first_token_only=True))
    weight = np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)
    layers = (Dense(weight, None, "Identity", SENTENCE),)
    ours = session_of(fp16_graph(body, layers), tmp_path / "fp16")
    theirs = fp32_session(body, layers, tmp_path / "fp32")
    for ids, mask in batches(1):
        scores, exact = (session.run(None, {"input_ids": ids, "attention_mask": mask})[0] for session in (ours, theirs))
        np.testing.assert_allclose(scores, exact, rtol=0, atol=1e-2 * np.abs(exact).max())
