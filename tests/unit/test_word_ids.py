"""Words that are remembered give the token ids of the library."""

import random
import threading

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from embedder.engine import word_ids
from embedder.engine.token_table import TokenTable
from embedder.engine.word_ids import WordIds, treats_words_alone
from tests.vocabularies import byte_level_bpe, unigram, wordpiece

# Letters, separators, controls, combining marks, and characters that BERT's normalisation changes.
CHARACTERS = "abcé ß\t\n\x0b\x1c\x00\xa0\u0301\u2028\u3000\u200d\ufeff\ufffd中文字日.,!'-ΣİA한" + 20 * " "
TOKENS = ["[CLS]", "[UNK]", "[MASK]", "[PAD]"]


def library(tokenizer: Tokenizer):
    """A function that tokenises texts with the library alone."""

    def tokenize(texts):
        ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
        return TokenTable.of([(np.array(row, np.int64),) for row in ids])

    return tokenize


def assert_equal(found: TokenTable, expected: TokenTable):
    assert found.lengths.tolist() == expected.lengths.tolist()
    assert found.arrays[0].tolist() == expected.arrays[0].tolist()


def random_texts(count: int) -> list[str]:
    generator = random.Random(0)
    pieces = [*CHARACTERS, *TOKENS]
    return ["".join(generator.choices(pieces, k=generator.randrange(40))) for _ in range(count)]


@pytest.fixture
def tokenizer():
    tokenizer = wordpiece()
    tokenizer.add_special_tokens([AddedToken(token, lstrip=token == "[MASK]") for token in TOKENS])
    tokenizer.add_tokens([AddedToken("abc", single_word=True), AddedToken("éa", normalized=True)])
    return tokenizer


def test_ids_of_any_text(tokenizer):
    words, tokenize = WordIds(library(tokenizer)), library(tokenizer)
    texts = random_texts(3000)
    for start in range(0, len(texts), 100):
        part = texts[start : start + 100]
        assert_equal(words.table(part, 1000, 1000), tokenize(part))


def test_long_words_and_long_texts_are_left_to_the_library(tokenizer):
    tokenize = library(tokenizer)
    words = WordIds(tokenize)
    texts = ["a b", "c" * 33, "a b c " * 40, "", "d" * 33 + " e"]
    for _ in range(2):
        assert_equal(words.table(texts, 1000, 200), tokenize(texts))
    assert max(map(len, words._rows)) <= 32
    assert_equal(words.table(texts[1:2], 1000, 200), tokenize(texts[1:2]))


@pytest.mark.parametrize("limit", [1, 3, 5])
def test_limit(tokenizer, limit):
    words = WordIds(library(tokenizer))
    texts = ["a b c d", "", "abc", "a", "b c d e f g"]
    tokenizer.enable_truncation(limit)
    assert_equal(words.table(texts, limit, 1000), library(tokenizer)(texts))


def test_words_are_forgotten_when_there_are_too_many(tokenizer, monkeypatch):
    monkeypatch.setattr(word_ids, "_MAX_WORDS", 8)
    words, tokenize = WordIds(library(tokenizer)), library(tokenizer)
    for text in ("a b c d", "e f g h", "a z y x w v u", "a b c d e f g h i j k"):
        assert_equal(words.table([text, "a"], 100, 100), tokenize([text, "a"]))
    words.renew()
    assert not words._rows


def test_many_threads(tokenizer):
    words, tokenize = WordIds(library(tokenizer)), library(tokenizer)
    texts = random_texts(400)
    expected, failures = tokenize(texts), []

    def run():
        found = words.table(texts, 1000, 1000)
        if found.arrays[0].tolist() != expected.arrays[0].tolist():
            failures.append(found)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_which_tokenizers_treat_words_alone(tokenizer):
    assert treats_words_alone(tokenizer)
    assert not treats_words_alone(unigram(["<unk>"], "$A"))
    assert not treats_words_alone(byte_level_bpe())
    assert not treats_words_alone(Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")))
    for changed in ("two words", "tab\tbed"):
        other = Tokenizer.from_str(tokenizer.to_str())
        other.add_tokens([changed])
        assert not treats_words_alone(other)
    tokenizer.normalizer = normalizers.NFKC()
    assert not treats_words_alone(tokenizer)
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert not treats_words_alone(tokenizer)
