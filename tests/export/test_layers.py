"""Pooling and the layers after it: reading them from a checkpoint, and writing them into a graph."""

import pickle
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from embedder_export.checkpoint.layers import (
    SENTENCE,
    TOKENS,
    Dense,
    LayerNorm,
    Normalize,
    Pooling,
    Truncate,
    describe,
    read_layers,
)
from embedder_export.errors import CheckpointError
from embedder_export.graph.files import save_graph
from embedder_export.graph.operators import ACTIVATIONS
from embedder_export.head.heads import add_head
from embedder_export.head.poolings import POOLINGS
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from sentence_transformers.base.modules.dense import Dense as TheirDense
from sentence_transformers.sentence_transformer.modules.layer_norm import LayerNorm as TheirLayerNorm
from sentence_transformers.sentence_transformer.modules.normalize import Normalize as TheirNormalize
from sentence_transformers.sentence_transformer.modules.pooling import Pooling as TheirPooling

from tests.checkpoints import write_json
from tests.tiny import DIMENSION, TABLE, tiny_body

GENERATOR = np.random.default_rng(3)
WEIGHT = GENERATOR.normal(size=(5, DIMENSION)).astype(np.float32)
BIAS = GENERATOR.normal(size=5).astype(np.float32)


def run(directory: Path, layers, ids, mask, pooling_mask=None) -> np.ndarray:
    model = tiny_body()
    (output,) = add_head(model.graph, layers, DIMENSION)
    path = save_graph(model, directory)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {"input_ids": ids, "attention_mask": mask}
    if pooling_mask is not None:
        feed["pooling_mask"] = pooling_mask
    (embeddings,) = session.run(["embedding"], feed)
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (len(ids), *output.shape)
    return embeddings


def theirs(modules, ids, mask, prompt_length=None) -> np.ndarray:
    features = {"token_embeddings": torch.from_numpy(TABLE[ids]), "attention_mask": torch.from_numpy(mask)}
    if prompt_length is not None:
        features["prompt_length"] = prompt_length
    with torch.no_grad():
        for module in modules:
            features = module(features)
    return features["sentence_embedding"].numpy()


IDS = GENERATOR.integers(0, len(TABLE), (5, 6))
RIGHT = (np.arange(6) < np.array([[6], [4], [1], [0], [3]])).astype(np.int64)


LEFT = RIGHT[:, ::-1].copy()
POOLING_MODES = tuple(POOLINGS)


# weightedmean with left padding is left out: sentence-transformers then counts positions from the padding's start.
@pytest.mark.parametrize(
    ("mode", "mask"),
    [(mode, RIGHT) for mode in POOLING_MODES] + [(mode, LEFT) for mode in POOLING_MODES if mode != "weightedmean"],
)
def test_pooling_matches_sentence_transformers(tmp_path, mode, mask):
    ours = run(tmp_path / "graph", (Pooling((mode,), True),), IDS, mask)
    np.testing.assert_allclose(ours, theirs([TheirPooling(DIMENSION, mode)], IDS, mask), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", POOLING_MODES)
@pytest.mark.parametrize("prompt_length", [0, 1, 3, 6])
def test_prompt_is_left_out_as_in_sentence_transformers(tmp_path, mode, prompt_length):
    pooling_mask = RIGHT.copy()
    pooling_mask[:, :prompt_length] = 0
    ours = run(tmp_path / "graph", (Pooling((mode,), False),), IDS, RIGHT, pooling_mask)
    expected = theirs([TheirPooling(DIMENSION, mode, include_prompt=False)], IDS, RIGHT, prompt_length)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@given(st.lists(st.sampled_from(POOLING_MODES), min_size=1, max_size=6))
def test_results_of_several_poolings_are_concatenated(tmp_path_factory, modes):
    layers = (Pooling(tuple(modes), True), Normalize())
    mask = RIGHT[[0, 1, 2, 4]]
    ours = run(tmp_path_factory.mktemp("graphs") / "graph", layers, IDS[[0, 1, 2, 4]], mask)
    expected = theirs([TheirPooling(DIMENSION, modes), TheirNormalize()], IDS[[0, 1, 2, 4]], mask)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def their_dense(activation, bias=True, feature=SENTENCE):
    module = TheirDense(DIMENSION, 5, bias, activation, module_input_name=feature)
    module.linear.weight.data = torch.from_numpy(WEIGHT)
    if bias:
        module.linear.bias.data = torch.from_numpy(BIAS)
    return module


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if hasattr(torch.nn, name)])
def test_activations(tmp_path, activation):
    layers = (Pooling(("mean",), True), Dense(WEIGHT, BIAS, activation, SENTENCE))
    expected = theirs([TheirPooling(DIMENSION, "mean"), their_dense(getattr(torch.nn, activation)())], IDS, RIGHT)
    np.testing.assert_allclose(run(tmp_path / "graph", layers, IDS, RIGHT), expected, rtol=1e-5, atol=1e-6)


def test_layers_in_a_row(tmp_path):
    scale, shift = GENERATOR.normal(size=(2, 5)).astype(np.float32)
    norm = TheirLayerNorm(5)
    norm.norm.weight.data, norm.norm.bias.data = torch.from_numpy(scale), torch.from_numpy(shift)
    layers = (
        Dense(WEIGHT, BIAS, "GELU", TOKENS),
        Pooling(("max",), True),
        LayerNorm(scale, shift),
        Normalize(),
        Dense(WEIGHT[:, :5], None, "Identity", SENTENCE),
        Truncate(3),
    )
    rows = [0, 1, 2, 4]
    second = TheirDense(5, 5, False, None)
    second.linear.weight.data = torch.from_numpy(WEIGHT[:, :5].copy())
    modules = [their_dense(torch.nn.GELU(), feature=TOKENS), TheirPooling(5, "max"), norm, TheirNormalize(), second]
    expected = theirs(modules, IDS[rows], RIGHT[rows])[:, :3]
    np.testing.assert_allclose(run(tmp_path / "graph", layers, IDS[rows], RIGHT[rows]), expected, rtol=1e-5, atol=1e-6)
    head = describe(layers)
    assert (head.pooling, head.include_prompt) == (("max",), True)
    assert head.layers == (
        "dense(8, 5, gelu) of each token",
        "layer norm",
        "normalize",
        "dense(5, 5, identity)",
        "truncate(3)",
    )


DENSE = {"in_features": 3, "out_features": 2, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
STATE = {"linear.weight": torch.arange(6.0).reshape(2, 3), "linear.bias": torch.arange(2.0)}


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


@pytest.fixture
def dense(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "dense/config.json", DENSE)
    save_file(STATE, tmp_path / "dense/model.safetensors")
    write_json(tmp_path / "pooling/config.json", {"word_embedding_dimension": 3})
    return tmp_path / "dense"


def read(dense):
    return read_layers([("Pooling", dense.with_name("pooling")), ("Dense", dense)])[1]


def test_torch_parameters_and_unrelated_files(dense):
    (dense / "model.safetensors").unlink()
    (dense / "pytorch_model-older.bin").write_bytes(b"never read")
    (dense / "adapter.safetensors").write_bytes(b"never read")
    torch.save({name: torch.nn.Parameter(tensor) for name, tensor in STATE.items()}, dense / "pytorch_model.bin")
    assert read(dense).weight.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pickled", [False, True])
def test_weights_of_a_dense(dense, dtype, pickled):
    state = {name: tensor.to(dtype) for name, tensor in STATE.items()}
    if pickled:
        (dense / "model.safetensors").unlink()
        torch.save(state, dense / "pytorch_model.bin")
    else:
        save_file(state, dense / "model.safetensors")
        (dense / "pytorch_model.bin").write_bytes(b"never read")
    layer = read(dense)
    assert layer.weight.dtype == layer.bias.dtype == np.float32
    assert (layer.weight.tolist(), layer.bias.tolist()) == ([[0, 1, 2], [3, 4, 5]], [0, 1])
    assert (layer.activation, layer.feature) == ("Tanh", SENTENCE)


def pickled(dense, content):
    (dense / "model.safetensors").unlink()
    (dense / "pytorch_model.bin").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: pickled(d, pickle.dumps(Evil())), "cannot be read as plain weights"),
        (lambda d: pickled(d, pickle.dumps({"linear.weight": Evil()})), "cannot be read as plain weights"),
        (lambda d: pickled(d, b"junk"), "cannot be read as plain weights"),
        (lambda d: pickled(d, b""), "cannot be read as plain weights"),
        (
            lambda d: torch.save([1, 2], d / "pytorch_model.bin") or (d / "model.safetensors").unlink(),
            "as plain weights",
        ),
        (lambda d: (d / "model.safetensors").write_bytes(b"\xff" * 100), "cannot be read as plain weights"),
        (lambda d: (d / "model.safetensors").unlink(), r"has none of model\.safetensors, pytorch_model\.bin"),
        (lambda d: save_file({**STATE, "more": torch.ones(1)}, d / "model.safetensors"), r"holds the tensors .*'more'"),
        (lambda d: save_file({"linear.weight": torch.ones(2, 3)}, d / "model.safetensors"), "holds the tensors"),
        (lambda d: write_json(d / "config.json", DENSE | {"in_features": 4}), r"not \{'linear\.weight': \(2, 4\)"),
        (lambda d: write_json(d / "config.json", DENSE | {"in_features": "3"}), "has '3' as in_features"),
        (lambda d: write_json(d / "config.json", DENSE | {"out_features": True}), "has True as out_features"),
        (lambda d: write_json(d / "config.json", {}), "has None as in_features"),
        (
            lambda d: write_json(d / "config.json", DENSE | {"activation_function": "os.abort"}),
            "the activation 'os.abort'",
        ),
        (lambda d: write_json(d / "config.json", DENSE | {"activation_function": None}), "the activation None"),
        (
            lambda d: write_json(d / "config.json", DENSE | {"activation_function": "torch.nn.modules.rnn.LSTM"}),
            r"the activation 'torch\.nn\.modules\.rnn\.LSTM', which is not supported",
        ),
        (lambda d: write_json(d / "config.json", DENSE | {"module_input_name": "scores"}), "reads 'scores'"),
        (lambda d: write_json(d / "config.json", DENSE | {"module_output_name": "x"}), "to another output"),
    ],
)
def test_bad_dense_is_refused(dense, damage, message):
    damage(dense)
    with pytest.raises(CheckpointError, match=message):
        read(dense)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        ({}, ("mean",)),
        ({"pooling_mode_mean_tokens": False}, ("mean",)),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({pooling.legacy_flag: True for pooling in reversed(POOLINGS.values())}, POOLING_MODES),
        ({"pooling_mode": "max", "pooling_mode_cls_token": True}, ("max",)),
        ({"pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
    ],
)
def test_old_and_new_forms_of_pooling_modes(tmp_path, config, modes):
    write_json(tmp_path / "1/config.json", {"word_embedding_dimension": 8} | config)
    (layer,) = read_layers([("Pooling", tmp_path / "1")])
    assert layer == Pooling(modes, True)
    reference = TheirPooling.load(str(tmp_path), subfolder="1")
    assert modes == (reference.pooling_mode if len(modes) > 1 else (reference.pooling_mode,))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pooling_mode": "median"}, "unknown pooling 'median': known are cls, max"),
        ({"pooling_mode": ["mean", 3]}, "unknown pooling 3"),
        ({"pooling_mode": None}, "has the pooling None"),
        ({"pooling_mode": []}, r"has the pooling \[\]"),
        ({"pooling_mode_median_tokens": True}, "unknown setting 'pooling_mode_median_tokens'"),
        ({"include_prompt": "no"}, "has 'no' as include_prompt"),
    ],
)
def test_bad_pooling_is_refused(tmp_path, config, message):
    write_json(tmp_path / "1/config.json", config)
    with pytest.raises(CheckpointError, match=message):
        read_layers([("Pooling", tmp_path / "1")])


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["Pooling", "LSTM"], "the module 'LSTM' is not supported"),
        (["Normalize", "Pooling"], "the module Normalize before its pooling"),
        (["Dense", "Pooling"], "the module Dense before its pooling"),
        ([], "0 Pooling modules; it should have exactly one"),
        (["Pooling", "Pooling"], "2 Pooling modules"),
    ],
)
def test_wrong_order_of_modules(dense, kinds, message):
    places = {"Pooling": dense.with_name("pooling"), "Dense": dense}
    with pytest.raises(CheckpointError, match=message):
        read_layers([(kind, places.get(kind, dense)) for kind in kinds])


def test_dense_of_tokens_after_the_pooling(dense):
    write_json(dense / "config.json", DENSE | {"module_input_name": TOKENS})
    with pytest.raises(CheckpointError, match="the module Dense after its pooling"):
        read(dense)


def test_layer_for_vectors_of_another_length(tmp_path):
    layers = (Pooling(("mean", "cls"), True), Dense(WEIGHT, BIAS, "Tanh", SENTENCE))
    with pytest.raises(CheckpointError, match="Dense takes vectors of length 8, and is given vectors of length 16"):
        add_head(tiny_body().graph, layers, DIMENSION)


def test_layer_norm_and_dropout(tmp_path):
    write_json(tmp_path / "1/config.json", {"word_embedding_dimension": 2})
    write_json(tmp_path / "2/config.json", {"dimension": 2})
    weights = {"norm.weight": torch.tensor([1.0, 2]), "norm.bias": torch.tensor([3.0, 4])}
    save_file(weights, tmp_path / "2/model.safetensors")
    layers = read_layers([(k, tmp_path / d) for k, d in [("Pooling", "1"), ("LayerNorm", "2"), ("Dropout", "3")]])
    assert [type(layer) for layer in layers] == [Pooling, LayerNorm]
    assert (layers[1].weight.tolist(), layers[1].bias.tolist()) == ([1, 2], [3, 4])
