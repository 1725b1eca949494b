"""Language models that give embeddings: the vectors of sentence-transformers, and the equations of transformers 5."""

import json
import subprocess
import sys
from copy import deepcopy
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from embedder_export.body.native import build_bodies
from embedder_export.body.rope import frequencies
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.errors import CheckpointError, NotNativeError
from embedder_export.families import gemma3
from embedder_export.families.modernbert import MODERNBERT
from embedder_export.families.settings import DERIVED, read_settings
from embedder_export.families.table import FAMILIES
from embedder_export.graph.files import save_graph
from embedder_export.tokenizer.native import read_natively
from embedder_export.verify import parity
from embedder_export.verify.compare import measure
from sentence_transformers import SentenceTransformer
from tokenizers import normalizers, pre_tokenizers
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.modernbert.modeling_modernbert import ModernBertRotaryEmbedding

import embedder
from tests.checkpoints import edit_json, write_checkpoint, write_json
from tests.decoders import DECODERS, SIZES, llama3_tokenizer, old_llama_tokenizer, write_decoder
from tests.exports import export_fp32, export_quietly

TEXTS = [
    "The cat sits outside.",
    "",
    "in the end. " * 150,
    "ÉCOLE, straße; naïve café",
    "日本語の文章と中文句子",
    "a\nb\tc  d 😀 1,234.5",
    "<|endoftext|> x <s> </s>y <bos> <mask>",
    " leading and trailing ",
    "word " * 40,
]
# How far the vectors of a text may be apart, alone and in a batch.
BATCH_TOLERANCE = {"int8": 1e-6, "fp16": 1e-3}
# The class of each family in transformers, and small sizes.
CLASSES = {
    "qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama", "mistral": "Mistral", "eurobert": "EuroBert",
    "gemma3_text": "Gemma3Text",
}  # fmt: skip
ROWS = 90
SMALL = SIZES | {"vocab_size": ROWS, "max_position_embeddings": 700, "pad_token_id": 0, "head_dim": 12}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64, "rope_theta": 1000.0}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 128}
GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "num_hidden_layers": 6, "query_pre_attn_scalar": 20}
BOTH = {"use_bidirectional_attention": True}
VARIATIONS = [
    ("qwen3", {}),
    ("qwen3", {"attention_bias": True, "rms_norm_eps": 0.01, "num_key_value_heads": 1}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 300, "max_window_layers": 1}),
    ("qwen3", {"is_causal": False}),
    ("qwen2", {"head_dim": None}),
    ("qwen2", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": None, "head_dim": None}),
    ("llama", {"rope_parameters": LLAMA3, "hidden_act": "gelu"}),
    ("qwen3", {"rope_parameters": YARN}),
    ("qwen2", {"rope_parameters": YARN | {"attention_factor": 0.8, "beta_fast": 20, "beta_slow": 2}}),
    ("llama", {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 1.4, "truncate": False}}),
    ("mistral", {"sliding_window": None, "num_key_value_heads": 4}),
    ("mistral", {"sliding_window": 5}),
    ("mistral", {"sliding_window": 290}),
    ("eurobert", {}),
    ("eurobert", {"num_key_value_heads": None, "attention_bias": True}),
    ("gemma3_text", GEMMA | {"sliding_window": 8}),
    ("gemma3_text", GEMMA | BOTH | {"sliding_window": 8}),
    ("gemma3_text", GEMMA | BOTH | {"sliding_window": 560, "attention_bias": True}),
    ("gemma3_text", GEMMA | BOTH | {"sliding_window": 40, "num_key_value_heads": 4}),
    ("gemma3_text", GEMMA | {"sliding_window": 8, "rope_scaling": YARN | {"truncate": False}}),
]
# Texts of at most 256 tokens and longer ones, with padding, on either side of the limits of a block.
SHAPES = [(4, 20), (1, 1), (2, 300), (1, 513)]


@pytest.fixture(scope="module", params=DECODERS)
def pair(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("decoder")
    checkpoint = write_decoder(directory / "checkpoint", DECODERS[request.param])
    export_fp32(checkpoint, directory / "artifact")
    reference = SentenceTransformer(
        str(checkpoint), device="cpu", local_files_only=True, model_kwargs={"dtype": "float32"}
    )
    with embedder.Embedder(directory / "artifact", provider="cpu") as model:
        yield model, reference


def test_same_vectors_as_sentence_transformers(pair):
    """sentence-transformers pads batches on the left for some of them."""
    model, reference = pair
    assert model.manifest.parity.min_cosine > 0.99999
    assert model.manifest.source.weights_sha256
    prompts = [None, "Instruct: find\nQuery:"]
    for prompt in prompts:
        theirs = reference.encode(TEXTS, prompt=prompt, batch_size=4)
        cosine, difference = measure(model.encode(TEXTS, prompt=prompt), theirs)
        assert cosine.min() >= 0.99999
        assert difference.max() <= 1e-5
    assert model.prompts == reference.prompts
    assert model.max_seq_length == reference.max_seq_length


def test_same_tokens(pair):
    model, reference = pair
    for text in TEXTS:
        theirs = reference.preprocess([text])["input_ids"][0].tolist()
        assert model.tokenize(text)["input_ids"][0].tolist() == theirs


def test_vectors_do_not_depend_on_their_batch(pair):
    model, _ = pair
    alone = np.stack([model.encode(text) for text in TEXTS])
    np.testing.assert_allclose(model.encode(TEXTS[::-1])[::-1], alone, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtypes"),
    [("Qwen3-Embedding-0.6B", ("int8", "fp16")), ("embeddinggemma-300m", ("int8",)), ("Qwen2.5-0.5B", ("fp16",))],
)
def test_other_dtypes(tmp_path, monkeypatch, name, dtypes):
    monkeypatch.setattr(parity, "parity_sentences", lambda: TEXTS[:2])  # the fp32 graphs are compared above
    checkpoint = write_decoder(tmp_path / "checkpoint", DECODERS[name])
    export_quietly(checkpoint, tmp_path / "artifact", dtypes=("fp32", *dtypes))
    exact = embedder.Embedder(tmp_path / "artifact", provider="cpu", dtype="fp32").encode(TEXTS)
    for dtype in dtypes:
        model = embedder.Embedder(tmp_path / "artifact", provider="cpu", dtype=dtype)
        vectors = model.encode(TEXTS)
        cosine, _ = measure(vectors, exact)
        assert cosine.min() > 0.9999 if dtype == "fp16" else cosine.mean() > 0.99
        alone = np.stack([model.encode(text) for text in TEXTS])
        np.testing.assert_allclose(model.encode(TEXTS[::-1])[::-1], alone, rtol=0, atol=BATCH_TOLERANCE[dtype])


def write_model(directory: Path, family: str, **changes: object) -> transformers.PreTrainedModel:
    """Write a checkpoint with a random model, and return the model."""
    torch.manual_seed(0)
    settings = {name: value for name, value in (SMALL | changes).items() if (name, value) != ("head_dim", None)}
    config = getattr(transformers, f"{CLASSES[family]}Config")(**settings)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{CLASSES[family]}Model")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    write_checkpoint(directory)
    model.save_pretrained(directory)
    return model.eval()


def save_graph_of(checkpoint: Path) -> Path:
    """Build the graph of a checkpoint, save it in a folder there, and return its file."""
    ((_, graph),) = build_bodies(read_checkpoint(str(checkpoint)))["text"].forms
    return save_graph(graph, checkpoint / "graph")


def session_of(checkpoint: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(save_graph_of(checkpoint), providers=["CPUExecutionProvider"])


def feeds():
    draw = np.random.default_rng(0)
    for rows, length in SHAPES:
        lengths = np.linspace(length, max(1, length // 4), rows).astype(int)
        mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
        yield {"input_ids": draw.integers(1, ROWS, (rows, length)), "attention_mask": mask}


@pytest.mark.parametrize(("family", "changes"), VARIATIONS)
def test_same_token_vectors_as_transformers(tmp_path, capfd, family, changes):
    model = write_model(tmp_path / "checkpoint", family, **changes)
    session = session_of(tmp_path / "checkpoint")
    capfd.readouterr()
    for feed in feeds():
        (ours,) = session.run(None, feed)
        with torch.no_grad():
            theirs = model(**{name: torch.from_numpy(value) for name, value in feed.items()}).last_hidden_state.numpy()
        inside = feed["attention_mask"].astype(bool)
        assert np.abs(ours - theirs)[inside].max() / np.abs(theirs).max() < 5e-6
        assert np.isfinite(ours).all()
    assert capfd.readouterr().err == ""  # onnxruntime warns of nothing


@pytest.mark.parametrize("kind", ["full_attention", "sliding_attention"])
@pytest.mark.parametrize(
    "rotation",
    [
        {"rope_scaling": YARN},
        {"rope_scaling": YARN | {"truncate": False}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0}},
        {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {"rope_parameters": {"full_attention": {"type": "yarn", "factor": 4.0}, "sliding_attention": {}}},
        {
            "rope_parameters": {"full_attention": dict(YARN), "sliding_attention": dict(YARN)},
            "rope_scaling": {"factor": 2.0},
        },
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("config_class", "rotation_class", "rope_of"),
    [
        (transformers.Gemma3TextConfig, Gemma3RotaryEmbedding,
         lambda config, kind: gemma3.rope(read_settings(config, gemma3.Gemma3Settings), kind)),
        (transformers.ModernBertConfig, ModernBertRotaryEmbedding,
         lambda config, kind: MODERNBERT.read_settings(config, MODERNBERT.settings).ropes[kind]),
    ],
)  # fmt: skip
def test_rotation_of_each_kind_of_layers(rotation, kind, config_class, rotation_class, rope_of):
    """config.json is as the user has it. transformers has not completed it."""
    config = {"num_hidden_layers": 6, "hidden_size": 48, "num_attention_heads": 4} | rotation
    theirs = rotation_class(config_class(**deepcopy(config)))
    ours = rope_of(config, kind)
    np.testing.assert_allclose(frequencies(ours), getattr(theirs, f"{kind}_inv_freq"), rtol=3e-7)
    assert ours.amplitude == pytest.approx(getattr(theirs, f"{kind}_attention_scaling"))


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen3", {"num_key_value_heads": 3}, "4 attention heads for 3 heads of keys"),
        ("qwen3", {"head_dim": 11}, "heads of width 11, which cannot be rotated"),
        ("qwen3", {"layer_types": ["full_attention"]}, "1 layer_types for 3 layers"),
        ("qwen3", {"layer_types": ["chunked_attention"] * 3}, "as layer_types"),
        ("qwen3", {"layer_types": ["sliding_attention"] * 3}, "a window in some layers, and None as sliding_window"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 0, "is_causal": False,
                   "layer_types": None},
         "a window in some layers, and 9 as sliding_window of padding"),
        ("qwen3", {"rope_parameters": {"rope_type": "longrope", "factor": 4.0}}, "'longrope' as the type of"),
        ("qwen3", {"rope_parameters": YARN | {"attention_factor": 0}}, "0 as attention_factor"),
        ("qwen3", {"rope_parameters": YARN | {"mscale": True}}, "True as mscale"),
        ("qwen3", {"rope_parameters": YARN | {"beta_fast": 1}}, "as its rotary positions"),
        ("qwen3", {"rope_parameters": YARN | {"truncate": None}}, "as its rotary positions"),
        ("qwen3", {"is_causal": 0}, "0 as is_causal"),
        ("qwen2", {"head_dim": None, "num_attention_heads": 5}, "5 attention heads for a width of 48"),
        ("llama", {"rope_parameters": LLAMA3 | {"low_freq_factor": 4.0}}, "as its rotary positions"),
        ("llama", {"rope_parameters": LLAMA3 | {"low_freq_factor": None}}, "None as low_freq_factor"),
        ("mistral", {"is_causal": False}, "4096 as sliding_window and False as is_causal"),
        ("gemma3_text", {"is_causal": False}, "False as is_causal and no use_bidirectional_attention"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "50.0 as attn_logit_softcapping"),
        ("gemma3_text", {"rope_parameters": {"rope_type": "default"}}, "as rope_parameters"),
    ],
)  # fmt: skip
def test_unsupported_settings(tmp_path, family, changes, message):
    write_model(tmp_path / "checkpoint", family)
    edit_json(tmp_path / "checkpoint/config.json", **changes)
    with pytest.raises(NotNativeError, match=message):
        build_bodies(read_checkpoint(str(tmp_path / "checkpoint")))


@pytest.mark.parametrize("family", CLASSES)
def test_defaults_match_transformers(family):
    config = getattr(transformers, f"{CLASSES[family]}Config")()
    for field in fields(FAMILIES[family].settings):
        if field.default not in (None, DERIVED):
            assert getattr(config, field.name) == field.default, field.name


# Settings that act only in training, in other heads, or on tokens that no text has.
INERT = {
    "attention_dropout", "initializer_range", "use_cache", "pad_token_id", "bos_token_id", "eos_token_id",
    "mask_token_id", "tie_word_embeddings", "pretraining_tp", "classifier_pooling", "final_logit_softcapping",
    "model_type", "default_theta",
}  # fmt: skip


@pytest.mark.parametrize("family", CLASSES)
def test_every_setting_is_honoured_or_has_no_effect(family):
    """This fails if a newer transformers has a new setting."""
    own = getattr(transformers, f"{CLASSES[family]}Config")().to_dict().keys()
    general = transformers.PretrainedConfig().to_dict().keys()
    known = {field.name for field in fields(FAMILIES[family].settings)}
    assert {name for name in own - general - INERT - known if not name.startswith("_")} == set()


def test_weights_of_a_language_model(tmp_path):
    """A language model has the transformer's weights under longer names, and a head that has no effect."""
    model = write_model(tmp_path / "checkpoint", "qwen3")
    whole = transformers.Qwen3ForCausalLM(model.config)
    whole.model.load_state_dict(model.state_dict())
    write_checkpoint(tmp_path / "whole")
    whole.save_pretrained(tmp_path / "whole")
    feed = next(feeds())
    one, other = (session_of(tmp_path / name).run(None, feed)[0] for name in ("checkpoint", "whole"))
    np.testing.assert_array_equal(one, other)


def test_code_in_a_repository(tmp_path):
    """sentence-transformers runs the classes of transformers instead. For Qwen2 the code has another default."""
    auto_map = {"AutoConfig": "configuration_eurobert.EuroBertConfig", "AutoModel": "modeling_eurobert.EuroBertModel"}
    write_model(tmp_path / "eurobert", "eurobert")
    edit_json(tmp_path / "eurobert/config.json", auto_map=auto_map)
    build_bodies(read_checkpoint(str(tmp_path / "eurobert")))
    write_model(tmp_path / "qwen2", "qwen2", is_causal=False)
    edit_json(tmp_path / "qwen2/config.json", auto_map={"AutoModel": "modeling_qwen.Qwen2Model"})
    checkpoint = read_checkpoint(str(tmp_path / "qwen2"))
    build_bodies(checkpoint)
    config = json.loads((tmp_path / "qwen2/config.json").read_text())
    del config["is_causal"]
    write_json(tmp_path / "qwen2/config.json", config)
    with pytest.raises(CheckpointError, match="does not say whether a token attends only to tokens before it"):
        build_bodies(checkpoint)


_PEAK = """
import resource, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
def run(tokens):
    ids = np.ones((1, tokens), np.int64)
    session.run(None, {"input_ids": ids, "attention_mask": ids})
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = run(16)
print(run(4096) - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("family", "changes"), [("qwen3", {}), ("gemma3_text", BOTH | {"num_key_value_heads": 1})])
def test_memory_of_long_texts_is_bounded(tmp_path, family, changes):
    """All scores of 16 heads would take 1,074 MB."""
    sizes = {"num_attention_heads": 16, "head_dim": 4, "max_position_embeddings": 4096, "num_hidden_layers": 1}
    write_model(tmp_path / "checkpoint", family, **sizes | changes)
    path = save_graph_of(tmp_path / "checkpoint")
    found = subprocess.run([sys.executable, "-c", _PEAK, str(path)], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 400


def test_fp16_of_gemma_is_refused(tmp_path):
    checkpoint = write_decoder(tmp_path / "checkpoint", DECODERS["embeddinggemma-300m"])
    message = "fp16 cannot be made: activations of Gemma 3 exceed the range of float16"
    with pytest.raises(CheckpointError, match=message):
        export_quietly(checkpoint, tmp_path / "artifact", dtypes=("fp32", "fp16"))


class TestTokenizers:
    @pytest.mark.parametrize("name", DECODERS)
    def test_saved_by_transformers_5(self, tmp_path, name):
        checkpoint = write_decoder(tmp_path / "checkpoint", DECODERS[name])
        judge = transformers.AutoTokenizer.from_pretrained(checkpoint)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (checkpoint / file).unlink()
        judge.save_pretrained(checkpoint)
        native = read_natively(checkpoint)
        assert native.pad_id == judge.pad_token_id
        for text in TEXTS:
            assert native.backend.encode(text).ids == judge(text)["input_ids"]

    @pytest.mark.parametrize("name", ["Qwen3-Embedding-0.6B", "embeddinggemma-300m", "llama-2-embedding"])
    @pytest.mark.parametrize(
        "change",
        [
            {"normalizer": normalizers.NFKC()},
            {"pre_tokenizer": pre_tokenizers.Whitespace()},
        ],
    )
    def test_with_other_steps(self, tmp_path, name, change):
        checkpoint = write_decoder(tmp_path / "checkpoint", DECODERS[name])
        tokenizer = read_natively(checkpoint).backend
        for part, value in change.items():
            setattr(tokenizer, part, value)
        tokenizer.save(str(checkpoint / "tokenizer.json"))
        with pytest.raises(NotNativeError, match="another normaliser or pre-tokeniser than its class"):
            read_natively(checkpoint)

    @pytest.mark.parametrize("settings", [{}, {"legacy": False}, {"legacy": True}, {"add_prefix_space": False}])
    @pytest.mark.parametrize("make", [old_llama_tokenizer, llama3_tokenizer])
    def test_of_older_llamas(self, tmp_path, make, settings):
        checkpoint = write_decoder(tmp_path / "checkpoint", DECODERS["llama-2-embedding"])
        make().save(str(checkpoint / "tokenizer.json"))
        tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} if make is old_llama_tokenizer else {}
        write_json(checkpoint / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"} | tokens | settings)
        judge, native = transformers.AutoTokenizer.from_pretrained(checkpoint), read_natively(checkpoint)
        for text in TEXTS:
            assert native.backend.encode(text).ids == judge(text)["input_ids"]

    def test_with_a_prefix_space(self, tmp_path):
        checkpoint = write_decoder(tmp_path / "checkpoint", DECODERS["Qwen3-Embedding-0.6B"])
        edit_json(checkpoint / "tokenizer_config.json", add_prefix_space=True)
        with pytest.raises(NotNativeError, match="it has add_prefix_space"):
            read_natively(checkpoint)

    def test_that_names_another_class_than_the_model_has(self, tmp_path):
        """transformers 5 takes the class of Qwen2 whatever the files say, and tokenizer.json as it is for Mistral."""
        for name, kind in (("Qwen2.5-0.5B", "PreTrainedTokenizerFast"), ("e5-mistral-7b-instruct", "LlamaTokenizer")):
            checkpoint = write_decoder(tmp_path / name, DECODERS[name])
            edit_json(checkpoint / "tokenizer_config.json", tokenizer_class=kind)
            judge, native = transformers.AutoTokenizer.from_pretrained(checkpoint), read_natively(checkpoint)
            for text in TEXTS:
                assert native.backend.encode(text).ids == judge(text)["input_ids"]
