"""Export checkpoints from a model hub. A local server stands in for the hub."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import embedder
from tests import families
from tests.checkpoints import write_checkpoint, write_json
from tests.clips import write_clip
from tests.hub_server import COMMIT, serve


@pytest.fixture
def export(tmp_path):
    def run(hub, model, *, check=True):
        """Export by the command and load the artifact. Without `check`, return what the command wrote to stderr."""
        environment = dict(os.environ, HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "hf"))
        output = tmp_path / "artifact"
        command = [sys.executable, "-m", "embedder_export", model, "--output", output]
        answer = subprocess.run(command, env=environment, cwd=tmp_path, check=check, capture_output=True, text=True)
        return embedder.Embedder(output) if check else answer.stderr

    return run


@pytest.mark.parametrize(
    ("model", "repository"),
    [("org/small", "org/small"), ("small", "sentence-transformers/small"), ("sentence-transformers/small", None)],
)
def test_names_of_repositories(tmp_path, export, model, repository):
    checkpoint = write_checkpoint(tmp_path / "served/small")
    (checkpoint / "pytorch_model.bin").write_bytes(b"the same weights again")
    with serve({repository or model: checkpoint}) as hub:
        source = export(hub, model).manifest.source
    assert (source.model, source.revision) == (model.removeprefix("sentence-transformers/"), COMMIT)
    assert "model.safetensors" in hub.fetched
    assert "pytorch_model.bin" not in hub.fetched


def test_torch_weights_are_fetched_only_without_safetensors(tmp_path, export):
    checkpoint = families.seeded(families.distiluse, tmp_path / "served/dense")
    dense = checkpoint / "2_Dense"
    torch.save(load_file(dense / "model.safetensors"), dense / "pytorch_model.bin")
    (dense / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(b"the same weights again")
    with serve({"org/dense": checkpoint}) as hub:
        assert export(hub, "org/dense").manifest.head.layers == ("dense(32, 24, tanh)",)
        assert [name for name in hub.fetched if name.endswith(".bin")] == ["2_Dense/pytorch_model.bin"]

        torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
        (checkpoint / "model.safetensors").unlink()
    with serve({"org/pickled": checkpoint}) as hub:
        assert export(hub, "org/pickled").dimension == 24
        assert "pytorch_model.bin" in hub.fetched


def test_known_models_leave_the_prompt_out_of_the_pooling(tmp_path, export):
    """No file of INSTRUCTOR's repositories says that the prompt is not pooled. sentence-transformers knows the name."""
    from sentence_transformers import SentenceTransformer

    checkpoint = families.seeded(families.instructor, tmp_path / "served/instructor")
    settings = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    write_json(checkpoint / "1_Pooling/config.json", settings)
    with serve({"hkunlp/instructor-base": checkpoint, "org/another": checkpoint}) as hub:
        model = export(hub, "hkunlp/instructor-base")
        assert not model.manifest.head.include_prompt
        assert export(hub, "org/another").manifest.head.include_prompt
    reference = SentenceTransformer(str(checkpoint), device="cpu", local_files_only=True)
    reference.set_pooling_include_prompt(False)
    texts, options = ["a title", "another, longer title", ""], {"prompt": "Represent the Science title: "}
    assert np.abs(model.encode(texts, **options) - reference.encode(texts, **options)).max() < 1e-5


def test_chat_template_is_refused(tmp_path, export):
    checkpoint = write_checkpoint(tmp_path / "served/chat")
    (checkpoint / "modules.json").unlink()
    Path(checkpoint / "chat_template.jinja").write_text("{{ messages }}")
    with serve({"org/chat": checkpoint}) as hub:
        assert "chat template and no modules.json" in export(hub, "org/chat", check=False)


def test_clip_in_the_layout_of_its_repository(tmp_path, export):
    checkpoint = write_clip(tmp_path / "served/clip", layout="old")
    body = checkpoint / "0_CLIPModel"
    torch.save(load_file(body / "model.safetensors"), body / "pytorch_model.bin")
    (body / "model.safetensors").unlink()
    with serve({"sentence-transformers/clip-ViT-B-32": checkpoint}) as hub:
        model = export(hub, "clip-ViT-B-32")
    assert model.modalities == ("text", "image")
    assert model.manifest.source.model == "clip-ViT-B-32"
    assert model.manifest.images.parity.min_cosine > 0.99999
    assert "0_CLIPModel/pytorch_model.bin" in hub.fetched
