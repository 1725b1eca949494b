"""`Embedder` on texts: the vectors of the formula, prompts, options, streams and precisions."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.encoder import Embedder
from embedder.errors import InputError
from embedder.inputs import Token
from embedder.vectors.quantization import quantize_embeddings
from tests.tiny import DIMENSION, expected, ids_of, write_tiny_artifact

TEXTS = ["the cat sat on the mat", "a", "", "dogs !", "   ", "字 é", "long " * 100, "cat"]


@pytest.fixture
def model(tiny):
    return Embedder(tiny)


def test_vectors_are_those_of_the_formula_in_the_callers_order(model):
    vectors = model.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), DIMENSION)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, [expected(ids_of(text)) for text in TEXTS], atol=1e-6)


def test_one_string_no_string_and_other_iterables(model):
    assert model.encode("cat").shape == (DIMENSION,)
    assert model.encode([]).shape == (0, DIMENSION)
    assert model.encode([], truncate_dim=3).shape == (0, 3)
    assert model.encode([]).dtype == np.float32
    for texts in (("cat", "a"), np.array(["cat", "a"]), iter(["cat", "a"])):
        np.testing.assert_array_equal(model.encode(texts), model.encode(["cat", "a"]))


@given(st.permutations(TEXTS), st.none() | st.integers(1, 9))
def test_same_vector_alone_or_in_any_batch(tiny_model, texts, batch_size):
    together = tiny_model.encode(texts, batch_size=batch_size)
    alone = np.stack([tiny_model.encode(text) for text in texts])
    assert np.abs(together - alone).max() <= 1e-6


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    return Embedder(write_tiny_artifact(tmp_path_factory.mktemp("model") / "tiny"))


@given(st.text() | st.text(st.characters(exclude_categories=()), max_size=5))
def test_any_string_gives_a_vector_or_an_error_that_names_it(tiny_model, text):
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        with pytest.raises(InputError, match=r"texts\[0\] is not valid Unicode"):
            tiny_model.encode(text)
    else:
        assert np.isfinite(tiny_model.encode(text)).all()


@pytest.mark.parametrize(
    ("bad", "kind"), [(None, "NoneType"), (3, "int"), (b"x", "bytes"), (float("nan"), "float"), (["a"], "list")]
)
def test_text_that_is_not_a_string_is_named(model, bad, kind):
    with pytest.raises(InputError, match=rf"texts\[2\] should be a string, not {kind}"):
        model.encode(["a", "b", bad, "c"])
    with pytest.raises(ValueError, match=r"texts\[2\]"):
        model.encode(["a", "b", bad, "c"])


def test_lone_surrogate_is_named(model):
    with pytest.raises(InputError, match=r"texts\[1\] .* lone surrogate U\+D83D at character 2"):
        model.encode(["a", "ok\ud83d"])


def test_prompts(make_artifact):
    prompts = {"query": "query : ", "passage": "document : ", "b": "b "}
    model = Embedder(make_artifact(prompts=prompts, default_prompt_name="b"))
    assert model.prompts == {"query": "query : ", "document": "", "passage": "document : ", "b": "b "}
    for vector, text in [
        (model.encode("cat"), "b cat"),
        (model.encode("cat", prompt_name="query"), "query : cat"),
        (model.encode("cat", prompt="a "), "a cat"),
        (model.encode("cat", prompt="a ", prompt_name="query"), "a cat"),
        (model.encode("cat", prompt=""), "cat"),
        (model.encode_query("cat"), "query : cat"),
        (model.encode_query("cat", prompt_name="b"), "b cat"),
        (model.encode_query("cat", prompt="a "), "a cat"),
        (model.encode_document("cat"), "cat"),
        (model.encode_document(["cat"])[0], "cat"),
        (next(model.encode_iter(["cat"], prompt_name="query"))[0], "query : cat"),
    ]:
        np.testing.assert_allclose(vector, expected(ids_of(text)), atol=1e-6)


@pytest.mark.parametrize("texts", [["cat"], ["the cat sat on the mat", "", "a"], ["long " * 100, "dogs !"]])
def test_prompt_left_out_of_the_pooling(make_artifact, texts):
    model = Embedder(make_artifact(include_prompt=False, prompts={"query": "query : "}, default_prompt_name="query"))
    # [CLS] query : are left out. The prompt alone would end with [SEP]; in the text there is no [SEP] at that place.
    pooled = [expected(ids_of("query : " + text)[3:]) for text in texts]
    np.testing.assert_allclose(model.encode(texts), pooled, atol=1e-6)
    np.testing.assert_allclose(model.encode(texts, prompt="query : "), pooled, atol=1e-6)
    np.testing.assert_allclose(model.encode(texts, prompt=""), [expected(ids_of(text)) for text in texts], atol=1e-6)


def test_prompt_that_leaves_nothing_to_pool(make_artifact):
    model = Embedder(make_artifact(include_prompt=False))
    # The pooling has only the final [SEP].
    np.testing.assert_allclose(model.encode("cat", prompt="long " * 100), expected(ids_of("")[-1:]), atol=1e-6)


def test_document_prompt(make_artifact):
    # sentence-transformers falls back to passage and corpus, but it always has a document prompt, which may be empty.
    model = Embedder(make_artifact(prompts={"document": "a ", "passage": "b ", "corpus": "c "}))
    np.testing.assert_allclose(model.encode_document("cat"), expected(ids_of("a cat")), atol=1e-6)


def test_truncate_dim_and_normalize_embeddings(model):
    whole = model.encode(TEXTS)
    np.testing.assert_array_equal(model.encode(TEXTS, truncate_dim=3), whole[:, :3])
    short = model.encode(TEXTS, truncate_dim=3, normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(short, whole[:, :3] / np.linalg.norm(whole[:, :3], axis=1, keepdims=True), atol=1e-6)


def test_normalize_embeddings_of_a_model_that_does_not_normalize(make_artifact):
    model = Embedder(make_artifact(normalize=False))
    np.testing.assert_allclose(model.encode("cat"), expected(ids_of("cat"), normalize=False), atol=1e-6)
    np.testing.assert_allclose(model.encode("cat", normalize_embeddings=True), expected(ids_of("cat")), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size should be a whole number, at least 1, not 0"),
        ({"batch_size": 2.5}, "batch_size .* not 2.5"),
        ({"batch_size": True}, "batch_size .* not True"),
        ({"batch_size": "8"}, "batch_size .* not '8'"),
        ({"truncate_dim": 0}, "truncate_dim should be a whole number, at least 1, not 0"),
        ({"truncate_dim": 9}, "truncate_dim should be a whole number, at least 1 and at most 8, not 9"),
        ({"prompt_name": "nobody"}, "unknown prompt_name 'nobody': the model has 'query', 'document'"),
        ({"prompt_name": ["query"]}, r"unknown prompt_name \['query'\]"),
        ({"prompt": 3}, "prompt should be a string .* not 3"),
        ({"prompt": "\ud800"}, "prompt should be a string of valid Unicode"),
    ],
)
def test_bad_option_is_named(model, options, message):
    for call in (model.encode, model.encode_iter, model.encode_query):
        with pytest.raises(InputError, match=message):
            call(["a"], **options)


def test_encode_iter_streams_an_endless_input(model):
    taken = []
    numbers = (taken.append(number) or "cat dog"[: number % 8] for number in count())
    blocks = list(islice(model.encode_iter(numbers), 3))
    assert len(taken) == 4 * 1024  # one window is read ahead
    np.testing.assert_allclose(np.concatenate(blocks)[7], expected(ids_of("cat dog")), atol=1e-6)


def test_encode_iter_gives_the_vectors_of_encode(model):
    texts = TEXTS * 200
    np.testing.assert_allclose(np.concatenate(list(model.encode_iter(texts))), model.encode(texts), atol=1e-6)


def test_encode_iter_refuses_one_string(model):
    with pytest.raises(InputError, match=r"encode_iter takes many inputs\. For one input, call encode"):
        model.encode_iter("cat")


def test_encode_iter_yields_the_vectors_before_a_bad_text(model):
    stream = model.encode_iter(["a"] * 1024 + [None])
    assert next(stream).shape == (1024, DIMENSION)
    with pytest.raises(InputError, match=r"texts\[1024\]"):
        next(stream)


def test_progress_is_shown_when_asked(model, capsys):
    model.encode(TEXTS)
    assert capsys.readouterr().err == ""
    model.encode(TEXTS, show_progress_bar=True)
    assert "8/8" in capsys.readouterr().err


def test_many_threads_at_once(model):
    expected_vectors = {text: model.encode(text) for text in TEXTS}
    barrier = threading.Barrier(8)

    def work(seed):
        barrier.wait()
        order = np.random.default_rng(seed).permutation(TEXTS * 20).tolist()
        return order, model.encode(order)

    with ThreadPoolExecutor(8) as pool:
        for order, vectors in pool.map(work, range(8)):
            np.testing.assert_allclose(vectors, np.stack([expected_vectors[text] for text in order]), atol=1e-6)


def test_properties_and_repr(model):
    assert model.dimension == DIMENSION
    assert model.max_seq_length == 16
    assert repr(model) == "Embedder('tiny', dimension=8, max_seq_length=16, dtype='fp32', provider='cpu')"


def test_tokenize_gives_the_inputs_of_the_graph(model):
    features = model.tokenize(["cat", "the cat sat"])
    assert features["input_ids"].tolist() == [[*ids_of("cat"), 0, 0], ids_of("the cat sat")]
    assert features["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert model.tokenize("cat")["input_ids"].tolist() == [ids_of("cat")]
    assert model.tokenize([])["input_ids"].shape == (0, 0)


def test_tokens_have_their_places(model):
    text = "the cats " * 10
    tokens = model.tokens(text)
    first, *own, last = tokens
    assert (first, last) == (Token(2, "[CLS]", None, None), Token(3, "[SEP]", None, None))
    assert [token.id for token in tokens] == ids_of(text, limit=100)  # also those after the limit of 16
    assert [text[token.start : token.end] for token in own] == ["the", "cat", "s"] * 10
    assert [token.name for token in own[:3]] == ["the", "cat", "##s"]
    assert model.tokens("") == [first, last]
    with pytest.raises(InputError, match=r"text should be a string, not list. For many texts, make a call for each"):
        model.tokens(["a text"])
    with pytest.raises(InputError, match="text is not valid Unicode: it contains the lone surrogate U\\+D800"):
        model.tokens("a\ud800")


def test_similarity_uses_the_function_of_the_model(make_artifact):
    a, b = [[3.0, 4.0]], [[4.0, 3.0], [0.0, 0.0]]
    for function, values in {
        "cosine": [0.96, 0.0],
        "dot": [24.0, 0.0],
        "euclidean": [-np.sqrt(2), -5.0],
        "manhattan": [-2.0, -7.0],
    }.items():
        model = Embedder(make_artifact(function, similarity_fn_name=function))
        np.testing.assert_allclose(model.similarity(a, b), [values], atol=1e-6)
        np.testing.assert_allclose(model.similarity(a[0], b[0]), [values[:1]], atol=1e-6)
        assert model.similarity(np.zeros((0, 2)), b).shape == (0, 2)
        with pytest.raises(InputError, match=r"not \(1, 2\) and \(1, 3\)"):
            model.similarity(a, [1.0, 2.0, 3.0])
        with pytest.raises(InputError, match="embeddings should be numbers"):
            model.similarity("a text", "another")


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("options", [{}, {"truncate_dim": 3}, {"truncate_dim": 5, "normalize_embeddings": True}])
def test_precision_quantises_the_returned_vectors(model, precision, options):
    texts = TEXTS * 200
    found = model.encode(texts, precision=precision, **options)
    wanted = quantize_embeddings(model.encode(texts, **options), precision)
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == wanted.dtype
    result = model.encode_readable(texts, precision=precision, **options)
    np.testing.assert_array_equal(result.embeddings, wanted)
    empty = model.encode([], precision=precision, **options)
    assert (empty.shape, empty.dtype) == ((0, wanted.shape[1]), wanted.dtype)


def test_results_can_be_kept_in_sets_and_compared(model):
    one, other = model.encode_readable(TEXTS), model.encode_readable(TEXTS)
    assert one == one
    assert one != other
    assert len({one, other}) == 2


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_precision_of_one_text_and_of_a_stream(model, precision):
    wanted = quantize_embeddings(model.encode(TEXTS), precision)
    np.testing.assert_array_equal(model.encode(TEXTS[0], precision=precision), wanted[0])
    np.testing.assert_array_equal(model.encode_query(TEXTS[:1], precision=precision), wanted[:1])
    np.testing.assert_array_equal(np.concatenate(list(model.encode_iter(iter(TEXTS), precision=precision))), wanted)
    np.testing.assert_array_equal(next(model.iter_results(TEXTS, precision=precision)).embeddings, wanted)


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_a_precision_with_ranges_needs_several_texts(model, precision):
    """One vector has no ranges. sentence-transformers refuses it too."""
    message = f"precision '{precision}' needs the ranges of several vectors, and there is one"
    for call in (model.encode, model.encode_query, model.encode_document, model.encode_readable):
        for texts in ("cat", ["cat"], iter(["cat"])):
            with pytest.raises(InputError, match=message):
                call(texts, precision=precision)
    assert model.encode(["cat", "cat"], precision=precision).tolist() in ([[0] * 8] * 2, [[-128] * 8] * 2)
    for call in (model.encode_iter, model.iter_results):
        with pytest.raises(
            InputError, match=f"precision '{precision}' needs the ranges of all vectors, which a stream"
        ):
            call(TEXTS, precision=precision)


def test_dimension_follows_truncate_dim(tiny, model):
    short = Embedder(tiny, truncate_dim=3)
    assert (short.dimension, short.truncate_dim, short.manifest.dimension) == (3, 3, 8)
    assert (model.dimension, model.truncate_dim) == (8, None)
    assert "dimension=3" in repr(short)
    whole = model.encode(TEXTS)
    np.testing.assert_array_equal(short.encode(TEXTS), whole[:, :3])
    np.testing.assert_array_equal(short.encode_query("cat"), model.encode("cat")[:3])
    np.testing.assert_array_equal(next(short.encode_iter(TEXTS)), whole[:, :3])
    assert short.encode([]).shape == (0, 3)
    np.testing.assert_array_equal(short.encode(TEXTS, truncate_dim=2), whole[:, :2])
    np.testing.assert_array_equal(
        short.encode(TEXTS, truncate_dim=5), whole[:, :5]
    )  # the value of the call takes precedence
    assert short.similarity(short.encode(TEXTS), short.encode("cat")).shape == (len(TEXTS), 1)


def test_vectors_belong_to_the_caller(model):
    first = model.encode(TEXTS)
    first[:] = 0
    np.testing.assert_allclose(model.encode(TEXTS)[0], expected(ids_of(TEXTS[0])), atol=1e-6)
    for vectors in (first, model.encode(TEXTS, truncate_dim=3), model.encode("cat")):
        assert vectors.flags.c_contiguous
        assert vectors.flags.writeable
