"""Pairs of texts to token ids: as the library has them, within the limit, and in bounded memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, processors

from embedder.common.tokenizer_file import load_tokenizer
from embedder.engine.pair_tokenizer import PairTokenizer
from embedder.engine.tokenizer import TextTokenizer
from embedder.errors import ArtifactError, InputError
from embedder.inputs import Pair
from tests import vocabularies
from tests.library_tokenizers import most_read
from tests.tiny import tiny_tokenizer

ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def with_pairs(tokenizer: Tokenizer, single: str, pair: str) -> Tokenizer:
    names = {part.partition(":")[0] for part in f"{single} {pair}".split()} - {"$A", "$B"}
    special = [(name, tokenizer.token_to_id(name)) for name in sorted(names)]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    return tokenizer


def bert() -> Tokenizer:
    tokenizer = vocabularies.wordpiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def roberta() -> Tokenizer:
    tokenizer = vocabularies.byte_level_bpe()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def xlm_roberta() -> Tokenizer:
    return with_pairs(vocabularies.unigram(ROBERTA_SPECIAL, "<s> $A </s>"), "<s> $A </s>", "<s> $A </s> </s> $B </s>")


def mpnet() -> Tokenizer:
    special = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
    return with_pairs(vocabularies.wordpiece(special, "<s> $A"), "<s> $A </s>", "<s> $A </s> </s> $B </s>")


def t5() -> Tokenizer:
    tokenizer = vocabularies.unigram(["<pad>", "</s>", "<unk>"], "$A </s>")
    return with_pairs(tokenizer, "$A </s>", "$A:0 </s>:0 $B:1 </s>:1")


def without_special_tokens() -> Tokenizer:
    return with_pairs(vocabularies.wordpiece(), "$A", "$A $B:1")


def special_in_single_texts_alone() -> Tokenizer:
    return with_pairs(vocabularies.wordpiece(), "[CLS] $A [SEP]", "$A $B:1 [SEP]:1")


MAKERS = [bert, roberta, xlm_roberta, mpnet, t5, without_special_tokens, special_in_single_texts_alone]
TEXTS = st.one_of(
    st.sampled_from(["", " ", "\t\n", "[SEP] </s>", "日本 ", "\u0301", "\0"]),
    st.text("ab .,é字 \n", max_size=30),
    st.builds("".join, st.lists(st.sampled_from(["cat ", "dogs", "!", "字", "x" * 40, "  ", "</s>"]), max_size=60)),
    st.integers(0, 300).map("cat ".__mul__),
    st.integers(0, 300).map("x".__mul__),
)


class Both:
    """A tokenizer of pairs, and the library's own one, with the same limit."""

    def __init__(self, path, limit):
        self.ours = PairTokenizer(TextTokenizer(path, limit, pairs=True))
        self.library = load_tokenizer(path)
        self.library.no_padding()
        self.library.enable_truncation(limit)

    def check(self, first, second):
        expected = self.library.encode(first, second)
        if not len(expected):
            with pytest.raises(InputError, match="has no tokens"):
                list(self.ours.tokenize([Pair(first, second)]))
            return
        (((ids, types), cut),) = self.ours.tokenize([Pair(first, second)])
        assert ids.tolist() == expected.ids
        assert types.tolist() == expected.type_ids
        assert ids.dtype == types.dtype == np.int64
        assert cut == bool(expected.overflowing)


@pytest.fixture(scope="module", params=MAKERS, ids=lambda make: make.__name__)
def both(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "tokenizer.json"
    tokenizer = request.param()
    tokenizer.save(str(path))
    first = tokenizer.num_special_tokens_to_add(is_pair=True) + 1
    return {limit: Both(path, limit) for limit in (*range(first, first + 5), 24, 33, 64)}


@given(st.data())
def test_pairs_have_the_tokens_of_the_library(both, data):
    limit = data.draw(st.sampled_from(sorted(both)))
    most = 20 + 3 * limit  # of two longer texts, the library makes too many encodings
    both[limit].check(data.draw(TEXTS)[:most], data.draw(TEXTS)[:most])


def test_the_longer_one_of_two_long_texts_gets_the_odd_token(both):
    limit = sorted(both)[4]  # room for five tokens
    long = "cat, " * 8 * limit  # longer than the part that is read of a long text
    for more in (0, 1):
        both[limit].check(long + "cat " * more, long)
        both[limit].check(long, long + "cat " * more)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tokenizer.json"
    tiny_tokenizer(pairs=True).save(str(path))
    return TextTokenizer(path, 16, pairs=True)


def test_equal_texts_are_tokenised_once(tiny, monkeypatch):
    pairs, read = PairTokenizer(tiny), []
    list(pairs.tokenize([Pair("a", "b")]))  # the first pair is also read in other ways
    tokenize = tiny.first_tokens
    monkeypatch.setattr(tiny, "first_tokens", lambda texts: read.append(texts) or tokenize(texts))
    found = list(pairs.tokenize([Pair("the cat", text) for text in ("a dog", "the cat", "a mat")]))
    assert read == [["the cat", "a dog", "a mat"]]
    assert [len(ids) for (ids, _), _ in found] == [7, 7, 7]


def test_two_huge_texts_are_read_in_parts(tiny):
    huge = [Pair("the cat " * 50_000, "a dog " * 50_000)]
    found = []
    assert most_read(tiny, lambda: found.extend(PairTokenizer(tiny).tokenize(huge))) < 100_000
    (((ids, _), cut),) = found
    assert (len(ids), cut) == (16, True)


def test_a_tokenizer_without_the_letter_a(tmp_path):
    tokenizer = Tokenizer(models.BPE({"[CLS]": 0, "[SEP]": 1, "1": 2, "x": 3}, []))
    with_pairs(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]").save(str(tmp_path / "tokenizer.json"))
    Both(tmp_path / "tokenizer.json", 8).check("x1", "x")


@pytest.mark.parametrize(
    ("words", "pair"),
    [("x", "[CLS] $A [SEP] $B"), ("a", "[CLS] $B [SEP] $A"), ("a", "$B:1 $A"), ("a", "[CLS] $A $A [SEP] $B")],
)
def test_a_tokenizer_that_joins_texts_in_an_unknown_way_is_refused(tmp_path, words, pair):
    tokenizer = Tokenizer(models.BPE({"[CLS]": 0, "[SEP]": 1, words: 2}, []))
    with_pairs(tokenizer, "[CLS] $A [SEP]", pair).save(str(tmp_path / "tokenizer.json"))
    tokenizer = PairTokenizer(TextTokenizer(tmp_path / "tokenizer.json", 8, pairs=True))
    with pytest.raises(ArtifactError, match="joins the two texts of a pair in a way that this version does not"):
        list(tokenizer.tokenize([Pair("x", "a")]))


def test_a_limit_below_the_special_tokens_of_a_pair_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    tiny_tokenizer(pairs=True).save(str(path))
    with pytest.raises(ArtifactError, match=r"adds 3 special tokens to each pair, and max_seq_length is 3: no room"):
        TextTokenizer(path, 3, pairs=True)
    tokenizer = TextTokenizer(path, 4, pairs=True)
    with pytest.raises(InputError, match=r"max_seq_length should be at least 4, not 3: the model adds 3 .* each pair"):
        tokenizer.set_limit(3)
