"""The choice of a reference, the comparison with it, and the message if there is none."""

import json
import re
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from embedder_export.cli import main
from embedder_export.errors import CheckpointError, NoReferenceError, ParityError
from embedder_export.verify.own_graph import OWN_GRAPH
from safetensors.torch import load_file, save_file

from tests import families
from tests.checkpoints import NEW_POOLING, edit_json, write_checkpoint, write_json, write_own_graph
from tests.exports import export_fp32


@pytest.fixture
def _without_sentence_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)


@pytest.fixture
def checkpoint(tmp_path):
    """Write a checkpoint with its own ONNX graph. The graph takes token types, as in real repositories."""
    directory = write_checkpoint(tmp_path / "checkpoint")
    write_own_graph(directory)
    return directory


def export(checkpoint, tmp_path, **settings):
    """Export the fp32 graph. Return the parity and the reported lines."""
    lines = []
    manifest = export_fp32(checkpoint, tmp_path / "artifact", lines.append, **settings)
    return manifest.parity, lines


def test_sentence_transformers_is_the_first_choice(checkpoint, tmp_path):
    parity, lines = export(checkpoint, tmp_path)
    assert parity.reference.startswith("sentence-transformers 5.")
    assert f"comparing with {parity.reference}" in lines


@pytest.mark.usefixtures("_without_sentence_transformers")
class TestWithoutSentenceTransformers:
    @pytest.mark.parametrize(
        ("output", "opset"), [("last_hidden_state", 11), ("token_embeddings", 14), ("last_hidden_state", 17)]
    )
    def test_the_checkpoints_own_graph(self, checkpoint, tmp_path, output, opset):
        write_own_graph(checkpoint, output, opset=opset)
        parity, lines = export(checkpoint, tmp_path)
        assert (parity.reference, parity.min_cosine > 0.99999, parity.max_difference < 1e-6) == (OWN_GRAPH, True, True)
        assert "comparing with onnx/model.onnx" in lines
        assert sorted(path.name for path in (tmp_path / "artifact").iterdir()) == [
            "embedder.json", "model.onnx", "model.onnx.data", "tokenizer.json",
        ]  # fmt: skip

    def test_prompt_that_is_not_pooled(self, tmp_path):
        pooling = NEW_POOLING | {"include_prompt": False}
        checkpoint = write_checkpoint(tmp_path / "checkpoint", pooling=pooling)
        write_own_graph(checkpoint)
        assert export(checkpoint, tmp_path)[0].reference == OWN_GRAPH

    def test_own_graph_of_other_weights(self, checkpoint, tmp_path):
        bias = {"encoder.layer.1.output.dense.bias": torch.randn(32)}
        write_own_graph(checkpoint, **bias)
        with pytest.raises(ParityError, match=r"parity with onnx/model\.onnx fell short"):
            export(checkpoint, tmp_path)
        assert not (tmp_path / "artifact").exists()

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda graph: setattr(graph.outputs[0], "name", "logits"), "none of its outputs is last_hidden_state or"),
            (lambda graph: setattr(graph.outputs[0], "shape", None), "of a known width"),
            (lambda graph: setattr(graph.inputs[1], "name", "mask"), r"it has the inputs \['input_ids', 'mask', 'tok"),
        ],
    )
    def test_own_graph_of_another_kind_is_no_reference(self, checkpoint, tmp_path, change, reason):
        model = ir.load(checkpoint / OWN_GRAPH)
        change(model.graph)
        ir.save(model, checkpoint / OWN_GRAPH)
        parity, lines = export(checkpoint, tmp_path)
        assert parity is None
        (line,) = (line for line in lines if "no reference" in line)
        assert re.search(reason, line)

    def test_own_graph_in_half_precision_is_no_reference(self, checkpoint, tmp_path):
        write_own_graph(checkpoint, dtype=torch.float16)
        parity, lines = export(checkpoint, tmp_path)
        assert parity is None
        assert "onnx/model.onnx is no reference: its weights are not in float32" in lines

    def test_own_graph_that_is_no_graph(self, checkpoint, tmp_path):
        (checkpoint / OWN_GRAPH).write_bytes(b"\x00no graph")
        parity, lines = export(checkpoint, tmp_path)
        assert parity is None
        assert any(line.startswith("onnx/model.onnx is no reference: ") for line in lines)

    def test_own_graph_with_its_weights_beside_it(self, checkpoint, tmp_path):
        model = onnx.load(checkpoint / OWN_GRAPH)
        onnx.save(model, checkpoint / OWN_GRAPH, save_as_external_data=True, location="model.onnx_data")
        assert (checkpoint / "onnx/model.onnx_data").exists()
        assert export(checkpoint, tmp_path)[0].reference == OWN_GRAPH

    def test_own_graph_that_takes_one_text_at_a_time(self, checkpoint, tmp_path):
        model = onnx.load(checkpoint / OWN_GRAPH)
        for value in model.graph.input:
            value.type.tensor_type.shape.dim[0].dim_value = 1
        onnx.save(model, checkpoint / OWN_GRAPH)
        parity, lines = export(checkpoint, tmp_path)
        assert parity is None
        assert any(line.startswith("onnx/model.onnx is no reference: ") for line in lines)

    def test_own_graph_that_fails(self, checkpoint, tmp_path):
        model = onnx.load(checkpoint / OWN_GRAPH)
        (table,) = (tensor for tensor in model.graph.initializer if "word_embeddings" in tensor.name)
        table.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(table)[:3], table.name))
        onnx.save(model, checkpoint / OWN_GRAPH)
        parity, lines = export(checkpoint, tmp_path)
        assert parity is None
        assert any(line.startswith("onnx/model.onnx is no reference: ") for line in lines)

    def test_no_reference(self, tmp_path, capsys):
        checkpoint = write_checkpoint(tmp_path / "checkpoint")
        assert export(checkpoint, tmp_path)[0] is None
        assert main([str(checkpoint), "--output", str(tmp_path / "artifact")]) == 0
        message = (
            "sentence-transformers is not installed or cannot read the checkpoint, and its own onnx/model.onnx is not "
            "on this machine or not usable"
        )
        assert f"not compared with a reference: {message}" in capsys.readouterr().err

    def test_missing_reference_is_demanded(self, tmp_path, capsys):
        checkpoint = write_checkpoint(tmp_path / "checkpoint")
        assert main([str(checkpoint), "--output", str(tmp_path / "artifact"), "--verify", "reference"]) == 1
        error = capsys.readouterr().err
        assert "the comparison with sentence-transformers was asked for: that needs torch" in error
        assert 'pip install "embedder-export[torch]"' in error

    def test_vectors_that_are_not_finite(self, tmp_path, capsys):
        checkpoint = write_checkpoint(tmp_path / "checkpoint")
        change_weights(checkpoint, "encoder.layer.1.output.LayerNorm.weight", 3e38)
        with pytest.raises(
            ParityError, match="embeddings that are not finite, although its weights are: its activations"
        ):
            export(checkpoint, tmp_path)
        options = ["--output", str(tmp_path / "artifact"), "--dtypes"]
        for dtype, message in {
            "int8": "int8 cannot be made: the fp32 graph is not usable: it gives numbers that are not finite",
            "fp16": "fp16 cannot be made: the fp32 graph is not usable: it gives numbers that are not finite",
        }.items():
            assert main([str(checkpoint), *options, dtype]) == 1
            assert message in capsys.readouterr().err


def change_weights(checkpoint, name, value):
    weights = load_file(checkpoint / "model.safetensors")
    weights[name].view(-1)[3] = value
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("converter", ["native", "optimum"])
def test_weights_that_are_not_finite(tmp_path, capsys, value, converter):
    """int8 is made before the vectors are compared. The message must not name int8 as the cause."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    change_weights(checkpoint, "encoder.layer.1.output.dense.bias", value)
    options = ["--output", str(tmp_path / "artifact"), "--dtypes", "fp32,int8", "--converter", converter]
    assert main([str(checkpoint), *options]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert re.search(r"checkpoint.* not finite: encoder\.layer\.1\.output\.dense\.bias has NaN or infinity", line)
    assert not (tmp_path / "artifact").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_number_formats_that_are_not_finite(tmp_path, dtype):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    weights = {name: tensor.to(dtype) for name, tensor in load_file(checkpoint / "model.safetensors").items()}
    weights["embeddings.word_embeddings.weight"][-1, -1] = np.nan
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"weights are not finite: embeddings\.word_embeddings\.weight has NaN"):
        export(checkpoint, tmp_path)


def test_weights_that_are_not_used_need_not_be_finite(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    change_weights(checkpoint, "pooler.dense.bias", np.nan)
    assert export(checkpoint, tmp_path)[0].min_cosine > 0.99999


def test_weights_of_a_layer_that_are_not_finite(tmp_path):
    checkpoint = families.seeded(families.distiluse, tmp_path / "checkpoint")
    change_weights(checkpoint / "2_Dense", "linear.bias", np.nan)
    with pytest.raises(CheckpointError, match=r"the weights in .*2_Dense are not finite: linear\.bias has NaN"):
        export(checkpoint, tmp_path)


def test_more_tokens_than_the_table_has_rows(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    edit_json(checkpoint / "config.json", vocab_size=20)
    weights = load_file(checkpoint / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    save_file(weights | {name: weights[name][:20].clone()}, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"the tokenizer of checkpoint cannot be used: its token .* has only 20 rows"
    ):
        export(checkpoint, tmp_path)


def test_broken_sentence_transformers_is_an_error(tmp_path, monkeypatch):
    def broken(*arguments, **options):
        raise ImportError("torch is broken")

    monkeypatch.setattr("sentence_transformers.SentenceTransformer", broken)
    with pytest.raises(CheckpointError, match="sentence-transformers cannot load checkpoint: torch is broken"):
        export(write_checkpoint(tmp_path / "checkpoint"), tmp_path)


@pytest.mark.parametrize(
    ("file", "changes", "reason"),
    [
        (
            "config_sentence_transformers.json",
            {"__version__": {"sentence_transformers": "99.2.0"}},
            r"sentence-transformers 99\.2\.0 saved it, and sentence-transformers 5\.[0-9.]+ is installed",
        ),
        (
            "config.json",
            {"transformers_version": "99.0.0.dev0"},
            r"transformers 99\.0\.0\.dev0 saved it, and transformers 4\.[0-9.]+ is installed",
        ),
    ],
)
def test_sentence_transformers_that_is_too_old_is_skipped(checkpoint, tmp_path, file, changes, reason):
    """Newer versions rename modules. The installed version does not know the new names."""
    modules = json.loads((checkpoint / "modules.json").read_text(encoding="utf-8"))
    modules[2]["type"] = "sentence_transformers.base.modules.newer.Normalize"
    write_json(checkpoint / "modules.json", modules)
    with pytest.raises(CheckpointError, match="sentence-transformers cannot load checkpoint: No module named"):
        export(checkpoint, tmp_path)
    content = json.loads((checkpoint / file).read_text(encoding="utf-8")) if (checkpoint / file).exists() else {}
    write_json(checkpoint / file, content | changes)
    parity, lines = export(checkpoint, tmp_path)
    assert parity.reference == OWN_GRAPH
    assert any(re.fullmatch(f"sentence-transformers cannot load checkpoint: {reason}", line) for line in lines)
    with pytest.raises(NoReferenceError, match=reason):
        export(checkpoint, tmp_path, verification="reference")


def test_converter_by_the_command_line(tmp_path, capsys):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    edit_json(checkpoint / "config.json", hidden_act="mish")
    arguments = [str(checkpoint), "--output", str(tmp_path / "artifact")]
    assert main([*arguments, "--converter", "native"]) == 1
    assert "no native builder for checkpoint: config.json has 'mish' as hidden_act" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "converting it with optimum" in capsys.readouterr().err
    graph = onnx.load(tmp_path / "artifact/model.onnx", load_external_data=False)
    assert any(node.op_type in ("Mish", "Softplus") for node in graph.graph.node)
