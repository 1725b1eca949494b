"""Models with rotary positions give the vectors of sentence-transformers, from both layouts, short and long."""

import shutil
import sys
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import pytest
import torch
from embedder_export.body.convert import convert_bodies
from embedder_export.body.long_attention import MAX_BATCHED_WINDOW
from embedder_export.body.native import build_bodies
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.errors import CheckpointError, NotNativeError
from embedder_export.families.table import FAMILIES
from embedder_export.graph.files import save_graph
from embedder_export.pipeline import ExportSettings, export
from safetensors.numpy import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from tokenizers import Tokenizer

import embedder
from tests import encoder_formulas
from tests.checkpoints import edit_json
from tests.exports import export_quietly
from tests.remote_models import (
    convert_to_jina_reranker,
    write_jina_code,
    write_jina_v2,
    write_nomic_moe,
    write_xlm_roberta_reranker,
)
from tests.rotary_models import LIMIT, LONGEST, MODELS, convert_to_hub, read_config, write_rotary

TEXTS = ["", "The cat sits outside.", "a", "日本語 " * 20, "word " * 45, "the dog " * 250]
DTYPES = ("fp32", "int8")
# Rows of the smallest vocabulary of the models.
FEWEST_ROWS = 80
PAIRS = [(a, b) for a in TEXTS[:5] for b in TEXTS[:5]]


@pytest.fixture(scope="module", params=MODELS)
def exported(request, tmp_path_factory):
    """The name of a model, and the folder with its checkpoint and its artifact."""
    folder = tmp_path_factory.mktemp("rotary")
    write_rotary(folder / "checkpoint", request.param)
    manifest = export_quietly(folder / "checkpoint", folder / "artifact", dtypes=("fp32", "int8", "fp16"))
    assert "sentence-transformers 6" in str(manifest.parity)
    return request.param, folder


def assert_same(ours, theirs, tolerance=1e-5):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def test_vectors_are_those_of_sentence_transformers(exported):
    _, folder = exported
    reference = SentenceTransformer(str(folder / "checkpoint"), device="cpu", local_files_only=True)
    with embedder.Embedder(folder / "artifact", provider="cpu") as model:
        assert model.max_seq_length == reference.max_seq_length == LIMIT
        assert_same(model.encode(TEXTS), reference.encode(TEXTS))
        assert_same(model.encode(TEXTS, prompt="query: "), reference.encode(TEXTS, prompt="query: "))


@pytest.mark.slow
def test_longest_text(exported, tmp_path):
    name, folder = exported
    shutil.copytree(folder / "checkpoint", tmp_path / "checkpoint")
    edit_json(tmp_path / "checkpoint/sentence_bert_config.json", max_seq_length=LONGEST)
    ids = np.random.default_rng(0).integers(5, FEWEST_ROWS, LONGEST)
    reference = MODELS[name].model_class.from_pretrained(tmp_path / "checkpoint", attn_implementation="sdpa").eval()
    with torch.no_grad():
        theirs = reference(torch.from_numpy(ids[None])).last_hidden_state.numpy()[0]
    assert_same(token_vectors(tmp_path / "checkpoint", ids), theirs, 3e-5)


@pytest.mark.parametrize(("dtype", "distance"), [("fp32", 0), ("int8", 0.05), ("fp16", 2e-3)])
def test_vectors_do_not_depend_on_their_batch(exported, dtype, distance):
    _, folder = exported
    exact = embedder.Embedder(folder / "artifact", provider="cpu").encode(TEXTS)
    with embedder.Embedder(folder / "artifact", provider="cpu", dtype=dtype) as model:
        together = model.encode(TEXTS)
        alone = np.stack([model.encode(text) for text in TEXTS])
    assert_same(together, exact, distance or 1e-6)
    assert_same(together, alone, 1e-3 if dtype == "fp16" else 1e-6)


def test_layout_of_the_hub_gives_the_same_vectors(exported, tmp_path):
    name, folder = exported
    shutil.copytree(folder / "checkpoint", tmp_path / "hub")
    export_quietly(convert_to_hub(tmp_path / "hub", name), tmp_path / "artifact", dtypes=("fp32",))
    ours, theirs = (embedder.Embedder(path / "artifact", provider="cpu") for path in (tmp_path, folder))
    assert_same(ours.encode(TEXTS), theirs.encode(TEXTS), 1e-6)


@pytest.mark.parametrize("name", ["nomic-embed-text-v1.5", "gte-multilingual-base", "jina-embeddings-v3"])
def test_scores_are_those_of_sentence_transformers(tmp_path, name):
    write_rotary(tmp_path / "checkpoint", name, labels=1)
    export_quietly(tmp_path / "checkpoint", tmp_path / "artifact", dtypes=("fp32",))
    reference = CrossEncoder(str(tmp_path / "checkpoint"), device="cpu")
    with embedder.CrossEncoder(tmp_path / "artifact", provider="cpu") as model:
        ours = model.predict(PAIRS, activation_fn="identity")
    theirs = reference.predict(PAIRS, activation_fn=torch.nn.Identity())
    assert np.ptp(theirs) > 0.05
    assert_same(ours, theirs, 1e-5 * np.ptp(theirs))


def test_scores_of_the_hubs_gte_are_the_same(tmp_path):
    write_rotary(tmp_path / "checkpoint", "gte-multilingual-base", labels=1)
    shutil.copytree(tmp_path / "checkpoint", tmp_path / "hub")
    auto_map = {"AutoModelForSequenceClassification": "Alibaba-NLP/new-impl--modeling.NewForSequenceClassification"}
    edit_json(
        tmp_path / "hub/config.json",
        model_type="new",
        architectures=["NewForSequenceClassification"],
        auto_map=auto_map,
        rope_theta=20000.0,
    )
    weights = load_file(tmp_path / "hub/model.safetensors")
    renamed = {name.replace("gte.layers.", "gte.encoder.layer."): array for name, array in weights.items()}
    renamed = {name.replace("gte.", "new.", 1): array for name, array in renamed.items()}
    save_file(renamed, tmp_path / "hub/model.safetensors")
    scores = []
    for name in ("checkpoint", "hub"):
        export_quietly(tmp_path / name, tmp_path / f"{name}-artifact", dtypes=("fp32",))
        scores.append(embedder.CrossEncoder(tmp_path / f"{name}-artifact", provider="cpu").predict(PAIRS))
    assert_same(*scores, 1e-6)


def test_scores_of_the_hubs_jina_reranker_are_those_of_xlm_roberta(tmp_path):
    reference = CrossEncoder(str(write_xlm_roberta_reranker(tmp_path / "checkpoint")), device="cpu")
    theirs = reference.predict(PAIRS, activation_fn=torch.nn.Identity())
    export_quietly(convert_to_jina_reranker(tmp_path / "checkpoint"), tmp_path / "artifact", dtypes=("fp32",))
    with embedder.CrossEncoder(tmp_path / "artifact", provider="cpu") as model:
        assert model.max_seq_length == reference.max_seq_length == LIMIT
        ours = model.predict(PAIRS, activation_fn="identity")
    assert_same(ours, theirs, 1e-5 * np.ptp(theirs))


@pytest.mark.parametrize(
    ("converter", "message"), [("auto", "no native builder"), ("optimum", "cannot be converted with optimum")]
)
def test_models_of_other_code_are_never_traced(tmp_path, converter, message):
    name = "nomic-embed-text-v1.5"
    write_rotary(tmp_path / "checkpoint", name)
    convert_to_hub(tmp_path / "checkpoint", name, **({"prenorm": True} if converter == "auto" else {}))
    checkpoint = read_checkpoint(str(tmp_path / "checkpoint"))
    with pytest.raises(CheckpointError, match=f"{message}.*; tracing would need the code in the repository"):
        convert_bodies(checkpoint, converter, tmp_path / "body", print)


def token_vectors(directory, ids):
    """Return the token vectors that the graph of a checkpoint gives for one text, float32 (tokens, width)."""
    body = build_bodies(read_checkpoint(str(directory)))["text"]
    ((_, model),) = body.forms
    with TemporaryDirectory() as scratch:
        session = onnxruntime.InferenceSession(save_graph(model, Path(scratch) / "graph"))
        (vectors,) = session.run(None, {"input_ids": ids[None], "attention_mask": np.ones_like(ids[None])})
    return vectors[0]


def assert_is_formula(directory, formula, lengths):
    """Compare the token vectors of a checkpoint in the Hub's layout with a function of `encoder_formulas`."""
    draw = np.random.default_rng(0)
    weights, config = load_file(directory / "model.safetensors"), read_config(directory)
    for length in lengths:
        ids = draw.integers(5, FEWEST_ROWS, length)
        assert_same(token_vectors(directory, ids), formula(weights, config, ids), 3e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rotary_emb_fraction": 0.5, "rotary_emb_interleaved": True},
        {"rotary_emb_fraction": 0.5},
        {"activation_function": "geglu", "rotary_emb_interleaved": True, "rotary_emb_base": 10000.0},
        {"activation_function": "glu", "layer_norm_epsilon": 1e-5},
        {"rotary_scaling_factor": 2, "max_trained_positions": 64},
    ],
)
def test_nomic_bert_is_its_formula(tmp_path, settings):
    name = "nomic-embed-text-v1.5"
    directory = convert_to_hub(write_rotary(tmp_path / "checkpoint", name), name, **settings)
    assert_is_formula(directory, encoder_formulas.nomic_bert, (1, 40, 64, 65, 400))


@pytest.mark.parametrize("scaling", [None, {"type": "ntk", "factor": 2.0}])
@pytest.mark.parametrize("name", ["gte-base-en-v1.5", "gte-multilingual-base"])
def test_gte_is_its_formula(tmp_path, name, scaling):
    directory = convert_to_hub(write_rotary(tmp_path / "checkpoint", name), name, rope_scaling=scaling)
    assert_is_formula(directory, encoder_formulas.gte, (1, 40, 300))


def test_jina_v3_is_its_formula(tmp_path):
    name = "jina-embeddings-v3"
    directory = convert_to_hub(write_rotary(tmp_path / "checkpoint", name), name)
    assert_is_formula(directory, encoder_formulas.jina_v3, (1, 40, 300))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_attention_heads": 8},
        {"hidden_size": 48, "num_attention_heads": 12, "feed_forward_type": "reglu"},
        {"feed_forward_type": "original"},
    ],
)
def test_jina_v2_is_its_formula(tmp_path, settings):
    directory = write_jina_v2(tmp_path / "checkpoint", **settings)
    assert_is_formula(directory, encoder_formulas.jina_v2, (1, 40, 300, 700))


@pytest.mark.parametrize("settings", [{}, {"num_attention_heads": 8, "feed_forward_type": "reglu"}])
def test_jina_code_is_its_formula(tmp_path, settings):
    directory = write_jina_code(tmp_path / "checkpoint", **settings)
    assert_is_formula(directory, encoder_formulas.jina_v2, (1, 40, 300, 700))


def test_jina_code_without_gates_is_refused(tmp_path):
    directory = write_jina_code(tmp_path / "checkpoint")
    edit_json(directory / "config.json", feed_forward_type="original")
    with pytest.raises(NotNativeError, match="'original' as feed_forward_type beside query norms"):
        build_bodies(read_checkpoint(str(directory)))


@pytest.mark.parametrize("settings", [{}, {"moe_top_k": 1}, {"moe_top_k": 4, "mlp_fc1_bias": True}])
def test_nomic_experts_are_their_formula(tmp_path, settings):
    directory = write_nomic_moe(tmp_path / "checkpoint", **settings)
    assert_is_formula(directory, encoder_formulas.nomic_bert, (1, 2, 40, 300))


@pytest.mark.slow
def test_int8_with_experts_that_no_text_takes(tmp_path):
    directory = write_nomic_moe(tmp_path / "checkpoint")
    weights = load_file(directory / "model.safetensors")
    for name in [name for name in weights if "router" in name]:
        # The first number of every vector is 1, so all tokens take the experts 0 and 1.
        weights[name][:] = 0
        weights[name][:2, 0] = 50, 40
        norm = name.replace("mlp.router.layer.weight", "norm1")
        weights[f"{norm}.weight"][0], weights[f"{norm}.bias"][0] = 0, 1
    save_file(weights, directory / "model.safetensors")
    export_quietly(directory, tmp_path / "artifact", dtypes=("fp32", "int8"))
    vectors = [embedder.Embedder(tmp_path / "artifact", provider="cpu", dtype=dtype).encode(TEXTS) for dtype in DTYPES]
    assert_same(*vectors, 0.05)


def test_fp16_of_experts_is_refused(tmp_path):
    directory = write_nomic_moe(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="fp16 cannot be made: onnxruntime has no kernels for experts in float16"):
        export_quietly(directory, tmp_path / "artifact", dtypes=("fp16",))


@pytest.mark.parametrize("write", [write_jina_v2, write_jina_code, write_nomic_moe])
def test_models_of_other_code_in_any_batch(tmp_path, write):
    lines, artifact = [], tmp_path / "artifact"
    distances = {"fp32": 0, "int8": 0.05} | ({} if write is write_nomic_moe else {"fp16": 2e-3})
    checkpoint = read_checkpoint(str(write(tmp_path / "checkpoint")))
    export(checkpoint, artifact, lines.append, ExportSettings(dtypes=tuple(distances)))
    assert "sentence-transformers would need the code in the repository of checkpoint, which is never run" in lines
    exact = embedder.Embedder(artifact, provider="cpu").encode(TEXTS, normalize_embeddings=True)
    for dtype, distance in distances.items():
        with embedder.Embedder(artifact, provider="cpu", dtype=dtype) as model:
            together = model.encode(TEXTS, normalize_embeddings=True)
            alone = np.stack([model.encode(text, normalize_embeddings=True) for text in TEXTS])
        assert_same(together, exact, distance or 1e-6)
        assert_same(together, alone, 1e-3 if dtype == "fp16" else 1e-6)


@pytest.mark.parametrize("write", [write_jina_v2, write_jina_code])
def test_scores_of_jina_v2_are_those_of_its_first_token(tmp_path, write):
    write(tmp_path / "checkpoint", labels=1)
    export_quietly(tmp_path / "checkpoint", tmp_path / "artifact", dtypes=("fp32",))
    stored = load_file(tmp_path / "checkpoint/model.safetensors")
    weights = {name.removeprefix("bert."): array for name, array in stored.items()}
    given = encoder_formulas.Weights(weights)
    pairs = [("the cat", "a dog " * 30), ("a", "b")]
    with embedder.CrossEncoder(tmp_path / "artifact", provider="cpu") as model:
        ours = model.predict(pairs, activation_fn="identity")
    tokenizer = Tokenizer.from_file(str(tmp_path / "checkpoint/tokenizer.json"))
    tokens = [tokenizer.encode(*pair) for pair in pairs]
    config = read_config(tmp_path / "checkpoint")
    first = np.stack([encoder_formulas.jina_v2(weights, config, one.ids, one.type_ids)[0] for one in tokens])
    theirs = given.linear(np.tanh(given.linear(first, "pooler.dense")), "classifier")
    assert_same(ours, theirs[:, 0], 3e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"norm_bias": True, "attention_bias": True, "mlp_bias": True},
        {"layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"], "local_attention": 8},
        {"hidden_activation": "silu", "local_attention": 20, "norm_eps": 1e-4},
        {"local_attention": 2 * (MAX_BATCHED_WINDOW + 7)},
        {"local_attention": 2 * LONGEST},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 80000.0, "factor": 2.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            }
        },
    ],
)
def test_settings_of_modernbert(tmp_path, settings):
    write_rotary(tmp_path / "checkpoint", "modernbert-embed-base", **settings)
    reference = MODELS["modernbert-embed-base"].model_class.from_pretrained(tmp_path / "checkpoint").eval()
    for length in (1, 40, 300):
        ids = np.random.default_rng(0).integers(5, FEWEST_ROWS, length)
        with torch.no_grad():
            theirs = reference(torch.from_numpy(ids[None])).last_hidden_state.numpy()[0]
        assert_same(token_vectors(tmp_path / "checkpoint", ids), theirs, 3e-5)


@pytest.mark.parametrize("name", ["nomic-embed-text-v1.5", "gte-base-en-v1.5", "jina-embeddings-v3", "mmBERT-small"])
def test_defaults_are_those_of_transformers(name):
    config = MODELS[name].model_class.config_class()
    family = FAMILIES[config.model_type]
    settings = family.read_settings({"model_type": config.model_type}, family.settings)
    for field in fields(settings):
        if hasattr(config, field.name) and field.name != "head_dim":  # transformers derives it
            value = getattr(settings, field.name)
            assert (list(value) if isinstance(value, tuple) else value) == getattr(config, field.name), field.name


def test_linear_scaling_of_transformers(tmp_path):
    scaling = {"rope_type": "linear", "factor": 8.0, "rope_theta": 20000.0}
    write_rotary(tmp_path / "checkpoint", "gte-multilingual-base", rope_parameters=scaling)
    ids = np.random.default_rng(0).integers(5, FEWEST_ROWS, 300)
    reference = MODELS["gte-multilingual-base"].model_class.from_pretrained(tmp_path / "checkpoint").eval()
    with torch.no_grad():
        theirs = reference(torch.from_numpy(ids[None])).last_hidden_state.numpy()[0]
    assert_same(token_vectors(tmp_path / "checkpoint", ids), theirs)


def test_dynamic_scaling_of_transformers(tmp_path, monkeypatch):
    scaling = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1000.0}
    write_rotary(tmp_path / "checkpoint", "nomic-embed-text-v1.5", rope_parameters=scaling, max_position_embeddings=200)
    with monkeypatch.context() as without:
        # In a batch with a long text, and after it, transformers has other frequencies for shorter texts too.
        without.setitem(sys.modules, "sentence_transformers", None)
        export_quietly(tmp_path / "checkpoint", tmp_path / "artifact", dtypes=("fp32", "fp16"))
    texts = ["a b c", "word " * 45, "word " * 60, "the dog " * 250]
    theirs = [SentenceTransformer(str(tmp_path / "checkpoint"), device="cpu").encode(text) for text in texts]
    for dtype, tolerance in (("fp32", 1e-5), ("fp16", 2e-3)):
        with embedder.Embedder(tmp_path / "artifact", provider="cpu", dtype=dtype) as model:
            assert_same(model.encode(texts), theirs, tolerance)
