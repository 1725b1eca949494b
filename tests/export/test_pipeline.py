"""The export from end to end: artifacts of small random checkpoints give sentence-transformers' vectors."""

import os
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from embedder_export import pipeline
from embedder_export.body import fuse
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.cli import main
from embedder_export.errors import CheckpointError, OutputError, ParityError
from embedder_export.tokenizer.convert import convert_tokenizer
from embedder_export.tokenizer.limits import ModelLimits
from embedder_export.write.output import staged
from transformers import BertModel, Qwen2Config, Qwen2ForCausalLM

import embedder
from embedder.artifact.locate import open_artifact
from embedder.artifact.manifest import Head
from embedder.backends.prepacked import prepack
from tests import families
from tests.checkpoints import (
    NEW_POOLING,
    NEW_TRANSFORMER,
    NEW_TYPES,
    OLD_POOLING,
    SMALL,
    VOCABULARY_SIZE,
    edit_json,
    write_checkpoint,
    write_json,
)
from tests.exports import export_fp32
from tests.processes import run_python

TEXTS = ["Hello, World!", "", "a" * 300, "ÉCOLE ß", "日本語 text", "one two three four five six seven eight nine"]
PROMPTS = {"query": "find: ", "passage": ""}


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
    manifest = export_fp32(checkpoint, tmp_path / "artifact")
    model = embedder.Embedder(tmp_path / "artifact")
    assert manifest == model.manifest
    assert np.abs(model.encode(TEXTS) - reference(checkpoint, TEXTS)).max() < 1e-5
    assert manifest.parity.min_cosine >= 0.99999
    assert manifest.parity.max_difference <= 1e-4
    assert manifest.parity.samples >= 200
    assert manifest.parity.reference.startswith("sentence-transformers 5.")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config = {"prompts": PROMPTS, "default_prompt_name": "query", "similarity_fn_name": "dot"}
    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "small", config=config)


@pytest.fixture(scope="module")
def artifact(checkpoint, tmp_path_factory):
    output = tmp_path_factory.mktemp("artifacts") / "small"
    export_fp32(checkpoint, output)
    return output


def test_settings_of_the_checkpoint_are_in_the_manifest(checkpoint, artifact):
    model = embedder.Embedder(artifact)
    manifest = model.manifest
    assert (manifest.source.model, manifest.source.revision) == ("small", None)
    assert (manifest.dimension, manifest.tokenizer.max_seq_length, manifest.tokenizer.pad_id) == (32, 32, 0)
    assert (manifest.similarity_fn_name, manifest.prompts, manifest.default_prompt_name) == (
        "dot",
        PROMPTS,
        "query",
    )
    assert manifest.head == Head(("mean",), True, ("normalize",))
    assert (manifest.graphs[0].form, manifest.graphs[0].candidates) == ("native", ())
    assert "torch" not in manifest.tools
    assert manifest.tools["onnxruntime"] == onnxruntime.__version__  # also where onnxruntime-gpu is installed
    for options in (
        {},
        {"prompt": "x "},
        {"prompt_name": "document"},
        {"prompt_name": "passage"},
        {"truncate_dim": 7, "normalize_embeddings": True},
    ):
        difference = model.encode(TEXTS, **options) - reference(checkpoint, TEXTS, **options)
        assert np.abs(difference).max() < 1e-5


def test_vectors_do_not_depend_on_their_batch(artifact):
    model = embedder.Embedder(artifact)
    together = model.encode(TEXTS)
    assert max(np.abs(model.encode(text) - row).max() for text, row in zip(TEXTS, together, strict=True)) <= 1e-6


def test_names_and_permissions_of_the_files(artifact):
    assert sorted(path.name for path in artifact.iterdir()) == [
        "embedder.json",
        "model.onnx",
        "model.onnx.data",
        "tokenizer.json",
    ]
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in artifact.iterdir())
    assert artifact.stat().st_mode & 0o555 == 0o555


def test_artifact_holds_no_local_paths(artifact, checkpoint):
    for path in artifact.iterdir():
        assert str(checkpoint.parent).encode() not in path.read_bytes()


def test_only_an_artifact_is_replaced(checkpoint, artifact, tmp_path):
    output = tmp_path / "artifact"
    shutil.copytree(artifact, output)
    (output / "model.int8.onnx").write_text("of an earlier export")
    prepack(open_artifact(output))
    export_fp32(checkpoint, output)
    assert not (output / "model.int8.onnx").exists()
    assert not (output / "prepacked").exists()
    assert list(tmp_path.iterdir()) == [output]

    (output / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"holds 'thesis\.txt', which is not part of an artifact"):
        export_fp32(checkpoint, output)
    with pytest.raises(OutputError, match=r"holds 'thesis\.txt'"):
        export_fp32(checkpoint, output / "thesis.txt")
    assert (output / "thesis.txt").read_text() == "years of work"


def test_an_artifact_in_which_a_writer_was_killed_is_replaced(artifact, tmp_path):
    output = tmp_path / "artifact"
    shutil.copytree(artifact, output)
    killed = """
import os, sys
from pathlib import Path
from embedder.artifact.manifest import read_manifest, write_manifest
Path.replace = lambda path, target: os._exit(9)
write_manifest(read_manifest(Path(sys.argv[1])), Path(sys.argv[1]))
"""
    assert run_python("-c", killed, output).returncode == 9
    assert len(list(output.iterdir())) == len(list(artifact.iterdir())) + 1
    with staged(output) as stage:
        (stage / "embedder.json").write_text("new")
    assert os.listdir(output) == ["embedder.json"]


def test_graphs_of_other_programs_are_not_replaced(checkpoint, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/classifier.onnx").write_text("years of work")
    (tmp_path / "mine.onnx").write_text("years of work")
    for output, name in {"mine": r"classifier\.onnx", "mine.onnx": r"mine\.onnx"}.items():
        with pytest.raises(OutputError, match=f"holds '{name}', which is not part of an artifact"):
            export_fp32(checkpoint, tmp_path / output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mine.onnx"]
    assert (tmp_path / "mine/classifier.onnx").read_text() == "years of work"


def test_files_that_appear_during_the_export_are_kept(tmp_path):
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
        if Path(target) == output and path.parent.name != "old":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutputError, match="cannot be replaced and is unchanged: Input/output error"), staged(output):
        pass
    assert embedder.Embedder(output).dimension == 32
    assert list(tmp_path.iterdir()) == [output]


def test_new_parent_directories_are_removed_after_a_failure(tmp_path):
    with pytest.raises(KeyError), staged(tmp_path / "new/a/b/artifact"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_impossible_output(checkpoint, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for output in (Path("/"), tmp_path / "loop", tmp_path / "loop/artifact"):
        with pytest.raises(OutputError, match="cannot be written"):
            export_fp32(checkpoint, output)


def test_output_that_cannot_be_written(checkpoint, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        export_fp32(checkpoint, tmp_path / "file" / "artifact")


def test_nothing_is_written_when_parity_falls_short(checkpoint, artifact, tmp_path, monkeypatch):
    def fall_short(*arguments):
        raise ParityError("short")

    monkeypatch.setattr(pipeline, "verify", fall_short)
    output = tmp_path / "artifact"
    with pytest.raises(ParityError):
        export_fp32(checkpoint, output)
    assert list(tmp_path.iterdir()) == []
    shutil.copytree(artifact, output)
    with pytest.raises(ParityError):
        export_fp32(checkpoint, output)
    assert embedder.Embedder(output).dimension == 32
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    ("limit", "changes", "expected"),
    [
        (None, {}, 48),
        (None, {"model_max_length": 100}, 64),
        (None, {"model_max_length": None}, 64),
        (40, {}, 40),
        (60, {}, 60),
        (65, {}, 64),
        (10**30, {}, 64),
    ],
)
def test_limit_of_tokens(tmp_path, limit, changes, expected):
    """The checkpoint's limit counts before the tokenizer's. The limit never exceeds the model's 64 positions."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint", transformer={"max_seq_length": limit})
    edit_json(checkpoint / "tokenizer_config.json", **changes)
    assert export_fp32(checkpoint, tmp_path / "artifact").tokenizer.max_seq_length == expected


def test_checkpoint_without_modules(tmp_path):
    """Without modules.json, tokens are pooled by their mean, and config_sentence_transformers.json is ignored."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config={"prompts": {"query": "find: "}})
    (checkpoint / "modules.json").unlink()
    manifest = export_fp32(checkpoint, tmp_path / "artifact")
    assert (manifest.head, manifest.prompts) == (Head(("mean",), True, ()), {})
    assert manifest.tokenizer.max_seq_length == 48
    model = embedder.Embedder(tmp_path / "artifact")
    assert np.abs(model.encode(TEXTS) - reference(checkpoint, TEXTS)).max() < 1e-5
    edit_json(checkpoint / "tokenizer_config.json", chat_template="{{ messages }}")
    with pytest.raises(CheckpointError, match="chat template"):
        read_checkpoint(str(checkpoint))


def test_truncated_dimensions(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config={"truncate_dim": 8})
    manifest = export_fp32(checkpoint, tmp_path / "artifact")
    assert (manifest.dimension, manifest.head.layers) == (8, ("normalize", "truncate(8)"))
    options = {"normalize_embeddings": True}
    ours = embedder.Embedder(tmp_path / "artifact").encode(TEXTS, **options)
    assert np.abs(ours - reference(checkpoint, TEXTS, **options)).max() < 1e-5


def test_left_padding(tmp_path):
    """sentence-transformers' vectors depend on the batch here. The artifact's vectors do not."""
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    edit_json(checkpoint / "tokenizer_config.json", padding_side="left")
    export_fp32(checkpoint, tmp_path / "artifact")
    alone = np.concatenate([reference(checkpoint, [text]) for text in TEXTS])
    assert np.abs(alone - reference(checkpoint, TEXTS)).max() > 1e-3
    assert np.abs(alone - embedder.Embedder(tmp_path / "artifact").encode(TEXTS)).max() < 1e-5


def test_command_line(checkpoint, tmp_path, capsys):
    assert main([str(checkpoint), "--output", str(tmp_path / "artifact")]) == 0
    err = capsys.readouterr().err
    for stage in ["reading the checkpoint", "converting", "writing the graph", "comparing with", "cosine"]:
        assert stage in err
    assert embedder.Embedder(tmp_path / "artifact").dimension == 32


def test_command_line_error_has_no_traceback(tmp_path, capsys):
    assert main([str(tmp_path), "--output", str(tmp_path / "artifact")]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("embedder-export: error: ")
    assert "config.json is missing" in last


def test_empty_prompts(tmp_path):
    config = {"prompts": {"query": None, "passage": "p: "}, "default_prompt_name": "document"}
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config=config)
    export_fp32(checkpoint, tmp_path / "artifact")
    model = embedder.Embedder(tmp_path / "artifact")
    assert model.prompts == {"query": "", "document": "", "passage": "p: "}
    for options in ({}, {"prompt_name": "query"}, {"prompt_name": "passage"}):
        assert np.abs(model.encode(TEXTS, **options) - reference(checkpoint, TEXTS, **options)).max() < 1e-5


def test_weights_in_several_files(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    whole = read_checkpoint(str(checkpoint)).weights_sha256
    (checkpoint / "model.safetensors").unlink()
    model = write_checkpoint(tmp_path / "whole")
    BertModel.from_pretrained(model).save_pretrained(checkpoint, max_shard_size="20KB")
    assert len(list(checkpoint.glob("model-*.safetensors"))) > 1
    assert export_fp32(checkpoint, tmp_path / "artifact").source.weights_sha256 != whole
    assert np.abs(embedder.Embedder(tmp_path / "artifact").encode(TEXTS) - reference(model, TEXTS)).max() < 1e-5


def test_traced_export(checkpoint, tmp_path):
    manifest = export_fp32(checkpoint, tmp_path / "artifact", converter="optimum")
    assert [candidate.name for candidate in manifest.graphs[0].candidates] == ["traced", "attention", "full"]
    assert "torch" in manifest.tools
    assert np.abs(embedder.Embedder(tmp_path / "artifact").encode(TEXTS) - reference(checkpoint, TEXTS)).max() < 1e-5


def test_graph_too_large_to_be_fused(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(fuse, "_MAX_FUSED_BYTES", 0)
    manifest = export_fp32(checkpoint, tmp_path / "artifact", converter="optimum")
    assert manifest.graphs[0].form == "traced"


def test_graph_that_the_fusions_do_not_know(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(fuse, "optimize_model", lambda *arguments, **options: 1 / 0)
    manifest = export_fp32(checkpoint, tmp_path / "artifact", converter="optimum")
    assert manifest.graphs[0].form == "traced"


def test_no_limit_anywhere(tmp_path):
    """A T5 has no position table, so sentence-transformers has no limit. The artifact has the default limit."""
    checkpoint = families.seeded(families.instructor, tmp_path / "t5")
    write_json(checkpoint / "sentence_bert_config.json", {"max_seq_length": None})
    edit_json(checkpoint / "tokenizer_config.json", model_max_length=None)
    assert convert_tokenizer(read_checkpoint(str(checkpoint)), ModelLimits()).max_seq_length == 8192


def test_causal_language_model_without_modules_is_pooled_by_its_last_token(tmp_path):
    checkpoint = tmp_path / "causal"
    tokenizer = write_checkpoint(tmp_path / "bert")
    shape = Qwen2Config(vocab_size=VOCABULARY_SIZE, num_key_value_heads=2, max_position_embeddings=64, **SMALL)
    torch.manual_seed(0)
    Qwen2ForCausalLM(shape).save_pretrained(checkpoint)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, checkpoint)
    edit_json(checkpoint / "tokenizer_config.json", padding_side="left")
    assert export_fp32(checkpoint, tmp_path / "artifact").head.pooling == ("lasttoken",)
    assert np.abs(embedder.Embedder(tmp_path / "artifact").encode(TEXTS) - reference(checkpoint, TEXTS)).max() < 1e-4
