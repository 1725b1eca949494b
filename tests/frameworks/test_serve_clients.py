"""The server, asked by the clients that people use: openai, LangChain, LlamaIndex, huggingface_hub and cohere."""

import asyncio
import base64
import json

import numpy as np
import pytest

from embedder import CrossEncoder, Embedder
from tests.asgi_client import ServedApp, listening
from tests.tiny import write_tiny_artifact, write_tiny_ranker

TEXTS = ["the cat sat", "a dog", "", "é 字", "more words " * 30]
PROMPTS = {"query": "query: ", "document": "document: "}


def assert_close(vectors, expected):
    """Hold vectors against those of `encode`. In fp32 a vector depends a little on the others of its batch."""
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The first model of the server."""
    return Embedder(write_tiny_artifact(tmp_path_factory.mktemp("served") / "tiny", prompts=PROMPTS))


@pytest.fixture(scope="module")
def ranker(tmp_path_factory):
    """The reranker of the server."""
    return CrossEncoder(write_tiny_ranker(tmp_path_factory.mktemp("served") / "ranker"))


@pytest.fixture(scope="module")
def address(model, ranker, tmp_path_factory):
    """The address of a server with two embedding models and a reranker."""
    plain = Embedder(write_tiny_artifact(tmp_path_factory.mktemp("served") / "plain", normalize=False))
    served = ServedApp({"org/tiny": model, "plain": plain, "ranker": ranker})
    with listening(served.app) as address:
        yield address
    served.close()


@pytest.fixture(scope="module")
def client(address):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_openai_gets_the_vectors_of_encode(client, model):
    answer = client.embeddings.create(model="tiny", input=TEXTS)  # the client asks for base64
    assert_close([item.embedding for item in answer.data], model.encode(TEXTS))
    assert [item.index for item in answer.data] == list(range(len(TEXTS)))
    tokens = sum(map(len, model.tokenize_texts(TEXTS)))
    assert (answer.model, answer.usage.prompt_tokens, answer.usage.total_tokens) == ("org/tiny", tokens, tokens)
    one = client.embeddings.create(model="org/tiny", input="the cat", encoding_format="float", user="me")
    assert_close(np.float32(one.data[0].embedding), model.encode("the cat"))
    ids = model.tokenize_texts("the cat")[0].ids.tolist()
    for token_ids in (ids, [ids]):
        answer = client.embeddings.create(model="tiny", input=token_ids)
        assert_close(answer.data[0].embedding, one.data[0].embedding)
    short = client.embeddings.create(model="tiny", input="a", dimensions=3, extra_body={"prompt_name": "query"})
    expected = model.encode_query("a", truncate_dim=3, normalize_embeddings=True)
    assert_close(short.data[0].embedding, expected)


def test_openai_lists_the_models(client):
    assert [each.id for each in client.models.list()] == ["org/tiny", "plain", "ranker"]
    assert client.models.retrieve("org/tiny").owned_by == "embedder"


def test_openai_reads_the_errors(client):
    import openai

    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="text-embedding-3-small", input="a")
    assert (caught.value.code, caught.value.param, caught.value.type) == (
        "model_not_found",
        "model",
        "invalid_request_error",
    )
    assert "org/tiny, plain" in str(caught.value)
    with pytest.raises(openai.BadRequestError, match="dimensions should be at most 8") as caught:
        client.embeddings.create(model="tiny", input="a", dimensions=9)
    assert caught.value.param == "dimensions"


def test_asynchronous_openai(address, model):
    openai = pytest.importorskip("openai")

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0) as client:
            tasks = [client.embeddings.create(model="tiny", input=text) for text in TEXTS * 10]
            return [answer.data[0].embedding for answer in await asyncio.gather(*tasks)]

    assert_close(asyncio.run(ask()), np.tile(model.encode(TEXTS), (10, 1)))


def test_langchain(address, model):
    embeddings = pytest.importorskip("langchain_openai").OpenAIEmbeddings
    options = {"model": "tiny", "base_url": f"{address}/v1", "api_key": "any", "check_embedding_ctx_length": False}
    vectors = embeddings(**options).embed_documents(TEXTS)
    assert_close(np.float32(vectors), model.encode(TEXTS))
    short = embeddings(**options, dimensions=3).embed_query("a dog")
    assert_close(np.float32(short), model.encode("a dog", truncate_dim=3, normalize_embeddings=True))


def test_langchain_that_sends_ids_of_tiktoken_is_refused(address, monkeypatch):
    """By default its class sends them, whatever the model. They would give wrong vectors."""
    langchain = pytest.importorskip("langchain_openai")
    tiktoken = pytest.importorskip("tiktoken")
    openai = pytest.importorskip("openai")
    # The real vocabularies are fetched from the network. This one has a token for each byte.
    bytes_alone = tiktoken.Encoding(
        "bytes", pat_str=".", mergeable_ranks={bytes([i]): i for i in range(256)}, special_tokens={}
    )
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda name: bytes_alone)
    embeddings = langchain.OpenAIEmbeddings(model="tiny", base_url=f"{address}/v1", api_key="any")
    with pytest.raises(openai.BadRequestError, match="Token ids of other tokenizers, such as tiktoken, give wrong"):
        embeddings.embed_query("a dog")


def test_llama_index(address, model):
    module = pytest.importorskip("llama_index.embeddings.openai_like")
    options = {"model_name": "tiny", "api_base": f"{address}/v1", "api_key": "any", "max_retries": 0}
    embeddings = module.OpenAILikeEmbedding(**options, embed_batch_size=2)
    vectors = embeddings.get_text_embedding_batch(["the cat sat", "a dog", "more"])
    assert_close(np.float32(vectors), model.encode(["the cat sat", "a dog", "more"]))
    assert_close(np.float32(embeddings.get_query_embedding("a dog")), model.encode("a dog"))
    short = module.OpenAILikeEmbedding(**options, dimensions=3).get_text_embedding("a dog")
    assert_close(np.float32(short), model.encode("a dog", truncate_dim=3, normalize_embeddings=True))


def test_huggingface_hub(address, model, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    # Offline, its client asks no server at all, not even one on this machine.
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    client = hub.InferenceClient(address)
    assert_close(client.feature_extraction(TEXTS[:3]), model.encode(TEXTS[:3]))
    short = client.feature_extraction(
        "a dog", dimensions=3, normalize=True, prompt_name="query", truncate=True, truncation_direction="right"
    )
    expected = model.encode_query(["a dog"], truncate_dim=3, normalize_embeddings=True)
    assert_close(short, expected)
    scores = client.sentence_similarity("the cat", other_sentences=["the cat sat", "a dog"])
    vectors = model.encode(["the cat", "the cat sat", "a dog"])
    assert_close(scores, vectors[1:] @ vectors[0])
    with pytest.raises(hub.errors.HfHubHTTPError) as caught:
        client.feature_extraction("more words " * 30, truncate=False)
    assert caught.value.response.status_code == 422
    assert caught.value.response.json()["error_type"] == "Validation"


def test_base64_is_little_endian_float32(address, client, model):
    answer = client.embeddings.with_raw_response.create(model="tiny", input="a", encoding_format="base64")
    text = json.loads(answer.content)["data"][0]["embedding"]
    assert_close(np.frombuffer(base64.b64decode(text), "<f4"), model.encode("a"))


@pytest.mark.parametrize("kind", ["Client", "ClientV2"])
def test_cohere(address, ranker, kind):
    cohere = pytest.importorskip("cohere")
    expected = ranker.rank("the cat", TEXTS)
    with getattr(cohere, kind)("any", base_url=address) as client:
        answer = client.rerank(model="ranker", query="the cat", documents=TEXTS)
        assert [item.index for item in answer.results] == [item["corpus_id"] for item in expected]
        scores = [item.relevance_score for item in answer.results]
        assert_close(np.float32(scores), np.float32([item["score"] for item in expected]))
        assert answer.meta.tokens.input_tokens == sum(map(len, ranker.tokenize_pairs([("the cat", t) for t in TEXTS])))
        (best,) = client.rerank(model="ranker", query="the cat", documents=TEXTS, top_n=1).results
        assert best.index == expected[0]["corpus_id"]
        with pytest.raises(cohere.errors.NotFoundError) as caught:
            client.rerank(model="rerank-v3.5", query="a", documents=["b"])
        assert "The models are org/tiny, plain, ranker" in caught.value.body["message"]
        with pytest.raises(cohere.errors.BadRequestError) as caught:
            client.rerank(model="tiny", query="a", documents=["b"])
        assert "Those served here: ranker" in caught.value.body["message"]
        if kind == "Client":
            documents = [{"text": "the cat"}]
            (found,) = client.rerank(model="ranker", query="a", documents=documents, return_documents=True).results
            assert found.document.text == "the cat"


def test_llama_index_reranks(address, ranker):
    schema = pytest.importorskip("llama_index.core.schema")
    tei = pytest.importorskip("llama_index.postprocessor.tei_rerank")
    jina = pytest.importorskip("llama_index.postprocessor.jinaai_rerank")
    expected = ranker.rank("the cat", TEXTS, top_k=2)
    options = {"base_url": f"{address}/v1", "api_key": "any"}
    good, unknown = (jina.JinaRerank(model=name, top_n=2, **options) for name in ("ranker", "jina-reranker-v2"))
    for reranker in (tei.TextEmbeddingInference(base_url=address, top_n=2), good):
        nodes = [schema.NodeWithScore(node=schema.TextNode(text=text)) for text in TEXTS]
        found = reranker.postprocess_nodes(nodes, query_str="the cat")
        assert [node.text for node in found] == [TEXTS[item["corpus_id"]] for item in expected]
        assert_close(np.float32([node.score for node in found]), np.float32([item["score"] for item in expected]))
    with pytest.raises(RuntimeError, match="no model 'jina-reranker-v2' is served here"):
        unknown.postprocess_nodes(nodes, query_str="the cat")
    for reranker in (good, unknown):
        reranker._session.close()  # nothing else closes it
