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
from embedder_export.body.native import build_bodies
from embedder_export.body.rope import Rope
from embedder_export.checkpoint.layers import TOKENS, Dense, LayerNorm, Normalize, Pooling, Truncate
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.families.settings import ACTIVATION_NAMES
from embedder_export.graph.operators import ACTIVATIONS, Operators, new_graph, new_model
from embedder_export.head.poolings import POOLINGS

from tests.clips import write_clip
from tests.gpu_graphs import CASES, MEAN, WIDTH, Case, gte_case, single_feeds, smallest_cosine, text_body
from tests.native_models import batches

KERNELS = Path(__file__).with_name("cuda_kernels.txt")
TYPES = {"FLOAT16": "float16", "FLOAT": "float", "DOUBLE": "double", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}
# The parameters of operators that onnx does not describe: the types of the inputs, and those of the outputs.
PARAMETERS = {
    "BiasGelu": ("T T", "T"),
    "FastGelu": ("T T", "T"),
    "Gelu": ("T", "T"),
    "QuickGelu": ("T", "T"),
    "RotaryEmbedding": ("T M T T", "T"),
    "SimplifiedLayerNormalization": ("T V", "V"),
    "SkipLayerNormalization": ("T T T T T", "T float float T"),
    "SkipSimplifiedLayerNormalization": ("T T T T", "T float float T"),
}
# Activations of a Dense that onnxruntime computes on the CPU. Few models have them.
HOST_ACTIVATIONS = ("ELU", "SELU", "Softplus", "Softsign")


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


class TestKernels:
    @pytest.mark.parametrize("case", CASES)
    def test_of_every_family(self, tmp_path, case):
        assert nodes_without_kernel(CASES[case](tmp_path).fp16_model()) == []

    @pytest.mark.parametrize("activation", ["quick_gelu", "relu", "silu", "tanh", "sigmoid", "linear", "leaky_relu"])
    def test_of_other_activations(self, tmp_path, activation):
        assert (
            nodes_without_kernel(Case(text_body(tmp_path, "bert", hidden_act=activation), MEAN, []).fp16_model()) == []
        )

    def test_of_gated_activations(self, tmp_path):
        body = text_body(tmp_path, "t5", feed_forward_proj="gated-gelu")
        assert nodes_without_kernel(Case(body, MEAN, []).fp16_model()) == []

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
        assert nodes_without_kernel(Case(text_body(tmp_path, "bert"), layers, []).fp16_model()) == [
            "ReduceMax of version 20"
        ]

    def test_of_rotations_that_depend_on_the_length(self):
        # The CPU computes their cosines and sines, once in a call. Few models have them.
        rope = Rope(10000.0, 8, scaling="dynamic", factor=2.0, trained_positions=9)
        assert nodes_without_kernel(gte_case(rope).fp16_model()) == ["Cos of version 22", "Sin of version 22"]

    def test_of_clips_with_a_wrong_end(self, tmp_path):
        body = build_bodies(read_checkpoint(str(write_clip(tmp_path / "clip", text={"eos_token_id": 2}))))["text"]
        assert nodes_without_kernel(Case(body, (Normalize(),), []).fp16_model()) == []

    def test_an_operator_of_a_newer_opset_is_found(self):
        graph = new_graph()
        op = Operators(graph, "body")
        model = new_model(graph, op.Equal(op.ArgMax(graph.inputs[0]), op.constant(0)), 1)
        assert nodes_without_kernel(model) == ["ArgMax of T=int64", "Equal of version 19"]


@pytest.mark.parametrize("case", CASES)
def test_vectors_are_those_of_fp32_in_any_batch(tmp_path, case):
    small = CASES[case](tmp_path)
    paths = small.save_fp16(tmp_path / "fp16"), small.save_fp32(tmp_path / "fp32")
    ours, theirs = map(onnxruntime.InferenceSession, paths)
    for feed in small.feeds:
        vectors, exact = (session.run(None, feed)[0] for session in (ours, theirs))
        assert smallest_cosine(vectors, exact) >= 0.9999
        alone = [ours.run(None, single)[0] for single in single_feeds(feed)]
        np.testing.assert_allclose(vectors, np.concatenate(alone), rtol=0, atol=1e-3 * np.abs(exact).max())


@pytest.mark.parametrize("activation", sorted(set(ACTIVATION_NAMES.values())))
def test_activations_are_those_of_fp32(tmp_path, activation):
    name = next(name for name, formula in ACTIVATION_NAMES.items() if formula == activation)
    body = text_body(tmp_path, "bert", hidden_act=name, num_hidden_layers=1)
    small = Case(body, MEAN, [])
    paths = small.save_fp16(tmp_path / "fp16"), small.save_fp32(tmp_path / "fp32")
    ids, mask = next(batches(0))
    feed = {"input_ids": ids, "attention_mask": mask}
    vectors, exact = (onnxruntime.InferenceSession(path).run(None, feed)[0] for path in paths)
    assert smallest_cosine(vectors, exact) >= 0.9999
