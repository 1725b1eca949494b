"""The export from end to end, on small random checkpoints: the vectors are those of sentence-transformers."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from embedder_export import convert, pipeline
from embedder_export.checkpoint import read_checkpoint
from embedder_export.cli import main
from embedder_export.errors import CheckpointError, OutputError, ParityError
from embedder_export.write import staged
from safetensors.torch import load_file, save_file

import embedder
from embedder.errors import ModelNotFoundError
from embedder.manifest import Head
from tests.checkpoints import NEW_POOLING, NEW_TRANSFORMER, NEW_TYPES, OLD_POOLING, write_checkpoint, write_json
from tests.tiny import tiny_body

TEXTS = ["Hello, World!", "", "a" * 300, "ÉCOLE ß", "日本語 text", "one two three four five six seven eight nine"]


PROMPTS = {"query": "find: ", "passage": ""}


def export(model, output):
    return pipeline.export(read_checkpoint(str(model)), output, lambda line: None)


def reference(checkpoint, texts, **options):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(checkpoint), device="cpu", local_files_only=True)
    return model.encode(texts, show_progress_bar=False, **options)


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"types": NEW_TYPES, "pooling": NEW_POOLING, "seed": 1},
        {"pooling": NEW_POOLING | {"pooling_mode": ["mean"]}, "seed": 2},
        {"modules": ("Transformer", "Pooling"), "seed": 3},
        {"transformer": {"max_seq_length": None, "do_lower_case": False}, "seed": 4},
        {"transformer": {"max_seq_length": 12, "do_lower_case": True}, "lowercase": False, "seed": 5},
        {"lowercase": False, "seed": 6},
        {"folder": "0_Transformer", "seed": 7},
        {"limits_name": "sentence_roberta_config.json", "transformer": {"max_seq_length": 10}, "seed": 8},
        {"types": NEW_TYPES, "pooling": NEW_POOLING, "transformer": NEW_TRANSFORMER, "seed": 9},
        {"pooling": OLD_POOLING | {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, "seed": 10},
        {"pooling": NEW_POOLING | {"pooling_mode": ["lasttoken", "weightedmean"]}, "seed": 11},
        {"modules": ("Transformer", "Pooling", "Dropout", "Normalize"), "seed": 12},
    ],
)
def test_same_vectors_as_sentence_transformers(tmp_path, layout):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", **layout)
    manifest = export(checkpoint, tmp_path / "artifact")
    model = embedder.Embedder(tmp_path / "artifact")
    assert manifest == model.manifest
    assert np.abs(model.encode(TEXTS) - reference(checkpoint, TEXTS)).max() < 1e-5
    assert manifest.parity.min_cosine >= 0.99999
    assert manifest.parity.max_abs_difference <= 1e-4
    assert manifest.parity.sentences >= 200
    assert manifest.parity.reference.startswith("sentence-transformers 5.")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config = {"prompts": PROMPTS, "default_prompt_name": "query", "similarity_fn_name": "dot"}
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "small", config=config)


@pytest.fixture(scope="module")
def artifact(checkpoint, tmp_path_factory):
    output = tmp_path_factory.mktemp("artifacts") / "small"
    export(checkpoint, output)
    return output


def test_settings_of_the_checkpoint_are_in_the_manifest(checkpoint, artifact):
    model = embedder.Embedder(artifact)
    manifest = model.manifest
    assert (manifest.source.model, manifest.source.revision) == ("small", None)
    assert (manifest.dimension, manifest.tokenizer.max_seq_length, manifest.tokenizer.pad_id) == (32, 32, 0)
    assert (manifest.similarity, manifest.prompts, manifest.default_prompt_name) == (
        "dot",
        PROMPTS,
        "query",
    )
    assert manifest.head == Head(("mean",), True, ("normalize",))
    assert [candidate.name for candidate in manifest.graphs[0].candidates] == ["traced", "attention", "full"]
    for options in (
        {},
        {"prompt": "x "},
        {"prompt_name": "document"},
        {"prompt_name": "passage"},
        {"truncate_dim": 7, "normalize_embeddings": True},
    ):
        difference = model.encode(TEXTS, **options) - reference(checkpoint, TEXTS, **options)
        assert np.abs(difference).max() < 1e-5


def test_same_vector_alone_or_in_any_batch(artifact):
    model = embedder.Embedder(artifact)
    together = model.encode(TEXTS)
    assert max(np.abs(model.encode(text) - row).max() for text, row in zip(TEXTS, together, strict=True)) <= 1e-6


def test_files_are_readable_by_others_and_weights_lie_outside_the_graph(artifact):
    assert sorted(path.name for path in artifact.iterdir()) == [
        "embedder.json",
        "model.onnx",
        "model.onnx.data",
        "tokenizer.json",
    ]
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in artifact.iterdir())
    assert artifact.stat().st_mode & 0o555 == 0o555


def test_no_trace_of_this_machine_in_the_artifact(artifact, checkpoint):
    for path in artifact.iterdir():
        assert str(checkpoint.parent).encode() not in path.read_bytes()


def test_an_artifact_is_replaced_and_anything_else_is_not(checkpoint, artifact, tmp_path):
    output = tmp_path / "artifact"
    shutil.copytree(artifact, output)
    (output / "model.int8.onnx").write_text("of an earlier export")
    export(checkpoint, output)
    assert not (output / "model.int8.onnx").exists()
    assert list(tmp_path.iterdir()) == [output]

    (output / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"holds 'thesis\.txt', which is no part of an artifact"):
        export(checkpoint, output)
    with pytest.raises(OutputError, match=r"holds 'thesis\.txt'"):
        export(checkpoint, output / "thesis.txt")
    assert (output / "thesis.txt").read_text() == "years of work"


def test_what_appears_during_the_export_is_kept(tmp_path):
    precious = tmp_path / "artifact" / "thesis.txt"

    def write_during_export():
        with staged(precious.parent):
            precious.parent.mkdir()
            precious.write_text("years of work")

    with pytest.raises(OutputError, match=r"holds 'thesis\.txt'"):
        write_during_export()
    assert list(tmp_path.rglob("*")) == [precious.parent, precious]


def test_old_artifact_survives_a_swap_that_fails(artifact, tmp_path, monkeypatch):
    output = tmp_path / "artifact"
    shutil.copytree(artifact, output)
    rename = Path.rename

    def fail(path, target):
        if Path(target) == output and not path.name.endswith("-old"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError, match="cannot be replaced, and is as it was: Input/output error"), staged(output):
        pass
    assert embedder.Embedder(output).dimension == 32
    assert list(tmp_path.iterdir()) == [output]


def test_output_that_cannot_be_written(checkpoint, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        export(checkpoint, tmp_path / "file" / "artifact")


def test_nothing_is_written_when_parity_falls_short(checkpoint, artifact, tmp_path, monkeypatch):
    def fall_short(*arguments):
        raise ParityError("short")

    monkeypatch.setattr(pipeline, "verify", fall_short)
    output = tmp_path / "artifact"
    with pytest.raises(ParityError):
        export(checkpoint, output)
    assert list(tmp_path.iterdir()) == []
    shutil.copytree(artifact, output)
    with pytest.raises(ParityError):
        export(checkpoint, output)
    assert embedder.Embedder(output).dimension == 32
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modules": ("Transformer", "Pooling", "LSTM")}, "checkpoint: the module 'LSTM' is not supported"),
        ({"modules": ("Transformer",)}, "0 Pooling modules"),
        ({"modules": ("CLIPModel", "Pooling")}, "first module should be a Transformer, and is 'CLIPModel'"),
        ({"modules": ()}, "first module should be a Transformer, and is none"),
        ({"types": {"Pooling": "evil.code.Pooling"}}, r"the module 'evil\.code\.Pooling' is not supported"),
        ({"types": {"Transformer": "evil.Transformer"}}, r"should be a Transformer, and is 'evil\.Transformer'"),
        ({"types": {"Pooling": "sentence_transformers.evil.Pooling"}}, "sentence-transformers fails on checkpoint"),
        ({"folder": "../elsewhere"}, r"leads out of the checkpoint, to '\.\./elsewhere'"),
        ({"config": {"prompts": ["query"]}}, "prompts that are not strings by name"),
        ({"config": {"prompts": {"query": 3}}}, "prompts that are not strings by name"),
        ({"config": {"default_prompt_name": "query"}}, "the default prompt 'query', which is not among"),
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
        ({"config": {"model_type": "SparseEncoder"}}, "is a SparseEncoder, not a SentenceTransformer"),
        ({"config": {"similarity_fn_name": "near"}}, "unknown similarity function 'near'"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(tmp_path, change, message):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", **change)
    with pytest.raises(CheckpointError, match=message):
        export(checkpoint, tmp_path / "artifact")
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
        (lambda d: (d / "tokenizer.json").write_text("{"), "transformers cannot load the tokenizer"),
        (lambda d: (d / "1_Pooling/config.json").unlink(), r"config\.json is missing"),
        (lambda d: (d / "model.safetensors").unlink(), r"has no \.safetensors file"),
        (lambda d: (d / "model.safetensors").write_bytes(b"x" * 100), "transformers cannot load"),
        (
            lambda d: change_weights(d, lambda w: w.pop("embeddings.LayerNorm.weight")),
            "lack embeddings.LayerNorm.weight",
        ),
        (
            lambda d: change_weights(d, lambda w: w.update({"embeddings.LayerNorm.weight": torch.ones(31)})),
            "transformers cannot load",
        ),
        (lambda d: write_json(d / "adapter_config.json", {}), r"holds an adapter \(adapter_config\.json\)"),
        (
            lambda d: edit_json(d / "config.json", attn_implementation="org/kernel"),
            "'org/kernel' as attn_implementation",
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
        export(checkpoint, tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()


def edit_json(path, **changes):
    write_json(path, json.loads(path.read_text()) | changes)


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
    with pytest.raises(CheckpointError, match="transformers cannot load checkpoint"):
        export(checkpoint, tmp_path / "artifact")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("limit", "changes", "expected"),
    [
        (None, {}, 48),
        (None, {"model_max_length": 100}, 64),
        (None, {"model_max_length": None}, 64),
        (40, {}, 40),
        (60, {}, 60),
        (65, {}, 64),
    ],
)
def test_limit(tmp_path, limit, changes, expected):
    """The checkpoint's own before the tokenizer's; never more than the 64 positions that there are."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint", transformer={"max_seq_length": limit})
    edit_json(checkpoint / "tokenizer_config.json", **changes)
    assert export(checkpoint, tmp_path / "artifact").tokenizer.max_seq_length == expected


def test_repository_of_transformers_alone(tmp_path):
    """No modules.json: mean pooling, and what only sentence-transformers' own files say does not hold."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config={"prompts": {"query": "find: "}})
    (checkpoint / "modules.json").unlink()
    manifest = export(checkpoint, tmp_path / "artifact")
    assert (manifest.head, manifest.prompts) == (Head(("mean",), True, ()), {})
    assert manifest.tokenizer.max_seq_length == 48
    model = embedder.Embedder(tmp_path / "artifact")
    assert np.abs(model.encode(TEXTS) - reference(checkpoint, TEXTS)).max() < 1e-5
    edit_json(checkpoint / "tokenizer_config.json", chat_template="{{ messages }}")
    with pytest.raises(CheckpointError, match="chat template"):
        read_checkpoint(str(checkpoint))


def test_truncated_dimensions(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config={"truncate_dim": 8})
    manifest = export(checkpoint, tmp_path / "artifact")
    assert (manifest.dimension, manifest.head.layers) == (8, ("normalize", "truncate(8)"))
    options = {"normalize_embeddings": True}
    ours = embedder.Embedder(tmp_path / "artifact").encode(TEXTS, **options)
    assert np.abs(ours - reference(checkpoint, TEXTS, **options)).max() < 1e-5


def test_left_padding(tmp_path):
    """Of a BERT padded on the left sentence-transformers' vectors depend on the batch: the ones alone are ours."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    edit_json(checkpoint / "tokenizer_config.json", padding_side="left")
    export(checkpoint, tmp_path / "artifact")
    alone = np.concatenate([reference(checkpoint, [text]) for text in TEXTS])
    assert np.abs(alone - reference(checkpoint, TEXTS)).max() > 1e-3
    assert np.abs(alone - embedder.Embedder(tmp_path / "artifact").encode(TEXTS)).max() < 1e-5


def fail(*arguments, **options):
    raise KeyError("pixels")


def trace_body_that_needs_pixels(model, path):
    body = tiny_body()
    body.graph.input[0].name = "pixels"
    onnx.save(body, path)


@pytest.mark.parametrize(
    ("name", "stand_in", "message"),
    [
        (
            "AutoTokenizer",
            SimpleNamespace(from_pretrained=lambda *a, **k: SimpleNamespace(is_fast=False)),
            "no fast token",
        ),
        ("_trace", fail, r"optimum cannot convert small: .*pixels"),
        ("_trace", trace_body_that_needs_pixels, r"small needs the inputs \['attention_mask', 'pixels'\]"),
    ],
)
def test_checkpoint_that_the_libraries_cannot_do(checkpoint, tmp_path, monkeypatch, name, stand_in, message):
    monkeypatch.setattr(convert, name, stand_in)
    with pytest.raises(CheckpointError, match=message):
        export(checkpoint, tmp_path / "artifact")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    (checkpoint / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass")
    config = json.loads((checkpoint / "config.json").read_text())
    write_json(checkpoint / "config.json", config | {"auto_map": {"AutoModel": "evil.Model"}})
    export(checkpoint, tmp_path / "artifact")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("model", ["", "no such name", "/no/such/directory", "a/b/c"])
def test_neither_directory_nor_name(tmp_path, model):
    with pytest.raises(ModelNotFoundError, match="neither a directory nor the name of a Hub repository"):
        export(model, tmp_path / "artifact")


def test_command_line(checkpoint, tmp_path, capsys):
    assert main([str(checkpoint), "--output", str(tmp_path / "artifact")]) == 0
    err = capsys.readouterr().err
    for stage in ["reading the checkpoint", "converting", "fusing", "writing the graph", "comparing with", "cosine"]:
        assert stage in err
    assert embedder.Embedder(tmp_path / "artifact").dimension == 32


def test_command_line_error_has_no_traceback(tmp_path, capsys):
    assert main([str(tmp_path), "--output", str(tmp_path / "artifact")]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("embedder-export: error: ")
    assert "config.json is missing" in last


def test_from_the_hub(checkpoint, tmp_path):
    import os
    import subprocess

    from tests.hub_server import COMMIT, serve

    (checkpoint / "pytorch_model.bin").write_bytes(b"the same weights again")
    pickled = Path(shutil.copytree(checkpoint, tmp_path / "pickled"))
    (pickled / "model.safetensors").unlink()
    torch.save(load_file(checkpoint / "model.safetensors"), pickled / "pytorch_model.bin")
    with serve({"org/small": checkpoint, "sentence-transformers/smaller": checkpoint, "org/old": pickled}) as hub:
        environment = dict(os.environ, HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "hf"))
        for model, name in [("org/small", "org/small"), ("smaller", "smaller")]:
            command = [sys.executable, "-m", "embedder_export", model, "--output", tmp_path / "artifact"]
            subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True)
            source = embedder.Embedder(tmp_path / "artifact").manifest.source
            assert (source.model, source.revision) == (name, COMMIT)
        assert "model.safetensors" in hub.taken
        assert "pytorch_model.bin" not in hub.taken
        subprocess.run([*command[:3], "org/old", *command[4:]], env=environment, cwd=tmp_path, check=True)
        assert "pytorch_model.bin" in hub.taken
