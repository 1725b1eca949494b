"""Exported sparse models give the vectors of sentence-transformers, for every family and every layout."""

import numpy as np
import pytest
import torch
import transformers as t
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.errors import CheckpointError
from embedder_export.pipeline import ExportSettings, export
from sentence_transformers import SparseEncoder as Reference
from sentence_transformers.sparse_encoder.modules import SpladePooling

from embedder import SparseEncoder
from tests import sparse_models

LONG = "the cat. " * 40
TEXTS = ["Where is the cat?", "", " ", "a dog", "the cat is here, the dog is there", "[SEP] </s>", "日本", LONG]


def exported(checkpoint, output, task=None, **settings):
    given = {"dtypes": ("fp32",), "verification": "auto"} | settings
    return export(read_checkpoint(str(checkpoint), task=task), output, lambda line: None, ExportSettings(**given))


def reference_of(checkpoint):
    return Reference(str(checkpoint), device="cpu", model_kwargs={"attn_implementation": "eager"})


def assert_same(ours, theirs):
    """Compare SparseVectors with the tensor of sentence-transformers."""
    expected = theirs.to_dense().numpy()
    dense = ours.to_dense()
    assert np.abs(dense - expected).max() < 1e-5
    different = (dense != 0) != (expected != 0)
    assert (np.abs(expected[different]) < 1e-6).all()
    assert (expected > 0.01).any()


@pytest.mark.parametrize("family", sparse_models.FAMILIES)
def test_language_models_without_modules(tmp_path, family):
    checkpoint = sparse_models.write_language_model(tmp_path / "checkpoint", family)
    manifest = exported(checkpoint, tmp_path / "artifact", "sparse")
    assert manifest.task == "sparse"
    assert manifest.parity.samples > 200
    reference = reference_of(checkpoint)
    with SparseEncoder(tmp_path / "artifact") as model:
        assert_same(model.encode(TEXTS), reference.encode(TEXTS))
        assert model.max_seq_length == reference.max_seq_length


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("bert", {"tie_word_embeddings": False, "hidden_act": "relu", "layer_norm_eps": 1e-3}),
        ("distilbert", {"tie_word_embeddings": False, "activation": "relu"}),
        ("xlm-roberta", {"tie_word_embeddings": False, "layer_norm_eps": 1e-3}),
        ("modernbert", {"tie_word_embeddings": False, "decoder_bias": False, "norm_bias": True}),
        ("modernbert", {"classifier_bias": True, "classifier_activation": "relu", "norm_eps": 1e-3}),
        ("albert", {"hidden_act": "gelu_new"}),
    ],
)
def test_settings_of_heads(tmp_path, family, settings):
    checkpoint = sparse_models.write_language_model(tmp_path / "checkpoint", family, **settings)
    exported(checkpoint, tmp_path / "artifact", "sparse")
    with SparseEncoder(tmp_path / "artifact") as model:
        assert_same(model.encode(TEXTS), reference_of(checkpoint).encode(TEXTS))


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_poolings(tmp_path, strategy, activation):
    pooling = SpladePooling(pooling_strategy=strategy, activation_function=activation)
    checkpoint = sparse_models.write_splade(tmp_path / "checkpoint", pooling=pooling)
    exported(checkpoint, tmp_path / "artifact")
    with SparseEncoder(tmp_path / "artifact") as model:
        assert_same(model.encode(TEXTS), reference_of(checkpoint).encode(TEXTS))


def test_layout_of_version_5(tmp_path):
    checkpoint = sparse_models.with_old_layout(sparse_models.write_splade(tmp_path / "checkpoint"))
    exported(checkpoint, tmp_path / "artifact")
    with SparseEncoder(tmp_path / "artifact") as model:
        assert model.max_seq_length == 40
        assert_same(model.encode(TEXTS), reference_of(checkpoint).encode(TEXTS))


def test_methods(tmp_path):
    """Prompts, most active dimensions, decoding, similarity, intersection and sparsity are the reference's."""
    prompts = {"query": "query: ", "document": "a document "}
    options = {"prompts": prompts, "max_active_dims": 20, "similarity_fn_name": "cosine"}
    checkpoint = sparse_models.write_splade(tmp_path / "checkpoint", **options)
    exported(checkpoint, tmp_path / "artifact")
    reference = reference_of(checkpoint)
    with SparseEncoder(tmp_path / "artifact") as model:
        assert model.max_active_dims == 20
        assert model.similarity_fn_name == "cosine"
        ours, theirs = model.encode_document(TEXTS), reference.encode_document(TEXTS)
        assert_same(ours, theirs)
        assert_same(model.encode(TEXTS, prompt="c: "), reference.encode(TEXTS, prompt="c: "))
        assert_same(model.encode(TEXTS, max_active_dims=5), reference.encode(TEXTS, max_active_dims=5))
        query, queried = model.encode_query("a cat"), reference.encode_query("a cat")
        assert_same(query, queried.unsqueeze(0))
        similarity = reference.similarity(queried, theirs).numpy()
        assert np.abs(model.similarity(query, ours) - similarity).max() < 1e-5
        assert [word for word, _ in model.decode(ours, top_k=3)[0]] == [
            word for word, _ in reference.decode(theirs[0])
        ][:3]
        assert model.sparsity(ours)["active_dims"] == pytest.approx(reference.sparsity(theirs)["active_dims"])
        common = model.intersection(query, ours).to_dense()
        assert np.abs(common - reference.intersection(queried, theirs).to_dense().numpy()).max() < 1e-4


def test_static_weights_for_queries(tmp_path):
    checkpoint = sparse_models.write_router(tmp_path / "checkpoint")
    manifest = exported(checkpoint, tmp_path / "artifact")
    assert manifest.queries.max_seq_length == sparse_models.LIMIT
    reference = reference_of(checkpoint)
    texts = [text for text in TEXTS if text.strip()]
    with SparseEncoder(tmp_path / "artifact") as model:
        assert_same(model.encode(texts), reference.encode(texts))
        assert_same(model.encode_document(texts), reference.encode_document(texts))
        assert_same(model.encode_query(texts), reference.encode_query(texts))
        assert model.encode_query(["", "cat"]).counts[0] == 0


def test_static_weights_alone(tmp_path):
    Reference(modules=[sparse_models.static_embedding()], device="cpu").save(str(tmp_path / "checkpoint"))
    exported(tmp_path / "checkpoint", tmp_path / "artifact")
    reference = Reference(str(tmp_path / "checkpoint"), device="cpu")
    texts = [text for text in TEXTS if text.strip()]
    with SparseEncoder(tmp_path / "artifact") as model:
        assert_same(model.encode(texts), reference.encode(texts))
        assert model.encode("").counts.tolist() == [0]
    for dtype in ("int8", "int4"):
        with pytest.raises(CheckpointError, match=f"{dtype} cannot be made: the graph has no product of an activation"):
            exported(tmp_path / "checkpoint", tmp_path / dtype, dtypes=("fp32", dtype))
    assert [graph.dtype for graph in exported(tmp_path / "checkpoint", tmp_path / "default", dtypes=None).graphs] == [
        "fp32"
    ]


def test_sparse_head_of_bge_m3(tmp_path):
    """FlagEmbedding's formula: the largest relu(linear(token)) of each token id, without special tokens."""
    checkpoint = sparse_models.write_bge_m3(tmp_path / "checkpoint")
    manifest = exported(checkpoint, tmp_path / "artifact", "sparse")
    assert manifest.parity is None
    tokenizer = t.AutoTokenizer.from_pretrained(checkpoint)
    body = t.AutoModel.from_pretrained(checkpoint, attn_implementation="eager").eval()
    head = torch.load(checkpoint / "sparse_linear.pt")
    left_out = {tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    expected = np.zeros((len(TEXTS), len(tokenizer)), np.float32)
    for row, text in enumerate(TEXTS):
        tokens = tokenizer(text, return_tensors="pt", truncation=True)
        with torch.no_grad():
            hidden = body(**tokens).last_hidden_state[0]
        weights = torch.relu(hidden @ head["weight"].T + head["bias"])[:, 0]
        for token_id, weight in zip(tokens["input_ids"][0].tolist(), weights.tolist(), strict=True):
            if token_id not in left_out:
                expected[row, token_id] = max(expected[row, token_id], weight)
    with SparseEncoder(tmp_path / "artifact") as model:
        assert np.abs(model.encode(TEXTS).to_dense() - expected).max() < 1e-5
    assert exported(checkpoint, tmp_path / "dense").task == "embed"


def test_dtypes_of_a_head_that_gives_only_zeros(tmp_path):
    """A batch of short texts may have no weight at all. So a difference is no share of a vector's length."""
    checkpoint = sparse_models.write_bge_m3(tmp_path / "checkpoint")
    torch.save({"weight": torch.zeros(1, 32), "bias": torch.full((1,), -1.0)}, checkpoint / "sparse_linear.pt")
    dtypes = ("fp32", "int8", "int4", "fp16")
    exported(checkpoint, tmp_path / "artifact", "sparse", dtypes=dtypes)
    for dtype in dtypes:
        with SparseEncoder(tmp_path / "artifact", dtype=dtype) as model:
            assert model.encode(TEXTS).counts.sum() == 0


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("family", ["bert", "mpnet", "albert"])
def test_int8_does_not_depend_on_the_batch(tmp_path, family, strategy):
    """The number of words is odd, so that the numbers of a text begin at another place in each batch."""
    pooling = SpladePooling(pooling_strategy=strategy)
    checkpoint = sparse_models.write_splade(tmp_path / "checkpoint", family, pooling)
    manifest = exported(checkpoint, tmp_path / "artifact", dtypes=("fp32", "int8"))
    assert manifest.graphs[1].quality.samples == 120
    texts = [*TEXTS, *(word * count for word in ("the cat. ", "a ", "Where is it? ") for count in range(1, 14))]
    with SparseEncoder(tmp_path / "artifact", dtype="int8") as model:
        together = model.encode(texts)
        for row, text in enumerate(texts):
            indices, values = model.encode(text)[0]
            assert indices.tobytes() == together[row][0].tobytes()
            assert values.tobytes() == together[row][1].tobytes()
