"""Single stages of the export: files of graphs, the choice of a form, the comparison with a reference."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from embedder_export.body import traced
from embedder_export.checkpoint.layers import Pooling
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.dtype import timing
from embedder_export.dtype.fp32 import choose_form
from embedder_export.errors import CheckpointError, ParityError
from embedder_export.graph.files import save_graph, weights_of
from embedder_export.graph.operators import Operators
from embedder_export.head.heads import add_head
from embedder_export.samples.texts import parity_sentences, text_samples
from embedder_export.tokenizer.contract import ConvertedTokenizer
from embedder_export.verify.compare import compare

from tests.checkpoints import write_checkpoint
from tests.tiny import DIMENSION, TABLE, tiny_body, tiny_tokenizer


def test_weights_lie_beside_the_graph(tmp_path):
    path = save_graph(tiny_body(), tmp_path / "graph")
    assert weights_of(path).read_bytes()[: TABLE.nbytes] == TABLE.tobytes()
    assert len(path.read_bytes()) < 1000


def test_weights_move_from_file_to_file(tmp_path):
    first = save_graph(tiny_body(), tmp_path / "first")
    model = ir.load(first)
    second = np.arange(1000, dtype=np.float32)
    Operators(model.graph, "added").constant(second)
    path = save_graph(model, tmp_path / "second")
    table, added = (onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer)
    np.testing.assert_array_equal(table, TABLE)
    np.testing.assert_array_equal(added, second)


def test_a_graph_without_large_weights_has_an_empty_weights_file(tmp_path):
    path = save_graph(tiny_body(TABLE[:2]), tmp_path / "graph")
    assert weights_of(path).read_bytes() == b""
    onnx.load(path)


def test_constants_of_nodes_become_initializers(tmp_path, monkeypatch):
    """In graphs over 2 GB, optimum moves constants of nodes into files too."""

    def trace(model, onnx_config, path):
        body = ir.to_proto(tiny_body())
        value = onnx.numpy_helper.from_array(np.arange(1000, dtype=np.float32), "value")
        body.graph.node.append(onnx.helper.make_node("Constant", [], ["constant"], value=value))
        options = {"save_as_external_data": True, "size_threshold": 100, "convert_attribute": True}
        onnx.save_model(body, path, location="data", **options)

    monkeypatch.setattr(traced, "_export", trace)
    checkpoint = read_checkpoint(str(write_checkpoint(tmp_path / "checkpoint")))
    body = traced.trace_text_encoder(checkpoint, tmp_path / "body")
    _, model = next(iter(body.forms))
    saved = onnx.load(save_graph(model, tmp_path / "graph"))
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in saved.graph.initializer}
    np.testing.assert_array_equal(tensors.pop("constant"), np.arange(1000))
    np.testing.assert_array_equal(*tensors.values(), TABLE)


def test_truncated_weights(tmp_path):
    path = save_graph(tiny_body(), tmp_path / "graph")
    weights_of(path).write_bytes(b"short")
    with pytest.raises(OSError, match="shorter than expected"):
        save_graph(ir.load(path), tmp_path / "copy")


def write_form(directory, scale=1.0, extra_nodes=0):
    """Write the tiny graph with a scaled table and some nodes without effect."""
    model = tiny_body(TABLE * np.float32(scale))
    add_head(model.graph, (Pooling(("mean",), True),), DIMENSION)
    op = Operators(model.graph, "nothing")
    for _ in range(extra_nodes):
        op.Identity(model.graph.outputs[0])
    return save_graph(model, directory)


def chosen(forms):
    tokenizer = ConvertedTokenizer(tiny_tokenizer().to_str(), 16, 0, ())
    return choose_form(forms, text_samples(tokenizer).batches, lambda line: None)


def test_of_equally_fast_forms_the_smallest_is_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "_seconds", lambda session, feed: 0.01)
    full = write_form(tmp_path / "full", extra_nodes=1)
    choice = chosen({"traced": write_form(tmp_path / "traced", extra_nodes=2), "full": full})
    assert (choice.form, choice.path) == ("full", full)
    assert [(candidate.name, candidate.milliseconds) for candidate in choice.candidates] == [
        ("traced", 10),
        ("full", 10),
    ]


def test_the_fastest_form_is_chosen(tmp_path, monkeypatch):
    seconds = iter([0.010, 0.020] * 1000)
    monkeypatch.setattr(timing, "_seconds", lambda session, feed: next(seconds))
    choice = chosen({"traced": write_form(tmp_path / "traced", extra_nodes=9), "full": write_form(tmp_path / "full")})
    assert choice.form == "traced"


def test_a_form_with_other_embeddings_is_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "_seconds", lambda session, feed: 0.01)
    forms = {
        "traced": write_form(tmp_path / "traced", extra_nodes=9),
        "wrong": write_form(tmp_path / "wrong", scale=1.01),
        "nan": write_form(tmp_path / "nan", scale=np.nan),
    }
    choice = chosen(forms)
    assert choice.form == "traced"
    assert [candidate.name for candidate in choice.candidates] == ["traced"]


def test_a_form_that_onnxruntime_cannot_run_is_dropped(tmp_path):
    broken = write_form(tmp_path / "broken")
    graph = onnx.load(broken, load_external_data=False)
    graph.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(graph, broken)
    wrong = write_form(tmp_path / "wrong")
    graph = onnx.load(wrong, load_external_data=False)
    graph.graph.node[0].attribute.append(onnx.helper.make_attribute("axis", 1))
    onnx.save(graph, wrong)
    traced = write_form(tmp_path / "traced", extra_nodes=9)
    choice = chosen({"traced": traced, "broken": broken, "wrong": wrong})
    assert [candidate.name for candidate in choice.candidates] == ["traced"]
    with pytest.raises(CheckpointError, match="converted graph is not usable: onnxruntime cannot load it"):
        chosen({"traced": broken, "wrong": wrong})


def test_token_ids_that_the_graph_has_no_row_for(tmp_path):
    body = tiny_body(TABLE[:5])
    add_head(body.graph, (Pooling(("mean",), True),), DIMENSION)
    with pytest.raises(CheckpointError, match=r"is not usable: onnxruntime cannot run it: .*out of data bounds"):
        chosen({"traced": save_graph(body, tmp_path / "traced"), "full": write_form(tmp_path / "full")})


def test_parity_sentences_are_many_and_varied():
    sentences = parity_sentences()
    assert len(sentences) == len(set(sentences)) >= 200
    assert "" in sentences
    assert sum(len(sentence.split()) > 256 for sentence in sentences) >= 5
    assert sum(any("\u4e00" <= character <= "\u9fff" for character in sentence) for sentence in sentences) >= 20
    assert sum(any(character >= "\U0001f300" for character in sentence) for sentence in sentences) >= 5
    assert sum(sentence.isupper() for sentence in sentences) >= 2


GOOD = np.eye(3, 4, dtype=np.float32)


def test_parity_is_measured():
    other = GOOD.copy()
    other[1, 3] = 5e-5
    parity = compare(GOOD, other, ["a", "b", "c"], "the reference")
    assert (parity.reference, parity.samples) == ("the reference", 3)
    assert parity.max_difference == pytest.approx(5e-5)
    assert 0.99999 < parity.min_cosine < 1


@pytest.mark.parametrize("value", [2e-4, 0.1, np.nan, np.inf])
def test_parity_error_names_the_worst_sentence(value):
    other = GOOD.copy()
    other[1, 3] = value
    with pytest.raises(ParityError, match=r"parity with the reference fell short.*worst on 'b'"):
        compare(other, GOOD, ["a", "b", "c"], "the reference")


def test_parity_of_long_vectors_is_relative():
    other = 1000 * GOOD
    other[1, 3] = 0.05
    assert compare(other, 1000 * GOOD, ["a", "b", "c"], "the reference").max_difference == pytest.approx(5e-5)


def test_two_zero_vectors_are_equal():
    zero = GOOD * np.array([[1], [0], [1]], np.float32)
    assert compare(zero, zero, ["a", "b", "c"], "the reference").min_cosine == 1
    with pytest.raises(ParityError):
        compare(GOOD, zero, ["a", "b", "c"], "the reference")


def test_vectors_of_another_shape():
    with pytest.raises(ParityError, match=r"the shape \(3, 4\), but the reference gives \(3, 3\)"):
        compare(GOOD, GOOD[:, :3], ["a", "b", "c"], "the reference")


@pytest.fixture
def fetch_minilm():
    path = Path(__file__).parents[2] / "export/fetch_minilm.py"
    spec = importlib.util.spec_from_file_location("fetch_minilm", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_fetch_refuses_other_weights(fetch_minilm, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(SystemExit, match=r"not 53aa51172d142c89.* as the original: not used"):
        fetch_minilm.check(tmp_path / "model.safetensors")
