"""Split the texts of pairs at white space, as transformers 5 does for some classes of tokenizers."""

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import Metaspace, Sequence, WhitespaceSplit


def split_at_white_space(backend: Tokenizer) -> None:
    """Let `backend` split a text at white space before it marks the beginnings of words.

    transformers 4 saved only the marks. With them alone, a space at the end of a text is a token of its own.

    Example:
        >>> backend = Tokenizer.from_file("xlm-roberta-base/tokenizer.json")  # doctest: +SKIP
        >>> split_at_white_space(backend)  # doctest: +SKIP
        >>> backend.encode("word ", add_special_tokens=False).tokens  # doctest: +SKIP
        ['▁word']
    """
    if isinstance(backend.pre_tokenizer, Metaspace):
        marks = Metaspace(replacement=backend.pre_tokenizer.replacement, prepend_scheme="always")
        backend.pre_tokenizer = Sequence([WhitespaceSplit(), marks])
