"""`embedder.compat.CrossEncoder`: what it takes, what it returns, and what it refuses. No test needs torch."""

import copy
import pickle
import sys

import numpy as np
import pytest

import embedder
from embedder.compat import CrossEncoder, refusals
from embedder.compat.refusals import UnsupportedError
from embedder.errors import DependencyError, InputError, ModelNotFoundError
from tests.tiny import write_tiny_ranker

PAIRS = [("the cat", "a dog"), ("", "a mat"), ("a", "long " * 30)]
DOCUMENTS = ["dog", "the cat", "dog", "a mat"]


@pytest.fixture(autouse=True)
def _without_torch(monkeypatch):
    """torch cannot be imported, even where it is installed."""
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    prompts = {"q": "query : "}
    return str(write_tiny_ranker(tmp_path_factory.mktemp("one") / "ranker", prompts=prompts))


@pytest.fixture
def model(path):
    return CrossEncoder(path)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return CrossEncoder(str(write_tiny_ranker(tmp_path_factory.mktemp("three") / "classifier", labels=3)))


def test_scores_are_those_of_embedder(model, path):
    own = embedder.CrossEncoder(path)
    scores = own.predict(PAIRS)
    for found in (
        model.predict(PAIRS),
        model.predict(sentences=PAIRS),
        model.predict([list(pair) for pair in PAIRS], batch_size=1, num_workers=0, device="cpu"),
        [model.predict(pair) for pair in PAIRS],
    ):
        np.testing.assert_allclose(found, scores, rtol=1e-6)
    raw = own.predict(PAIRS, activation_fn="identity")
    for options in ({"activation_fn": "identity"}, {"activation_fct": lambda scores: scores}):
        np.testing.assert_allclose(model.predict(PAIRS, **options), raw, rtol=1e-6)
    np.testing.assert_allclose(model.predict(PAIRS, activation_fn=lambda scores: scores * 2), raw * 2, rtol=1e-6)
    assert type(model.predict(PAIRS[0])) is np.float32
    signs = model.predict(PAIRS, activation_fn=lambda scores: np.sign(scores.numpy()).astype(np.int64))
    assert (signs.dtype, set(signs)) == (np.float32, {-1.0, 1.0})  # as in sentence-transformers, whatever the type
    assert (model.predict([]).shape, model.predict([]).dtype) == ((0,), np.float64)  # as in sentence-transformers
    assert model.embedder.manifest.task == "rank"
    assert model.is_singular_input(PAIRS[0])
    assert not model.is_singular_input(PAIRS)


def test_several_labels(classifier):
    raw = classifier.embedder.predict(PAIRS)
    assert classifier.num_labels == 3
    np.testing.assert_allclose(classifier.predict(PAIRS), raw, rtol=1e-6)
    wanted = classifier.embedder.predict(PAIRS, activation_fn="softmax")
    for options in ({"apply_softmax": True}, {"activation_fn": "softmax"}):
        np.testing.assert_allclose(classifier.predict(PAIRS, **options), wanted, rtol=1e-6)
    assert classifier.predict(PAIRS[0]).shape == (3,)
    with pytest.raises(InputError, match="rank needs a model with one label, and this one has 3"):
        classifier.rank("a", ["b"])


def test_rank(model):
    ranked = model.rank("the cat", DOCUMENTS, return_documents=True)
    assert ranked == model.embedder.rank("the cat", DOCUMENTS, return_documents=True)
    assert model.rank("the cat", DOCUMENTS, top_k=2, convert_to_tensor=True, apply_softmax=True) == [
        {"corpus_id": found["corpus_id"], "score": found["score"]} for found in ranked[:2]
    ]
    assert model.rank("the cat", DOCUMENTS, 0) == model.rank("the cat", []) == []


def test_prompts(path, model):
    prompted = model.embedder.predict(PAIRS, prompt="query : ")
    np.testing.assert_allclose(model.predict(PAIRS, prompt_name="q"), prompted, rtol=1e-6)
    np.testing.assert_allclose(model.predict(PAIRS, prompt="query : "), prompted, rtol=1e-6)
    own = CrossEncoder(path, prompts={"x": "query : "}, default_prompt_name="x")
    np.testing.assert_allclose(own.predict(PAIRS), prompted, rtol=1e-6)
    assert (own.prompts, model.prompts) == ({"q": "query : ", "x": "query : "}, {"q": "query : "})
    with pytest.raises(InputError, match="prompt_name should be one of q, not 'z'"):
        model.predict(PAIRS, prompt_name="z")
    model.prompts = {}
    with pytest.raises(InputError, match="prompt_name should be None, not 'q': the model has no prompts"):
        model.predict(PAIRS, prompt_name="q")


def test_arguments_of_the_constructor(path):
    shorter = embedder.CrossEncoder(path, max_seq_length=9, activation_fn="identity").predict(PAIRS)
    for model in (
        CrossEncoder(path, 1, 9, "identity", "cpu"),
        CrossEncoder(path, max_length=9, activation_fn=lambda scores: scores, num_labels=1, trust_remote_code=True),
        CrossEncoder(model_name=path, tokenizer_args={"model_max_length": 9}, default_activation_function="identity"),
        CrossEncoder(
            path,
            processor_kwargs={"model_max_length": 9, "use_fast": True},
            activation_fn="identity",
            config_kwargs={"num_labels": 1},
            model_kwargs={"dtype": "float32"},
            classifier_dropout=0.1,
            backend="onnx",
        ),
    ):
        assert model.max_seq_length == model.max_length == 9
        np.testing.assert_allclose(model.predict(PAIRS), shorter, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_labels": 2}, "num_labels=2 cannot be honoured: the exported model has 1"),
        ({"config_kwargs": {"num_labels": 2}}, "num_labels=2 cannot be honoured"),
        ({"config_kwargs": {"hidden_size": 2}}, "config_kwargs .* cannot be honoured"),
        ({"max_length": 3}, "max_seq_length should be at least 4, not 3"),
        (
            {"activation_fn": "relu"},
            "should be a function or one of identity, sigmoid, softmax, not 'relu'",
        ),
        ({"activation_fn": 3}, "activation_fn should be a function, not 3"),
        ({"modules": []}, "embedder loads exported models"),
        ({"keep_in_fp32_modules": ["0"]}, "keep_in_fp32_modules cannot be honoured"),
        ({"model_kwargs": {"torch_dtype": "bfloat16"}}, "should be one of float32"),
        ({"nothing": 1}, r"CrossEncoder has no option 'nothing' \(it is 1\)"),
    ],
)
def test_wrong_arguments_of_the_constructor(path, options, message):
    with pytest.raises(InputError, match=message):
        CrossEncoder(path, **options)


def test_cache_folder_that_does_not_hold_the_model(tmp_path):
    with pytest.raises(ModelNotFoundError, match="does not hold the exported model 'x'"):
        CrossEncoder("x", cache_folder=tmp_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.predict("a text"), "pairs should be a pair of two strings or a list of pairs, not str"),
        (lambda m: m.predict(), "pairs should be a pair of two strings or a list of pairs, not NoneType"),
        (lambda m: m.predict(PAIRS, batch_size=0), "batch_size should be a whole number"),
        (lambda m: m.predict(PAIRS, chunk_size=0), "chunk_size should be a whole number"),
        (lambda m: m.predict(PAIRS, pool={}), "no pools of processes for cross-encoders"),
        (lambda m: m.predict(PAIRS, device=["cpu", "cpu"]), "no pools of processes for cross-encoders"),
        (lambda m: m.predict(PAIRS, activation_fn=3), "activation_fn should be a function, not 3"),
        (lambda m: m.predict(PAIRS, processing_kwargs={}), "Set model.max_seq_length to change the limit"),
        (lambda m: m.predict(PAIRS, nothing=1), r"predict has no option 'nothing' \(it is 1\)"),
        (lambda m: m.rank("a", ["b"], nothing=1), r"rank has no option 'nothing' \(it is 1\)"),
        (lambda m: m.rank("a", ["b", 3]), r"documents\[1\] should be a string"),
        (lambda m: m.rank("a", ["b"], top_k=-1), "top_k should be a whole number, at least 0, not -1"),
    ],
)
def test_wrong_calls(model, call, message):
    with pytest.raises(InputError, match=message):
        call(model)


def test_tensors_need_torch(model):
    for options in ({"convert_to_tensor": True}, {"convert_to_numpy": False}):
        with pytest.raises(DependencyError, match="A tensor needs torch"):
            model.predict(PAIRS, **options)


def test_settings_can_be_changed(model):
    raw = model.predict(PAIRS, activation_fn="identity")
    assert model.activation_fn == model.default_activation_function == "sigmoid"
    model.activation_fn = "identity"
    np.testing.assert_array_equal(model.predict(PAIRS), raw)
    with pytest.raises(InputError, match="activation_fn should be a function"):
        model.activation_fn = 3
    model.max_length = 9
    assert model.max_seq_length == 9
    assert (model.predict(PAIRS[2]), raw[2]) != (raw[2], raw[2])
    assert model.to("cpu") is model.eval() is model.cpu() is model.float() is model
    assert (model.device, model.backend) == ("cpu", "torch")
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_allclose(same.predict(PAIRS), model.predict(PAIRS), rtol=1e-6)


def test_attributes_that_are_refused(model):
    for name, hint in refusals.CROSS_ENCODER_MEMBERS.items():
        with pytest.raises(UnsupportedError) as caught:
            getattr(model, name)
        assert str(caught.value) == f"embedder's CrossEncoder has no {name!r}: {hint}"
    for name in refusals.CROSS_ENCODER_FIXED:
        assert getattr(model, name) is not None
        with pytest.raises(UnsupportedError, match=rf"CrossEncoder\.{name} cannot be set: "):
            setattr(model, name, None)
    with pytest.raises(UnsupportedError, match=r"Call model.predict\(pairs\)"):
        model({})
    assert repr(model).startswith("CrossEncoder(CrossEncoder('tiny-ranker', labels=1")
