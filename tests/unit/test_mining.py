"""Paraphrase mining and community detection."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import embedder
from embedder import community_detection, paraphrase_mining, paraphrase_mining_embeddings
from embedder.errors import InputError
from embedder.options import EncodeSettings
from embedder.vectors import mining, near_pairs, sketches
from tests.vectors import clustered, exact_cosines, hard_vectors, random_vectors


def all_pairs(scores):
    """Return all pairs (i, j) with i < j as [score, i, j], the best first."""
    n = len(scores)
    return sorted(
        ([float(scores[i, j]), i, j] for i in range(n) for j in range(i + 1, n)), key=lambda p: (-p[0], p[1], p[2])
    )


def assert_close(found, expected):
    """Check that the pairs are equal, and their scores nearly equal."""
    assert [pair[1:] for pair in found] == [pair[1:] for pair in expected]
    np.testing.assert_allclose([pair[0] for pair in found], [pair[0] for pair in expected], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunks", [(5000, 100_000), (7, 11), (1, 1)])
def test_all_pairs_come_best_first(chunks):
    vectors = random_vectors(1, 40, 6)
    found = paraphrase_mining_embeddings(vectors, *chunks)
    assert_close(found, all_pairs(exact_cosines(vectors, vectors)))
    assert all(type(number) is kind for number, kind in zip(found[0], (float, int, int), strict=True))


@pytest.mark.parametrize("limit", [1, 2, 3, 20, 99, 779, 780, 781, 10**6])
def test_best_pairs_are_returned_once(limit, monkeypatch):
    monkeypatch.setattr(mining, "SCORES_PER_BLOCK", 200)
    vectors = random_vectors(1, 40, 6)
    expected = all_pairs(exact_cosines(vectors, vectors))
    assert_close(paraphrase_mining_embeddings(vectors, max_pairs=limit), expected[:limit])


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("chunk", [1, 13, 100])
def test_one_row_of_a_pair_is_among_the_nearest_of_the_other(k, chunk):
    vectors = random_vectors(1, 40, 6)
    scores = exact_cosines(vectors, vectors)
    others = scores.copy()
    np.fill_diagonal(others, -np.inf)
    near = np.zeros(scores.shape, bool)
    np.put_along_axis(near, np.argsort(-others, axis=1)[:, :k], True, axis=1)
    expected = [pair for pair in all_pairs(scores) if near[pair[1], pair[2]] or near[pair[2], pair[1]]]
    assert_close(paraphrase_mining_embeddings(vectors, 9, chunk, top_k=k), expected)


def test_equal_scores_keep_the_lowest_rows(monkeypatch):
    monkeypatch.setattr(mining, "SCORES_PER_BLOCK", 30)
    vectors = np.ones((30, 4), np.float32)
    found = paraphrase_mining_embeddings(vectors, max_pairs=40)
    assert [pair[1:] for pair in found] == [[0, j] for j in range(1, 30)] + [[1, j] for j in range(2, 13)]


def test_other_score_functions_and_scores_below_minus_one():
    vectors = random_vectors(1, 30, 3)
    for function in (embedder.dot_score, embedder.euclidean_sim):
        expected = all_pairs(function(vectors, vectors))
        assert expected[-1][0] < -1
        assert_close(paraphrase_mining_embeddings(vectors, score_function=function), expected)


def test_the_scores_of_a_function_are_not_changed():
    vectors = random_vectors(1, 6, 3)
    kept = embedder.dot_score(vectors, vectors)
    before = kept.copy()
    paraphrase_mining_embeddings(vectors, score_function=lambda a, b: kept)
    np.testing.assert_array_equal(kept, before)


def test_copies_zeros_and_nan():
    vectors = random_vectors(1, 4, 5)[[0, 1, 0, 2, 0, 3]]
    vectors[5] = np.nan
    vectors[3] = 0
    found = paraphrase_mining_embeddings(vectors)
    assert [pair[1:] for pair in found[:3]] == [[0, 2], [0, 4], [2, 4]]
    assert all(5 not in pair[1:] for pair in found)
    assert len(found) == 10
    for empty in ([], np.zeros((0, 3)), random_vectors(1, 1, 4)):
        assert paraphrase_mining_embeddings(empty) == []


def test_paraphrases_of_texts(tiny):
    model = embedder.Embedder(tiny)
    texts = ["the cat sat", "a dog", "the cat sat", "on the mat"]
    found = paraphrase_mining(model, texts)
    assert found[0][1:] == [0, 2]
    assert_close(found, paraphrase_mining_embeddings(model.encode(texts)))
    assert_close(
        paraphrase_mining(model, texts, truncate_dim=3), paraphrase_mining_embeddings(model.encode(texts)[:, :3])
    )


class RecordingModel:
    """Returns one-hot vectors, and records the options of each call."""

    def __init__(self):
        self.options = []

    def encode(self, inputs, **options):
        self.options.append(options)
        return np.eye(len(inputs), dtype=np.float32)


def test_options_go_to_the_model():
    model = RecordingModel()
    paraphrase_mining(model, ["cat.png", "a"])
    paraphrase_mining(model, ["cat.png", "a"], top_k=1, read_paths=True, batch_size=2)
    assert model.options == [{}, {"read_paths": True, "batch_size": 2}]
    with pytest.raises(InputError, match="paraphrase_mining takes no precision, but got 'int8'"):
        paraphrase_mining(model, ["a", "b"], precision="int8")
    with pytest.raises(InputError, match="paraphrase_mining takes no precision, but got 'int8'"):
        paraphrase_mining(model, ["a", "b"], settings=EncodeSettings(precision="int8"))
    with pytest.raises(InputError, match="sentences should be a list of texts, not one text: 'a text'"):
        paraphrase_mining(model, "a text")
    for wrong, kind in [({"a": 1}, "dict"), ({"a"}, "set"), (b"text", "bytes")]:
        with pytest.raises(InputError, match=f"sentences should be a list of texts, not a {kind}: "):
            paraphrase_mining(model, wrong)
    assert len(model.options) == 2


def test_wrong_input():
    for name in ("query_chunk_size", "corpus_chunk_size", "max_pairs", "top_k"):
        with pytest.raises(InputError, match=f"{name} should be a whole number, at least 1, not 0"):
            paraphrase_mining_embeddings(random_vectors(1, 3, 4), **{name: 0})
    for name in ("min_community_size", "batch_size"):
        with pytest.raises(InputError, match=f"{name} should be a whole number, at least 1, not 0"):
            community_detection(random_vectors(1, 3, 4), **{name: 0})
    for model in ("all-MiniLM-L6-v2", None):
        with pytest.raises(InputError, match=f"model should be an Embedder, not {model!r}"):
            paraphrase_mining(model, ["a", "b"])
    for function in ("cosine", None):
        with pytest.raises(InputError, match=r"score_function should be a function, such as embedder\.cos_sim, not"):
            paraphrase_mining_embeddings(random_vectors(1, 3, 4), score_function=function)
    for threshold in ("near", None, float("nan"), True):
        with pytest.raises(InputError, match="threshold should be a number, not"):
            community_detection(random_vectors(1, 3, 4), threshold)
    with pytest.raises(InputError, match="embeddings should be numbers"):
        community_detection(["a text"])


def communities_by_definition(vectors, threshold, min_size):
    """Return the communities by the definition of `community_detection`, from all cosines."""
    scores = exact_cosines(vectors, vectors)
    groups = []
    for centre, row in enumerate(scores):
        members = np.flatnonzero(row >= np.float32(threshold))
        if len(members) >= min_size:
            row[centre] = np.inf
            groups.append([int(member) for member in members[np.argsort(-row[members], kind="stable")]])
    taken, kept = set(), []
    for group in sorted(groups, key=len, reverse=True):
        rest = [member for member in group if member not in taken]
        if group[0] not in taken and len(rest) >= min_size:
            kept.append(rest)
            taken.update(rest)
    return sorted(kept, key=len, reverse=True)


@pytest.mark.parametrize("share", [1, 0], ids=["pair by pair", "whole blocks"])
@pytest.mark.parametrize("bits", [0, 10**9], ids=["pairs", "bits"])
@given(data=st.data())
def test_communities_of_hard_vectors(bits, share, data):
    vectors = data.draw(hard_vectors())
    threshold = data.draw(st.sampled_from([0.0, 0.5, 0.75, 1.0, -1.0, 1.1]))
    least, batch = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 50))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mining, "_BITS_PER_PAIR", bits)
        patch.setattr(near_pairs, "_MAX_UNCERTAIN_SHARE", share)
        found = community_detection(vectors, threshold, least, batch)
    assert found == communities_by_definition(vectors, threshold, least)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("bits", [0, 10**9], ids=["pairs", "bits"])
def test_communities(threshold, bits, monkeypatch):
    monkeypatch.setattr(mining, "_BITS_PER_PAIR", bits)
    vectors = clustered(1, 300, 16, 12)
    found = community_detection(vectors, threshold, 5)
    assert len(found) > 3
    assert found == communities_by_definition(vectors, threshold, 5)
    monkeypatch.setattr(near_pairs, "SCORES_PER_BLOCK", 1000)
    assert community_detection(vectors, threshold, 5) == found
    assert community_detection((7 * vectors).tolist(), threshold, 5) == found
    assert all(type(member) is int for community in found for member in community)


@given(data=st.data())
def test_sketches_rule_out_no_near_pair(data):
    vectors = data.draw(hard_vectors(min_rows=1))
    threshold = data.draw(st.sampled_from([0.0, 0.5, 0.75, 1.0, -1.0, 1.1]))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_COMPONENTS", data.draw(st.integers(1, 9))), ("_MIN_ROWS", 1), ("_MIN_DIMENSION", 1)):
            patch.setattr(sketches, name, value)
        patch.setattr(near_pairs, "_MAX_POSSIBLE_SHARE", data.draw(st.sampled_from([0, 0.3, 1])))
        patch.setattr(near_pairs, "SCORES_PER_BLOCK", data.draw(st.sampled_from([4, 1000])))
        found = community_detection(vectors, threshold, 2)
    assert found == communities_by_definition(vectors, threshold, 2)


def test_sketches_leave_few_pairs_of_a_high_threshold(monkeypatch):
    monkeypatch.setattr(sketches, "_MIN_ROWS", 4096)
    vectors = clustered(1, 4096, 256, 400, spread=0.3)
    made = sketches.make_sketches(vectors)
    possible = sketches.possible_pairs(made, made, np.float32(0.9))
    near = np.flatnonzero(vectors @ vectors.T >= 0.9)
    assert set(near) <= set(possible)
    assert len(possible) < 0.01 * 4096**2
    assert sketches.make_sketches(vectors[:4095]) is None
    assert sketches.make_sketches(vectors[:, :200]) is None
    assert sketches.make_sketches(np.full((4096, 256), np.nan, np.float32)) is None


def test_communities_of_no_rows_one_row_and_nan(capsys):
    assert community_detection(np.zeros((0, 3))) == []
    assert community_detection([]) == []
    assert community_detection([[1.0, 2.0]]) == []
    assert community_detection([[1.0, 2.0]], min_community_size=1) == [[0]]
    assert community_detection(np.ones((9, 3)), min_community_size=10) == []
    vectors = random_vectors(1, 3, 4)[[0, 1, 0, 2, 0]]
    vectors[1] = np.nan
    assert community_detection(vectors, min_community_size=2, show_progress_bar=True) == [[0, 2, 4]]
    assert "5/5" in capsys.readouterr().err
