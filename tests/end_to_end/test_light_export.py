"""The exporter as most users install it, without torch: exports that work, and the messages if torch is needed."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from embedder_export.samples.texts import parity_sentences
from embedder_export.verify.compare import measure
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

import embedder
from tests import families
from tests.checkpoints import edit_json, write_checkpoint, write_json, write_own_graph
from tests.clips import write_clip
from tests.hub_server import serve

HEAVY = {"torch", "transformers", "optimum", "optimum-onnx", "sentence-transformers", "sentencepiece"}
SOURCE = Path(__file__).parents[2] / "export/embedder_export"


@pytest.fixture
def export(export_bin, tmp_path):
    """A function that exports a checkpoint in the environment without torch."""

    def run(checkpoint, *options, hub="http://127.0.0.1:9"):
        command = [export_bin / "embedder-export", checkpoint, "--output", tmp_path / "artifact", *options]
        environment = dict(os.environ, HF_ENDPOINT=hub, HF_HOME=str(tmp_path / "hf"), NO_PROXY="127.0.0.1")
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    return run


def test_nothing_heavy_is_installed_and_the_code_is_that_of_this_checkout(export_bin):
    code = (
        "import importlib.metadata as m, json, embedder_export as e; "
        "print(json.dumps([e.__file__, *(d.metadata['Name'].lower() for d in m.distributions())]))"
    )
    answer = subprocess.run([export_bin / "python", "-I", "-c", code], check=True, capture_output=True, text=True)
    file, *names = json.loads(answer.stdout)
    assert {"embedder-export", "onnx", "onnx-ir", "safetensors"} <= set(names)
    assert not HEAVY & set(names)
    for path in SOURCE.rglob("*.py"):
        installed = Path(file).parent / path.relative_to(SOURCE)
        assert installed.read_text() == path.read_text(), f"{path.name} differs: make test installs it"


MAKERS = [
    families.bert,
    families.mpnet,
    families.roberta,
    families.multilingual_mpnet,
    families.distiluse,
    families.albert,
    families.labse,
    families.instructor,
    families.specter,
]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_same_vectors_as_sentence_transformers(export, tmp_path, make):
    checkpoint = families.seeded(make, tmp_path / "checkpoint")
    answer = export(checkpoint, "--dtypes", "fp32")
    assert answer.returncode == 0, answer.stderr
    assert "not compared with a reference: sentence-transformers is not installed" in answer.stderr
    model = embedder.Embedder(tmp_path / "artifact", provider="cpu")
    assert model.manifest.parity is None
    reference = SentenceTransformer(str(checkpoint), device="cpu", local_files_only=True)
    texts = [text for text in parity_sentences()[::4] if text.strip()]
    for prompt in (None, "Represent the sentence: "):
        ours, theirs = model.encode(texts, prompt=prompt), reference.encode(texts, prompt=prompt)
        cosine, difference = measure(ours, theirs)
        assert cosine.min() >= 0.99999
        assert difference.max() <= 1e-5


def unknown_activation(directory):
    checkpoint = write_checkpoint(directory)
    edit_json(checkpoint / "config.json", hidden_act="mish")
    return checkpoint


def unknown_tokenizer(directory):
    checkpoint = write_checkpoint(directory)
    edit_json(checkpoint / "tokenizer_config.json", tokenizer_class="XLNetTokenizer")
    return checkpoint


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (unknown_activation, [], "config.json has 'mish' as hidden_act: that needs torch"),
        (
            unknown_tokenizer,
            [],
            "the tokenizer cannot be read here: its class 'XLNetTokenizer' is not known: that needs torch",
        ),
        (write_checkpoint, ["--converter", "optimum"], "optimum converts by tracing: that needs torch"),
        (write_checkpoint, ["--verify", "reference"], "the comparison with sentence-transformers was asked for: that"),
    ],
)
def test_message_says_that_torch_is_needed_and_how_to_install_it(export, tmp_path, make, options, message):
    answer = export(make(tmp_path / "checkpoint"), *options)
    assert answer.returncode == 1
    assert message in answer.stderr
    assert 'pip install "embedder-export[torch]"; or with make: make export TORCH=1 MODEL=' in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "artifact").exists()


def test_export_from_the_hub_is_compared_with_the_graph_of_the_repository(export, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "served")
    write_own_graph(checkpoint)
    with serve({"org/small": checkpoint}) as hub:
        answer = export("org/small", "--dtypes", "fp32", hub=hub.endpoint)
        assert answer.returncode == 0, answer.stderr
        assert "--verify graph fetches that of a Hub repository" in answer.stderr
        assert "onnx/model.onnx" not in hub.fetched  # it is as large as the weights
        answer = export("org/small", "--dtypes", "fp32", "--verify", "graph", hub=hub.endpoint)
        assert answer.returncode == 0, answer.stderr
    assert "onnx/model.onnx" in hub.fetched
    assert embedder.Embedder(tmp_path / "artifact").manifest.parity.reference == "onnx/model.onnx"


def test_graph_that_is_demanded_and_missing(export, tmp_path):
    with serve({"org/small": write_checkpoint(tmp_path / "served")}) as hub:
        answer = export("org/small", "--dtypes", "fp32", "--verify", "graph", hub=hub.endpoint)
    assert answer.returncode == 1
    assert "org/small has no onnx/model.onnx that can be compared with" in answer.stderr
    assert not (tmp_path / "artifact").exists()


def instructor(directory):
    return families.seeded(families.instructor, directory)


def sharded_xlm_roberta(directory):
    """Write the weights in two files and their index, as large models have them."""
    checkpoint = families.seeded(families.multilingual_mpnet, directory)
    weights = load_file(checkpoint / "model.safetensors")
    parts = {name: f"pytorch_model-0000{1 + number % 2}-of-00002.bin" for number, name in enumerate(weights)}
    for part in set(parts.values()):
        torch.save({name: weights[name] for name in weights if parts[name] == part}, checkpoint / part)
    write_json(checkpoint / "pytorch_model.bin.index.json", {"weight_map": parts})
    return checkpoint


def old_clip(directory):
    return write_clip(directory, layout="old")


@pytest.mark.parametrize("make", [instructor, sharded_xlm_roberta, old_clip], ids=lambda make: make.__name__)
def test_weights_in_torchs_format_give_the_vectors_of_safetensors(export, tmp_path, make):
    checkpoint, texts = make(tmp_path / "checkpoint"), ["a text", "a longer text of the same kind", ""]
    pickled = shutil.copytree(checkpoint, tmp_path / "pickled")
    families.unpickle(checkpoint)
    for path in pickled.rglob("model.safetensors"):
        if not path.with_name("pytorch_model.bin.index.json").exists():
            torch.save(load_file(path), path.with_name("pytorch_model.bin"))
        path.unlink()
    assert not list(pickled.rglob("*.safetensors"))
    assert export(checkpoint, "--dtypes", "fp32").returncode == 0
    expected = embedder.Embedder(tmp_path / "artifact", provider="cpu").encode(texts)
    with serve({"org/pickled": pickled}) as hub:
        answer = export("org/pickled", "--dtypes", "fp32", hub=hub.endpoint)
    assert answer.returncode == 0, answer.stderr
    vectors = embedder.Embedder(tmp_path / "artifact", provider="cpu").encode(texts)
    assert np.abs(vectors - expected).max() <= 1e-6
