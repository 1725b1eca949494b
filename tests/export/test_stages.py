"""The stages of the export one by one."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from embedder_export import choose
from embedder_export.errors import ParityError
from embedder_export.graphs import save_graph, weights_of
from embedder_export.head import add_head
from embedder_export.verify import compare, parity_sentences

from embedder.manifest import Head
from tests.tiny import DIMENSION, TABLE, tiny_body


def run(graph, directory, ids, mask):
    path = save_graph(graph, directory)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})[0]


@pytest.mark.parametrize("normalize", [True, False])
def test_head_is_the_formula(tmp_path, normalize):
    ids = np.array([[4, 5, 6, 7], [8, 9, 1, 1], [3, 3, 3, 3]])
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    embeddings = run(add_head(tiny_body(), Head("mean", normalize), DIMENSION), tmp_path / "graph", ids, mask)
    mean = np.stack([TABLE[[4, 5, 6, 7]].mean(0), TABLE[[8, 9]].mean(0), np.zeros(DIMENSION)])
    norms = np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings, mean / np.maximum(norms, 1e-12) if normalize else mean, atol=1e-6)
    assert embeddings.dtype == np.float32


def test_weights_lie_beside_the_graph(tmp_path):
    path = save_graph(tiny_body(), tmp_path / "graph")
    assert weights_of(path).read_bytes()[: TABLE.nbytes] == TABLE.tobytes()
    assert len(path.read_bytes()) < 1000


def form(scale=1.0, extra_nodes=0):
    """The tiny graph, with its table scaled, and some nodes that do nothing."""
    body = tiny_body()
    body.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(TABLE * np.float32(scale), "table"))
    graph = add_head(body, Head("mean", False), DIMENSION)
    for index in range(extra_nodes):
        graph.graph.node.append(onnx.helper.make_node("Identity", ["embedding"], [f"nothing{index}"]))
    return graph


def test_a_draw_goes_to_the_smallest_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(choose, "_seconds", lambda session, feed: 0.01)
    choice = choose.choose_form({"traced": form(extra_nodes=2), "full": form(extra_nodes=1)}, 16, tmp_path)
    assert (choice.form, choice.graph) == ("full", tmp_path / "full" / "model.onnx")
    assert [(candidate.name, candidate.milliseconds) for candidate in choice.candidates] == [
        ("traced", 10),
        ("full", 10),
    ]


def test_the_fastest_form_is_kept(tmp_path, monkeypatch):
    seconds = iter([0.010, 0.020] * 1000)
    monkeypatch.setattr(choose, "_seconds", lambda session, feed: next(seconds))
    choice = choose.choose_form({"traced": form(extra_nodes=9), "full": form()}, 16, tmp_path)
    assert choice.form == "traced"


def test_a_form_with_other_embeddings_is_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(choose, "_seconds", lambda session, feed: 0.01)
    forms = {"traced": form(extra_nodes=9), "wrong": form(scale=1.01), "nan": form(scale=np.nan)}
    choice = choose.choose_form(forms, 16, tmp_path)
    assert choice.form == "traced"
    assert [candidate.name for candidate in choice.candidates] == ["traced"]


def test_parity_sentences_are_many_and_varied():
    sentences = parity_sentences()
    assert len(sentences) == len(set(sentences)) >= 200
    assert "" in sentences
    assert sum(len(sentence.split()) > 256 for sentence in sentences) >= 5
    assert sum(any("\u4e00" <= character <= "\u9fff" for character in sentence) for sentence in sentences) >= 20
    assert sum(any(character >= "\U0001f300" for character in sentence) for sentence in sentences) >= 5
    assert sum(sentence.isupper() for sentence in sentences) >= 2


GOOD = np.eye(3, 4, dtype=np.float32)


def test_parity_figures():
    other = GOOD.copy()
    other[1, 3] = 5e-5
    parity = compare(GOOD, other, ["a", "b", "c"], "the reference")
    assert (parity.reference, parity.sentences) == ("the reference", 3)
    assert parity.max_abs_difference == pytest.approx(5e-5)
    assert 0.99999 < parity.min_cosine < 1


@pytest.mark.parametrize("value", [2e-4, 0.1, np.nan, np.inf])
def test_parity_that_falls_short_names_the_sentence(value):
    other = GOOD.copy()
    other[1, 3] = value
    with pytest.raises(ParityError, match=r"parity with the reference fell short.*worst on 'b'"):
        compare(other, GOOD, ["a", "b", "c"], "the reference")


def test_parity_of_other_shapes():
    with pytest.raises(ParityError, match=r"the shape \(3, 4\), those of the reference \(3, 3\)"):
        compare(GOOD, GOOD[:, :3], ["a", "b", "c"], "the reference")


@pytest.fixture
def fetch_minilm():
    path = Path(__file__).parents[2] / "export/fetch_minilm.py"
    spec = importlib.util.spec_from_file_location("fetch_minilm", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_checkpoint_that_is_not_the_original_is_not_used(fetch_minilm, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(SystemExit, match=r"not 53aa51172d142c89.* as the original: not used"):
        fetch_minilm.check(tmp_path / "model.safetensors")
