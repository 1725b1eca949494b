"""Attention: both operators against the formula, padding, and which operator computes a text."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from embedder_export.body.attention import MAX_SCORED_TOKENS, Attention, Projections, scored_attention
from embedder_export.body.distance_bias import alibi_slopes
from embedder_export.body.gpu_network import GpuNetwork
from embedder_export.body.network import Network
from embedder_export.graph.files import save_graph
from embedder_export.graph.operators import Operators, new_graph, new_model

import embedder
from embedder.artifact.manifest import UNPADDED_FROM_TOKENS
from tests.checkpoints import write_checkpoint
from tests.exports import export_quietly

WIDTH, HEADS, VOCABULARY = 8, 2, 50
NAMES = ("query", "key", "value", "output")
LONG = MAX_SCORED_TOKENS + 44


def random_weights():
    draw = np.random.default_rng(0)
    weights = {"words": ir.tensor(draw.standard_normal((VOCABULARY, WIDTH), np.float32))}
    for name in NAMES:
        weights[f"{name}.weight"] = ir.tensor(draw.standard_normal((WIDTH, WIDTH), np.float32) / 4)
        weights[f"{name}.bias"] = ir.tensor(draw.standard_normal(WIDTH, np.float32))
    return weights


def attention_session(
    directory: Path, mask: str, scale: float | None, network: type[Network] = Network, **settings: object
) -> onnxruntime.InferenceSession:
    """Return a session of a graph that looks up words and attends once. `settings` are those of `Attention`."""
    graph = new_graph()
    net = network(graph, random_weights(), longest_text=2 * LONG)
    x = net.flat(net.embedding("words", VOCABULARY, WIDTH), WIDTH)
    spec = Attention(*NAMES, heads=HEADS, width=WIDTH, inner=WIDTH, scale=scale, mask=mask, **settings)
    path = save_graph(new_model(graph, net.unflat(net.attention(x, spec), WIDTH), WIDTH), directory)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def expected(
    ids: np.ndarray, visible: np.ndarray, scale: float | None, slopes: tuple[float, ...] = (0.0, 0.0)
) -> np.ndarray:
    """Compute the same with NumPy in float64. `visible` (batch, tokens, tokens) says which tokens attend to which."""
    positions = np.arange(ids.shape[1])
    distance = np.abs(positions - positions[:, None])
    weights = {name: tensor.numpy().astype(np.float64) for name, tensor in random_weights().items()}

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    x = weights["words"][ids]
    heads = (*ids.shape, HEADS, WIDTH // HEADS)
    query, key, value = (linear(x, name).reshape(heads).swapaxes(1, 2) for name in NAMES[:3])
    scores = query @ key.swapaxes(2, 3) * (scale or (WIDTH // HEADS) ** -0.5)
    scores = np.where(visible[:, None], scores - np.array(slopes).reshape(-1, 1, 1) * distance, -np.inf)
    shares = np.exp(scores - scores.max(axis=3, keepdims=True))
    shares /= shares.sum(axis=3, keepdims=True)
    return linear((shares @ value).swapaxes(1, 2).reshape(*ids.shape, WIDTH), "output")


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("mask", ["padding", "causal", "none"])
@pytest.mark.parametrize("lengths", [[1], [5, 9, 2], [LONG], [LONG, LONG], [LONG, 7, LONG]])
def test_attention_is_its_formula(tmp_path, mask, scale, lengths):
    draw = np.random.default_rng(1)
    longest = max(lengths)
    ids = draw.integers(0, VOCABULARY, (len(lengths), longest))
    attention_mask = (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64)
    visible = np.ones((len(lengths), longest, longest), bool)
    if mask == "padding":
        visible &= attention_mask.astype(bool)[:, None]
    elif mask == "causal":
        visible = np.tril(visible)
    session = attention_session(tmp_path / "graph", mask, scale)
    (found,) = session.run(None, {"input_ids": ids, "attention_mask": attention_mask})
    exact = expected(ids, visible, scale)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(found[row, :length], exact[row, :length], rtol=0, atol=2e-6)


@pytest.mark.parametrize("network", [Network, GpuNetwork])
@pytest.mark.parametrize("settings", [{"window": 1}, {"window": 8}, {"window": 64}, {"slopes": alibi_slopes(HEADS)}])
@pytest.mark.parametrize("lengths", [[1], [5, 9, 2], [100, 70], [LONG], [LONG, LONG], [LONG, 7], [2 * LONG + 1]])
def test_attention_by_distance_is_its_formula(tmp_path, capfd, network, settings, lengths):
    longest, window = max(lengths), settings.get("window")
    ids = np.random.default_rng(1).integers(0, VOCABULARY, (len(lengths), longest))
    positions = np.arange(longest)
    attention_mask = (positions < np.array(lengths)[:, None]).astype(np.int64)
    visible = np.repeat(attention_mask.astype(bool)[:, None], longest, axis=1)
    if window is not None:
        visible &= np.abs(positions - positions[:, None]) <= window
        visible |= np.eye(longest, dtype=bool)
    session = attention_session(tmp_path / "graph", "padding", None, network, **settings)
    (found,) = session.run(None, {"input_ids": ids, "attention_mask": attention_mask})
    exact = expected(ids, visible, None, settings.get("slopes", (0.0, 0.0)))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(found[row, :length], exact[row, :length], rtol=0, atol=2e-6)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("heads", [1, 2, 8, 12, 16])
def test_slopes_of_alibi(heads):
    assert len(alibi_slopes(heads)) == heads
    if heads == 12:  # 8 slopes of 8 heads, and every other slope of 16
        assert alibi_slopes(12) == (*alibi_slopes(8), *alibi_slopes(16)[0:8:2])


def run_all_branches(session):
    for length in (1, 5, LONG):
        session.run(None, {name: np.ones((2, length), np.int64) for name in ("input_ids", "attention_mask")})


@pytest.mark.parametrize("mask", ["padding", "causal", "none"])
def test_onnxruntime_warns_of_nothing(tmp_path, capfd, mask):
    """The runtime hides warnings. Others who run the graph see them."""
    session = attention_session(tmp_path / "graph", mask, None)
    run_all_branches(session)
    assert capfd.readouterr().err == ""


def test_padding_changes_no_bit_of_a_text_that_may_be_padded(tmp_path):
    """In int8 a difference of one bit may grow."""
    session = attention_session(tmp_path / "graph", "padding", None)
    draw = np.random.default_rng(2)
    for length in (1, 15, 16, 17, 33, 64, UNPADDED_FROM_TOKENS - 1):
        ids = draw.integers(0, VOCABULARY, (1, length))
        (alone,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        for padding in (1, 8, 200, LONG):
            feeds = {
                "input_ids": np.pad(ids, ((0, 0), (0, padding))),
                "attention_mask": np.pad(np.ones_like(ids), ((0, 0), (0, padding))),
            }
            np.testing.assert_array_equal(session.run(None, feeds)[0][:, :length], alone)


def test_every_dtype_agrees_on_long_texts_in_any_batch(tmp_path, capfd):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", positions=2 * LONG, transformer={"max_seq_length": 2 * LONG})
    artifact = tmp_path / "artifact"
    export_quietly(checkpoint, artifact, dtypes=("fp32", "int8", "fp16"))
    texts = ["a b c", "d " * 130, "e f " * (LONG // 2), "g h " * (LONG // 2), "k " * (LONG + 3)]
    exact = embedder.Embedder(artifact, dtype="fp32", provider="cpu").encode(texts)
    for dtype, tolerance in (("fp32", 1e-6), ("int8", 0.05), ("fp16", 2e-3)):
        with embedder.Embedder(artifact, dtype=dtype, provider="cpu") as model:
            assert model.max_seq_length > LONG
            together, alone = model.encode(texts), np.stack([model.encode(text) for text in texts])
        assert np.abs(together - exact).max() <= tolerance
        assert np.abs(together - alone).max() <= 1e-6
    assert capfd.readouterr().err == ""
    for graph in artifact.glob("*.onnx"):
        run_all_branches(onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]))
        assert capfd.readouterr().err == ""


def test_attention_with_a_bias_and_token_counts():
    """Both are inputs of the same operator."""
    import onnx_ir as ir

    graph = new_graph()
    op = Operators(graph, "test")
    values = [ir.val(name, ir.DataType.FLOAT) for name in "qkvb"]
    counts = ir.val("counts", ir.DataType.INT64)
    spec = Attention(*NAMES, heads=HEADS, width=WIDTH, inner=WIDTH, scale=1.0)
    node = scored_attention(op, Projections(*values, counts), spec).producer()
    assert [value and value.name for value in node.inputs] == ["q", "k", "v", "b", None, None, "counts"]
