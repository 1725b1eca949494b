"""Late-interaction models give the vectors and scores of sentence-transformers' MultiVectorEncoder, in every layout."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.pipeline import ExportSettings, export
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.util import maxsim, maxsim_pairwise, mean_maxsim

import embedder
from tests import multi_vectors as makers
from tests.multi_vectors import FIXED, METADATA, write_flag, write_own, write_pylate, write_stanford

TEXTS = [
    "", " ", "a", "Where is the cat?", "The cat, the dog - and (others)!", "...", "日本語 字",
    "é ß \U0001f600 [MASK] [SEP]", "word " * 9, "a b c d e f g h i j k l m n o p q r s t u v", "the dog. " * 40,
    "x" * 300, "[Q] a [unused0] b",
]  # fmt: skip
PROMPTS = {"query": "q: ", "document": "d: "}

CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "own": lambda path: write_own(path, query_expansion=FIXED, document_length=40, prompts=PROMPTS),
    "own-attended": lambda path: write_own(path, query_expansion=FIXED | {"attend": True, "token": "a"}),
    "own-min": lambda path: write_own(path, query_expansion=FIXED | {"strategy": "min"}, query_length=30),
    "own-min-unlimited": lambda path: write_own(path, query_expansion=FIXED | {"strategy": "min"}),
    "own-short": lambda path: write_own(path, query_length=9, document_length=60, similarity="meanmaxsim"),
    "own-both-skip": lambda path: write_own(
        path,
        makers.modernbert,
        mask={"skiplist_words": ["a", "[UNK]", "no token"], "skiplist_tasks": ["query", "document"]},
        query_expansion=FIXED,
        max_seq_length=30,
    ),
    "own-residual": lambda path: write_own(path, makers.xlm_roberta, query_expansion=FIXED, residual=True),
    # The window of local attention is smaller than the distance of the last [MASK] from a short query.
    "own-windows": lambda path: write_own(path, makers.modernbert, query_expansion=FIXED | {"length": 90}),
    "pylate": write_pylate,
    "pylate-attended": lambda path: write_pylate(path, attend_to_expansion_tokens=True, skiplist_words=None),
    "pylate-unexpanded": lambda path: write_pylate(path, do_query_expansion=False),
    "pylate-prompts": lambda path: write_pylate(path, prompts={"query": "[Q] find: ", "document": "text: "}),
    "pylate-bert": lambda path: write_pylate(path, makers.bert, query_prefix="[unused0] ", document_prefix="d:"),
    "pylate-old": lambda path: write_pylate(path, makers.bert, declares=False, query_prefix="[unused0]"),
    "stanford": lambda path: write_stanford(path, METADATA),
    "stanford-attended": lambda path: write_stanford(
        path, METADATA | {"attend_to_mask_tokens": True, "mask_punctuation": False}
    ),
    "stanford-bare": lambda path: write_stanford(path, None),
}
ROLES = ("query", "document")


@pytest.fixture(scope="module", params=CHECKPOINTS)
def exported(request, tmp_path_factory):
    """The reference and the exported model of a checkpoint."""
    folder = tmp_path_factory.mktemp("late")
    checkpoint = CHECKPOINTS[request.param](folder / "checkpoint")
    settings = ExportSettings("native", ("fp32",), "reference")
    manifest = export(read_checkpoint(str(checkpoint)), folder / "artifact", lambda line: None, settings)
    assert "sentence-transformers 6" in str(manifest.parity)
    reference = MultiVectorEncoder(str(checkpoint), device="cpu", local_files_only=True)
    return reference, embedder.MultiVectorEncoder(folder / "artifact", provider="cpu")


def reference_vectors(reference, texts, role):
    encode = reference.encode if role is None else getattr(reference, f"encode_{role}")
    return encode(texts, convert_to_numpy=True, batch_size=5)


def own_vectors(model, texts, role, **options):
    return (model.encode if role is None else getattr(model, f"encode_{role}"))(texts, **options)


def assert_same(ours, theirs, tolerance=2e-5):
    assert [len(vectors) for vectors in ours] == [len(vectors) for vectors in theirs]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize("role", [*ROLES, None])
def test_vectors_are_those_of_sentence_transformers(exported, role):
    reference, model = exported
    assert_same(own_vectors(model, TEXTS, role), reference_vectors(reference, TEXTS, role))


@pytest.mark.parametrize("role", ROLES)
def test_prompts_are_put_before_a_text(exported, role):
    reference, model = exported
    theirs = getattr(reference, f"encode_{role}")(TEXTS[2:6], prompt="a: ", convert_to_numpy=True)
    assert_same(own_vectors(model, TEXTS[2:6], role, prompt="a: "), theirs)
    assert {name: prompt or "" for name, prompt in reference.prompts.items()} == model.prompts


@pytest.mark.parametrize("role", ROLES)
def test_vectors_do_not_depend_on_their_batch(exported, role):
    _, model = exported
    together = own_vectors(model, [*TEXTS, *TEXTS[::-1]], role)
    assert_same(together, own_vectors(model, [*TEXTS, *TEXTS[::-1]], role, batch_size=3), 0)
    assert_same(together[: len(TEXTS)], [own_vectors(model, text, role) for text in TEXTS], 0)


def test_scores_are_those_of_sentence_transformers(exported):
    reference, model = exported
    queries, documents = model.encode_query(TEXTS), model.encode_document(TEXTS)
    assert model.similarity_fn_name == reference.similarity_fn_name
    theirs = reference.similarity(reference.encode_query(TEXTS), reference.encode_document(TEXTS)).numpy()
    np.testing.assert_allclose(model.similarity(queries, documents), theirs, rtol=1e-4, atol=1e-4)
    pairs = model.similarity_pairwise(queries, documents)
    np.testing.assert_allclose(pairs, np.diagonal(theirs), rtol=1e-4, atol=1e-4)
    ranked = model.rank(TEXTS[3], TEXTS, top_k=5)
    assert np.allclose([found["score"] for found in ranked], np.sort(theirs[3])[::-1][:5], atol=1e-4)


def test_maxsim_is_that_of_sentence_transformers():
    generator = np.random.default_rng(0)
    queries, documents = (
        [generator.normal(size=(size, 8)).astype(np.float32) for size in generator.integers(0, 9, 30)] for _ in range(2)
    )
    for function, theirs in (("maxsim", maxsim), ("meanmaxsim", mean_maxsim)):
        expected = theirs(list(map(torch.tensor, queries)), list(map(torch.tensor, documents))).numpy()
        np.testing.assert_allclose(embedder.maxsim(queries, documents, function), expected, rtol=1e-5, atol=1e-5)
    expected = maxsim_pairwise(list(map(torch.tensor, queries)), list(map(torch.tensor, documents))).numpy()
    np.testing.assert_allclose(embedder.maxsim_pairwise(queries, documents), expected, rtol=1e-5, atol=1e-5)


def test_third_head_of_bge_m3_is_that_of_flag_embedding(tmp_path):
    """The formula is that of BGEM3FlagModel: a linear layer over all tokens but the first, scaled to length 1."""
    checkpoint = write_flag(tmp_path / "checkpoint")
    settings = ExportSettings("native", ("fp32", "int8"), "auto")
    lines: list[str] = []
    manifest = export(
        read_checkpoint(str(checkpoint), task="multi_vector"), tmp_path / "artifact", lines.append, settings
    )
    assert manifest.parity is None
    assert any("does not read colbert_linear.pt" in line for line in lines)
    model = embedder.MultiVectorEncoder(tmp_path / "artifact", provider="cpu")
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    body = transformers.AutoModel.from_pretrained(checkpoint).eval()
    linear = torch.nn.Linear(32, 32)
    linear.load_state_dict(torch.load(checkpoint / "colbert_linear.pt", weights_only=True))
    for text, ours in zip(TEXTS, model.encode_document(TEXTS), strict=True):
        tokens = tokenizer(text, return_tensors="pt", truncation=True)
        with torch.no_grad():
            hidden = linear(body(**tokens).last_hidden_state[:, 1:])
        assert_same([ours], [torch.nn.functional.normalize(hidden, dim=-1)[0].numpy()])
    queries, documents = model.encode_query(TEXTS), model.encode_document(TEXTS)
    score = (queries[3] @ documents[4].T).max(axis=1).sum() / len(queries[3])
    np.testing.assert_allclose(model.similarity(queries[3], documents[4]), [[score]], rtol=1e-5)
