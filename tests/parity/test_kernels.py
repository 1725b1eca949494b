"""The kernels give the results of sentence-transformers 6.2, for random and for hard embeddings."""

import logging
import sys
import warnings
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import sentence_transformers
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sentence_transformers import util
from sentence_transformers.util import hard_negatives
from sentence_transformers.util import quantization as reference_quantization

import embedder
from embedder.options import PRECISIONS
from tests.vectors import clustered, hard_vectors, ids_of, pairs_of, random_vectors

NAMES = ["cos_sim", "dot_score", "euclidean_sim", "manhattan_sim"]


if int(sentence_transformers.__version__.split(".")[0]) < 6:
    pytest.skip("the reference is sentence-transformers 6.2", allow_module_level=True)


@pytest.fixture(autouse=True)
def _no_warnings(caplog):
    """sentence-transformers warns about calibration."""
    caplog.set_level(logging.ERROR)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_similarity(name, data):
    a = data.draw(hard_vectors(min_rows=1, max_rows=30))
    b = data.draw(hard_vectors(min_rows=1, max_rows=30, dim=a.shape[1]))
    for found, expected in [
        (getattr(embedder, name)(a, b), getattr(util, name)(a, b)),
        (getattr(embedder, name)(a[0], b.tolist()), getattr(util, name)(a[0], b.tolist())),
        (getattr(embedder, f"pairwise_{name}")(a[:1], b[:1]), getattr(util, f"pairwise_{name}")(a[:1], b[:1])),
    ]:
        assert found.shape == tuple(expected.shape)
        # With many rows, torch computes distances from dot products, with an error of about 1e-3.
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=5e-3 if name == "euclidean_sim" else 1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_semantic_search(name, dtype):
    queries, corpus = random_vectors(1, 30, 48, dtype), random_vectors(2, 3000, 48, dtype)
    if dtype == np.float16:
        reference = util.semantic_search(
            queries.astype(np.float32), corpus.astype(np.float32), score_function=getattr(util, name)
        )
    else:
        reference = util.semantic_search(queries, corpus, score_function=getattr(util, name))
    for chunks in ((100, 500_000), (7, 333)):
        found = embedder.semantic_search(queries, corpus, *chunks, score_function=getattr(embedder, name))
        assert ids_of(found) == ids_of(reference)
        for row, expected in zip(pairs_of(found), pairs_of(reference), strict=True):
            np.testing.assert_allclose([s for _, s in row], [s for _, s in expected], rtol=1e-4)


@given(data=st.data())
def test_semantic_search_with_ties(data):
    """Only the scores are compared, because the reference may return any of several vectors with equal scores."""
    queries = data.draw(hard_vectors(min_rows=1, max_rows=5))
    corpus = data.draw(hard_vectors(min_rows=1, dim=queries.shape[1]))
    k = data.draw(st.integers(1, 60))
    found = embedder.semantic_search(queries, corpus, top_k=k)
    expected = util.semantic_search(queries, corpus, top_k=k)
    cosines = util.cos_sim(queries, corpus).numpy()
    for query, (row, others) in enumerate(zip(pairs_of(found), pairs_of(expected), strict=True)):
        assert len(row) == len(others) == len({id_ for id_, _ in row})
        np.testing.assert_allclose([s for _, s in row], [s for _, s in others], atol=1e-6)
        np.testing.assert_allclose([s for _, s in row], [cosines[query, id_] for id_, _ in row], atol=1e-6)


def test_empty():
    vectors = random_vectors(1, 3, 4)
    assert embedder.semantic_search(vectors[:0], vectors) == util.semantic_search(vectors[:0], vectors)
    assert embedder.semantic_search(vectors, vectors[:0]) == util.semantic_search(vectors, vectors[:0])
    nothing = torch.zeros(0, 4)
    assert embedder.community_detection(vectors[:0]) == util.community_detection(nothing)
    assert embedder.paraphrase_mining_embeddings(vectors[:0]) == util.paraphrase_mining_embeddings(nothing)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 3},
        {"top_k": 3, "corpus_chunk_size": 130},
        {"query_chunk_size": 77},
        {"max_pairs": 801},
        {"max_pairs": 801, "query_chunk_size": 50, "top_k": 7},
        {"max_pairs": 1},
    ],
)
def test_paraphrase_mining(options):
    vectors = clustered(1, 400, 32, 60)
    for name in ("cos_sim", "dot_score", "euclidean_sim"):
        found = embedder.paraphrase_mining_embeddings(vectors, score_function=getattr(embedder, name), **options)
        expected = util.paraphrase_mining_embeddings(
            torch.from_numpy(vectors), score_function=getattr(util, name), **options
        )
        np.testing.assert_allclose([p[0] for p in found], [p[0] for p in expected], atol=1e-4)
        # The order is not compared, because scores may differ in the last digit.
        assert sorted(p[1:] for p in found) == sorted(p[1:] for p in expected)


def test_each_pair_is_returned_once():
    vectors = random_vectors(1, 320, 32)
    found = embedder.paraphrase_mining_embeddings(vectors, max_pairs=5000, top_k=20)
    expected = util.paraphrase_mining_embeddings(torch.from_numpy(vectors), max_pairs=5000, top_k=20)
    pairs = [tuple(pair[1:]) for pair in found]
    assert len(set(pairs)) == len(pairs) == len(expected) > 3200
    assert sorted(pairs) == sorted(tuple(pair[1:]) for pair in expected)


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.75])
@pytest.mark.parametrize("least", [1, 2, 10, 500])
def test_community_detection(threshold, least):
    vectors = clustered(1, 400, 32, 60)
    assert embedder.community_detection(vectors, threshold, least) == util.community_detection(
        vectors, threshold, least
    )


@given(data=st.data())
def test_community_detection_with_copies(data):
    """Members are sorted before the comparison, because the reference has no fixed order for equal cosines."""
    vectors = data.draw(hard_vectors(min_rows=1))
    threshold, least = data.draw(st.sampled_from([0.3, 0.6, 0.9])), data.draw(st.integers(1, 9))
    cosines = util.cos_sim(vectors, vectors).numpy()
    if (np.abs(cosines - threshold) > 1e-5).all():
        found = embedder.community_detection(vectors, threshold, least)
        expected = util.community_detection(vectors, threshold, least)
        assert [sorted(community) for community in found] == [sorted(community) for community in expected]


@given(data=st.data())
def test_quantized_bytes(data):
    dtype = data.draw(st.sampled_from([np.float32, np.float64, np.float16]))
    vectors = data.draw(hard_vectors(min_rows=1)).astype(dtype)
    other = data.draw(hard_vectors(min_rows=1, dim=vectors.shape[1])).astype(dtype)
    ranges = np.stack([other.min(axis=0), other.max(axis=0)])
    for options in ({}, {"ranges": ranges}, {"calibration_embeddings": other}, {"ranges": ranges.astype(np.float64)}):
        for precision in PRECISIONS:
            for given_as in (vectors, vectors.tolist()):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    if len(vectors) == 1 and not options and "int8" in precision:
                        for function in (util.quantize_embeddings, embedder.quantize_embeddings):
                            with pytest.raises(ValueError, match="single embedding"):
                                function(given_as, precision)
                        continue
                    expected = util.quantize_embeddings(given_as, precision, **options)
                found = embedder.quantize_embeddings(given_as, precision, **options)
                assert (found.dtype, found.shape, found.tobytes()) == (
                    expected.dtype,
                    expected.shape,
                    expected.tobytes(),
                )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_single_quantized_vector(precision):
    vectors = random_vectors(1, 9, 12)
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    found = embedder.quantize_embeddings(vectors[4], precision, ranges)
    expected = util.quantize_embeddings(vectors[4], precision, ranges)
    assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


@pytest.mark.parametrize("precision", ["uint8", "ubinary", "int8", "binary"])
@pytest.mark.parametrize("rescore", [True, False])
def test_quantized_search(precision, rescore):
    corpus, queries = random_vectors(1, 2000, 64), random_vectors(2, 40, 64)
    ranges = np.stack([corpus.min(axis=0), corpus.max(axis=0)])
    codes = embedder.quantize_embeddings(corpus, precision, ranges)
    # usearch chooses other vectors among equal Hamming distances. So all vectors become candidates.
    multiplier = 300 if precision == "binary" else 3
    options = {"top_k": 7, "ranges": ranges, "rescore": rescore, "rescore_multiplier": multiplier}
    name = "semantic_search_usearch" if precision in ("int8", "binary") else "semantic_search_faiss"
    expected, *_ = getattr(reference_quantization, name)(queries, codes, corpus_precision=precision, **options)
    found = embedder.semantic_search_quantized(queries, codes, precision, **options)
    scores = [[s for _, s in row] for row in pairs_of(found)]
    if precision == "int8" and not rescore:  # usearch returns 1 minus the dot product
        scores = [[1 - score for score in row] for row in scores]
    if rescore or precision == "uint8":
        # Ties may be in another order.
        assert np.mean([a == b for a, b in zip(ids_of(found), ids_of(expected), strict=True)]) > 0.9
    np.testing.assert_allclose(scores, [[s for _, s in row] for row in pairs_of(expected)], rtol=1e-5)


class Table:
    """A fake for `datasets.Dataset` and its pandas form. It has only the methods that the reference calls."""

    def __init__(self, columns):
        self.columns = columns
        self.column_names = list(columns)

    def __len__(self):
        return len(self.columns[self.column_names[0]])

    def __getitem__(self, name):
        return self.columns[name]

    def to_pandas(self):
        return self

    def groupby(self, name):
        return Table({other: Counter(self.columns[name]) for other in self.column_names if other != name})

    def count(self):
        return self

    def to_dict(self):
        return self.columns

    from_dict = classmethod(lambda cls, columns: cls(columns))


class Encoder:
    """A fake model. "q3" has the embedding of query 3, and "d7" has the embedding of row 7 of the corpus."""

    device = "cpu"
    similarity = staticmethod(util.cos_sim)
    similarity_pairwise = staticmethod(util.pairwise_cos_sim)

    def __init__(self, queries, corpus):
        self.encode_query = lambda texts, **options: queries[[int(text[1:]) for text in texts]]
        self.encode_document = lambda texts, **options: corpus[[int(text[1:]) for text in texts]]


NEGATIVES = st.fixed_dictionaries(
    {"num_negatives": st.integers(1, 3), "range_min": st.integers(0, 3)},
    optional={
        "range_max": st.integers(6, 20),
        "max_score": st.floats(-0.2, 0.9),
        "min_score": st.floats(-0.9, 0.2),
        "absolute_margin": st.floats(0, 0.4),
        "relative_margin": st.floats(0, 0.4),
    },
)


@given(data=st.data())
def test_mine_hard_negatives(data):
    seed, n, m = data.draw(st.integers(0, 999)), data.draw(st.integers(1, 9)), data.draw(st.integers(4, 50))
    queries, corpus = (embedder.normalize_embeddings(random_vectors(seed + i, k, 6)) for i, k in enumerate((n, m)))
    positives = [sorted(data.draw(st.sets(st.integers(0, m - 1), min_size=1, max_size=3))) for _ in range(n)]
    options = data.draw(NEGATIVES)
    pairs = Table(
        {
            "query": [f"q{query}" for query, known in enumerate(positives) for _ in known],
            "answer": [f"d{row}" for known in positives for row in known],
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hard_negatives, "is_datasets_available", lambda: True)
        patch.setitem(sys.modules, "datasets", SimpleNamespace(Dataset=Table))
        try:
            mined = util.mine_hard_negatives(
                pairs, Encoder(queries, corpus), corpus=[f"d{row}" for row in range(m)], verbose=False, **options
            )
        except ZeroDivisionError:  # the reference divides by the number of remaining candidates
            assume(False)
    expected = [[] for _ in range(n)]
    for query, answer, negative in zip(mined["query"], mined["answer"], mined["negative"], strict=True):
        if answer == f"d{positives[int(query[1:])][0]}":  # each answer of a query has the same negatives
            expected[int(query[1:])].append(int(negative[1:]))
    assert ids_of(embedder.mine_hard_negatives(queries, corpus, positives, **options)) == expected
