"""Models that pad each text to one length: a short text counts as many tokens as a long one."""

from dataclasses import replace

import numpy as np
import pytest

import embedder
from embedder.artifact.manifest import read_manifest, write_manifest
from embedder.artifact.padded_tokens import padded_tokens, with_padded_tokens
from embedder.engine.text_side import TextSide
from embedder.serve.batch_model import BatchedEmbedder
from embedder.serve.batcher import Batcher
from tests.tiny import write_tiny_artifact

TEXTS = ["a", "", "the cat sat on the mat", *"abcdef" * 20]


@pytest.fixture
def padded(tmp_path):
    """The directory of a tiny model that pads each text to 16 tokens."""
    path = write_tiny_artifact(tmp_path / "padded")
    write_manifest(with_padded_tokens(read_manifest(path), 16), path)
    return path


@pytest.fixture
def shapes(monkeypatch):
    """The shapes of the token ids in each call of a graph."""
    found, feeds_of = [], TextSide._feeds

    def feeds(side, tokens, counts):
        result = feeds_of(side, tokens, counts)
        found.append(result["input_ids"].shape)
        return result

    monkeypatch.setattr(TextSide, "_feeds", feeds)
    return found


def test_a_batch_has_the_tokens_of_the_budget_with_padding(padded, tmp_path, shapes):
    with embedder.Embedder(padded, provider="cpu", threads=1) as model:
        budget = model.batch_limits.token_budget
        vectors = model.encode(TEXTS)
    assert {columns for _, columns in shapes} == {16}
    assert max(rows * columns for rows, columns in shapes) <= budget
    plain = embedder.Embedder(write_tiny_artifact(tmp_path / "plain"), provider="cpu")
    np.testing.assert_allclose(vectors, plain.encode(TEXTS), atol=1e-6)


def test_a_text_alone(padded, shapes):
    with embedder.Embedder(padded, provider="cpu") as model:
        vector = model.encode("a")
        np.testing.assert_allclose(vector, model.encode_batch(model.tokenize_texts(["a"]))[0], atol=1e-6)
    assert shapes == [(1, 16), (1, 16)]


def test_limits_of_a_batch(padded, tmp_path):
    assert embedder.Embedder(padded).batch_limits.padded_tokens == 16
    assert embedder.Embedder(write_tiny_artifact(tmp_path / "plain")).batch_limits.padded_tokens == 1


def test_a_server_counts_the_padding(padded):
    with embedder.Embedder(padded, provider="cpu") as model:
        batcher = Batcher(BatchedEmbedder(model))
        short, full = model.tokenize_texts(["a", "a " * 50])
        assert (len(short), len(full)) == (3, 16)
        assert batcher._tokens_of(short) == batcher._tokens_of(full) == 16


@pytest.mark.parametrize("found", [0, -1, 17, True, 3.0, "16", None])
def test_what_is_no_number_of_tokens_is_ignored(found, padded):
    manifest = read_manifest(padded)
    assert padded_tokens(manifest) == 16
    assert padded_tokens(replace(manifest, extra={"padded_tokens": found})) == 1
