"""A model is distilled into static embeddings."""

import numpy as np
import pytest
from embedder_export import cli
from embedder_export.distill import static
from embedder_export.distill.token_vectors import frequency_weights, meaningful_ids, principal_components
from tokenizers import Tokenizer

from embedder import Embedder
from embedder.artifact.distillation import distillation
from embedder.artifact.manifest import read_manifest
from tests.checkpoints import write_checkpoint
from tests.exports import export_fp32
from tests.tiny import add_image_graph, write_tiny_artifact


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distil")
    export_fp32(write_checkpoint(folder / "small"), folder / "artifact")
    return folder


@pytest.mark.parametrize("model", ["artifact", "small"])
def test_distilled_model(folder, model, tmp_path, capsys):
    arguments = ["--distill", "static", "--dimension", "6", "--dtypes", "fp32", "--verify", "auto"]
    assert cli.main([str(folder / model), *arguments, "--output", str(tmp_path / "static")]) == 0
    told = capsys.readouterr().err
    assert "similarities of 282 pairs compared with small: Spearman 0." in told
    manifest = read_manifest(tmp_path / "static")
    taught = distillation(manifest)
    assert (manifest.source.model, taught.teacher, taught.pairs) == ("small-static", "small", 282)
    assert taught.weights_sha256 == read_manifest(folder / "artifact").source.weights_sha256
    with Embedder(tmp_path / "static") as student, Embedder(folder / "artifact", dtype="fp32") as teacher:
        tokenizer = Tokenizer.from_file(str(folder / "artifact/tokenizer.json"))
        np.testing.assert_allclose(student.encode("ab"), own_vector(teacher, tokenizer, ["a", "##b"], 6), atol=1e-5)
        assert np.linalg.norm(student.encode("the cat")) == pytest.approx(1)
        assert not student.encode("[CLS] [UNK]").any()
        np.testing.assert_allclose(student.encode("a [SEP] ☃"), student.encode("a"), atol=1e-6)


def own_vector(teacher, tokenizer, tokens, dimension):
    """The vector by the formula of the distillation."""
    ids = meaningful_ids(tokenizer, tokenizer.token_to_id("[UNK]"))
    start, end = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    vectors = teacher.encode_batch(teacher.from_token_ids([[start, token_id, end] for token_id in ids]))
    rows = principal_components(vectors, dimension) * frequency_weights(len(ids))[:, None]
    total = sum(rows[ids.index(tokenizer.token_to_id(token))] for token in tokens)
    return total / np.linalg.norm(total)


def test_components_have_the_largest_variance():
    vectors = np.random.default_rng(0).standard_normal((200, 5)) * [1, 10, 100, 0, 5]
    reduced = principal_components(vectors.astype(np.float32), 3)
    np.testing.assert_allclose(np.abs(reduced.mean(axis=0)), 0, atol=1e-3)
    np.testing.assert_allclose(reduced.std(axis=0) ** 2, np.sort(vectors.std(axis=0))[::-1][:3], rtol=0.1)
    assert np.isfinite(principal_components(vectors.astype(np.float32), 5)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--distill", "static"], "the artifact needs a place: --output DIR"),
        (["--dimension", "6", "--output", "x"], "Give it with --distill static"),
        (["--distill", "static", "--dimension", "33", "--output", "x"], "--dimension should be from 1 to 32, not 33"),
        (["--distill", "static", "--dimension", "0", "--output", "x"], "--dimension should be from 1 to 32, not 0"),
    ],
)
def test_wrong_arguments(folder, arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main([str(folder / "artifact"), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_models_of_images_are_refused(tmp_path, capsys):
    """The vectors of a distilled model would not match those of images."""
    add_image_graph(write_tiny_artifact(tmp_path / "model"))
    arguments = ["--distill", "static", "--output", str(tmp_path / "static")]
    assert cli.main([str(tmp_path / "model"), *arguments]) == 1
    assert "takes images too. Vectors of a distilled model do not match" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["compare_similarities", "write_manifest"])
def test_an_interrupted_run_leaves_the_output_as_it_was(name, folder, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    write_tiny_artifact(tmp_path / "old")
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}
    monkeypatch.setattr(static, name, interrupt)
    for output in ("old", "new"):
        arguments = ["--distill", "static", "--dtypes", "fp32", "--verify", "auto", "--output", str(tmp_path / output)]
        assert cli.main([str(folder / "artifact"), *arguments]) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before
