"""Small checkpoints of every text family: the artifact gives sentence-transformers' vectors."""

import numpy as np
import pytest
from embedder_export.verify.compare import measure
from sentence_transformers import SentenceTransformer

import embedder
from embedder.artifact.positions import positions
from tests import families
from tests.exports import export_fp32

TEXTS = [
    "The cat sits outside.",
    "",
    "word " * 700,
    "ÉCOLE, straße; naïve café",
    "日本語の文章と中文句子",
    "Кошка спит. القطة نائمة. แมวนอนหลับ",
    "a\nb\tc",
    "😀 1,234.5 e-mail@example.org",
]
PROMPTS = ["Represent the Science title: ", "query: ", "日本語 ", "x " * 200]


@pytest.fixture(scope="module", params=families.FAMILIES, ids=lambda family: family.name)
def pair(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("family")
    checkpoint = families.seeded(request.param.make, directory / request.param.name)
    export_fp32(checkpoint, directory / "artifact")
    reference = SentenceTransformer(str(checkpoint), device="cpu", local_files_only=True)
    return embedder.Embedder(directory / "artifact", provider="cpu"), reference


def test_same_vectors_as_sentence_transformers(pair):
    model, reference = pair
    assert_same(model.encode(TEXTS), reference.encode(TEXTS))
    assert model.dimension == reference.get_embedding_dimension()
    assert model.manifest.similarity_fn_name == reference.similarity_fn_name
    assert model.max_seq_length == reference.max_seq_length


@pytest.mark.parametrize("prompt", PROMPTS)
def test_same_vectors_with_prompts(pair, prompt):
    model, reference = pair
    assert_same(model.encode(TEXTS, prompt=prompt), reference.encode(TEXTS, prompt=prompt))


def test_same_tokens(pair):
    model, reference = pair
    for text in TEXTS:
        ours = model.tokenize(text)["input_ids"][0]
        assert ours.tolist() == reference.preprocess([text])["input_ids"][0].tolist()


def test_vectors_do_not_depend_on_their_batch(pair):
    model, _ = pair
    alone = np.stack([model.encode(text, prompt="query: ") for text in TEXTS])
    lengths = np.linalg.norm(alone, axis=1, keepdims=True)
    for batch_size in (None, 3):
        together = model.encode(TEXTS[::-1], prompt="query: ", batch_size=batch_size)[::-1]
        assert (np.abs(together - alone) / lengths).max() < 1e-5


def test_large_weights_lie_outside_the_graph(pair):
    model, _ = pair
    (graph,) = model.manifest.graphs
    assert graph.file.size < 1_000_000
    assert graph.weights.size > 10_000


def test_graph_reads_as_many_tokens_as_the_manifest_says(pair, monkeypatch):
    model, reference = pair
    assert "positions" in model.manifest.extra
    limit = min(positions(model.manifest), 600)
    monkeypatch.setattr(reference, "max_seq_length", limit)
    longer = embedder.Embedder(model._artifact.directory, provider="cpu", max_seq_length=limit)
    assert longer.tokenize(TEXTS[2])["input_ids"].shape == (1, limit)
    assert_same(longer.encode(TEXTS), reference.encode(TEXTS))


def assert_same(ours, theirs):
    cosine, difference = measure(ours, theirs)
    assert cosine.min() >= 0.99999
    assert difference.max() <= 1e-5


@pytest.mark.skipif(not families.TOKENIZERS.is_dir(), reason="without real tokenizers the tests above use small ones")
@pytest.mark.parametrize(
    "make", [families.bert, families.mpnet, families.roberta, families.albert, families.labse, families.instructor]
)
def test_small_tokenizers(make, tmp_path, monkeypatch):
    monkeypatch.setattr(families, "TOKENIZERS", tmp_path / "nowhere")
    checkpoint = families.seeded(make, tmp_path / "small")
    assert export_fp32(checkpoint, tmp_path / "artifact").parity


@pytest.mark.skipif(not families.TOKENIZERS.is_dir(), reason="the real tokenizers are not here")
def test_tokenizer_in_sentencepiece_format(tmp_path):
    checkpoint = families.seeded(families.albert, tmp_path / "albert")
    (checkpoint / "tokenizer.json").unlink()
    assert (checkpoint / "spiece.model").exists()
    assert export_fp32(checkpoint, tmp_path / "artifact").parity
