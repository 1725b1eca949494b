"""`model.chunks` and `model.count_tokens`: nothing is lost, every chunk fits, and long texts need little memory."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import embedder
from embedder.common.sentences import last_sentence_end
from embedder.engine import token_counts
from embedder.engine.chunks import Chunker
from embedder.engine.token_counts import count_tokens
from embedder.engine.tokenizer import TextTokenizer
from embedder.errors import EmbedderError, InputError
from tests.conftest import DATA
from tests.library_tokenizers import byte_level, unigram
from tests.tiny import ids_of, tiny_tokenizer

LIMIT = 16


MAKERS = {"wordpiece": tiny_tokenizer, "bytes": byte_level, "unigram": unigram}
REAL = (
    *("all-mpnet-base-v2", "bert-base-multilingual-cased", "clip", "roberta-base", "t5-small"),
    "xlmr-like-128k-derived",
)


@pytest.fixture(scope="module", params=[*MAKERS, *REAL])
def tokenizer(request, tmp_path_factory):
    if request.param in MAKERS:
        path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
        MAKERS[request.param]().save(str(path))
    else:
        path = DATA / "tokenizers" / request.param / "tokenizer.json"
        if not path.exists():
            pytest.skip("the real tokenizers are not here (EMBEDDER_TEST_DATA names the directory of data)")
    return TextTokenizer(path, LIMIT)


@pytest.fixture
def model(tiny):
    return embedder.Embedder(tiny)


WORDS = st.sampled_from(
    [
        *(
            "the",
            "cat",
            "sat.",
            "Dr.",
            "3.",
            "e.g.",
            "cats!",
            "Why?",
            "“So.”",
            "a",
            "fi\ufb01",
            "x" * 120,
            "[SEP]",
            "</s>",
        ),
        *(
            "字",
            "文章。",
            "กินข้าว",
            "é",
            "e\u0301",
            "😀",
            "👍🏽",
            "👨\u200d👩\u200d👧",
            "\ufdfa",
            "\0",
            "\u200b",
            "\ufeff",
            "ß",
            "İ",
        ),
    ]
)
SPACES = st.sampled_from([" ", "  ", "\n", "\n\n", "\r\n", "\t", " " * 40, "\u00a0", "\u2003", "\x85", "", ""])
TEXTS = st.lists(st.tuples(WORDS, SPACES), max_size=60).map(lambda pieces: "".join(a + b for a, b in pieces))


@settings(max_examples=60)
@given(TEXTS, st.integers(1, LIMIT), st.integers(0, LIMIT))
@example("", 3, 0)
@example(" \n\u2003 ", 3, 1)
@example("\0\0\0", 1, 0)
@example(" \0the", 1, 0)
@example("the cat sat. " * 30, 14, 13)
@example("x" * 9000, 3, 1)
def test_chunks_have_all_of_the_text_and_fit(tokenizer, text, size, overlap):
    size = min(size, tokenizer.room)
    overlap = min(overlap, size - 1)
    message, chunks = "", []
    try:
        chunks = list(Chunker(tokenizer, size, overlap).chunks(text))
    except InputError as error:
        message = str(error)
    if message:
        assert message.startswith(f"size should be greater than {size} for this text: the character ")
        assert max(tokenizer.token_counts(list(text))) > size
        return
    end = 0
    for number, chunk in enumerate(chunks):
        assert chunk.text == text[chunk.start : chunk.end] == chunk.text.strip() != ""
        assert chunk.token_count == tokenizer.token_counts([chunk.text])[0] <= size
        assert chunk.end > end
        assert not text[end : chunk.start].strip()  # only white space is left out
        assert overlap or chunk.start >= end
        if number and chunk.start < end:
            before = chunks[number - 1]
            assert chunk.start > before.start
            starts = [before.start + first for first, _ in tokenizer.offsets(before.text)]
            assert sum(first >= chunk.start for first in starts) <= overlap
        end = chunk.end
    assert not text[end:].strip()


@settings(max_examples=20)
@given(TEXTS, st.sampled_from(["query: ", "the", "文 "]))
def test_chunks_leave_room_for_the_prompt(tokenizer, text, prompt):
    for chunk in Chunker(tokenizer, prompts=[prompt]).chunks(text):
        assert tokenizer.token_counts([prompt + chunk.text])[0] <= tokenizer.room


@settings(max_examples=20)
@given(TEXTS, st.integers(1, 9))
def test_windows_of_a_long_text_count_the_same_tokens(tokenizer, text, repeats):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_counts, "_WINDOW_CHARACTERS", 2000)
        patch.setattr(token_counts, "_COMMON_CHARACTERS", 1000)
        long = (text + "cat ") * repeats * 9
        counts = count_tokens(tokenizer, [long, text])
        whole = [tokenizer.token_counts([each])[0] + tokenizer.special_count for each in (long, text)]
        assert counts.tolist() == whole


def texts_of(chunks):
    return [chunk.text for chunk in chunks]


STORY = """Dr. Hall sat down. "Why now?" he asked. She left at 3.15 on Monday!

# A heading

- one item
- another item
文章です。これは二番目の文、続きます。"""


def test_chunks_end_after_sentences_lines_and_words(minilm):
    model = embedder.Embedder(minilm)
    assert texts_of(model.chunks(STORY, size=14)) == [
        'Dr. Hall sat down. "Why now?" he asked.',
        "She left at 3.15 on Monday!",
        "# A heading\n\n- one item\n- another item\n文章です。",
        "これは二番目の文、続きます。",
    ]
    assert texts_of(model.chunks("one two three four five six", size=4)) == ["one two three four", "five six"]
    assert texts_of(model.chunks("one two three four five six", size=4, overlap=2)) == [
        *("one two three four", "three four five six"),
    ]
    assert texts_of(model.chunks("One two. Three. Four five six. Seven eight.", size=9, overlap=6)) == [
        "One two. Three. Four five six.",
        "Three. Four five six. Seven eight.",
    ]
    assert texts_of(model.chunks("internationalisation", size=2)) == ["internationalisation"]
    assert model.chunks(STORY)[0] == embedder.Chunk(STORY, 0, len(STORY), int(model.count_tokens(STORY)) - 2)


def test_chunks_of_no_text(model):
    assert model.chunks("") == model.chunks(" \n\t\u2003") == []


def test_a_chunk_is_encoded_whole(make_artifact):
    model = embedder.Embedder(make_artifact(prompts={"document": "document : "}, default_prompt_name=None))
    chunks = model.chunks("the cat sat on the mat ! " * 50)
    assert {chunk.token_count for chunk in chunks[:-1]} == {
        7
    }  # 12 would fit: 16, two special tokens, and two of the prompt
    for chunk in chunks:
        assert model.count_tokens("document : " + chunk.text) <= model.max_seq_length
    assert model.chunks("a b c " * 50)[0].token_count == 12


def test_the_default_prompt_leaves_room(make_artifact):
    prompts = {"document": "a ", "long": "the cat sat "}
    model = embedder.Embedder(make_artifact(prompts=prompts, default_prompt_name="long"))
    assert model.chunks("a b c " * 50)[0].token_count == 11


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size should be a whole number, at least 1, not 0"),
        ({"size": 2.5}, "size should be a whole number, at least 1, not 2.5"),
        (
            {"size": 15},
            "size should be at most 14, not 15: the model reads 16 tokens, with special tokens and its prompt",
        ),
        ({"overlap": -1}, "overlap should be a whole number, at least 0, not -1"),
        ({"overlap": None}, "overlap should be a whole number, at least 0"),
        ({"overlap": "2"}, "overlap should be a whole number, at least 0, not '2'"),
        ({"overlap": 14}, "overlap should be less than size, which is 14, not 14"),
        ({"size": 3, "overlap": 4}, "overlap should be less than size, which is 3, not 4"),
    ],
)
def test_wrong_options_of_chunks(model, options, message):
    with pytest.raises(InputError, match=message):
        model.chunks("a text", **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (["a text"], "text should be a string, not list. For many texts, make a call for each"),
        (b"a text", "text should be a string, not bytes"),
        (None, "text should be a string, not NoneType"),
        ("a\ud800", r"text is not valid Unicode: it contains the lone surrogate U\+D800 at character 1"),
    ],
)
def test_wrong_texts_of_chunks(model, text, message):
    with pytest.raises(InputError, match=message):
        model.chunks(text)


def test_a_prompt_that_leaves_no_room_for_chunks(make_artifact):
    model = embedder.Embedder(make_artifact(prompts={"document": "cat " * 14}))
    with pytest.raises(InputError, match="the model's prompt leaves no room for a chunk: the model reads 16 tokens"):
        model.chunks("a text")


def test_count_tokens(model):
    assert model.count_tokens("the cat") == 4
    assert type(model.count_tokens("the cat")) is int
    texts = ["the cat", "", "a " * 100, "x" * 70_000, "a " * 70_000, "dogs"]
    counts = model.count_tokens(iter(texts))
    assert counts.dtype == np.int64
    assert counts.tolist() == [len(ids_of(text, 10**6)) for text in texts]
    assert model.count_tokens(["the cat"]).tolist() == [4]
    assert model.count_tokens([]).shape == (0,)
    with pytest.raises(InputError, match=r"texts\[1\] should be a string, not int"):
        model.count_tokens(["a", 3])


def test_many_texts_are_counted_in_parts(model):
    texts = [("cat " * (row % 7) * (3000 if row % 50 == 0 else 1)) for row in range(300)]
    assert model.count_tokens(texts).tolist() == [text.count("cat") + 2 for text in texts]


def test_a_closed_model_cuts_and_counts_nothing(model):
    model.close()
    for call in (model.chunks, model.count_tokens):
        with pytest.raises(EmbedderError, match="the model has been closed"):
            call("a text")


@pytest.mark.parametrize("unit", ["the cat sat on the mat. ", "字", "x", " ", "\0", "cat\n"])
def test_only_a_part_of_a_huge_text_is_read_at_a_time(tmp_path, unit):
    """The library's memory is proportional to what it reads in a call."""
    path = tmp_path / "tokenizer.json"
    tiny_tokenizer().save(str(path))
    tokenizer, text, read = TextTokenizer(path, 100), unit * (120_000 // len(unit)), []

    class Spy:
        def __getattr__(self, name):
            def call(texts, **options):
                read.append(len(texts) if isinstance(texts, str) else sum(map(len, texts)))
                return getattr(inner, name)(texts, **options)

            return call

    inner = tokenizer._tokenizer
    tokenizer._tokenizer = Spy()
    for _ in Chunker(tokenizer).chunks(text):
        pass
    assert max(read) < 30_000
    assert sum(read) < 6 * len(text)
    read.clear()
    assert count_tokens(tokenizer, [text])[0] == len(ids_of(text, 10**6))
    assert max(read) <= 65_536
    assert sum(read) < 1.2 * len(text)


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("One. Two", [4]),
        ("One! Two", [4]),
        ('He said "One?" Two', [14]),
        ("Wait... Two", [7]),
        ("Wait... two", [7]),  # there is no better end
        ("One. Then 3.15 is a number", [4]),
        ("Dr. Hall", [3]),
        ("Yes. See Dr. Hall", [4]),
        ("Yes. J. Smith", [4]),
        ("Yes. Die USA, z.B. New York", [4]),
        ("Ja. Am 3. Mai", [3]),
        ("Yes.\n1. One\n2. Two", [4]),
        ("one\n100. Two", []),
        ("Yes.\n\n# Title\n\nText", [4]),
        ("# Title\n\nText", [7]),  # there is no better end
        ("Title\n\nText", [5]),
        ("Title\n \t\nText", [5]),
        ("文章。次", [3]),
        ("वाक्य। अगला", [6]),
        ("جملة؟ التالي", [5]),
        ("no end", []),
        ("a.b", []),
    ],
)
def test_ends_of_sentences(text, ends):
    found = last_sentence_end(text, 0, len(text) - 1)
    assert ([] if found is None else [found]) == ends
