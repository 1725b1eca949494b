"""Batches that a caller makes: `tokenize_texts`, `from_token_ids`, `encode_batch`."""

import threading

import numpy as np
import pytest
from tokenizers import processors

from embedder import Embedder, EmbedderError, InputError, TokenizedText
from embedder.engine.token_ids import check_texts
from embedder.engine.tokenizer import TextTokenizer
from tests.tiny import VOCABULARY, ids_of, redescribe, tiny_tokenizer, write_tiny_artifact

TEXTS = ["the cat", "", "a dog sat on the mat", "long " * 40, "é 字"]
CLS, SEP = VOCABULARY["[CLS]"], VOCABULARY["[SEP]"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    prompts = {"query": "query : ", "document": ""}
    path = write_tiny_artifact(tmp_path_factory.mktemp("models") / "tiny", include_prompt=False, prompts=prompts)
    with Embedder(path) as model:
        yield model


def test_tokenized_texts_are_what_the_model_reads(model):
    texts = model.tokenize_texts(TEXTS)
    assert [text.ids.tolist() for text in texts] == [ids_of(text) for text in TEXTS]
    assert [text.cut for text in texts] == [False, False, False, True, False]
    assert [len(text) for text in texts] == [len(ids_of(text)) for text in TEXTS]
    assert [text.prompt_token_count for text in texts] == [0] * 5
    assert all(text.type_ids is None for text in texts)
    assert model.tokenize_texts("the cat")[0].ids.tolist() == ids_of("the cat")
    assert model.tokenize_texts([]) == []
    assert texts[0] == texts[0]
    assert texts[0] != model.tokenize_texts(TEXTS)[0]


def test_text_of_exactly_the_limit_is_not_cut(model):
    assert [text.cut for text in model.tokenize_texts(["a " * 14, "a " * 15])] == [False, True]


def test_prompt_is_read_and_left_out_of_the_pooling(model):
    batch = [*model.tokenize_texts(TEXTS, prompt_name="query"), *model.tokenize_texts(TEXTS)]
    assert [text.prompt_token_count for text in batch] == [3] * 5 + [0] * 5
    expected = [*model.encode(TEXTS, prompt_name="query"), *model.encode(TEXTS)]
    np.testing.assert_allclose(model.encode_batch(batch), expected, atol=1e-6)
    batch = model.tokenize_texts(TEXTS, prompt="a dog ")
    np.testing.assert_allclose(model.encode_batch(batch), model.encode(TEXTS, prompt="a dog "), atol=1e-6)


def test_options_of_encode_count(model):
    batch = model.tokenize_texts(TEXTS)
    for options in ({"truncate_dim": 3}, {"truncate_dim": 3, "normalize_embeddings": True}, {"precision": "binary"}):
        expected = model.encode(TEXTS, **options)
        for single_thread in (False, True):
            found = model.encode_batch(batch, single_thread=single_thread, batch_size=2, **options)
            np.testing.assert_allclose(found, expected, atol=1e-6)
    assert model.encode_batch([]).shape == (0, 8)


def test_token_ids_of_the_own_tokenizer_are_read(model):
    ids = [ids_of(text) for text in TEXTS]
    expected = model.encode(TEXTS)
    for given in (ids, map(tuple, ids), [np.int32(each) for each in ids]):
        batch = model.from_token_ids(given)
        assert [text.ids.dtype for text in batch] == [np.int64] * 5
        np.testing.assert_allclose(model.encode_batch(batch), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[9, 17]], r"token_ids\[0\] should begin with 2 \(\[CLS\]\) and end with 3 \(\[SEP\]\), .* tiktoken"),
        ([[CLS, 9, SEP], [CLS, 9]], r"token_ids\[1\] should begin with 2 \(\[CLS\]\) and end with 3 \(\[SEP\]\)"),
        ([[CLS]], "should begin with 2"),
        ([[]], "should begin with 2"),
        ([[CLS, 99_999, SEP]], r"token_ids\[0\] has 99999, which is no token id of this model\. .* tiktoken"),
        ([[CLS, -1, SEP]], r"token_ids\[0\]\[1\] is -1, which is no token id of this model"),
        ([[CLS, 1 << 70, SEP]], r"token_ids\[0\]\[1\] is 1180591620717411303424, which is no token id"),
        ([[CLS, 9.0, SEP]], r"token_ids\[0\]\[1\] should be a whole number, not 9\.0"),
        ([[CLS, True, SEP]], r"token_ids\[0\]\[1\] should be a whole number, not True"),
        ([[CLS, *[9] * 15, SEP]], r"token_ids\[0\] has 17 tokens, and the model reads 16\. Cut the text first"),
        ([CLS, 9, SEP], r"token_ids\[0\] should be a list of whole numbers, not int"),
        (["the cat"], r"token_ids\[0\] should be a list of whole numbers, not str"),
        ("the cat", "token_ids should be lists of whole numbers, not str"),
        ({"ids": [1]}, "token_ids should be lists of whole numbers, not dict"),
        (3, "token_ids should be lists of whole numbers, not int"),
    ],
)
def test_other_token_ids_are_refused(model, ids, message):
    with pytest.raises(InputError, match=message):
        model.from_token_ids(ids)


def test_tokenizer_without_special_tokens_takes_any_ids(tmp_path):
    path = write_tiny_artifact(tmp_path / "tiny")
    tokenizer = tiny_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    tokenizer.save(str(path / "tokenizer.json"))
    redescribe(path)
    with Embedder(path) as model:
        batch = model.from_token_ids([[9, 10], []])
        np.testing.assert_allclose(model.encode_batch(batch), model.encode([tokenizer.decode([9, 10]), ""]), atol=1e-6)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["the cat"], {}, r"texts\[0\] should be a TokenizedText, not str\. Take the texts"),
        ("the cat", {}, "texts should be a list of TokenizedText, not str"),
        (TokenizedText(np.int64([1])), {}, "texts should be a list of TokenizedText, not embedder.TokenizedText"),
        ([], {"prompt": "a "}, "encode_batch takes no prompt: the texts have theirs"),
        ([], {"prompt_name": "query"}, "encode_batch takes no prompt: the texts have theirs"),
        ([], {"single_thread": 1}, "single_thread should be True or False, not 1"),
        ([], {"truncate_dim": 9}, "truncate_dim should be a whole number, at least 1 and at most 8, not 9"),
    ],
)
def test_wrong_calls_are_refused(model, texts, options, message):
    with pytest.raises(InputError, match=message):
        model.encode_batch(texts, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TokenizedText(np.full(17, 9)), "has 17 tokens, and the model reads 16. Take the texts that tokenize_texts"),
        (TokenizedText(np.int64([CLS, -1, SEP])), "has -1, which is no token id of this model. Take the texts"),
        (TokenizedText(np.int64([CLS, 99_999, SEP])), "has 99999, which is no token id of this model. Take the texts"),
        (TokenizedText(np.int64([9]), np.int64([0])), "has token type ids, which no text has. Take the texts"),
        (TokenizedText(np.int32([9])), "should be arrays of int64"),
        (TokenizedText(np.int64([[9]])), "should be arrays of int64"),
        (TokenizedText([9]), "should be arrays of int64"),
        (TokenizedText(np.int64([9]), np.int64([0, 0])), "should be arrays of int64"),
    ],
)
def test_text_that_this_model_cannot_have_made_is_refused(model, text, message):
    with pytest.raises(InputError, match=r"texts\[1\]") as error:
        model.encode_batch([*model.tokenize_texts("a"), text])
    assert message in str(error.value)


def test_text_without_the_token_type_ids_that_a_model_needs_is_refused(model, tmp_path):
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    tokenizer = TextTokenizer(tmp_path / "tokenizer.json", 16)
    check_texts(tokenizer, [TokenizedText(np.int64([CLS, SEP]), np.int64([0, 0]))], typed=True)
    with pytest.raises(InputError, match=r"texts\[0\] has no token type ids, and this model needs them"):
        check_texts(tokenizer, model.tokenize_texts("a"), typed=True)


def test_unknown_prompt_is_refused(model):
    with pytest.raises(InputError, match="unknown prompt_name 'passage'"):
        model.tokenize_texts(["a"], prompt_name="passage")


def test_closed_model_refuses(tmp_path):
    model = Embedder(write_tiny_artifact(tmp_path / "tiny"))
    batch = model.tokenize_texts(["a"])
    model.close()
    for call in (
        lambda: model.encode_batch(batch),
        lambda: model.tokenize_texts(["a"]),
        lambda: model.from_token_ids([]),
    ):
        with pytest.raises(EmbedderError, match="the model has been closed"):
            call()


def test_batches_in_many_threads_at_once(model):
    batch = model.tokenize_texts(TEXTS)
    expected = model.encode(TEXTS)
    found = []

    def work():
        for _ in range(20):
            found.append(model.encode_batch(batch))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    for vectors in found:
        np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_limits_of_a_batch(model):
    limits = model.batch_limits
    assert limits.token_budget > 0
    assert limits.threads > 0
    assert limits.tokens_per_image is None
