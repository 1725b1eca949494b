"""Embeddings in LangChain."""

import asyncio
import pickle

import numpy as np


def test_example_on_the_page(langchain, check_page):
    check_page("langchain")


def test_vectors_are_those_of_encode(langchain, prompted, model):
    from langchain_core.embeddings import Embeddings

    embeddings = langchain.EmbedderEmbeddings(prompted)
    assert isinstance(embeddings, Embeddings)
    np.testing.assert_array_equal(embeddings.embed_documents(["cat", "dog"]), model.encode_document(["cat", "dog"]))
    np.testing.assert_array_equal(embeddings.embed_query("cat"), model.encode_query("cat"))
    assert type(embeddings.embed_query("cat")[0]) is type(embeddings.embed_documents(["cat"])[0][0]) is float
    assert embeddings.embed_documents([]) == []


def test_asynchronous_calls_give_the_same(langchain, prompted):
    embeddings = langchain.EmbedderEmbeddings(prompted)

    async def both():
        return await asyncio.gather(embeddings.aembed_query("cat"), embeddings.aembed_documents(["cat", "dog"]))

    assert asyncio.run(both()) == [embeddings.embed_query("cat"), embeddings.embed_documents(["cat", "dog"])]


def test_pickle_keeps_the_options(langchain, prompted):
    embeddings = langchain.EmbedderEmbeddings(prompted, query_prompt="a ", encode_kwargs={"truncate_dim": 4})
    copied = pickle.loads(pickle.dumps(embeddings))
    assert copied.embed_query("cat") == embeddings.embed_query("cat")
    assert len(copied.embed_query("cat")) == 4


def test_store_and_retriever(langchain, model):
    from langchain_core.vectorstores import InMemoryVectorStore

    texts = ["the cat sat", "a dog", "long words"]
    store = InMemoryVectorStore.from_texts(texts, embedding=langchain.EmbedderEmbeddings(model))
    scores = model.similarity(model.encode_query("a dog"), model.encode_document(texts))
    found = store.similarity_search_with_score("a dog", k=3)
    np.testing.assert_allclose([score for _, score in found], sorted(scores[0], reverse=True), atol=1e-6)
    assert store.as_retriever().invoke("a dog")[0].page_content == "a dog"
