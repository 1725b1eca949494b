"""`CrossEncoder`: the scores of pairs, whatever the other pairs, and what it refuses."""

import copy
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedder import CrossEncoder, Embedder, TokenizedText
from embedder.activations import apply_activation
from embedder.artifact.scores import ScoreSettings
from embedder.backends.cpu import CpuDevice
from embedder.errors import ArtifactError, EmbedderError, InputError, SettingError
from tests.processes import call_in_fork
from tests.tiny import expected_score, segments_of, write_tiny_ranker

WORDS = ["the cat", "", "a dog sat on the mat", "query : document", "long " * 40, "é 字"]
PAIRS = [(a, b) for a in WORDS for b in WORDS]
LABELS = ("contradiction", "entailment", "neutral")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tiny_ranker(tmp_path_factory.mktemp("one") / "ranker")


@pytest.fixture(scope="module")
def model(path):
    return CrossEncoder(path, threads=2)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    scores = ScoreSettings("identity", LABELS, "longest_first", parity=None)
    return CrossEncoder(write_tiny_ranker(tmp_path_factory.mktemp("three") / "classifier", labels=3, scores=scores))


def raw_scores(pairs, labels=1, limit=16):
    return np.stack([expected_score(*segments_of(a, b, limit), labels=labels) for a, b in pairs])


def sigmoid(scores):
    return 1 / (1 + np.exp(-scores.astype(np.float64)))


def test_scores_of_one_label(model):
    scores = model.predict(PAIRS)
    assert (scores.shape, scores.dtype) == ((len(PAIRS),), np.float32)
    np.testing.assert_allclose(scores, sigmoid(raw_scores(PAIRS))[:, 0], rtol=1e-5)
    np.testing.assert_allclose(model.predict(PAIRS, activation_fn="identity"), raw_scores(PAIRS)[:, 0], atol=1e-5)
    one = model.predict(PAIRS[2])
    assert (type(one), one) == (np.float32, pytest.approx(scores[2], rel=1e-6))
    assert model.predict(list(PAIRS[2])) == model.predict(np.array(PAIRS[2])) == one
    empty = model.predict([])
    assert (empty.shape, empty.dtype) == ((0,), np.float32)


def test_scores_of_several_labels(classifier):
    scores = classifier.predict(PAIRS)
    np.testing.assert_allclose(scores, raw_scores(PAIRS, labels=3), atol=1e-5)
    np.testing.assert_allclose(classifier.predict(PAIRS[2]), scores[2], atol=1e-6)
    assert classifier.predict([]).shape == (0, 3)
    powers = np.exp(scores.astype(np.float64))
    wanted = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(classifier.predict(PAIRS, activation_fn="softmax"), wanted, rtol=1e-4)
    np.testing.assert_allclose(classifier.predict(PAIRS, apply_softmax=True), wanted, rtol=1e-4)
    assert (classifier.label_count, classifier.label_names, classifier.activation_fn) == (3, LABELS, "identity")


@pytest.mark.parametrize("batch_size", [None, 1, 7])
def test_a_score_does_not_depend_on_the_other_pairs(model, batch_size):
    pairs = PAIRS * 40
    order = np.random.default_rng(0).permutation(len(pairs))
    assert len(pairs) > 1024
    wanted = np.tile(model.predict(PAIRS, activation_fn="identity"), 40)
    for rows in (np.arange(len(pairs)), order):
        found = model.predict([pairs[row] for row in rows], batch_size=batch_size, activation_fn="identity")
        np.testing.assert_allclose(found, wanted[rows], atol=1e-6)
    for row in range(3):
        assert model.predict(PAIRS[row], activation_fn="identity") == pytest.approx(wanted[row], abs=1e-6)


def test_other_containers_of_pairs(model):
    wanted = model.predict(PAIRS).tolist()
    assert model.predict(iter(PAIRS)).tolist() == wanted
    assert model.predict([list(pair) for pair in PAIRS]).tolist() == wanted
    assert model.predict(np.array(PAIRS)).tolist() == wanted
    assert model.predict(np.array(PAIRS, object)).tolist() == wanted


def test_strings_that_compare_in_their_own_way_are_read_as_they_are(model):
    class Same(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other):
            return True

    words = ["a", "dog"]
    wanted = model.predict([(first, second) for first in words for second in words])
    found = model.predict([(Same(first), Same(second)) for first in words for second in words])
    assert found.tolist() == wanted.tolist()


def test_activation_of_the_constructor_counts_where_the_call_has_none(path):
    model = CrossEncoder(path, activation_fn="identity")
    assert model.activation_fn == "identity"
    np.testing.assert_allclose(model.predict(PAIRS), raw_scores(PAIRS)[:, 0], atol=1e-5)
    np.testing.assert_allclose(
        model.predict(PAIRS, activation_fn="sigmoid"), sigmoid(raw_scores(PAIRS))[:, 0], rtol=1e-5
    )


def test_sigmoid_of_great_numbers():
    scores = np.float32([[-1000], [-20], [0], [20], [1000]])
    np.testing.assert_allclose(apply_activation(scores, "sigmoid")[:, 0], [0, 2.061154e-9, 0.5, 1, 1], rtol=1e-5)
    scores = np.float32([[1000, 0], [-1000, -1000]])
    assert apply_activation(scores, "softmax").tolist() == [[1, 0], [0.5, 0.5]]


def test_a_prompt_stands_before_the_first_text(path, tmp_path):
    model = CrossEncoder(
        write_tiny_ranker(tmp_path / "ranker", prompts={"q": "query : "}, default_prompt_name="q"),
        activation_fn="identity",
    )
    pairs = [("cat", "a dog"), ("", "the mat")]
    prompted = raw_scores([(f"query : {a}", b) for a, b in pairs])[:, 0]
    for options in ({}, {"prompt_name": "q"}, {"prompt": "query : "}):
        np.testing.assert_allclose(model.predict(pairs, **options), prompted, atol=1e-5)
        np.testing.assert_allclose(next(model.predict_iter(pairs, **options)), prompted, atol=1e-5)
        np.testing.assert_allclose(model.predict(pairs[0], **options), prompted[0], atol=1e-5)
        np.testing.assert_allclose(model.rank("cat", ["a dog"], **options)[0]["score"], prompted[0], atol=1e-5)
        batch = model.tokenize_pairs(pairs, **options)
        np.testing.assert_allclose(model.predict_batch(batch)[:, 0], prompted, atol=1e-5)
    np.testing.assert_allclose(model.predict(pairs, prompt=""), raw_scores(pairs)[:, 0], atol=1e-5)
    with pytest.raises(InputError, match="unknown prompt_name 'x': the model has 'query', 'document', 'q'"):
        model.predict(pairs, prompt_name="x")


def test_rank_sorts_and_keeps_the_order_of_equal_scores(model):
    documents = ["dog", "the cat", "dog", "a mat", "dog"]
    scores = model.predict([("the cat", document) for document in documents])
    ranked = model.rank("the cat", iter(documents), return_documents=True)
    assert [found["score"] for found in ranked] == sorted(map(float, scores), reverse=True)
    assert [found["text"] for found in ranked] == [documents[found["corpus_id"]] for found in ranked]
    assert [found["corpus_id"] for found in ranked if found["text"] == "dog"] == [0, 2, 4]
    assert {type(value) for found in ranked for value in found.values()} == {int, float, str}
    top = model.rank("the cat", documents, top_k=2, activation_fn="identity", batch_size=1)
    assert [found["corpus_id"] for found in top] == [found["corpus_id"] for found in ranked[:2]]
    assert "text" not in top[0]
    assert model.rank("the cat", documents, top_k=99)[4:] == model.rank("the cat", documents)[4:]
    assert model.rank("the cat", []) == []


def test_a_stream_is_read_window_by_window(model):
    read = []

    def stream():
        for number in range(3000):
            read.append(number)
            yield f"the cat {number}", "a dog"

    blocks = model.predict_iter(stream(), activation_fn="identity")
    assert read == []
    first = next(blocks)
    assert len(first) == 1024
    assert len(read) <= 2048
    scores = np.concatenate([first, *blocks])
    assert scores.dtype == np.float32
    assert len(scores) == 3000
    pairs = [(f"the cat {number}", "a dog") for number in range(1020, 1030)]
    np.testing.assert_allclose(scores[1020:1030], model.predict(pairs, activation_fn="identity"), atol=1e-6)


def test_a_wrong_pair_in_a_stream_comes_after_the_scores_before_it(model):
    blocks = model.predict_iter([*PAIRS, ("a", None)])
    assert len(next(blocks)) == len(PAIRS)
    with pytest.raises(InputError, match=rf"pairs\[{len(PAIRS)}\]\[1\] should be a string, not NoneType"):
        next(blocks)


def test_batches_of_the_callers_own(model, classifier):
    for each in (model, classifier):
        batch = each.tokenize_pairs(PAIRS)
        wanted = each.predict(PAIRS, activation_fn="identity").reshape(len(PAIRS), -1)
        for single_thread in (False, True):
            scores = each.predict_batch(batch, single_thread=single_thread)
            assert scores.shape == (len(PAIRS), each.label_count)
            np.testing.assert_allclose(scores, wanted, atol=1e-6)
    assert [text.cut for text in model.tokenize_pairs([("a", "long " * 12), ("a", "long " * 13)])] == [False, True]
    assert model.tokenize_pairs(("a", "b"))[0].type_ids.tolist() == [0, 0, 0, 1, 1]
    assert model.predict_batch([]).shape == (0, 1)
    assert model.batch_limits.tokens_per_image is None


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("text", "pairs should be a pair of two strings or a list of pairs, not str"),
        (None, "pairs should be a pair of two strings or a list of pairs, not NoneType"),
        ({"a": "b"}, "pairs should be a pair of two strings or a list of pairs, not dict"),
        (["a"], "pair should be two strings, not 1 of them"),
        (("a", "b", "c"), "pair should be two strings, not 3 of them"),
        ([("a", "b"), "ab"], r"pairs\[1\] should be two strings, not str: 'ab'"),
        ([("a", "b"), {"a", "b"}], r"pairs\[1\] should be two strings, not set"),
        ([("a", "b"), ("a",)], r"pairs\[1\] should be two strings, not 1 of them"),
        ([("a", 3)], r"pairs\[0\]\[1\] should be a string, not int: 3"),
        ([("a", b"b")], r"pairs\[0\]\[1\] should be a string, not bytes"),
        ([("a", "b"), ("\ud800", "b")], r"pairs\[1\]\[0\]"),
    ],
)
def test_what_is_no_pair_is_refused(model, pairs, message):
    for call in (model.predict, model.tokenize_pairs):
        with pytest.raises(InputError, match=message):
            call(pairs)
    if isinstance(pairs, list) and pairs != ["a"]:
        with pytest.raises(InputError, match=message):
            list(model.predict_iter(pairs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation_fn": "tanh"}, "activation_fn should be one of identity, sigmoid, softmax, not 'tanh'"),
        ({"activation_fn": "softmax"}, 'activation_fn "softmax" needs several labels: of one score, it is always 1'),
        ({"apply_softmax": 1}, "apply_softmax should be True or False, not 1"),
        ({"batch_size": 0}, "batch_size should be a whole number, at least 1, not 0"),
        ({"convert_to_tensor": True}, "has no option 'convert_to_tensor': predict returns a NumPy array"),
        ({"num_workers": 0}, "has no option 'num_workers': pass threads="),
    ],
)
def test_wrong_options_are_refused(model, options, message):
    for call in (model.predict, model.predict_iter, lambda pairs, **rest: model.rank("a", ["b"], **rest)):
        with pytest.raises(InputError, match=message):
            call(PAIRS, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.predict_iter(("a", "b")), "predict_iter takes many pairs. For one pair, call predict"),
        (lambda m: m.predict_iter(np.array("a")), "or a list of pairs, not numpy.ndarray"),
        (lambda m: m.predict(PAIRS, foo=0), "predict has no option 'foo': known are prompt_name, prompt, batch_size"),
        (
            lambda m: m.rank("a", ["b"], foo=0),
            "rank has no option 'foo': known are top_k, return_documents, prompt_name",
        ),
        (lambda m: m.rank(3, ["a"]), "query should be a string, not int: 3"),
        (lambda m: m.rank("a", "b"), "documents should be a list of strings, not str"),
        (lambda m: m.rank("a", ["b", 3]), r"documents\[1\] should be a string, not int: 3"),
        (lambda m: m.rank("a", ["b"], top_k=0), "top_k should be a whole number, at least 1, not 0"),
        (lambda m: m.rank("a", ["b"], return_documents=1), "return_documents should be True or False, not 1"),
        (
            lambda m: m.predict_batch(PAIRS),
            r"pairs\[0\] should be a TokenizedText, not tuple\. Take the pairs",
        ),
        (lambda m: m.predict_batch("ab"), "pairs should be a list of TokenizedText, not str"),
        (lambda m: m.predict_batch([TokenizedText(np.int64([2]))]), "no token type ids, and this model needs them"),
        (lambda m: m.predict_batch([], single_thread=1), "single_thread should be True or False, not 1"),
    ],
)
def test_wrong_calls_are_refused(model, call, message):
    with pytest.raises(InputError, match=message):
        call(model)


def test_rank_needs_one_label(classifier):
    with pytest.raises(InputError, match="rank needs a model with one label, and this one has 3: call predict"):
        classifier.rank("a", ["b"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation_fn": "relu"}, "activation_fn should be one of"),
        ({"activation_fn": "softmax"}, 'activation_fn "softmax" needs several labels'),
        (
            {"max_seq_length": 3},
            "max_seq_length should be at least 4, not 3: the model adds 3 special tokens to each p",
        ),
        ({"dtype": "int8"}, "the model has no graph of dtype 'int8'"),
        ({"num_labels": 1}, "CrossEncoder has no option 'num_labels': the artifact has the model's labels"),
        ({"max_length": 512}, "CrossEncoder has no option 'max_length': pass max_seq_length="),
        ({"device": "cpu"}, "CrossEncoder has no option 'device': pass provider="),
        ({"apply_softmax": True}, "CrossEncoder has no option 'apply_softmax': pass it to predict or rank"),
    ],
)
def test_wrong_options_of_the_constructor_are_refused(path, options, message):
    with pytest.raises(InputError, match=message):
        CrossEncoder(path, **options)


def test_each_class_names_the_other_one(tiny, path):
    with pytest.raises(ArtifactError, match=r"a model for 'rank'\. Use embedder\.Embedder, or `embedder search`"):
        CrossEncoder(tiny)
    with pytest.raises(ArtifactError, match=r"a model for 'embed'\. Use embedder\.CrossEncoder, or `embedder rerank`"):
        Embedder(path)


def test_attributes(model, path):
    assert repr(model) == ("CrossEncoder('tiny-ranker', labels=1, max_seq_length=16, dtype='fp32', provider='cpu')")
    assert (model.max_seq_length, model.dtype, model.device, model.label_names) == (16, "fp32", "cpu", ())
    assert model.manifest.task == "rank"
    with pytest.raises(SettingError, match=r"CrossEncoder.max_seq_length cannot be set: pass max_seq_length= to Cross"):
        model.max_seq_length = 8
    with pytest.raises(SettingError, match=r"CrossEncoder.activation_fn cannot be set: pass activation_fn= to"):
        model.activation_fn = None
    shorter = CrossEncoder(path, max_seq_length=9, activation_fn="identity")
    np.testing.assert_allclose(shorter.predict(PAIRS), raw_scores(PAIRS, limit=9)[:, 0], atol=1e-5)


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_has_the_same_options(path, make):
    model = make(CrossEncoder(path, max_seq_length=9, activation_fn="identity", threads=1))
    assert (model.max_seq_length, model.activation_fn) == (9, "identity")
    np.testing.assert_allclose(model.predict(PAIRS), raw_scores(PAIRS, limit=9)[:, 0], atol=1e-5)


def test_with_closes_the_model(path):
    with CrossEncoder(path, threads=2) as model:
        batch = model.tokenize_pairs(PAIRS)
        model.predict(PAIRS * 40)
    for call in (
        *(lambda: model.predict(PAIRS), lambda: model.predict(PAIRS[0]), lambda: model.rank("a", ["b"])),
        *(lambda: next(model.predict_iter(PAIRS)), lambda: model.tokenize_pairs(PAIRS)),
        lambda: model.predict_batch(batch),
    ):
        with pytest.raises(EmbedderError, match="the model has been closed"):
            call()


def test_many_threads_at_once_and_a_fork(model):
    wanted = model.predict(PAIRS)

    def work():
        with ThreadPoolExecutor(4) as callers:
            return [scores.tolist() for scores in callers.map(model.predict, [PAIRS] * 8)]

    for scores in (*work(), *(call_in_fork(work) if hasattr(os, "fork") else ())):
        np.testing.assert_allclose(scores, wanted, rtol=1e-6)


def test_a_backend_of_the_callers_own(path):
    class Counting:
        device = CpuDevice(2)

        def run(self, feeds, *, single_batch=False):
            return {"score": feeds["attention_mask"].sum(axis=1, keepdims=True).astype(np.float32)}

    model = CrossEncoder(path, backend=Counting(), activation_fn="identity")
    assert model.predict([("the cat", "a"), ("", "")]).tolist() == [6, 3]
    with pytest.raises(SettingError, match="Make another CrossEncoder"):
        pickle.dumps(model)


def test_progress_counts_pairs(model, capsys):
    model.predict(PAIRS * 2, show_progress_bar=True)
    shown = capsys.readouterr().err
    assert "Scoring" in shown
    assert f"{2 * len(PAIRS)}/{2 * len(PAIRS)}" in shown
    assert "pair" in shown
