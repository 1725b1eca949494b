"""Quantised embeddings, and search in them."""

import numpy as np
import pytest

import embedder
from embedder import quantize_embeddings, semantic_search_quantized
from embedder.errors import InputError
from embedder.options import PRECISIONS
from embedder.vectors import hamming
from embedder.vectors.hamming import nearest_bits
from tests.vectors import best_by_sorting, clustered, ids_of, pairs_of, random_vectors


def test_int8_codes_that_were_computed_by_hand():
    ranges = np.array([[0.0, -1.0], [255.0, 509.0]], np.float32)
    vectors = np.array([[0.0, -1.0], [255.0, 509.0], [-9.0, 999.0], [12.5, 254.5]], np.float32)
    expected = [[0, 0], [255, 255], [0, 255], [12, 127]]
    np.testing.assert_array_equal(quantize_embeddings(vectors, "uint8", ranges), expected)
    np.testing.assert_array_equal(quantize_embeddings(vectors, "int8", ranges), np.array(expected) - 128)
    assert quantize_embeddings(vectors, "int8", ranges).dtype == np.int8
    by_sample = quantize_embeddings(vectors, "uint8", calibration_embeddings=vectors[:2])
    np.testing.assert_array_equal(by_sample, expected)
    np.testing.assert_array_equal(quantize_embeddings(vectors[:2], "uint8"), expected[:2])


def test_bits_that_were_computed_by_hand():
    vectors = [[1.0, -1.0, 0.0, 2.0, -0.0, 3.0, float("nan"), 4.0, 1.0, -1.0]]
    np.testing.assert_array_equal(quantize_embeddings(vectors, "ubinary"), [[0b10010101, 0b10000000]])
    np.testing.assert_array_equal(quantize_embeddings(vectors, "binary"), [[0b10010101 - 128, 0]])
    assert quantize_embeddings(vectors, "binary").dtype == np.int8


def test_empty_embeddings_and_several_blocks(monkeypatch):
    for precision in PRECISIONS:
        assert len(quantize_embeddings(np.zeros((0, 8)), precision)) == 0
    vectors = random_vectors(1, 50, 7)
    whole = quantize_embeddings(vectors, "int8")
    monkeypatch.setattr("embedder.vectors.arrays._CACHED_NUMBERS", 20)
    np.testing.assert_array_equal(quantize_embeddings(vectors, "int8"), whole)


def test_wrong_embeddings():
    vectors = random_vectors(1, 4, 8)
    with pytest.raises(InputError, match=r"precision should be one of float32, .*, not 'int4'"):
        quantize_embeddings(vectors, "int4")
    with pytest.raises(
        InputError, match="embeddings should be floating-point numbers, not int8: they are quantised already"
    ):
        quantize_embeddings(vectors.astype(np.int8), "binary")
    with pytest.raises(InputError, match="embeddings should be numbers, not <U1"):
        quantize_embeddings([["a"]], "binary")
    with pytest.raises(InputError, match=r"embeddings should be \(n, dim\) or \(dim,\), not \(1, 4, 8\)"):
        quantize_embeddings(vectors[None], "int8")
    for single in (vectors[0], vectors[:1]):
        with pytest.raises(InputError, match="int8 and uint8 ranges cannot be taken from a single embedding: give"):
            quantize_embeddings(single, "int8")
    with pytest.raises(InputError, match="embeddings should be numbers: "):
        quantize_embeddings([[1.0], [1.0, 2.0]], "int8")
    with pytest.raises(InputError, match=r"ranges should be \(2, 8\), not \(2, 7\)"):
        quantize_embeddings(vectors, "int8", vectors[:2, :7])
    for wrong in (vectors[:, :7], vectors[:0]):
        with pytest.raises(InputError, match=r"calibration_embeddings should be \(m, 8\), not"):
            quantize_embeddings(vectors, "int8", calibration_embeddings=wrong)
    vectors[2, 5] = np.nan
    with pytest.raises(InputError, match=r"embeddings\[2, 5\] cannot be quantised: it is nan, in the range of"):
        quantize_embeddings(vectors, "int8", random_vectors(1, 2, 8))
    with pytest.raises(InputError, match=r"embeddings\[0, 1\] cannot be quantised: .* in the range of -inf to 1"):
        quantize_embeddings([[0.0, 1.0]], "uint8", [[0.0, -np.inf], [1.0, 1.0]])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_single_vector(precision):
    vectors = random_vectors(1, 5, 12)
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    expected = quantize_embeddings(vectors, precision, ranges)[2]
    found = quantize_embeddings(vectors[2], precision, ranges)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)


def distances(queries, corpus):
    """Return the Hamming distances (n, m) of packed bits."""
    return (np.unpackbits(queries, axis=1)[:, None] != np.unpackbits(corpus, axis=1)).sum(axis=-1)


@pytest.mark.parametrize("size", [1, 8, 13, 48])
@pytest.mark.parametrize("counted", [True, False], ids=["bitwise_count", "NumPy 1"])
def test_nearest_bits(size, counted, monkeypatch):
    if not counted:
        monkeypatch.delattr(np, "bitwise_count", raising=False)
    monkeypatch.setattr(hamming, "_BYTES_PER_PIECE", 64 * size)
    monkeypatch.setattr(hamming, "_MIN_ROWS_PER_TASK", 10)
    random = np.random.default_rng(size)
    queries, corpus = (random.integers(0, 256, (n, size), np.uint8) for n in (70, 500))
    corpus[100:200] = corpus[:100]
    expected = -distances(queries, corpus)
    alive = random.random(500) < 0.6
    for k in (1, 10, 300, 9999):
        scores, rows = nearest_bits(queries, corpus, k)
        found = [list(zip(*pair, strict=True)) for pair in zip(rows.tolist(), scores.tolist(), strict=True)]
        assert found == best_by_sorting(expected, k)
        scores, rows = nearest_bits(queries, corpus, k, alive)
        left = np.where(alive, expected, -9999)
        found = [list(zip(*pair, strict=True)) for pair in zip(rows.tolist(), scores.tolist(), strict=True)]
        assert found == [row[: alive.sum()] for row in best_by_sorting(left, k)]
    monkeypatch.setattr(hamming, "_WORDS_BEYOND_UINT16", 0)
    np.testing.assert_array_equal(
        nearest_bits(queries, corpus, 10)[1], [[at for at, _ in r] for r in best_by_sorting(expected, 10)]
    )
    assert nearest_bits(queries, corpus[:0], 5)[0].shape == (70, 0)
    assert nearest_bits(queries[:0], corpus, 5)[0].shape == (0, 5)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_quantised_search_follows_its_definition(precision):
    corpus, queries = clustered(1, 400, 20, 30), random_vectors(2, 9, 20)
    ranges = np.stack([corpus.min(axis=0), corpus.max(axis=0)])
    codes, query_codes = (quantize_embeddings(x, precision, ranges) for x in (corpus, queries))
    if precision.endswith("int8"):
        coarse = query_codes.astype(int) @ codes.T.astype(int)
        levels = codes.astype(np.float64) + (128 if precision == "int8" else 0)
        numbers = ranges[0] + levels * (ranges[1] - ranges[0]) / 255
    else:
        coarse = -distances(query_codes.view(np.uint8), codes.view(np.uint8))
        numbers = (corpus > 0).astype(np.float64)
    sign = -1 if precision.endswith("binary") else 1
    plain = semantic_search_quantized(queries, codes, precision, 7, ranges, rescore=False)
    assert pairs_of(plain) == [[(at, sign * score) for at, score in row] for row in best_by_sorting(coarse, 7)]
    assert semantic_search_quantized(query_codes, codes, precision, 7) == plain
    found = semantic_search_quantized(queries, codes, precision, 7, calibration_embeddings=corpus, rescore_multiplier=3)
    fine = queries.astype(np.float64) @ numbers.T
    for query, row in enumerate(found):
        candidates = sorted(at for at, _ in best_by_sorting(coarse, 21)[query])
        best = sorted(candidates, key=lambda at: -fine[query, at])[:7]
        assert [hit["corpus_id"] for hit in row] == best
        np.testing.assert_allclose([hit["score"] for hit in row], fine[query, best], rtol=1e-6)
    everything = semantic_search_quantized(queries, codes, precision, 999, ranges)
    assert [len(row) for row in everything] == [400] * 9


def test_recall_grows_with_the_multiplier():
    corpus = clustered(1, 2000, 64, 100)
    queries = corpus[:50] + 0.05 * random_vectors(2, 50, 64)
    exact = ids_of(embedder.semantic_search(queries, corpus))

    def recall(precision, **options):
        codes = quantize_embeddings(corpus, precision)
        found = ids_of(semantic_search_quantized(queries, codes, precision, calibration_embeddings=corpus, **options))
        return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)])

    bits = [recall("ubinary", rescore=False), recall("ubinary"), recall("ubinary", rescore_multiplier=8)]
    assert bits == sorted(bits)
    assert bits[0] < bits[-1]
    assert recall("int8") > 0.9


def test_wrong_input_of_quantised_search():
    corpus = quantize_embeddings(random_vectors(1, 9, 16), "int8")
    queries = random_vectors(2, 2, 16)
    with pytest.raises(InputError, match=r"corpus_precision should be one of int8, .*, not 'float32'"):
        semantic_search_quantized(queries, corpus, "float32")
    with pytest.raises(InputError, match="corpus_embeddings should be uint8 for 'ubinary', not int8"):
        semantic_search_quantized(queries, corpus, "ubinary")
    with pytest.raises(
        InputError,
        match="int8 queries are quantised with the ranges of the corpus: give ranges, or calibration_embeddings",
    ):
        semantic_search_quantized(queries, corpus, "int8")
    with pytest.raises(InputError, match=r"query_embeddings \(2, 16\) and corpus_embeddings \(9, 16\) do not match"):
        semantic_search_quantized(queries, corpus, "binary")
    for name in ("top_k", "rescore_multiplier"):
        with pytest.raises(InputError, match=f"{name} should be a whole number, at least 1, not 0"):
            semantic_search_quantized(queries, corpus, "int8", **{name: 0})
