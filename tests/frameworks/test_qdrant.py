"""Vectors in Qdrant."""

import numpy as np
import pytest

import embedder

TEXTS = ["the cat sat", "a dog", "long words"]
DISTANCES = {"cosine": "COSINE", "dot": "DOT", "euclidean": "EUCLID", "manhattan": "MANHATTAN"}


def test_example_on_the_page(check_page):
    pytest.importorskip("qdrant_client")
    check_page("qdrant")


@pytest.mark.parametrize("similarity", DISTANCES)
def test_scores_are_those_of_the_model(make_artifact, similarity):
    pytest.importorskip("qdrant_client")
    from qdrant_client import QdrantClient, models

    model = embedder.Embedder(make_artifact("other", similarity_fn_name=similarity, normalize=False))
    client = QdrantClient(":memory:")
    size = models.VectorParams(size=model.dimension, distance=models.Distance[DISTANCES[similarity]])
    client.create_collection("notes", vectors_config=size)
    client.upload_collection("notes", vectors=(v for block in model.encode_iter(TEXTS) for v in block), ids=[0, 1, 2])
    query = model.encode_query("a dog")
    scores = model.similarity(query, model.encode(TEXTS))[0]
    points = client.query_points("notes", query=query, limit=3).points
    assert [point.id for point in points] == list(np.argsort(-scores))
    np.testing.assert_allclose(np.abs([point.score for point in points]), np.abs(sorted(scores)[::-1]), rtol=1e-5)
