"""An embedding function in Chroma."""

import numpy as np
import pytest

import embedder

TEXTS = ["the cat sat", "a dog", "long words"]


@pytest.fixture
def client(chroma, tmp_path):
    import chromadb

    return chromadb.PersistentClient(str(tmp_path / "chroma"))


def test_example_on_the_page(chroma, check_page):
    check_page("chroma")


def test_vectors_are_those_of_encode(chroma, prompted, model):
    function = chroma.EmbedderEmbeddingFunction(prompted)
    np.testing.assert_array_equal(function(TEXTS), model.encode_document(TEXTS))
    np.testing.assert_array_equal(function.embed_query(["cat"]), model.encode_query(["cat"]))
    assert not function.is_legacy()


def test_collection_is_searched_and_opened_again_with_its_options(chroma, prompted, model, client):
    function = chroma.EmbedderEmbeddingFunction(prompted, query_prompt="a ", encode_kwargs={"truncate_dim": 4})
    made = client.create_collection("notes", embedding_function=function)
    made.add(ids=["0", "1", "2"], documents=TEXTS)
    scores = embedder.cos_sim(
        model.encode("dog", prompt="a ", truncate_dim=4), model.encode_document(TEXTS, truncate_dim=4)
    )
    for collection in (made, client.get_collection("notes")):
        found = collection.query(query_texts=["dog"], n_results=3)
        assert found["ids"] == [[str(row) for row in np.argsort(-scores[0])]]
        np.testing.assert_allclose(1 - np.array(found["distances"][0]), sorted(scores[0], reverse=True), atol=1e-5)
        assert collection.configuration["embedding_function"].get_config() == function.get_config()
    stored = made.get(include=["embeddings"])["embeddings"]
    np.testing.assert_allclose(stored, model.encode_document(TEXTS, truncate_dim=4), atol=1e-6)


@pytest.mark.parametrize(
    ("similarity", "space"), [("cosine", "cosine"), ("dot", "ip"), ("euclidean", "l2"), ("manhattan", "l2")]
)
def test_space_is_that_of_the_model(chroma, make_artifact, client, similarity, space):
    function = chroma.EmbedderEmbeddingFunction(make_artifact("other", similarity_fn_name=similarity))
    collection = client.create_collection("notes", embedding_function=function)
    assert collection.configuration["hnsw"]["space"] == space
    given = client.create_collection("given", embedding_function=function, configuration={"hnsw": {"space": "ip"}})
    assert given.configuration["hnsw"]["space"] == "ip"


def test_config_keeps_every_option(chroma, prompted):
    options = {
        "query_prompt": "a ",
        "document_prompt": "b ",
        "model_kwargs": {"truncate_dim": 4},
        "encode_kwargs": {"normalize_embeddings": True},
    }
    function = chroma.EmbedderEmbeddingFunction(prompted, **options)
    assert function.get_config() == {"model": str(prompted), **options}
    again = chroma.EmbedderEmbeddingFunction.build_from_config(function.get_config())
    assert again.get_config() == function.get_config()
    np.testing.assert_array_equal(again(TEXTS), function(TEXTS))
