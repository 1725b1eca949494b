"""A backend in BERTopic and in KeyBERT, which both take another model for what they do not know."""

import pickle

import numpy as np

import embedder

TEXTS = ["the cat sat on the mat", "a dog and the cat", "long words", "short words", "more words", "less words"]


def test_example_on_the_page_of_bertopic(bertopic, check_page):
    check_page("bertopic")


def test_bertopic_uses_the_model_and_keeps_it(bertopic, prompted, model):
    from bertopic import BERTopic
    from bertopic.backend._utils import select_backend
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    backend = bertopic.EmbedderBackend(prompted, prompt="a ")
    assert select_backend(backend, language="english") is backend
    np.testing.assert_array_equal(backend.embed_documents(TEXTS), model.encode(TEXTS, prompt="a "))
    np.testing.assert_array_equal(backend.embed_words(["cat"]), model.encode(["cat"], prompt="a "))

    def fit(backend, vectors):
        topics = BERTopic(embedding_model=backend, umap_model=PCA(2), hdbscan_model=KMeans(2, random_state=0, n_init=3))
        found, _ = topics.fit_transform(TEXTS, vectors)
        return topics, found

    topics, found = fit(backend, None)
    assert fit(None, model.encode(TEXTS, prompt="a "))[1] == found
    assert topics.find_topics("cat", top_n=1) == pickle.loads(pickle.dumps(topics)).find_topics("cat", top_n=1)
    assert topics.embedding_model is backend


def test_bertopic_takes_another_model_for_an_embedder(bertopic, model, monkeypatch):
    """As the page says. If this fails, BERTopic has changed, and the page should say less."""
    import bertopic.backend._sentencetransformers as backends
    from bertopic.backend._utils import select_backend

    monkeypatch.setattr(backends, "SentenceTransformerBackend", lambda name: f"backend of {name}")
    assert select_backend(model, language="english") == "backend of sentence-transformers/all-MiniLM-L6-v2"


def test_example_on_the_page_of_keybert(keybert, check_page):
    check_page("keybert")


def test_keybert_uses_the_model(keybert, prompted, model):
    from keybert import KeyBERT

    backend = keybert.EmbedderBackend(prompted)
    keywords = KeyBERT(model=backend)
    assert keywords.model is backend
    found = dict(keywords.extract_keywords("the cat sat on the mat", stop_words=None, top_n=3))
    scores = embedder.cos_sim(model.encode("the cat sat on the mat"), model.encode(list(found)))[0]
    np.testing.assert_allclose(list(found.values()), scores, atol=1e-4)
    document, words = keywords.extract_embeddings("the cat sat", stop_words=None)
    np.testing.assert_array_equal(document, model.encode(["the cat sat"]))
    np.testing.assert_array_equal(words, model.encode(["cat", "sat", "the"]))


def test_keybert_takes_another_model_for_an_embedder(keybert, model, monkeypatch):
    """As the page says. If this fails, KeyBERT has changed, and the page should say less."""
    import keybert.backend._sentencetransformers as backends
    from keybert.backend._utils import select_backend

    monkeypatch.setattr(backends, "SentenceTransformerBackend", lambda name: f"backend of {name}")
    assert select_backend(model) == "backend of paraphrase-multilingual-MiniLM-L12-v2"
