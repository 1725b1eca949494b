"""Texts to token ids: the limit, the tokens of a prompt, and long texts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from embedder.engine.tokenizer import TextTokenizer
from embedder.errors import ArtifactError
from tests.library_tokenizers import byte_level, most_read
from tests.tiny import SPECIAL_IDS, ids_of, tiny_tokenizer
from tests.vocabularies import wordpiece


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    baked = tiny_tokenizer()
    baked.enable_truncation(4)
    baked.enable_padding(length=4)
    baked.save(str(path))
    return TextTokenizer(path, 16)


def test_limit_and_padding_in_the_file_are_replaced(tokenizer):
    table = tokenizer.table(["a " * 100, "a"])
    assert table.lengths.tolist() == [16, 3]
    (ids,) = table.arrays
    assert ids[16:].tolist() == ids_of("a") == [2, 4, 3]
    assert ids.dtype == np.int64


def test_prompt_token_count(tokenizer):
    assert tokenizer.prompt_token_count("", SPECIAL_IDS) == 0
    assert tokenizer.prompt_token_count("query : ", SPECIAL_IDS) == 3  # [CLS] query :
    assert tokenizer.prompt_token_count("query : ", ()) == 4
    assert tokenizer.prompt_token_count("a " * 100, SPECIAL_IDS) == 15


def test_tokenizer_that_fails_in_use(tmp_path):
    broken = Tokenizer(models.WordPiece({"a": 0}, unk_token="[UNK]"))
    broken.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ArtifactError, match=r"tokenizer failed: .*UNK"):
        TextTokenizer(tmp_path / "tokenizer.json", 16).table(["b"])


def test_an_error_without_a_message_is_named(tokenizer, monkeypatch):
    class Exhausted:
        def encode_batch_fast(self, texts, **options):
            raise MemoryError

    monkeypatch.setattr(tokenizer, "_tokenizer", Exhausted())
    with pytest.raises(ArtifactError, match=r"the model's tokenizer failed: MemoryError$"):
        tokenizer.table(["b"])


def test_many_cores_get_more_texts_at_a_time_but_not_more_long_ones(tiny, monkeypatch):
    class Counting:
        def encode_batch_fast(self, texts, **options):
            sizes.append(len(texts))
            return library.encode_batch_fast(texts, **options)

    monkeypatch.setattr("embedder.engine.tokenizer.usable_cores", lambda: 8)
    sizes = []
    for texts, expected in (
        (["a cat"] * 20, [20]),
        (["a cat"] * 300, [256, 44]),
        (["", ""] * 20, [40]),
        (["a cat " * 1000] * 300, [166, 134]),
    ):
        tokenizer = TextTokenizer(tiny / "tokenizer.json", 4000)
        library = tokenizer._tokenizer
        monkeypatch.setattr(tokenizer, "_tokenizer", Counting())
        assert len(tokenizer.table(texts)) == len(texts)
        assert sizes == expected
        sizes.clear()


WORDS = st.sampled_from(["cat", "dogs", "a", "!", "字", "é", "e\u0301", "x" * 300, "\u200b", "\t", "\n", "[SEP]", "\0"])
SPACES = st.sampled_from([" ", "  ", "\n", " " * 300, "\u00a0", ""])


@given(st.lists(st.tuples(WORDS, SPACES), max_size=400))
def test_long_texts_are_clipped_without_changing_their_tokens(tokenizer, pieces):
    text = "".join(word + space for word, space in pieces)
    assert tokenizer.table([text]).arrays[0].tolist() == ids_of(text)


@pytest.mark.parametrize(
    "text", [" " * 10_000 + "cat", "x" * 100_000, "字" * 50_000, "cat" + "\u00a0dog" * 9999, "\n" * 9999]
)
def test_long_texts_without_a_place_to_clip(tokenizer, text):
    assert tokenizer.table([text]).arrays[0].tolist() == ids_of(text)


@pytest.mark.parametrize("characters", [100, 1000])
def test_one_token_of_a_word_that_is_too_long(tmp_path, characters):
    library = wordpiece()
    library.model.max_input_chars_per_word = characters
    library.save(str(tmp_path / "tokenizer.json"))
    for limit in (3, 4, 16):
        tokenizer = TextTokenizer(tmp_path / "tokenizer.json", limit)
        library.enable_truncation(limit)
        for text in ("x" * 60, "x" * 101, "x" * 999, "x" * 30_000, "a " + "x" * 30_000):
            assert tokenizer.table([text]).arrays[0].tolist() == library.encode(text).ids


@pytest.mark.parametrize("start", ["", " " * 100_000, "\0" * 100_000])
@pytest.mark.parametrize("unit", ["the cat sat on the mat ", "字", "cat\n", "/a1", "cat\u00a0"])
def test_only_the_start_of_a_huge_text_is_tokenised_at_a_time(tokenizer, start, unit):
    assert most_read(tokenizer, lambda: tokenizer.table([start + unit * 300_000])) < 5000


@pytest.mark.parametrize("unit", ["x", "字", " ", "\0"])
def test_only_the_start_of_a_huge_word_is_tokenised(tmp_path, unit):
    tokenizer = save(byte_level(), tmp_path)
    text = unit * 100_000
    expected = tokenizer._tokenizer.encode(text[:20_000]).ids
    assert tokenizer.table([text]).arrays[0].tolist() == expected
    assert most_read(tokenizer, lambda: tokenizer.table([text])) <= 1024


def save(library_tokenizer, directory):
    library_tokenizer.save(str(directory / "tokenizer.json"))
    return TextTokenizer(directory / "tokenizer.json", 16)
