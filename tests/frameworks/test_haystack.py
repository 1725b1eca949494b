"""Embedders in Haystack."""

import asyncio

import numpy as np
import pytest

from embedder.errors import InputError

TEXTS = ["the cat sat", "a dog", "long words"]


@pytest.fixture
def documents(haystack):
    """One document for each text."""
    from haystack import Document

    return [Document(content=text) for text in TEXTS]


def test_example_on_the_page(haystack, check_page):
    check_page("haystack")


def test_vectors_are_those_of_encode(haystack, prompted, model, documents):
    text, embedder = haystack.EmbedderTextEmbedder(prompted), haystack.EmbedderDocumentEmbedder(prompted)
    text.warm_up()
    embedder.warm_up()
    assert text.model.embedder is embedder.model.embedder
    np.testing.assert_array_equal(text.run("cat")["embedding"], model.encode_query("cat"))
    found = embedder.run(documents)["documents"]
    np.testing.assert_array_equal([document.embedding for document in found], model.encode_document(TEXTS))
    assert type(found[0].embedding[0]) is type(text.run("cat")["embedding"][0]) is float
    assert embedder.run([]) == {"documents": []}


def test_metadata_is_embedded_and_documents_are_copied(haystack, prompted, model):
    from haystack import Document

    embedder = haystack.EmbedderDocumentEmbedder(
        prompted, meta_fields_to_embed=["title", "year", "none", "absent"], embedding_separator=" : "
    )
    given = Document(content="a dog", meta={"title": "the cat", "year": 1, "none": None})
    (found,) = embedder.run([given])["documents"]
    np.testing.assert_array_equal(found.embedding, model.encode_document("the cat : 1 : a dog"))
    assert given.embedding is None
    assert (found.id, found.content, found.meta) == (given.id, given.content, given.meta)


def test_document_without_content_is_an_empty_text(haystack, prompted, model):
    from haystack import Document

    (found,) = haystack.EmbedderDocumentEmbedder(prompted).run([Document(content=None)])["documents"]
    np.testing.assert_array_equal(found.embedding, model.encode_document(""))


def test_asynchronous_calls_give_the_same(haystack, prompted, documents):
    text, embedder = haystack.EmbedderTextEmbedder(prompted), haystack.EmbedderDocumentEmbedder(prompted)
    assert asyncio.run(text.run_async("cat")) == text.run("cat")
    assert asyncio.run(embedder.run_async(documents)) == embedder.run(documents)


@pytest.mark.parametrize("name", ["EmbedderTextEmbedder", "EmbedderDocumentEmbedder"])
def test_dict_keeps_every_option(haystack, prompted, name):
    kind = getattr(haystack, name)
    options = {"prompt": "a ", "model_kwargs": {"truncate_dim": 4}, "encode_kwargs": {"normalize_embeddings": True}}
    if name == "EmbedderDocumentEmbedder":
        options |= {"meta_fields_to_embed": ["title"], "embedding_separator": " - "}
    saved = kind(prompted, **options).to_dict()
    assert saved["type"] == f"embedder.integrations.haystack.{name}"
    assert saved["init_parameters"] == {"model": str(prompted), **options}
    assert kind.from_dict(saved).to_dict() == saved


def test_pipelines_index_retrieve_and_are_saved(haystack, model, documents):
    from haystack import Pipeline
    from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
    from haystack.components.writers import DocumentWriter
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    indexing = Pipeline()
    indexing.add_component("embedder", haystack.EmbedderDocumentEmbedder(model))
    indexing.add_component("writer", DocumentWriter(store))
    indexing.connect("embedder.documents", "writer.documents")
    indexing.run({"embedder": {"documents": documents}})
    search = Pipeline()
    search.add_component("embedder", haystack.EmbedderTextEmbedder(model, encode_kwargs={"normalize_embeddings": True}))
    search.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    search.connect("embedder.embedding", "retriever.query_embedding")
    saved = search.dumps()
    again = Pipeline.loads(saved, allowed_modules=["embedder.integrations.*"])
    assert again.dumps() == saved
    for pipeline in (search, again):
        (found,) = pipeline.run({"embedder": {"text": "a dog"}})["retriever"]["documents"]
        assert found.content == "a dog"


def test_wrong_inputs_are_refused(haystack, prompted, documents):
    with pytest.raises(TypeError, match=r"takes a string, not \['cat'\]. For documents, use EmbedderDocumentEmbedder"):
        haystack.EmbedderTextEmbedder(prompted).run(["cat"])
    for wrong in ("cat", ["cat"], [*documents, None]):
        with pytest.raises(TypeError, match="takes a list of documents, not "):
            haystack.EmbedderDocumentEmbedder(prompted).run(wrong)
    with pytest.raises(InputError, match="model_kwargs cannot have 'token'"):
        haystack.EmbedderTextEmbedder(prompted, model_kwargs={"token": "hf_secret"})
