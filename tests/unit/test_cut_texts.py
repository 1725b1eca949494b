"""`warn_if_cut=True`: one warning a call says how many texts the model did not read whole."""

import warnings

import numpy as np
import pytest
from PIL import Image

import embedder
from embedder import CrossEncoder, CutTextWarning, Embedder, EncoderPool
from tests.tiny import IMAGE_SIZE, add_image_graph, write_tiny_ranker

LONG, LONGER = "the cat sat on mat " * 3, "dogs ! " * 500
FULL = "a b c d e f the cat dog sat on mat long short"  # with the special tokens, exactly the limit
TEXTS = ["cat", FULL, LONG, "", LONGER, LONG]
MESSAGE = (
    "cut after 16 tokens: 3 of 6 texts, the first is texts[2]. model.chunks(text) cuts a text into chunks that the "
    "model reads whole"
)


@pytest.fixture
def model(make_artifact):
    return Embedder(make_artifact(prompts={"query": "query : "}))


@pytest.fixture
def clip(make_artifact):
    path = make_artifact("clip")
    add_image_graph(path)
    return Embedder(path)


def cut_texts(call, *arguments, **options):
    """Call, and return the result and the messages of all warnings. They must point to this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call(*arguments, warn_if_cut=True, **options)
        if not hasattr(result, "shape"):
            result = list(result)
    assert all(warning.category is CutTextWarning and warning.filename == __file__ for warning in caught)
    return result, [str(warning.message) for warning in caught]


def test_one_warning_a_call(model):
    for call in (model.encode, model.encode_query, model.encode_document, model.encode_iter):
        result, messages = cut_texts(call, TEXTS, prompt="")
        assert messages == [MESSAGE]
        np.testing.assert_array_equal(np.concatenate([result]).reshape(6, 8), model.encode(TEXTS))


def test_function_that_keeps_models(model):
    arguments = {"model": model._artifact.directory, "prompt": ""}
    assert cut_texts(embedder.encode, TEXTS, **arguments)[1] == [MESSAGE]


def test_a_single_text(model):
    assert cut_texts(model.encode, FULL)[1] == []
    (message,) = cut_texts(model.encode, LONG)[1]
    assert message.startswith("cut after 16 tokens: 1 of 1 texts, the first is texts[0]. ")


def test_the_prompt_counts(model):
    (message,) = cut_texts(model.encode_query, ["cat", FULL])[1]
    assert message.startswith("cut after 16 tokens: 1 of 2 texts, the first is texts[1]. ")


def test_no_warning_without_the_option_or_without_a_cut(model):
    model.encode(TEXTS)
    list(model.encode_iter(TEXTS))
    assert cut_texts(model.encode, ["cat", FULL, ""])[1] == []
    assert cut_texts(model.encode, [])[1] == []
    assert cut_texts(model.encode_iter, [])[1] == []


def test_results_list_the_texts_instead(model):
    texts = [*TEXTS, *["cat"] * 1500, LONG]
    result = model.encode_readable(texts, warn_if_cut=True)
    assert result.cut.tolist() == [2, 4, 5, 1506]
    assert result.cut.dtype == np.int64
    parts = list(model.iter_results(iter(texts), warn_if_cut=True))
    assert [part.cut.tolist() for part in parts] == [[2, 4, 5], [1506]]
    assert model.encode_readable(texts).cut.tolist() == []


def test_images_are_never_cut(clip):
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE))
    inputs = [image, LONG, b"damaged", "cat", LONG, image]
    result = clip.encode_readable(inputs, warn_if_cut=True)
    assert result.cut.tolist() == [1, 4]
    assert list(result.reasons) == [2]
    (message,) = cut_texts(clip.encode, [image, "cat", LONG])[1]
    assert message.startswith("cut after 16 tokens: 1 of 3 inputs, the first is inputs[2]. ")
    assert cut_texts(clip.encode, [image])[1] == []


def test_a_shorter_limit(model):
    short = Embedder(model._artifact.directory, max_seq_length=5)
    (message,) = cut_texts(short.encode, ["a b c", "a b c d"])[1]
    assert message.startswith("cut after 5 tokens: 1 of 2 texts, the first is texts[1]. ")


def test_the_warning_can_be_an_error(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error", CutTextWarning)
        with pytest.raises(CutTextWarning, match="3 of 6 texts"):
            model.encode(TEXTS, warn_if_cut=True)


def test_a_pool_gives_one_warning(model):
    with EncoderPool(model._artifact.directory, 1, threads=1, max_seq_length=5) as pool:
        vectors, messages = cut_texts(pool.encode, TEXTS, chunk_size=2)
    assert messages == [MESSAGE.replace("3 of 6", "4 of 6").replace("[2]", "[1]").replace("16 t", "5 t")]
    short = Embedder(model._artifact.directory, max_seq_length=5)
    np.testing.assert_allclose(vectors, short.encode(TEXTS), atol=1e-6)


PAIRS = [("cat", "dog"), ("cat", LONG * 2), (LONGER, "dog"), ("the cat sat", "the cat sat on mat a b c d e")]
CUT_PAIRS = (
    "cut after 16 tokens: 2 of 4 pairs, the first is pairs[1]. Cut long texts into chunks first, by the chunks method "
    "of an Embedder"
)


@pytest.fixture
def ranker(tmp_path):
    return CrossEncoder(write_tiny_ranker(tmp_path / "ranker"))


def test_pairs_that_are_cut(ranker):
    for call in (ranker.predict, ranker.predict_iter):
        scores, messages = cut_texts(call, PAIRS)
        assert messages == [CUT_PAIRS]
        np.testing.assert_allclose(np.concatenate([scores]).ravel(), ranker.predict(PAIRS), rtol=1e-6)
    assert cut_texts(ranker.predict, PAIRS[1])[1] == [CUT_PAIRS.replace("2 of 4", "1 of 1").replace("[1]", "[0]")]
    for pairs in (PAIRS[0], [PAIRS[0], PAIRS[3]], []):
        assert cut_texts(ranker.predict, pairs)[1] == []
    ranker.predict(PAIRS)


def test_documents_that_are_cut(ranker):
    ranked, messages = cut_texts(ranker.rank, "cat", ["dog", LONG * 2, "mat", LONGER])
    assert len(ranked) == 4
    assert messages == [CUT_PAIRS.replace("pairs", "documents")]


def test_a_stream_of_pairs_counts_from_its_beginning(ranker):
    _, messages = cut_texts(ranker.predict_iter, iter([("cat", "dog")] * 2000 + PAIRS))
    assert messages == [CUT_PAIRS.replace("2 of 4", "2 of 2,004").replace("[1]", "[2001]")]
