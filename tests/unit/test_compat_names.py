"""The names of `embedder.compat`, its functions on vectors, its tokenizer, and `NumpyTensor`. No test needs torch."""

import copy
import logging
import pickle
import sys

import numpy as np
import pytest

import embedder
from embedder import compat
from embedder.compat import SentenceTransformer, SimilarityFunction, quantization, refusals, util
from embedder.compat.device import Device
from embedder.compat.numpy_tensor import NumpyTensor
from embedder.compat.refusals import UnsupportedError
from embedder.errors import InputError

A = np.float32([[1, 0, 2], [0, 3, 1], [1, 1, 1], [5, 0, 1]])
B = np.float32([[2, 0, 1], [0, 1, 0]])


@pytest.fixture(autouse=True)
def _without_torch(monkeypatch):
    """torch cannot be imported, even where it is installed."""
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.fixture
def tokenizer(tiny):
    return SentenceTransformer(str(tiny)).tokenizer


def test_names_of_the_package():
    assert all(hasattr(compat, name) for name in compat.__all__)
    assert set(compat.__all__) <= set(dir(compat))
    assert compat.util is util
    assert compat.quantize_embeddings is util.quantize_embeddings is quantization.quantize_embeddings


@pytest.mark.parametrize(
    ("module", "table"), [(compat, refusals.PACKAGE), (util, refusals.UTIL), (quantization, refusals.UTIL)]
)
def test_names_that_are_refused(module, table):
    for name, hint in table.items():
        with pytest.raises(ImportError) as caught:
            exec(f"from {module.__name__} import {name}")
        assert str(caught.value) == f"{module.__name__} has no {name}: {hint}"
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize(
    "folder", ["embedder.compat", "embedder.compat.sentence_transformer", "embedder.compat.cross_encoder"]
)
def test_modules_that_are_refused(folder):
    for name, hint in refusals.MODULES.items():
        for statement in (f"import {folder}.{name}", f"from {folder}.{name} import x", f"from {folder} import {name}"):
            with pytest.raises(ImportError) as caught:
                exec(statement)
            assert str(caught.value) == f"{folder} has no {name}: {hint}"
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{folder}.nothing'"):
        exec(f"import {folder}.nothing")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("embedder.compat.SentenceTransformer", "SentenceTransformer"),
        ("embedder.compat.LoggingHandler", "LoggingHandler"),
        ("embedder.compat.cross_encoder.CrossEncoder", "CrossEncoder"),
    ],
)
def test_old_modules_with_the_name_of_a_class_are_refused(old, new):
    with pytest.raises(ImportError) as caught:
        exec(f"from {old} import {new}")
    assert str(caught.value) == f"{old} is a class here. Write: from embedder.compat import {new}"
    assert isinstance(getattr(compat, new), type)


def test_modules_of_other_versions_have_the_same_names():
    from embedder.compat.cross_encoder.model import CrossEncoder
    from embedder.compat.sentence_transformer.model import SentenceTransformer as Moved
    from embedder.compat.similarity_functions import SimilarityFunction as Functions
    from embedder.compat.util.quantization import quantize_embeddings
    from embedder.compat.util.similarity import cos_sim, pairwise_cos_sim

    assert (CrossEncoder, Moved, Functions) == (compat.CrossEncoder, SentenceTransformer, SimilarityFunction)
    assert quantize_embeddings is compat.quantize_embeddings
    assert (cos_sim, pairwise_cos_sim) == (util.cos_sim, util.pairwise_cos_sim)
    names = {}
    exec("from embedder.compat.util.retrieval import *", names)
    assert names["semantic_search"] is util.semantic_search
    with pytest.raises(ImportError, match=r"embedder.compat.util has no http_get: use urllib"):
        from embedder.compat.util.file_io import http_get  # noqa: F401
    with pytest.raises(ImportError, match=r"cannot import name 'nothing'"):
        from embedder.compat.util.tensor import nothing  # noqa: F401


def test_functions_of_util_work_after_the_import_of_modules_in_it():
    import embedder.compat.util.logging
    import embedder.compat.util.similarity  # noqa: F401

    assert util.normalize_embeddings([[0.0, 2.0]]).tolist() == [[0, 1]]
    assert util.LoggingHandler().level == logging.NOTSET


def test_version_is_that_of_embedder():
    assert compat.__version__ == embedder.__version__


@pytest.mark.parametrize(
    "name",
    [
        *("cos_sim", "dot_score", "euclidean_sim", "manhattan_sim"),
        *("pairwise_cos_sim", "pairwise_dot_score", "pairwise_euclidean_sim", "pairwise_manhattan_sim"),
    ],
)
def test_similarities_are_those_of_embedder(name):
    b = A[::-1] if name.startswith("pairwise") else B
    expected = getattr(embedder, name)(A, b)
    for a in (A, A.tolist(), list(A), NumpyTensor(A), [NumpyTensor(row) for row in A]):
        scores = getattr(util, name)(a, b)
        assert isinstance(scores, NumpyTensor)
        np.testing.assert_array_equal(scores, expected)


def test_logging_handler(capsys):
    handler = compat.LoggingHandler()
    handler.handle(logging.makeLogRecord({"msg": "a line"}))
    assert capsys.readouterr().out == "a line\n"


def test_angles():
    assert util.pairwise_angle_sim(A[:, :2], A[:, 1:]).shape == (4,)
    np.testing.assert_allclose(util.pairwise_angle_sim([[1.0, 0, 0]], [[0.0, 0, 2]]), [1.0])
    with pytest.raises(InputError, match=r"embeddings should be \(n, dim\) and \(n, dim\), not \(4, 3\) and \(2, 3\)"):
        util.pairwise_angle_sim(A, B)


def test_similarity_functions():
    assert SimilarityFunction.possible_values() == ["cosine", "dot", "euclidean", "manhattan"]
    for name in SimilarityFunction.possible_values():
        matrix = SimilarityFunction.to_similarity_fn(name)(A, A)
        pairs = SimilarityFunction.to_similarity_pairwise_fn(SimilarityFunction(name))(A, A)
        np.testing.assert_allclose(matrix.diagonal(), pairs, atol=1e-6)
    # Evaluators of sentence-transformers look up their own member, and programs print it.
    assert {"dot": 1}[SimilarityFunction.DOT_PRODUCT] == 1
    assert f"{SimilarityFunction.COSINE}" == str(SimilarityFunction.COSINE) == "SimilarityFunction.COSINE"
    with pytest.raises(ValueError, match="maxsim"):
        SimilarityFunction.to_similarity_fn("maxsim")


def test_search():
    assert util.semantic_search(B, A, top_k=2) == embedder.semantic_search(B, A, top_k=2)
    by_dot = embedder.semantic_search(B, A, score_function=embedder.dot_score)
    assert util.information_retrieval(NumpyTensor(B), list(A), 1, 2, score_function=util.dot_score) == by_dot


def test_score_functions_of_the_caller_get_and_return_tensors():
    def score(a, b):
        assert isinstance(a, NumpyTensor)
        return util.dot_score(a, b)

    assert util.semantic_search(B, A, score_function=score) == util.semantic_search(B, A, score_function=util.dot_score)
    with pytest.raises(InputError, match="score_function should be a function"):
        util.semantic_search(B, A, score_function="dot")


def test_mining(tiny):
    model, texts = SentenceTransformer(str(tiny)), ["the cat", "a dog", "the cat sat"]
    pairs = util.paraphrase_mining(model, texts, False, 8, top_k=1)
    assert pairs == embedder.paraphrase_mining(model.embedder, texts, top_k=1)
    assert util.paraphrase_mining(model, texts, prompt="b ", truncate_dim=4) == embedder.paraphrase_mining(
        model.embedder, texts, prompt="b ", truncate_dim=4
    )
    by_dot = embedder.paraphrase_mining_embeddings(A, score_function=embedder.dot_score)
    assert util.paraphrase_mining_embeddings(NumpyTensor(A), score_function=util.dot_score) == by_dot
    assert util.community_detection(NumpyTensor(A), 0.5, 2) == embedder.community_detection(A, 0.5, 2)


def test_vectors():
    np.testing.assert_array_equal(util.normalize_embeddings(NumpyTensor(A)), embedder.normalize_embeddings(A))
    np.testing.assert_array_equal(util.truncate_embeddings(A, 2), A[:, :2])
    np.testing.assert_array_equal(util.truncate_embeddings(NumpyTensor(A), None), A)
    ranges = np.float32([[-1] * 3, [5] * 3])
    expected = embedder.quantize_embeddings(A, "int8", ranges)
    np.testing.assert_array_equal(util.quantize_embeddings(NumpyTensor(A), "int8", ranges), expected)
    assert util.quantize_embeddings([], "int8") == []


def test_tokenizer(tokenizer):
    ids = tokenizer.encode("the cat sat")
    assert tokenizer.tokenize("the cat sat") == ["the", "cat", "sat"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "the", "cat", "sat", "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(ids[1]) == "the"
    assert tokenizer.convert_tokens_to_ids(["the", "cat", "sat"]) == ids[1:-1]
    assert tokenizer.convert_tokens_to_ids("the") == ids[1]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the cat sat"
    assert tokenizer.batch_decode([ids[1:3], NumpyTensor(np.array(ids[3:4]))]) == ["the cat", "sat"]
    assert tokenizer.encode("the cat", add_special_tokens=False) == ids[1:3]
    assert tokenizer.encode("the cat sat", truncation=True, max_length=3) == [ids[0], ids[1], ids[-1]]
    assert len(tokenizer.encode("cat " * 50)) == 52
    assert len(tokenizer.encode("cat " * 50, truncation=True)) == tokenizer.model_max_length == 16
    assert (len(tokenizer), tokenizer.vocab_size, len(tokenizer.get_vocab())) == (35, 35, 35)
    assert (tokenizer.pad_token_id, tokenizer.all_special_ids) == (0, [0, 1, 2, 3])
    assert tokenizer.backend_tokenizer.encode("cat").ids == tokenizer.encode("cat")


def test_tokenizer_is_loaded_once(tiny):
    model = SentenceTransformer(str(tiny))
    assert model.tokenizer is model.tokenizer


def test_batches_of_the_tokenizer(tokenizer):
    texts = ["a", "the cat sat"]
    lists = tokenizer(texts)
    assert [len(row) for row in lists["input_ids"]] == [3, 5]
    padded = tokenizer(texts, padding=True, return_tensors="np")
    assert padded.input_ids.tolist()[0][3:] == [0, 0]
    assert padded["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert len(tokenizer("a", padding="max_length", max_length=7)["input_ids"]) == 7
    assert tokenizer("a", return_tensors="np")["input_ids"].shape == (1, 3)
    with pytest.raises(InputError, match="become one array only with padding=True"):
        tokenizer(texts, return_tensors="np")
    with pytest.raises(InputError, match="return_tensors should be one of np, pt, not 'tf'"):
        tokenizer(texts, return_tensors="tf")
    with pytest.raises(InputError, match=r"padding should be one of .*, not 'always'"):
        tokenizer(texts, padding="always")
    with pytest.raises(ImportError, match="A tensor needs torch"):
        tokenizer("a", return_tensors="pt")
    with pytest.raises(AttributeError, match="no attribute 'token_type_ids'"):
        padded.token_type_ids  # noqa: B018


def test_tokenizer_refuses(tokenizer):
    with pytest.raises(UnsupportedError, match=r"no 'pad'. tokenizer.backend_tokenizer is the tokenizers.Tokenizer"):
        tokenizer.pad  # noqa: B018
    with pytest.raises(AttributeError, match=r"model_max_length cannot be set: set model.max_seq_length"):
        tokenizer.model_max_length = 3
    for call, name in (
        (lambda: tokenizer("a", "b"), "text_pair"),
        (lambda: tokenizer("a", return_offsets_mapping=True), "return_offsets_mapping"),
        (lambda: tokenizer.encode("a", "b"), "text_pair"),
        (lambda: tokenizer.encode("a", padding=True), "padding"),
        (lambda: tokenizer.tokenize("a", add_special_tokens=True), "add_special_tokens"),
        (lambda: tokenizer.decode([5], clean_up_tokenization_spaces=True), "clean_up_tokenization_spaces"),
    ):
        with pytest.raises(InputError, match=f"the tokenizer has no option '{name}'. tokenizer.backend_tokenizer is"):
            call()
    assert copy.deepcopy(tokenizer).encode("cat") == pickle.loads(pickle.dumps(tokenizer)).encode("cat")


def test_token_ids_of_the_model(tiny):
    model = SentenceTransformer(str(tiny))
    found = model.tokenize(["a", "the cat sat"])
    assert found["input_ids"].shape == (2, 5)
    assert found["attention_mask"].sum().item() == 8
    assert model.preprocess(["a"], prompt="b ")["input_ids"].tolist() == model.tokenize(["b a"])["input_ids"].tolist()


def test_tensor_without_torch():
    scores = NumpyTensor(A)
    assert repr(scores[0] / 2) == "tensor([0.5000, 0.0000, 1.0000])"
    assert (repr(scores[0]), repr(scores[0] > 1)) == ("tensor([1., 0., 2.])", "tensor([False, False,  True])")
    assert f"{scores[0][2]:.2f}" == "2.00"
    assert f"{scores[0]}" == repr(scores[0])
    assert (str(scores.shape), scores.size()) == ("torch.Size([4, 3])", (4, 3))
    assert (float(scores[0, 2]), int(scores[0, 2]), bool(scores[0, 2]), [0, 1, 2][scores[0].argmax()]) == (
        2,
        2,
        True,
        2,
    )
    assert np.argsort(-scores[0]).tolist() == [2, 0, 1]
    assert np.max(scores, axis=1).tolist() == [2, 3, 1, 5]
    assert 3 in scores
    assert scores[scores > 2].tolist() == [3, 5]
    assert [index.tolist() for index in (scores > 2).nonzero(as_tuple=True)] == [[1, 3], [1, 0]]
    assert scores.device == "cpu"
    assert (scores.device.type, scores.device.index, Device("cuda:1").index) == ("cpu", None, 1)
    assert scores.to("cpu") is scores.cpu() is scores.detach() is scores
    assert copy.deepcopy(scores).tolist() == pickle.loads(pickle.dumps(scores)).tolist() == A.tolist()
    assert len({scores[0], scores[0]}) == 2


def test_tensor_can_be_changed():
    scores = NumpyTensor(A.copy())
    scores[0] = NumpyTensor(np.float32([9, 9, 9]))
    scores += 1
    assert scores[0].tolist() == [10, 10, 10]
    assert scores.clone().fill_diagonal_(0)[0].tolist() == [0, 10, 10]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda scores: scores.cumsum(0), "these numbers have no 'cumsum' without torch. Import torch before the call"),
        (lambda scores: scores.to("gpu"), r"needs torch: torch.from_numpy\(scores.numpy\(\)\).to\('gpu'\)"),
        (lambda scores: scores.topk(9), "k should be from 0 to 3, not 9"),
    ],
)
def test_tensor_refuses(call, message):
    with pytest.raises((AttributeError, ValueError), match=message):
        call(NumpyTensor(A))
