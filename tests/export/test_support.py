"""The verdict from the files of settings alone is what the stages of an export do with the whole checkpoint."""

import json
import shutil
from functools import partial

import pytest
import torch
from embedder_export.body.native import build_bodies
from embedder_export.checkpoint.files import blank_weights
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.checkpoint.settings_files import read_settings_files
from embedder_export.checkpoint.weights import read_weights
from embedder_export.cli import main
from embedder_export.errors import CheckpointError, NotNativeError
from embedder_export.support import NATIVE, REFUSED, TRACED, Support, check_support
from embedder_export.tokenizer.native import read_natively
from transformers import RoFormerConfig, RoFormerForSequenceClassification

from tests import clips, families
from tests.checkpoints import SMALL, VOCABULARY_SIZE, edit_json, write_checkpoint, write_json
from tests.cross_encoders import write_classifier, write_cross_encoder, write_dense_cross_encoder
from tests.decoders import DECODERS, OF_VERSION_5, write_decoder
from tests.hub_client import NOBODY, use_cache, use_hub
from tests.hub_server import serve

SAFETENSORS = "*.safetensors"
BERT = {"model_type": "bert", "hidden_size": 32, "num_attention_heads": 4}
FILES = {"config.json": BERT, "tokenizer_config.json": {"tokenizer_class": "BertTokenizer"}, "tokenizer.json": None}


def verdict_of_export(directory):
    """Run the stages that decide, with the weights and the vocabulary."""
    try:
        checkpoint = read_checkpoint(str(directory))
        try:
            build_bodies(checkpoint)
            read_natively(checkpoint.transformer)
        except NotNativeError:
            return TRACED
    except CheckpointError:
        return REFUSED
    return NATIVE


def assert_same(directory, expected):
    assert verdict_of_export(directory) == expected
    for weights in directory.rglob(SAFETENSORS):
        weights.unlink()
    for vocabulary in directory.rglob("tokenizer.json"):
        vocabulary.write_text("")
    assert check_support("org/name", read_settings_files(directory)).verdict == expected


@pytest.mark.parametrize("family", families.FAMILIES, ids=lambda family: family.name)
def test_families(family, tmp_path):
    assert_same(families.seeded(family.make, tmp_path / "checkpoint"), NATIVE)


@pytest.mark.parametrize("name", [name for name in DECODERS if name not in OF_VERSION_5])
def test_decoders(name, tmp_path):
    assert_same(write_decoder(tmp_path / "checkpoint", DECODERS[name]), NATIVE)


@pytest.mark.parametrize("layout", clips.LAYOUTS)
def test_clips(layout, tmp_path):
    assert_same(clips.write_clip(tmp_path / "checkpoint", layout=layout), NATIVE)


@pytest.mark.parametrize("write", [write_classifier, write_cross_encoder, write_dense_cross_encoder])
def test_cross_encoders(write, tmp_path):
    assert_same(write(tmp_path / "checkpoint"), NATIVE)


def test_cross_encoder_that_is_traced(tmp_path):
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY_SIZE, "num_labels": 1, **SMALL}
    checkpoint = write_classifier(tmp_path / "checkpoint")
    (checkpoint / "model.safetensors").unlink()
    RoFormerForSequenceClassification(RoFormerConfig(**sizes)).save_pretrained(checkpoint)
    assert_same(checkpoint, TRACED)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_type": "roformer"}, TRACED),
        ({"hidden_act": "mish"}, TRACED),
        ({"num_attention_heads": 5}, TRACED),
        ({"is_decoder": True}, TRACED),
        ({"auto_map": {"AutoModel": "modeling.MyModel"}}, REFUSED),
        ({"lora_adaptations": ["classification"]}, REFUSED),
    ],
)
def test_settings_of_the_transformer(tmp_path, change, expected):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    edit_json(checkpoint / "config.json", **change)
    assert_same(checkpoint, expected)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"modules": ("Transformer", "Pooling", "LSTM")}, "the module 'LSTM' is not supported"),
        ({"modules": ("Transformer",)}, "the checkpoint has 0 Pooling modules; it should have exactly one"),
        ({"types": {"Transformer": "evil.Transformer"}}, "the module 'evil.Transformer' is not supported"),
        (
            {"transformer": {"max_seq_length": 0}},
            "sentence_bert_config.json has 0 as max_seq_length, which is not supported",
        ),
        (
            {"config": {"model_type": "Other"}},
            "the checkpoint is a Other, which is not supported",
        ),
    ],
)
def test_refusals_have_the_reason_of_the_export(tmp_path, change, reason):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", **change)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(str(checkpoint))
    assert str(error.value).replace(f"{checkpoint}/", "") == f"checkpoint: {reason}"
    assert check_support("org/name", read_settings_files(checkpoint)) == Support(REFUSED, (reason,))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"tokenizer_class": "DebertaV2Tokenizer"}, (TRACED, "its class 'DebertaV2Tokenizer' is not known")),
        ({"tokenizer_class": "NoSuchTokenizer"}, (REFUSED, "transformers has no fast version of it either")),
        ({"tokenizer_class": "BertTokenizer", "auto_map": {}}, (TRACED, "it has the setting auto_map")),
        ({"tokenizer_class": "BertTokenizer", "truncation_side": "left"}, (REFUSED, "cuts long texts at their start")),
        ({"tokenizer_class": "BertTokenizer", "split_special_tokens": True}, (REFUSED, "it splits special tokens")),
        ({"tokenizer_class": "TokenizersBackend"}, (NATIVE, "")),
    ],
)
def test_settings_of_the_tokenizer(settings, expected):
    support = check_support("org/name", FILES | {"tokenizer_config.json": settings})
    assert (support.verdict, bool(support.reasons)) == (expected[0], expected[0] != NATIVE)
    assert expected[1] in "".join(support.reasons)


def test_tokenizers_without_tokenizer_json():
    files = {name: content for name, content in FILES.items() if name != "tokenizer.json"}
    assert "its files are missing" in check_support("org/name", files).reasons[0]
    assert check_support("org/name", files | {"vocab.txt": None}).verdict == NATIVE
    support = check_support("org/name", files | {"vocab.txt": None, "tokenizer.model": None})
    assert support.verdict == TRACED
    assert "a vocabulary file that only transformers reads" in support.reasons[0]


def test_both_reasons_are_given():
    files = FILES | {"config.json": {"model_type": "deberta-v2"}, "tokenizer_config.json": {}}
    model, tokenizer = check_support("org/name", files).reasons
    assert model == "config.json has 'deberta-v2' as model_type"
    assert tokenizer.startswith("the tokenizer cannot be read here: its class is not named")


def test_class_of_the_repository_that_would_have_to_be_traced():
    auto_map = {"AutoModel": "jinaai/jina-bert-implementation--modeling_bert.JinaBertModel"}
    support = check_support("org/name", FILES | {"config.json": BERT | {"auto_map": auto_map}})
    assert support.verdict == REFUSED
    assert "which is never run" in support.reasons[0]


def test_files_stay_inside_of_the_copy(tmp_path):
    outside = tmp_path / "outside.json"
    support = check_support("org/name", FILES | {"../../outside.json": {}, str(outside): {}, "model.safetensors": None})
    assert (support, outside.exists()) == (Support(NATIVE), False)


def test_which_files_are_read(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    shutil.copytree(checkpoint / "1_Pooling", checkpoint / "onnx")
    (checkpoint / "artifact.metadata").write_text('{"dim": 128}')
    (checkpoint / "chat_template.jinja").write_text("{{ messages }}")
    files = read_settings_files(checkpoint)
    assert files["artifact.metadata"] == {"dim": 128}
    assert files["1_Pooling/config.json"]["word_embedding_dimension"] == 32
    unread = ("onnx/config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja")
    assert [files[name] for name in unread] == [None] * len(unread)


def test_weights_are_read_again_afterwards(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    with blank_weights():
        assert not read_weights(checkpoint)
    assert read_weights(checkpoint)


def test_command_with_a_directory(tmp_path, capsys):
    checkpoint = write_checkpoint(tmp_path / "small")
    assert main([str(checkpoint), "--check"]) == 0
    edit_json(checkpoint / "config.json", model_type="roformer")
    assert main([str(checkpoint), "--check"]) == 0
    write_json(checkpoint / "config_sentence_transformers.json", {"model_type": "Other"})
    assert main([str(checkpoint), "--check"]) == 1
    (checkpoint / "config.json").write_text("{")
    assert main([str(checkpoint), "--check"]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "small: native",
        "small: traced (needs the extra [torch]): config.json has 'roformer' as model_type",
        "small: refused: the checkpoint is a Other, which is not supported",
    ]
    assert "config.json cannot be read" in printed.err


@pytest.mark.parametrize(
    "option",
    [
        ("--output", "a"),
        ("--push-to", "a/b"),
        ("--dtypes", "int8"),
        ("--verify", "graph"),
        ("--distill", "static"),
        ("--dimension", "64"),
    ],
)
def test_check_goes_with_no_option_of_an_export(option, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["small", "--check", *option])
    assert "--check exports nothing, so it goes only with --revision and --task" in capsys.readouterr().err


@pytest.fixture
def ask_hub(monkeypatch, tmp_path):
    """A function that lets huggingface_hub ask the hub at an address, with a new cache."""
    pytest.importorskip("huggingface_hub")
    use_cache(tmp_path / "cache", monkeypatch)
    return partial(use_hub, monkeypatch=monkeypatch)


def test_command_fetches_only_settings(tmp_path, ask_hub, capsys):
    checkpoint = write_checkpoint(tmp_path / "served/small")
    shutil.copytree(checkpoint / "1_Pooling", checkpoint / "onnx")
    with serve({"sentence-transformers/small": checkpoint}) as hub:
        ask_hub(hub.endpoint)
        assert main(["small", "--check"]) == 0
        assert set(hub.fetched) == {
            "modules.json", "config.json", "sentence_bert_config.json", "1_Pooling/config.json",
            "tokenizer_config.json",
        } | ({"special_tokens_map.json"} if (checkpoint / "special_tokens_map.json").exists() else set())  # fmt: skip
    assert capsys.readouterr().out == "sentence-transformers/small: native\n"


def test_modules_that_the_export_refuses_are_fetched_too(ask_hub, capsys):
    modules = [{"idx": 0, "name": "0", "path": "", "type": "custom_st.Transformer"}, "damaged"]
    with serve({"org/name": {"modules.json": json.dumps(modules).encode(), "config.json": b"{}"}}) as hub:
        ask_hub(hub.endpoint)
        assert main(["org/name", "--check"]) == 1
    assert capsys.readouterr().out == "org/name: refused: the module 'custom_st.Transformer' is not supported\n"


def test_without_a_network(ask_hub, capsys):
    with serve({"org/name": {"config.json": json.dumps(BERT).encode(), "vocab.txt": b""}}) as hub:
        ask_hub(hub.endpoint)
        assert main(["org/name", "--check"]) == 0
    ask_hub(NOBODY)
    assert main(["org/name", "--check"]) == 0
    assert capsys.readouterr().out == "org/name: native\n" * 2
    assert main(["org/other", "--check"]) == 1
    assert "error: " in capsys.readouterr().err


def test_cache_that_another_program_has_filled(ask_hub, capsys):
    from huggingface_hub import hf_hub_download

    with serve({"org/name": {"config.json": json.dumps(BERT).encode(), "vocab.txt": b""}}) as hub:
        ask_hub(hub.endpoint)
        hf_hub_download("org/name", "config.json")
    ask_hub(NOBODY)
    assert main(["org/name", "--check"]) == 1
    assert "its cache may have only a part of org/name. Run this with a network" in capsys.readouterr().err
