"""`semantic_search` is exact, whatever the chunks, the dtypes and the scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import embedder
from embedder import cos_sim, dot_score, euclidean_sim, manhattan_sim, semantic_search
from embedder.errors import InputError
from embedder.vectors import scoring, search
from embedder.vectors.hamming import nearest_bits
from tests.vectors import best_by_sorting, exact_cosines, hard_vectors, ids_of, pairs_of, random_vectors


@given(data=st.data())
def test_search_equals_a_full_sort(data):
    """Scores are equal to the last bit. Among equal scores, the lower id comes first."""
    queries = data.draw(hard_vectors(max_rows=7))
    corpus = data.draw(hard_vectors(max_rows=60, dim=queries.shape[1]))
    k, query_chunk, corpus_chunk = (data.draw(st.integers(1, 70)) for _ in range(3))
    found = semantic_search(queries, corpus, query_chunk, corpus_chunk, top_k=k)
    assert pairs_of(found) == best_by_sorting(exact_cosines(queries, corpus), k)


def floored(a, b):
    """Return scores with many ties."""
    return np.floor(3 * dot_score(a, b))


@given(data=st.data())
def test_any_score_function(data):
    function = data.draw(st.sampled_from([dot_score, euclidean_sim, manhattan_sim, floored]))
    queries = data.draw(hard_vectors(max_rows=7))
    corpus = data.draw(hard_vectors(max_rows=60, dim=queries.shape[1]))
    k, chunk = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    found = pairs_of(semantic_search(queries, corpus, 3, chunk, top_k=k, score_function=function))
    expected = best_by_sorting(function(queries, corpus), k)
    for row, best in zip(found, expected, strict=True):
        np.testing.assert_allclose([score for _, score in row], [score for _, score in best], rtol=1e-5, atol=1e-6)
        assert len({id_ for id_, _ in row}) == len(best)
        assert row == sorted(row, key=lambda pair: (-pair[1], pair[0]))


@given(data=st.data())
def test_search_in_a_crowd_equals_a_full_sort(data):
    """Copies, and vectors that are nearly copies, have scores that float32 cannot tell apart."""
    queries = data.draw(hard_vectors(max_rows=7))
    corpus = data.draw(hard_vectors(max_rows=60, dim=queries.shape[1]))
    noise = random_vectors(data.draw(st.integers(0, 99)), len(corpus), queries.shape[1])
    corpus[::2] += data.draw(st.sampled_from([np.float32(0), np.float32(1e-7)])) * noise[::2]
    k, block, chunk = (data.draw(st.integers(1, 70)) for _ in range(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "NUMBERS_PER_BLOCK", block * queries.shape[1])
        patch.setattr(scoring, "PAIRS_PER_PRODUCT", data.draw(st.integers(1, 70)))
        patch.setattr(search, "_MIN_CROWD", data.draw(st.integers(0, 70)))
        found = semantic_search(queries, corpus, 3, chunk, top_k=k)
    assert pairs_of(found) == best_by_sorting(exact_cosines(queries, corpus), k)


def test_a_corpus_of_copies_is_scored_by_its_different_rows(monkeypatch):
    different, copied = random_vectors(0, 7, 24), np.random.default_rng(1).integers(0, 7, 4000)
    queries = random_vectors(2, 40, 24)
    divisors, scored = scoring._divisors, []
    monkeypatch.setattr(scoring, "_divisors", lambda rows: scored.append(len(rows)) or divisors(rows))
    found = semantic_search(queries, different[copied], top_k=30)
    assert pairs_of(found) == best_by_sorting(exact_cosines(queries, different)[:, copied], 30)
    assert max(scored) < 4000 / 16


def test_a_corpus_with_too_many_rows():
    message = "a corpus has at most 4,294,967,296 rows, not 4,294,967,297: search it in parts"
    with pytest.raises(InputError, match=message):
        semantic_search([[1.0]], np.broadcast_to(np.float32(1), (2**32 + 1, 1)))
    with pytest.raises(InputError, match=message):
        nearest_bits(np.ones((1, 1), np.uint8), np.broadcast_to(np.uint8(1), (2**32 + 1, 1)), 1)


def test_chunks_and_blocks_do_not_change_the_result(monkeypatch):
    """Copies of a row have equal scores, although a float32 product rounds them differently in different places."""
    different = random_vectors(0, 7, 384)
    corpus = different[np.random.default_rng(1).integers(0, 7, 2000)]
    queries = random_vectors(2, 40, 384)
    for function in (cos_sim, dot_score):
        expected = semantic_search(queries, corpus, top_k=300, score_function=function)
        for row in pairs_of(expected):
            assert row == sorted(row, key=lambda pair: (-pair[1], pair[0]))
            assert len({score for _, score in row}) <= 7
        assert semantic_search(queries, corpus, 17, 333, 300, function) == expected
        with monkeypatch.context() as patch:
            patch.setattr(scoring, "NUMBERS_PER_BLOCK", 384 * 500)
            assert semantic_search(queries, corpus, top_k=300, score_function=function) == expected


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.float64])
def test_other_dtypes_are_read_as_float32(dtype):
    queries, corpus = random_vectors(1, 5, 300, dtype), random_vectors(2, 3000, 300, dtype)
    found = semantic_search(queries, corpus)
    assert found == semantic_search(queries.astype(np.float32), corpus.astype(np.float32))
    assert found == semantic_search(queries, np.asfortranarray(corpus))
    assert found == semantic_search(queries.astype(np.float32), corpus)
    whole = semantic_search(queries, corpus, score_function=dot_score)
    assert whole == semantic_search(queries.astype(np.float32), corpus.astype(np.float32), score_function=dot_score)


def test_lists_single_vectors_and_mapped_files(tmp_path):
    queries, corpus = random_vectors(1, 2, 6), random_vectors(2, 40, 6)
    expected = semantic_search(queries, corpus)
    assert semantic_search(queries.tolist(), corpus.tolist()) == expected
    assert semantic_search(queries[0], corpus) == expected[:1]
    assert semantic_search(list(queries), list(corpus)) == expected
    np.save(tmp_path / "corpus.npy", corpus)
    assert semantic_search(queries, np.load(tmp_path / "corpus.npy", mmap_mode="r")) == expected
    assert semantic_search(queries, np.repeat(corpus, 2, axis=0)[::2]) == expected
    assert type(expected[0][0]["corpus_id"]) is int
    assert type(expected[0][0]["score"]) is float


def test_empty_and_small_corpora():
    vectors = random_vectors(1, 3, 4)
    assert semantic_search(np.zeros((0, 4)), vectors) == []
    assert semantic_search([], vectors) == []
    assert semantic_search(vectors, np.zeros((0, 4))) == [[], [], []]
    assert semantic_search(vectors, []) == [[], [], []]
    assert [len(row) for row in semantic_search(vectors, vectors, top_k=10**6)] == [3, 3, 3]
    assert semantic_search([[0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]) == [
        [{"corpus_id": 0, "score": 0.0}, {"corpus_id": 1, "score": 0.0}]
    ]


@pytest.mark.parametrize("function", [cos_sim, dot_score])
def test_nan_ranks_last(function):
    corpus = random_vectors(2, 30, 4)
    corpus[[3, 7, 20]] = np.nan
    corpus[9, 1] = np.inf
    query = np.array([[1.0, 1e-3, 0.0, 0.0]], np.float32)
    (row,) = pairs_of(semantic_search(query, corpus, corpus_chunk_size=8, top_k=30, score_function=function))
    nan_ids = [3, 7, 9, 20] if function is cos_sim else [3, 7, 20]
    assert [id_ for id_, _ in row[-len(nan_ids) :]] == nan_ids
    assert all(np.isnan(score) for _, score in row[-len(nan_ids) :])
    assert not any(np.isnan(score) for _, score in row[: -len(nan_ids)])
    if function is dot_score:
        assert row[0] == (9, np.inf)
    (row,) = pairs_of(semantic_search(query * np.nan, corpus, top_k=4, score_function=function))
    assert [id_ for id_, _ in row] == [0, 1, 2, 3]


@pytest.mark.parametrize("scale", [1e-30, 1e-11, 1e18, 1e30])
def test_very_small_and_very_large_numbers(scale):
    queries, corpus = random_vectors(1, 3, 8), random_vectors(2, 50, 8)
    expected = semantic_search(queries, corpus, top_k=50)
    found = semantic_search(queries, corpus * np.float32(scale), top_k=50)
    if scale > 1e-12:  # shorter vectors are divided by 1e-12
        assert ids_of(found) == ids_of(expected)


def test_wrong_input():
    vectors = random_vectors(1, 3, 4)
    for name in ("top_k", "query_chunk_size", "corpus_chunk_size"):
        for value in (0, -1, 1.5, None, "many"):
            with pytest.raises(InputError, match=f"{name} should be a whole number, at least 1"):
                semantic_search(vectors, vectors, **{name: value})
    with pytest.raises(InputError, match=r"not \(3, 4\) and \(3, 5\)"):
        semantic_search(vectors, random_vectors(1, 3, 5))
    with pytest.raises(InputError, match="corpus_embeddings should be numbers"):
        semantic_search(vectors, ["a text"])
    with pytest.raises(InputError, match=r"score_function should be a function, such as embedder\.cos_sim, not 'dot'"):
        semantic_search(vectors, vectors, score_function="dot")
    with pytest.raises(InputError, match=r"score_function should return scores of shape \(3, 3\), not \(3,\)"):
        semantic_search(vectors, vectors, score_function=embedder.pairwise_cos_sim)


def test_memory_is_limited_to_a_block():
    import tracemalloc

    corpus = random_vectors(1, 50_000, 32, np.float16)
    tracemalloc.start()
    semantic_search(corpus[:50], corpus, corpus_chunk_size=500)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000  # all scores would take 10 MB, the corpus in float32 6 MB
