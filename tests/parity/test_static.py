"""Static embeddings give the vectors of sentence-transformers, or of model2vec in its own layout."""

import sys

import numpy as np
import pytest
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.checkpoint.static_table import read_static_table
from embedder_export.errors import CheckpointError, NoReferenceError
from model2vec import StaticModel
from sentence_transformers import SentenceTransformer

import embedder
from embedder.artifact.positions import UNLIMITED_TOKENS
from tests.checkpoints import edit_json, write_checkpoint
from tests.exports import export_fp32, export_quietly
from tests.static_models import (
    DIMENSION,
    quantized_tensors,
    random_rows,
    static_tokenizer,
    write_model2vec,
    write_sentence_transformers,
)
from tests.vocabularies import byte_level_bpe, unigram

TEXTS = ["", " ", "the cat", "a", "[CLS] a [SEP] [UNK] b", "字ж unknown ж", "word " * 45]
LONG = ["the dog! " * 1500]


def half(tensors):
    return {name: array.astype(np.float16) if array.dtype == np.float32 else array for name, array in tensors.items()}


ROWS = random_rows(static_tokenizer())
LAYOUTS = {
    "old": {},
    "new": {"layout": "new", "config": {"prompts": {"query": "ask: "}, "similarity_fn_name": "dot"}},
    "folder": {"layout": "new", "folder": "0_StaticEmbedding", "modules": ()},
    "dense": {"modules": ("Dense", "Normalize")},
    "truncated": {"config": {"truncate_dim": 5}, "modules": ()},
    "model2vec": {"tensors": {"embeddings": ROWS}},
    "quantized": {"tensors": quantized_tensors()},
    "half": {"tensors": half({"embedding.weight": ROWS})},
    "unigram": {"tokenizer": unigram(["<unk>", "<pad>"], "$A")},
    "bpe": {"tokenizer": byte_level_bpe()},
}


def assert_same(ours, theirs, tolerance=2e-6):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_sentence_transformers(name, tmp_path):
    write_sentence_transformers(tmp_path / "checkpoint", **LAYOUTS[name])
    manifest = export_fp32(tmp_path / "checkpoint", tmp_path / "artifact", verification="reference")
    assert "sentence-transformers 6" in str(manifest.parity)
    reference = SentenceTransformer(str(tmp_path / "checkpoint"), device="cpu", local_files_only=True).float()
    with embedder.Embedder(tmp_path / "artifact", provider="cpu") as model:
        assert model.max_seq_length == UNLIMITED_TOKENS
        assert model.manifest.similarity_fn_name == reference.similarity_fn_name
        assert_same(model.encode(TEXTS), reference.encode(TEXTS))
        # torch adds the vectors of a long text one by one in float32, which rounds more.
        assert_same(model.encode(LONG), reference.encode(LONG), 1e-4)
        assert_same(model.encode(TEXTS, prompt="a query: "), reference.encode(TEXTS, prompt="a query: "))
        assert_same(model.encode_query(TEXTS), reference.encode_query(TEXTS))


MODEL2VEC = {
    "plain": {},
    "raw": {"normalize": False},
    "short": {"max_length": 6},
    "unlimited": {"max_length": None},
    "quantized": {"tensors": quantized_tensors()},
    "half": {"tensors": half(quantized_tensors())},
    "int8": {"tensors": {"embeddings": np.rint(40 * ROWS).clip(-127, 127).astype(np.int8)}},
    "weighted": {"tensors": {"embeddings": ROWS, "weights": np.linspace(0.5, 2, len(ROWS), dtype=np.float64)}},
    "unigram": {"tokenizer": unigram(["<pad>", "<unk>"], "$A")},
    "bpe": {"tokenizer": byte_level_bpe()},
}


@pytest.mark.parametrize("name", MODEL2VEC)
def test_layout_of_model2vec(name, tmp_path):
    write_model2vec(tmp_path / "checkpoint", **MODEL2VEC[name])
    reference = StaticModel.from_pretrained(tmp_path / "checkpoint")
    reference.embedding = reference.embedding.astype(np.float32)  # of float16, it gives means in float16
    reference.median_token_length = sys.maxsize  # it also cuts texts by their characters, which is only a short cut
    manifest = export_fp32(tmp_path / "checkpoint", tmp_path / "artifact", verification="reference")
    assert "model2vec" in str(manifest.parity)
    with embedder.Embedder(tmp_path / "artifact", provider="cpu") as model:
        limit = MODEL2VEC[name].get("max_length", 512)
        assert model.max_seq_length == (limit or UNLIMITED_TOKENS)
        assert_same(model.encode(TEXTS), reference.encode(TEXTS))


def test_texts_are_cut_where_the_tokenizer_file_says_so(tmp_path):
    """sentence-transformers keeps the truncation of the file; model2vec writes one there."""
    tokenizer = static_tokenizer()
    tokenizer.enable_truncation(9)
    write_sentence_transformers(tmp_path / "checkpoint", tokenizer=tokenizer)
    export_fp32(tmp_path / "checkpoint", tmp_path / "artifact")
    reference = SentenceTransformer(str(tmp_path / "checkpoint"), device="cpu", local_files_only=True)
    with embedder.Embedder(tmp_path / "artifact", provider="cpu") as model:
        assert model.max_seq_length == 9
        assert_same(model.encode(TEXTS), reference.encode(TEXTS))


@pytest.fixture(scope="module")
def every_dtype(tmp_path_factory):
    """An artifact with graphs of all dtypes."""
    folder = tmp_path_factory.mktemp("dtypes")
    write_sentence_transformers(folder / "checkpoint", tensors=quantized_tensors())
    manifest = export_quietly(folder / "checkpoint", folder / "artifact", dtypes=("fp32", "int8", "fp16"))
    assert {graph.form for graph in manifest.graphs} == {"lookup"}
    assert all(graph.quality.min_cosine > 0.999 for graph in manifest.graphs[1:])
    return folder / "artifact"


@pytest.mark.parametrize("dtype", ["fp32", "int8", "fp16"])
def test_vectors_do_not_depend_on_their_batch_and_dtypes_are_close(dtype, every_dtype):
    texts = TEXTS + LONG
    exact = embedder.Embedder(every_dtype, provider="cpu", dtype="fp32").encode(texts)
    with embedder.Embedder(every_dtype, provider="cpu", dtype=dtype) as model:
        together = model.encode(texts)
        assert_same(together, np.stack([model.encode(text) for text in texts]), 1e-6)
        assert_same(together, model.encode(texts, batch_size=2), 1e-6)
        assert_same(together, model.encode_batch(model.tokenize_texts(texts)), 1e-6)
        assert_same(together, exact, 1e-6 if dtype == "fp32" else 0.03)
        assert not together[:2].any()  # texts without a token


def test_int4_is_refused(tmp_path):
    """A table has no matrix product. Its graph must not be called int4 and have the numbers of fp32."""
    write_sentence_transformers(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="int4 cannot be made: a model of static embeddings can be fp32 or fp16"):
        export_fp32(tmp_path / "checkpoint", tmp_path / "artifact", dtypes=("fp32", "int4"))
    assert not (tmp_path / "artifact").exists()


def test_own_formula_in_float64(tmp_path):
    """Long texts are exact too: they are added block by block."""
    tokenizer = static_tokenizer()
    write_model2vec(tmp_path / "checkpoint", max_length=None, normalize=False)
    export_fp32(tmp_path / "checkpoint", tmp_path / "artifact")
    with embedder.Embedder(tmp_path / "artifact", provider="cpu") as model:
        for text in [*TEXTS, *LONG]:
            ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids, int)
            kept = ROWS.astype(float)[ids[ids != tokenizer.token_to_id("[UNK]")]]
            expected = kept.sum(axis=0) / max(1, len(kept))
            np.testing.assert_allclose(model.encode(text), expected, rtol=0, atol=3e-6)


BROKEN = {
    "neither the tensor embedding.weight nor embeddings": {"other": ROWS},
    "which is no table": {"embeddings": ROWS[0]},
    "are not finite": {"embeddings": np.where(ROWS > 2, np.nan, ROWS).astype(np.float32)},
    "does not map each token to one of": {"embeddings": ROWS[:5], "mapping": np.arange(len(ROWS))},
    "not one finite number for each token": {"embeddings": ROWS, "weights": ROWS},
    "table of word embeddings has only 5 rows": {"embeddings": ROWS[:5]},
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_tables(message, tmp_path):
    write_model2vec(tmp_path / "checkpoint", BROKEN[message])
    with pytest.raises(CheckpointError, match=message):
        export_fp32(tmp_path / "checkpoint", tmp_path / "artifact")


@pytest.mark.parametrize(("name", "value"), [("normalize", "yes"), ("max_length", 0), ("max_length", "512")])
def test_broken_settings_of_model2vec(name, value, tmp_path):
    write_model2vec(tmp_path / "checkpoint", **{name: value})
    with pytest.raises(CheckpointError, match=f"as {name}"):
        read_checkpoint(str(tmp_path / "checkpoint"))


def test_tokenizers_that_are_refused(tmp_path):
    tokenizer = static_tokenizer()
    tokenizer.enable_truncation(9, direction="left")
    write_sentence_transformers(tmp_path / "left", tokenizer=tokenizer)
    with pytest.raises(CheckpointError, match="cuts long texts at their start"):
        export_fp32(tmp_path / "left", tmp_path / "artifact")
    tokenizer.enable_truncation(0)
    write_sentence_transformers(tmp_path / "none", tokenizer=tokenizer)
    with pytest.raises(CheckpointError, match="its limit for a text is 0 tokens"):
        export_fp32(tmp_path / "none", tmp_path / "artifact")
    write_model2vec(tmp_path / "missing")
    (tmp_path / "missing/tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        export_fp32(tmp_path / "missing", tmp_path / "artifact")


def test_a_table_is_not_traced(tmp_path):
    write_sentence_transformers(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match="it is not traced"):
        export_fp32(tmp_path / "checkpoint", tmp_path / "artifact", converter="optimum")


def test_model2vec_is_required_and_missing(tmp_path, monkeypatch):
    write_model2vec(tmp_path / "checkpoint")
    monkeypatch.setitem(sys.modules, "model2vec", None)
    with pytest.raises(NoReferenceError, match="pip install model2vec"):
        export_fp32(tmp_path / "checkpoint", tmp_path / "artifact", verification="reference")
    assert export_fp32(tmp_path / "checkpoint", tmp_path / "artifact").parity is None


def test_a_transformer_with_the_type_of_model2vec_is_refused(tmp_path):
    write_checkpoint(tmp_path / "checkpoint")
    edit_json(tmp_path / "checkpoint/config.json", model_type="model2vec")
    with pytest.raises(CheckpointError, match="the first module is a Transformer"):
        read_checkpoint(str(tmp_path / "checkpoint"))


def test_dimension_of_a_table(tmp_path):
    write_model2vec(tmp_path / "checkpoint", quantized_tensors())
    table = read_static_table(tmp_path / "checkpoint")
    assert (table.dimension, table.token_count) == (DIMENSION, len(ROWS))
