"""`SparseEncoder` on tiny artifacts: the vectors, the two sides, the options, and what is refused."""

import pickle

import numpy as np
import pytest

from embedder import ArtifactError, CutTextWarning, EmbedderError, InputError, SparseEncoder
from embedder.cli.main import main
from tests import tiny

TEXTS = ["the cat sat", "", "a dog sat on the mat", "the cat sat", "words " * 30]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return tiny.write_tiny_sparse(tmp_path_factory.mktemp("sparse") / "artifact")


@pytest.fixture
def model(artifact):
    with SparseEncoder(artifact) as loaded:
        yield loaded


def expected(texts):
    return np.stack([tiny.expected_sparse(tiny.ids_of(text)) for text in texts])


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_vectors(model, batch_size):
    vectors = model.encode(TEXTS, batch_size=batch_size)
    assert np.array_equal(vectors.to_dense(), expected(TEXTS))
    assert (vectors.values > 0).all()
    assert np.array_equal(model.encode(TEXTS[0]).to_dense(), expected(TEXTS[:1]))
    assert model.encode([]).shape == (0, model.dimension)


def test_many_windows(model):
    texts = [f"the cat {'sat ' * (index % 9)}{index % 4}" for index in range(2500)]
    assert np.array_equal(model.encode(iter(texts)).to_dense(), expected(texts))


def test_most_active_dimensions(artifact):
    with SparseEncoder(artifact, max_active_dims=3) as model:
        assert model.max_active_dims == 3
        assert model.encode(TEXTS).counts.tolist() == [3] * len(TEXTS)
        assert model.encode(TEXTS, max_active_dims=2).counts.tolist() == [2] * len(TEXTS)
        copy = pickle.loads(pickle.dumps(model))
        assert np.array_equal(copy.encode(TEXTS).to_dense(), model.encode(TEXTS).to_dense())


def test_limit_of_the_artifact(tmp_path):
    with SparseEncoder(tiny.write_tiny_sparse(tmp_path / "artifact", max_active_dims=4)) as model:
        assert model.encode("the cat").counts.tolist() == [4]


def test_prompts(tmp_path):
    prompts = {"query": "query : ", "passage": "document "}
    with SparseEncoder(tiny.write_tiny_sparse(tmp_path / "artifact", prompts=prompts)) as model:
        assert np.array_equal(model.encode_query("cat").to_dense(), expected(["query : cat"]))
        assert np.array_equal(model.encode_document("cat").to_dense(), expected(["document cat"]))
        assert np.array_equal(model.encode_query("cat", prompt="a ").to_dense(), expected(["a cat"]))
        assert model.prompts["document"] == ""


def test_static_weights_of_queries(tmp_path):
    artifact = tiny.write_tiny_sparse(tmp_path / "artifact", static_queries=True)
    with SparseEncoder(artifact) as model:
        words = ["cat", "the", "sat"]
        vector = np.zeros(model.dimension, np.float32)
        ids = [tiny.VOCABULARY[word] for word in words]
        vector[ids] = tiny.QUERY_WEIGHTS[ids]
        assert np.array_equal(model.encode_query("the cat the cat sat").to_dense()[0], vector)
        assert model.encode_query(["", "cat"]).counts.tolist() == [0, 1]
        assert model.encode_query("a b c d e f the cat").counts.tolist() == [6]
        with pytest.warns(CutTextWarning, match="1 of 2 texts"):
            model.encode_query(["a b c d e f the cat", "a b c d e f"], warn_if_cut=True)
        assert np.array_equal(model.encode_document("the cat").to_dense(), expected(["the cat"]))
    with pytest.raises(EmbedderError, match="closed"):
        model.encode_query("cat")


def test_damaged_weights_of_queries(tmp_path):
    artifact = tiny.write_tiny_sparse(tmp_path / "artifact", static_queries=True)
    path = artifact / "queries.weights"
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))
    with pytest.raises(ArtifactError, match=r"queries\.weights"):
        SparseEncoder(artifact)
    path.write_bytes(np.full(len(content) // 4, np.nan, "<f4").tobytes())
    with pytest.raises(ArtifactError, match=r"queries\.weights should have 35 finite numbers"):
        SparseEncoder(artifact, verify=False)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"queries\.weights"):
        SparseEncoder(artifact)


def test_words_and_similarity(model):
    vectors = model.encode(TEXTS[:3])
    dense = vectors.to_dense()
    words = {index: word for word, index in tiny.VOCABULARY.items()}
    order = np.argsort(-dense[0], kind="stable")[:3]
    assert model.decode(vectors, top_k=3)[0] == [(words[index], float(dense[0, index])) for index in order.tolist()]
    assert len(model.decode(vectors)[2]) == vectors.counts[2]
    assert np.abs(model.similarity(vectors, vectors) - dense @ dense.T).max() < 1e-5
    common = model.intersection(vectors[:1], vectors).to_dense()
    assert np.array_equal(common, np.maximum(dense[:1] * dense, 0))
    assert model.sparsity(vectors)["active_dims"] == pytest.approx((dense > 0).sum(axis=1).mean())


def test_cosine(tmp_path):
    with SparseEncoder(tiny.write_tiny_sparse(tmp_path / "artifact", similarity_fn_name="cosine")) as model:
        assert model.similarity_fn_name == "cosine"
        vectors = model.encode(TEXTS[:1])
        assert model.similarity(vectors, vectors)[0, 0] == pytest.approx(1)


def test_warning_of_cut_texts(model):
    with pytest.warns(CutTextWarning, match="1 of 5 texts"):
        model.encode(TEXTS, warn_if_cut=True)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"normalize_embeddings": True}, "encode has no option 'normalize_embeddings': compare the vectors with"),
        ({"max_active_dims": 0}, "max_active_dims"),
        ({"batch_size": 0}, "batch_size"),
        ({"prompt_name": "none"}, "unknown prompt_name"),
        ({"top_k": 1}, "encode has no option 'top_k': known are"),
    ],
)
def test_options_that_do_not_fit(model, options, problem):
    with pytest.raises(InputError, match=problem):
        model.encode(TEXTS, **options)


def test_inputs_that_do_not_fit(model, artifact, tmp_path):
    with pytest.raises(InputError, match=r"texts\[1\] should be a string, not int"):
        model.encode(["a", 3])
    with pytest.raises(InputError, match="decode takes SparseVectors of length 35"):
        model.decode([[1]])
    with pytest.raises(InputError, match="SparseEncoder has no option 'truncate_dim': pass max_active_dims"):
        SparseEncoder(artifact, truncate_dim=3)
    with pytest.raises(ArtifactError, match=r"is for the task 'embed'\. SparseEncoder needs a model for 'sparse'"):
        SparseEncoder(tiny.write_tiny_artifact(tmp_path / "dense"))
    with pytest.raises(AttributeError, match="max_active_dims"):
        model.max_active_dims = 3


def test_info(tmp_path, capsys):
    artifact = tiny.write_tiny_sparse(tmp_path / "artifact", static_queries=True, max_active_dims=9)
    assert main(["info", str(artifact)]) == 0
    printed = capsys.readouterr().out
    assert "static weights, without a graph; at most 6 tokens" in printed
    assert "9 numbers of each vector are kept" in printed
