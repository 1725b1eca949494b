"""Late-interaction checkpoints that the export refuses, each with a message that names the setting at fault."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.cli import main
from embedder_export.errors import CheckpointError
from embedder_export.pipeline import ExportSettings, export
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder

import embedder
from embedder.cli.main import main as run_embedder
from tests import multi_vectors as makers
from tests.checkpoints import edit_json
from tests.hub_server import serve
from tests.multi_vectors import FIXED, METADATA, write_flag, write_own, write_pylate, write_stanford
from tests.sparse_models import write_bge_m3

ROOT = Path(__file__).parents[2]


def assert_unreadable(checkpoint, message):
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(str(checkpoint), task="multi_vector")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"query_expansion": 32}, "has 32 as query_expansion"),
        ({"query_expansion": FIXED | {"length": 0}}, "'length': 0.* as query_expansion"),
        ({"query_expansion": FIXED | {"attend": 1}}, "as query_expansion"),
        ({"query_expansion": FIXED | {"strategy": "always"}}, "'always'.* as query_expansion"),
        ({"query_expansion": FIXED | {"tokens": 3}}, "as query_expansion"),
        ({"query_expansion": FIXED, "query_length": 9}, "a query_length of 9, which is below .* query_expansion, 24"),
        ({"query_length": "9"}, "has '9' as query_length"),
        ({"document_length": 0}, "has 0 as document_length"),
    ],
)
def test_settings_of_the_transformer(tmp_path, settings, message):
    assert_unreadable(write_own(tmp_path / "checkpoint", **settings), message)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"keep_only_token_ids": [3]}, "has keep_only_token_ids, which is for images and not supported"),
        ({"skiplist_words": "!"}, "has '!' as skiplist_words"),
        ({"skiplist_tasks": [1]}, r"has \[1\] as skiplist_tasks"),
    ],
)
def test_settings_of_the_mask(tmp_path, mask, message):
    assert_unreadable(write_own(tmp_path / "checkpoint", mask=mask), message)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"query_prefix": 3}, "has 3 as query_prefix"),
        ({"skiplist_words": 3}, "has 3 as skiplist_words"),
        ({"query_length": -1}, "has .*-1.* as query_expansion"),
    ],
)
def test_settings_of_pylate(tmp_path, declared, message):
    assert_unreadable(write_pylate(tmp_path / "checkpoint", **declared), message)


def test_modules_that_are_not_supported(tmp_path):
    checkpoint = write_own(tmp_path / "checkpoint")
    path = checkpoint / "modules.json"
    modules = json.loads(path.read_text(encoding="utf-8"))
    pooling = "sentence_transformers.multi_vector_encoder.modules.token_pooling.HierarchicalTokenPooling"
    pooled = [*modules, {"idx": 4, "name": "4", "path": "4_Pooling", "type": pooling}]
    path.write_text(json.dumps(pooled), encoding="utf-8")
    assert_unreadable(checkpoint, "the module 'HierarchicalTokenPooling' is not supported in a late-interaction model")
    path.write_text(json.dumps([*modules, {**modules[2], "idx": 4, "name": "4"}]), encoding="utf-8")
    assert_unreadable(checkpoint, "has 2 modules MultiVectorMask; it should have one")
    edit_json(checkpoint / "sentence_bert_config.json", query_expansion=FIXED)
    path.write_text(json.dumps([*modules[:2], modules[3]]), encoding="utf-8")
    assert_unreadable(checkpoint, "has query_expansion and no MultiVectorMask, which is not supported")
    path.write_text(json.dumps(modules), encoding="utf-8")
    edit_json(checkpoint / "1_Dense/config.json", module_input_name="sentence_embedding")
    assert_unreadable(checkpoint, "is a Dense of pooled vectors, in a late-interaction model")


def test_stanford_checkpoint_without_its_projection(tmp_path):
    checkpoint = write_stanford(tmp_path / "checkpoint", METADATA)
    weights = load_file(checkpoint / "model.safetensors")
    save_file(weights | {"linear.weight": torch.full((2, 32), torch.nan)}, checkpoint / "model.safetensors")
    assert_unreadable(checkpoint, r"have linear\.weight, which is no finite matrix")
    del weights["linear.weight"]
    save_file(weights, checkpoint / "model.safetensors")
    assert_unreadable(checkpoint, r"the weights lack linear\.weight, the projection of a ColBERT model")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": torch.ones(4, 32)}, "should hold the weight and the bias of a linear layer"),
        ({"weight": torch.full((4, 32), torch.inf), "bias": torch.ones(4)}, "has NaN or infinity in it"),
    ],
)
def test_damaged_head_of_bge_m3(tmp_path, content, message):
    checkpoint = write_flag(tmp_path / "checkpoint")
    torch.save(content, checkpoint / "colbert_linear.pt")
    assert_unreadable(checkpoint, message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"query_expansion": FIXED | {"length": 99}}, "fills queries up to 99 tokens, and the model can read 64"),
        ({"query_expansion": FIXED | {"token": "none"}}, "it lacks the token 'none', which should fill up queries"),
        ({"query_length": 2}, "a limit of 2 tokens leaves no room for a text beside 2 special tokens"),
    ],
)
def test_settings_that_do_not_fit_the_tokenizer(tmp_path, settings, message, capsys):
    checkpoint = write_own(tmp_path / "checkpoint", **settings)
    assert main([str(checkpoint), "--output", str(tmp_path / "artifact")]) == 1
    assert message in capsys.readouterr().err


def test_tokenizer_that_pads_on_the_left(tmp_path, capsys):
    checkpoint = write_own(tmp_path / "checkpoint", query_expansion=FIXED)
    edit_json(checkpoint / "tokenizer_config.json", padding_side="left")
    assert main([str(checkpoint), "--output", str(tmp_path / "artifact")]) == 1
    assert "it pads on the left, and so it would fill up queries there" in capsys.readouterr().err


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dtypes")
    checkpoint = write_pylate(folder / "checkpoint", makers.modernbert)
    export(
        read_checkpoint(str(checkpoint)),
        folder / "artifact",
        lambda line: None,
        ExportSettings("native", ("fp32", "int8", "fp16"), "auto"),
    )
    return folder / "artifact"


def test_other_dtypes_rank_as_fp32_does(artifact: Path):
    texts = ["", "a", "the cat. " * 9, "Where is the cat?", "a b c d e f g", "word " * 20]
    exact = embedder.MultiVectorEncoder(artifact, provider="cpu")
    for dtype, tolerance in (("int8", 0.2), ("fp16", 0.02)):
        model = embedder.MultiVectorEncoder(artifact, provider="cpu", dtype=dtype)
        for name in ("encode_query", "encode_document"):
            ours, theirs = getattr(model, name)(texts), getattr(exact, name)(texts)
            alone = [getattr(model, name)(text) for text in texts]
            for one, other, single in zip(ours, theirs, alone, strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)
                np.testing.assert_allclose(one, single, rtol=0, atol=1e-3 if dtype == "fp16" else 0)
        (graph,) = (graph for graph in model.manifest.graphs if graph.dtype == dtype)
        assert graph.score_quality is not None
        assert graph.score_quality.spearman > 0.99


def test_description_of_an_artifact(artifact: Path, capsys):
    run_embedder(["info", str(artifact)])
    lines = capsys.readouterr().out
    for text in (
        "task            multi_vector",
        "dimension       16 for each token",
        "query           up to 24 tokens, filled up to 24 with token 4, which is not attended to",
        "document        up to 40 tokens; 6 tokens, such as punctuation, give no vector",
        "similarity      maxsim",
        "tokens of queries and documents:",
        "head            dense(32, 16, identity) of each token, normalize of each token",
    ):
        assert text in lines


def run_program(folder, hub, program, *arguments):
    """Run a program of Python in a process of its own, with a model directory in `folder`."""
    environment = os.environ | {
        "EMBEDDER_HOME": str(folder / "home"), "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'export'}",
    }  # fmt: skip
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pylate", "stanford"])
def test_first_use_by_name(tmp_path, name):
    """Everything that the export needs is fetched: the settings of PyLate or ColBERT, and the weights of each layer."""
    write = {"pylate": write_pylate, "stanford": lambda path: write_stanford(path, METADATA)}[name]
    checkpoint = write(tmp_path / "checkpoint")
    program = "import sys, embedder; print(embedder.MultiVectorEncoder(sys.argv[1]).encode_query('a cat').sum())"
    with serve({"org/late": checkpoint}) as hub:
        done = run_program(tmp_path, hub, program, "org/late")
    assert done.returncode == 0, done.stderr
    reference = MultiVectorEncoder(str(checkpoint), device="cpu", local_files_only=True)
    expected = reference.encode_query("a cat", convert_to_numpy=True).sum()
    assert float(done.stdout) == pytest.approx(float(expected), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_three_heads_of_bge_m3_in_one_store(tmp_path, order):
    """The first use of one head by the model's name does not replace the artifact of another head."""
    checkpoint = write_bge_m3(tmp_path / "checkpoint")
    torch.save(torch.nn.Linear(32, 32).state_dict(), checkpoint / "colbert_linear.pt")
    classes = ("Embedder", "SparseEncoder", "MultiVectorEncoder")
    names = [classes[place] for place in order]
    program = (
        "import sys, embedder\n"
        "for name in 2 * sys.argv[1:]:\n"
        "    model = getattr(embedder, name)('BAAI/bge-m3')\n"
        "    print(name, model.manifest.task, model.encode(['a cat', 'a dog'])[1] is not None)\n"
    )
    with serve({"BAAI/bge-m3": checkpoint}) as hub:
        done = run_program(tmp_path, hub, program, *names)
    assert done.returncode == 0, done.stderr
    tasks = {"Embedder": "embed", "SparseEncoder": "sparse", "MultiVectorEncoder": "multi_vector"}
    assert done.stdout.splitlines() == [f"{name} {tasks[name]} True" for name in 2 * names]
    stored = sorted(path.name for path in (tmp_path / "home/BAAI").iterdir())
    assert stored == ["bge-m3", "bge-m3--multi_vector", "bge-m3--sparse"]
