"""An embedding in LlamaIndex."""

import asyncio
import copy
import pickle

import numpy as np
import pytest

TEXTS = ["the cat sat", "a dog", "long words"]


def test_example_on_the_page(llama_index, check_page, monkeypatch):
    from llama_index.core import Settings

    monkeypatch.setattr(Settings, "_embed_model", None)
    check_page("llama-index")


def test_vectors_are_those_of_encode(llama_index, prompted, model):
    from llama_index.core.base.embeddings.base import BaseEmbedding

    embedding = llama_index.EmbedderEmbedding(prompted)
    assert isinstance(embedding, BaseEmbedding)
    np.testing.assert_array_equal(embedding.get_text_embedding_batch(TEXTS), model.encode_document(TEXTS))
    np.testing.assert_array_equal(embedding.get_text_embedding("cat"), model.encode_document("cat"))
    np.testing.assert_array_equal(embedding.get_query_embedding("cat"), model.encode_query("cat"))
    assert type(embedding.get_query_embedding("cat")[0]) is float


def test_batches_of_any_size_give_the_same(llama_index, prompted, model):
    small = llama_index.EmbedderEmbedding(prompted, embed_batch_size=2)
    np.testing.assert_allclose(small.get_text_embedding_batch(TEXTS), model.encode_document(TEXTS), atol=1e-6)


def test_asynchronous_calls_give_the_same(llama_index, prompted):
    embedding = llama_index.EmbedderEmbedding(prompted, embed_batch_size=2)

    async def all_of_them():
        return await asyncio.gather(
            embedding.aget_query_embedding("cat"),
            embedding.aget_text_embedding("cat"),
            embedding.aget_text_embedding_batch(TEXTS),
        )

    assert asyncio.run(all_of_them()) == [
        embedding.get_query_embedding("cat"),
        embedding.get_text_embedding("cat"),
        embedding.get_text_embedding_batch(TEXTS),
    ]


@pytest.mark.parametrize(
    "copier",
    [
        lambda embedding: type(embedding).from_dict(embedding.to_dict()),
        lambda embedding: type(embedding).from_json(embedding.to_json()),
        lambda embedding: pickle.loads(pickle.dumps(embedding)),
        lambda embedding: embedding.model_copy(deep=True),
        copy.deepcopy,
    ],
)
def test_copies_keep_every_option(llama_index, prompted, copier):
    embedding = llama_index.EmbedderEmbedding(
        prompted,
        query_prompt="a ",
        document_prompt="b ",
        model_kwargs={"truncate_dim": 4},
        encode_kwargs={"normalize_embeddings": True},
        embed_batch_size=7,
        num_workers=2,
    )
    copied = copier(embedding)
    assert copied.to_dict() == embedding.to_dict()
    assert copied.get_query_embedding("cat") == embedding.get_query_embedding("cat")
    assert copied.get_text_embedding("cat") == embedding.get_text_embedding("cat")
    assert len(copied.get_text_embedding("cat")) == 4


def test_index_retrieves_and_pipeline_embeds(llama_index, model):
    from llama_index.core import Document, VectorStoreIndex
    from llama_index.core.ingestion import IngestionPipeline

    embedding = llama_index.EmbedderEmbedding(model)
    documents = [Document(text=text) for text in TEXTS]
    index = VectorStoreIndex.from_documents(documents, embed_model=embedding)
    assert index.as_retriever(similarity_top_k=1).retrieve("a dog")[0].text == "a dog"
    nodes = IngestionPipeline(transformations=[embedding]).run(documents=documents)
    np.testing.assert_array_equal([node.embedding for node in nodes], model.encode_document(TEXTS))
