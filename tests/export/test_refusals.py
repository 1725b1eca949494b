"""The export refuses checkpoints that are damaged, that would run code, or that have unsupported settings."""

import json
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from embedder_export.body import traced
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.errors import CheckpointError
from safetensors.torch import load_file, save_file

from embedder.errors import ModelNotFoundError
from tests import families
from tests.checkpoints import edit_json, write_checkpoint, write_json
from tests.exports import export_fp32
from tests.tiny import tiny_body


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "small")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modules": ("Transformer", "Pooling", "LSTM")}, "checkpoint: the module 'LSTM' is not supported"),
        ({"modules": ("Transformer",)}, "0 Pooling modules"),
        ({"modules": ("CLIPModel", "Pooling")}, "first module is a CLIPModel, but config.json belongs to another"),
        ({"modules": ()}, "first module should be a Transformer"),
        ({"types": {"Pooling": "evil.code.Pooling"}}, r"the module 'evil\.code\.Pooling' is not supported"),
        ({"types": {"Transformer": "evil.Transformer"}}, r"the module 'evil\.Transformer' is not supported"),
        ({"types": {"Pooling": "Pooling"}}, "the module 'Pooling' is not supported"),
        ({"types": {"Transformer": "Transformer"}}, "the module 'Transformer' is not supported"),
        ({"types": {"Pooling": "sentence_transformers.evil.Pooling"}}, "sentence-transformers cannot load checkpoint"),
        ({"folder": "../elsewhere"}, r"leads out of the checkpoint, to '\.\./elsewhere'"),
        ({"config": {"prompts": ["query"]}}, "prompts that are not strings by name"),
        ({"config": {"prompts": {"query": 3}}}, "prompts that are not strings by name"),
        (
            {"config": {"prompts": {"query": "\ud800"}}},
            r"cannot be read: a string has \\ud800, a half of a surrogate pair",
        ),
        ({"transformer": {"max_seq_length": 2}}, "a limit of 2 tokens leaves no room for a text beside 2 special"),
        ({"config": {"default_prompt_name": "passage"}}, "the default prompt 'passage', which is not among"),
        ({"config": {"default_prompt_name": ["query"]}}, r"the default prompt \['query'\], which is not among"),
        ({"config": ["query"]}, "should hold a JSON dict, not"),
        ({"transformer": {"max_seq_length": "32"}}, r"sentence_bert_config\.json has '32' as max_seq_length"),
        ({"transformer": {"max_seq_length": 0}}, "has 0 as max_seq_length"),
        ({"transformer": {"do_lower_case": "yes"}}, "has 'yes' as do_lower_case"),
        ({"transformer": {"model_args": {"weights_only": False}}}, r"has \{'weights_only': False\} as model_args"),
        ({"transformer": {"tokenizer_name_or_path": "org/other"}}, "has 'org/other' as tokenizer_name_or_path"),
        ({"transformer": {"transformer_task": "fill-mask"}}, "has 'fill-mask' as transformer_task"),
        ({"transformer": {"modality_config": {"message": {}}}}, "as modality_config"),
        ({"transformer": {"modality_config": {"text": 3}}}, "as modality_config"),
        ({"transformer": {"color": "red"}}, "has 'red' as color, which is not supported"),
        ({"config": {"truncate_dim": "8"}}, "has '8' as truncate_dim"),
        ({"config": {"similarity_fn_name": "near"}}, "unknown similarity function 'near'"),
    ],
)
def test_unsupported_settings_are_refused_by_name(tmp_path, change, message):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", **change)
    with pytest.raises(CheckpointError, match=message):
        export_fp32(checkpoint, tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "config.json").unlink(), r"config\.json is missing: is this a sentence-transformers"),
        (lambda d: (d / "modules.json").write_text("{"), r"modules\.json cannot be read"),
        (
            lambda d: write_json(d / "modules.json", [{"path": "", "type": 3}]),
            r"modules\.json is not a list of modules",
        ),
        (
            lambda d: write_json(
                d / "modules.json",
                [
                    {"name": "0", "path": folder, "type": f"sentence_transformers.models.{kind}"}
                    for folder, kind in (("", "Transformer"), ("1_Pooling", "Pooling"))
                ],
            ),
            r"modules\.json has several modules of one name",
        ),
        (
            lambda d: (
                write_json(d / "model.safetensors.index.json", {"weight_map": {"a": "b\0.safetensors"}})
                or (d / "model.safetensors").unlink()
            ),
            "does not map tensors to files beside it",
        ),
        (lambda d: (d / "tokenizer.json").write_text("{"), "the tokenizer of checkpoint cannot be used"),
        (lambda d: (d / "1_Pooling/config.json").unlink(), r"config\.json is missing"),
        (lambda d: (d / "model.safetensors").unlink(), r"has none of model\.safetensors, pytorch_model\.bin"),
        (lambda d: (d / "model.safetensors").write_bytes(b"x" * 100), r"model\.safetensors cannot be read as plain"),
        (
            lambda d: change_weights(d, lambda w: w.pop("embeddings.LayerNorm.weight")),
            r"the weights lack embeddings\.LayerNorm\.weight",
        ),
        (
            lambda d: change_weights(d, lambda w: w.update({"embeddings.LayerNorm.weight": torch.ones(31)})),
            r"have embeddings\.LayerNorm\.weight of shape \(31,\), not \(32,\)",
        ),
        (lambda d: write_json(d / "adapter_config.json", {}), r"holds an adapter \(adapter_config\.json\)"),
        (lambda d: write_json(d / "tokenizer_config.json", {"vocab_file": __file__}), "as vocab_file, a file outside"),
        (lambda d: edit_json(d / "tokenizer_config.json", split_special_tokens=True), "splits special tokens"),
        (
            lambda d: edit_json(d / "config.json", _attn_implementation_internal="a/b"),
            "'a/b' as _attn_implementation_int",
        ),
        (
            lambda d: edit_json(d / "config.json", attn_implementation="org/kernel"),
            "'org/kernel' as attn_implementation",
        ),
        (
            lambda d: (
                edit_json(d / "tokenizer_config.json", model_max_length="48")
                or write_json(d / "sentence_bert_config.json", {"max_seq_length": None})
            ),
            "the tokenizer of checkpoint cannot be used: ",
        ),
        (
            lambda d: (d / "modules.json").unlink() or (d / "modules.json").symlink_to("nowhere"),
            r"modules\.json is missing",
        ),
        (
            lambda d: (
                write_json(d / "model.safetensors.index.json", {"weight_map": {"a": "../b.safetensors"}})
                or (d / "model.safetensors").unlink()
            ),
            "does not map tensors to files beside it",
        ),
        (lambda d: edit_json(d / "tokenizer_config.json", truncation_side="left"), "cuts long texts at their start"),
        (lambda d: edit_json(d / "tokenizer_config.json", pad_token=None), "sentence-transformers fails on checkpoint"),
        (lambda d: write_json(d / "config.json", {"model_type": "novel"}), "transformers cannot load|cannot be read"),
    ],
)
def test_damaged_checkpoint(tmp_path, damage, message):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=message):
        export_fp32(checkpoint, tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()


def change_weights(directory, change):
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    (checkpoint / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": Evil()}, checkpoint / "pytorch_model.bin")
    for converter, message in {
        "native": "cannot be read as plain weights",
        "optimum": "cannot load checkpoint",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            export_fp32(checkpoint, tmp_path / "artifact", converter=converter)
    assert not (tmp_path / "ran").exists()


def fail(*arguments, **options):
    raise KeyError("pixels")


def trace_body_that_needs_pixels(model, onnx_config, path):
    body = tiny_body()
    body.graph.inputs[0].name = "pixels"
    ir.save(body, path)


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        (fail, r"optimum cannot convert small: .*pixels"),
        (trace_body_that_needs_pixels, r"small needs the inputs \['attention_mask', 'pixels'\]"),
    ],
)
def test_checkpoint_that_optimum_cannot_convert(checkpoint, tmp_path, monkeypatch, trace, message):
    monkeypatch.setattr(traced, "_export", trace)
    with pytest.raises(CheckpointError, match=message):
        export_fp32(checkpoint, tmp_path / "artifact", converter="optimum")


def test_weights_that_transformers_would_fill_with_random_numbers(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    change_weights(checkpoint, lambda weights: weights.pop("embeddings.LayerNorm.weight"))
    with pytest.raises(CheckpointError, match=r"lack embeddings\.LayerNorm\.weight \(1 in all\)"):
        export_fp32(checkpoint, tmp_path / "artifact", converter="optimum")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    (checkpoint / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass")
    config = json.loads((checkpoint / "config.json").read_text())
    write_json(checkpoint / "config.json", config | {"auto_map": {"AutoModel": "evil.Model"}})
    with pytest.raises(CheckpointError, match=r"names 'evil\.Model', a class of the repository's own code"):
        export_fp32(checkpoint, tmp_path / "artifact")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_that_needs_code_of_its_own_is_refused(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    edit_json(checkpoint / "config.json", model_type="novel", auto_map={"AutoConfig": "evil.A", "AutoModel": "evil.B"})
    reason = r"names 'evil\.A', a class of the repository's own code \(auto_map\)\. That code is never run"
    with pytest.raises(CheckpointError, match=reason):
        export_fp32(checkpoint, tmp_path / "artifact")


@pytest.mark.parametrize("model", ["", "no such name", "/no/such/directory", "a/b/c"])
def test_neither_a_directory_nor_a_repository(tmp_path, model):
    with pytest.raises(ModelNotFoundError, match="neither a directory nor the name of a Hub repository"):
        export_fp32(model, tmp_path / "artifact")


def test_adapter_at_the_root_of_a_checkpoint_with_folders(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", folder="0_Transformer")
    write_json(checkpoint / "adapter_config.json", {})
    with pytest.raises(CheckpointError, match="holds an adapter"):
        read_checkpoint(str(checkpoint))


def test_weights_of_every_module_count_in_the_digest(tmp_path):
    checkpoint = families.seeded(families.distiluse, tmp_path / "dense")
    digest = read_checkpoint(str(checkpoint)).weights_sha256
    state = load_file(checkpoint / "2_Dense/model.safetensors")
    state["linear.bias"][0] += 1
    save_file(state, checkpoint / "2_Dense/model.safetensors")
    assert read_checkpoint(str(checkpoint)).weights_sha256 != digest
