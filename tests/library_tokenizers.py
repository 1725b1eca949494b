"""Small tokenizers of the library `tokenizers`, of kinds that differ in how tokens and characters belong together."""

from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors


def byte_level() -> Tokenizer:
    """A tokenizer of bytes. A character that is not ASCII has several tokens, and white space has tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "c"), ("s", "."), ("e", "e")]
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", *alphabet, *map("".join, merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def unigram() -> Tokenizer:
    """A tokenizer that knows no words. It puts "▁" before the text, and its normaliser changes lengths."""
    pieces = ["<unk>", "▁", "▁the", "▁cat", "sat", "at", "t", "s", "a", ".", "字", "文章", "e", "ing", "fi"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(row)) for row, piece in enumerate(pieces)], unk_id=0))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("sat", "s at")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def most_read(tokenizer: Any, work: Callable[[], object]) -> int:
    """Return the most characters of a text that the library tokenises in a call, while `work` runs.

    Args:
        tokenizer: a TextTokenizer.
        work: uses the tokenizer.
    """
    read: list[int] = []
    inner = tokenizer._tokenizer

    class Spy:
        def __getattr__(self, name: str) -> Any:
            function = getattr(inner, name)

            def call(*texts: str | list[str], **options: object) -> Any:
                read.extend(len(text) if isinstance(text, str) else max(map(len, text)) for text in texts)
                return function(*texts, **options)

            return call

    tokenizer._tokenizer = Spy()
    try:
        work()
    finally:
        tokenizer._tokenizer = inner
    return max(read)
