"""Tokenizers of strangers: what makes the library panic, abort or take minutes is an ArtifactError."""

import base64
import json

import pytest
from tokenizers import Tokenizer, models

import embedder
from embedder.common.panics import PanicError, panics_as_exceptions
from embedder.engine.tokenizer import TextTokenizer
from embedder.errors import ArtifactError, EmbedderError
from tests.tiny import redescribe, tiny_tokenizer

SLOW_PATTERN = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}
SLOW_TEXT = "x" * 60


def charsmap(trie_bytes, content):
    return base64.b64encode(trie_bytes.to_bytes(4, "little") + content).decode()


def with_charsmap(encoded):
    precompiled = {"type": "Precompiled", "precompiled_charsmap": encoded}
    return {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, precompiled]}}


def with_added_token(text):
    token = {"id": 99, "content": text, "single_word": False, "lstrip": False, "rstrip": False}
    return {"added_tokens": [{**token, "normalized": True, "special": False}]}


def grow(steps):
    step = {"type": "Replace", "pattern": {"String": "x"}, "content": "x" * 11}
    return {"type": "Sequence", "normalizers": [step] * steps}


def unigram(token):
    return {"type": "Unigram", "unk_id": 0, "vocab": [["[UNK]", 0.0], [token, -1.0]]}


@pytest.fixture
def change(tiny):
    """A function that changes the tokenizer of a tiny artifact, which it returns, with the new digest."""

    def write(fields):
        path = tiny / "tokenizer.json"
        path.write_text(json.dumps(json.loads(tiny_tokenizer().to_str()) | fields), encoding="utf-8")
        redescribe(tiny)
        return tiny

    return write


REFUSED = {
    "charsmap that announces 4 GB": (with_charsmap(charsmap(2**32 - 1, b"\0" * 64)), "that it has a trie of 4,294,967"),
    "charsmap that announces a byte too many": (with_charsmap(charsmap(65, b"\0" * 64)), "has a trie of 65 bytes"),
    "charsmap that is empty": (with_charsmap(""), "the library panicked"),
    "charsmap that is not base64": (with_charsmap("a b"), "its charsmap is not base64"),
    "charsmap that is not a string": (with_charsmap(7), "is not a tokenizer that tokenizers"),
    "long added token": (with_added_token("x" * 257), r"its added token 'x{20}'\.\.\. has 257 characters; the limit"),
    "long token": ({"model": unigram("x" * 257)}, r"its token 'x{20}'\.\.\. has 257 characters; the limit is 256"),
    "long string": (
        {"normalizer": {"type": "Prepend", "prepend": "x" * 4001}},
        "normalizer has a string of 4,001 char",
    ),
    "growing text": ({"normalizer": grow(3)}, "its normalizer can make a text more than 1,000 times longer"),
    "huge id": ({"added_tokens": [with_added_token("x")["added_tokens"][0] | {"id": 2**40}]}, "is not a tokenizer"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_refused_at_load(fault, change):
    fields, message = REFUSED[fault]
    with pytest.raises(ArtifactError, match=message):
        embedder.Embedder(change(fields))


def test_longest_added_token_that_is_accepted(change):
    token = "x" * 256
    model = embedder.Embedder(change(with_added_token(token)))
    assert model.tokenize(f"the {token} cat")["input_ids"].tolist() == [[2, 10, 35, 11, 3]]


def test_text_that_grows_within_the_limit(change):
    assert embedder.Embedder(change({"normalizer": grow(2)})).encode("a xx").shape == (8,)


def test_an_intact_file_is_checked_again_only_after_a_change(tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    tiny_tokenizer().save(str(path))
    monkeypatch.setattr("embedder.common.digests._MIN_AGE_NS", -(10**18))
    TextTokenizer(path, 16)
    with monkeypatch.context() as patch:
        patch.setattr("embedder.common.tokenizer_file._check_content", None)
        TextTokenizer(path, 16)
    path.write_text(json.dumps(json.loads(path.read_text()) | with_charsmap(charsmap(2**32 - 1, b""))))
    with pytest.raises(ArtifactError, match="says that it has a trie"):
        TextTokenizer(path, 16)


def test_dropout_is_switched_off(tmp_path):
    path = tmp_path / "tokenizer.json"
    Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")], dropout=0.5)).save(str(path))
    tokenizer = TextTokenizer(path, 16)
    assert all(tokenizer.table(["ababab"]).arrays[0].tolist() == [2, 2, 2] for _ in range(20))


@pytest.mark.parametrize("depth", [200, 100_000])
def test_deep_nesting(depth, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text('{"added_tokens":' + "[" * depth + "]" * depth + "}")
    with pytest.raises(ArtifactError, match="is not a tokenizer"):
        TextTokenizer(path, 16)


def test_name_that_is_there_twice(tmp_path):
    """The library reads both values, so one that is not checked could hide behind another."""
    path = tmp_path / "tokenizer.json"
    path.write_text('{"version": "1.0", "normalizer": 1, "normalizer": null}')
    with pytest.raises(ArtifactError, match="it has 'normalizer' twice in one object"):
        TextTokenizer(path, 16)


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b"\xff\xfe", b'{"added_tokens": [7, {"content": 7}]}', b"{}"])
def test_content_that_is_not_a_tokenizer(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="is not a tokenizer that tokenizers"):
        TextTokenizer(path, 16)


def test_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match=r"tokenizer\.json cannot be read: No such file"):
        TextTokenizer(tmp_path / "tokenizer.json", 16)


def test_special_token_that_is_not_listed(change):
    processor = json.loads(tiny_tokenizer().to_str())["post_processor"]
    model = embedder.Embedder(change({"post_processor": processor | {"special_tokens": {}}}))
    with pytest.raises(ArtifactError, match="the model's tokenizer failed: the library panicked: no entry found"):
        model.encode("a")


CALLS = {
    "encode": lambda model: model.encode(SLOW_TEXT),
    "many": lambda model: model.encode(["a", SLOW_TEXT] * 50),
    "stream": lambda model: list(model.encode_iter(iter(["a"] * 3000 + [SLOW_TEXT]))),
    "tokenize": lambda model: model.tokenize(SLOW_TEXT),
    "prompt": lambda model: model.encode("a", prompt=SLOW_TEXT),
}


@pytest.mark.parametrize("call", CALLS)
def test_panic_by_the_text_of_a_user(call, change):
    """The library gives up a pattern that backtracks too often, by a panic."""
    model = embedder.Embedder(change({"pre_tokenizer": SLOW_PATTERN}))
    with pytest.raises(ArtifactError, match="the model's tokenizer failed: the library panicked"):
        CALLS[call](model)
    assert model.encode("a").shape == (8,)


@pytest.mark.slow
def test_panic_in_a_pool(change):
    with embedder.EncoderPool(change({"pre_tokenizer": SLOW_PATTERN}), workers=2) as pool:
        with pytest.raises(EmbedderError, match="the library panicked"):
            pool.encode(["a", SLOW_TEXT])
        assert pool.encode("a").shape == (8,)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, ValueError])
def test_other_exceptions_pass(error):
    with pytest.raises(error), panics_as_exceptions():
        raise error


def test_a_panic_is_an_exception():
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
    with pytest.raises(PanicError, match="the library panicked: index out of bounds"), panics_as_exceptions():
        raise panic("index out of bounds")
