"""The exported all-MiniLM-L6-v2 gives the same results as its checkpoint in sentence-transformers."""

import csv
from pathlib import Path

import numpy as np
import pytest

import embedder
from benchmarks.quality import spearman

# The sentences of the exporter. They are read from its file, because the exporter is not installed in this environment.
FILE = Path(__file__).parents[2] / "export/embedder_export/samples/parity_sentences.txt"
BLANK = ["", " ", "\n", "\t \n", "\u0085"]
ODD = ["<s> of </s> [CLS] special [SEP] [MASK] tokens [UNK]", "two\nlines", "\ufeffmark", "a\0b", "\x7f"]
LONG = ["word " * 2000, "x" * 5000, "字" * 1000]
SENTENCES = [*FILE.read_text(encoding="utf-8").removesuffix("\n").split("\n"), *BLANK, *ODD, *LONG]
# Fewer sentences for the tests of options.
SOME_SENTENCES = SENTENCES[::8]

# The first numbers of the example's vector, from sentence-transformers.
EXAMPLE = "This is an example sentence"
EXAMPLE_VECTOR = [0.0676569, 0.0634959, 0.0487131, 0.0793049, 0.0374480]

OPTIONS = [
    {},
    {"prompt": "query: "},
    {"truncate_dim": 64},
    {"truncate_dim": 64, "normalize_embeddings": True},
    {"normalize_embeddings": True, "batch_size": 3},
]


@pytest.fixture(scope="module")
def model(minilm):
    return embedder.Embedder(minilm, provider="cpu")


@pytest.fixture(scope="module")
def reference(minilm_checkpoint):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm_checkpoint), device="cpu", local_files_only=True)


def test_vector_of_the_example(model):
    vector = model.encode(EXAMPLE)
    np.testing.assert_allclose(vector[: len(EXAMPLE_VECTOR)], EXAMPLE_VECTOR, atol=1e-5)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("options", OPTIONS)
def test_same_vectors_as_sentence_transformers(model, reference, options):
    sentences = SOME_SENTENCES if options else SENTENCES
    ours = model.encode(sentences, **options)
    theirs = reference.encode(sentences, show_progress_bar=False, **options)
    cosine = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosine.min() >= 0.99999
    assert np.abs(ours - theirs).max() <= 1e-5


SPECIAL_TOKENS = ["[PAD] [PAD] [PAD] [SEP] [SEP]", "[SEP] [PAD] [PAD] [PAD] [SEP]", "[CLS]", "[PAD]", "[MASK] [MASK]"]


def test_texts_of_literal_special_tokens_have_the_references_vectors(model, reference):
    """The first layer amplifies float32's rounding about 50 times for these texts, in torch too."""
    ours, theirs = model.encode(SPECIAL_TOKENS), reference.encode(SPECIAL_TOKENS)
    assert np.abs(ours - theirs).max() <= 5e-6
    ordinary = ["the cat sat on the mat", "A man is eating food."]
    assert np.abs(model.encode(ordinary) - reference.encode(ordinary)).max() <= 5e-7


def test_same_tokens_as_sentence_transformers(model, reference):
    for sentence in SENTENCES:
        ours = model.tokenize(sentence)["input_ids"][0]
        assert ours.tolist() == reference.preprocess([sentence])["input_ids"][0].tolist()


def test_vector_does_not_depend_on_the_batch(model):
    sentences = SENTENCES[::4]
    single = np.stack([model.encode(sentence) for sentence in sentences])
    generator = np.random.default_rng(0)
    for batch_size in (None, 1, 7, 64):
        order = generator.permutation(len(sentences))
        batched = model.encode([sentences[index] for index in order], batch_size=batch_size)
        assert np.abs(batched - single[order]).max() <= 1e-6


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_same_call_and_texts_alone_have_the_same_bits(minilm, dtype):
    """docs/how-it-works.md says so."""
    model = embedder.Embedder(minilm, dtype=dtype, provider="cpu")
    together = model.encode(SOME_SENTENCES)
    assert (model.encode(SOME_SENTENCES) == together).all()
    alone = np.stack([model.encode(sentence) for sentence in SOME_SENTENCES])
    assert (model.encode(SOME_SENTENCES, batch_size=1) == alone).all()
    assert np.abs(together - alone).max() <= 2e-7


def test_limit_is_256_tokens_although_tokenizer_json_has_128(model):
    assert model.max_seq_length == 256
    assert model.tokenize("word " * 1000)["input_ids"].shape == (1, 256)
    assert model.tokenize("word")["input_ids"].shape == (1, 3)
    words = "word " * 200
    assert np.abs(model.encode(words + "banana") - model.encode(words)).max() > 1e-3


def test_settings(model, reference):
    assert model.dimension == reference.get_embedding_dimension() == 384
    assert model.max_seq_length == reference.max_seq_length
    assert model.prompts == reference.prompts
    a, b = model.encode(["a cat", "a dog", "tax law"]), model.encode(["a kitten"])
    np.testing.assert_allclose(model.similarity(a, b), reference.similarity(a, b).numpy(), atol=1e-6)


def test_sts_score_equals_that_of_sentence_transformers(model, reference, data):
    with (data / "sts/stsb-en-dev.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))[:500]
    names = [name for name in rows[0] if name.startswith("sentence")]
    score = next(name for name in rows[0] if "score" in name)
    gold = np.array([float(row[score]) for row in rows])
    correlations = []
    for encode in (model.encode, lambda texts: reference.encode(texts, show_progress_bar=False)):
        a, b = (encode([row[name] for row in rows]) for name in names)
        correlations.append(spearman((a * b).sum(axis=1), gold))
    assert correlations[0] == pytest.approx(correlations[1], abs=1e-4)
    assert correlations[0] > 0.8
