"""The special tokens that a tokenizer puts around each text."""

from __future__ import annotations

from typing import Any

from embedder.common.records import frozen


@frozen
class Frame:
    """The special tokens that a tokenizer puts around each text.

    Attributes:
        prefix: the token ids before the text.
        suffix: the token ids after it.
        prefix_types: the token type ids of `prefix`.
        text_type: the token type id of the text's own tokens.
        suffix_types: the token type ids of `suffix`.

    Example:
        >>> Frame((101,), (102,), (0,), 0, (0,)).suffix
        (102,)
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    prefix_types: tuple[int, ...]
    text_type: int
    suffix_types: tuple[int, ...]


def find_special(encoding: Any) -> Frame:
    """Return the special tokens around the tokens of a text, or of a pair with one empty text.

    Args:
        encoding: the library's encoding.

    Example:
        >>> find_special(tokenizer.encode("hello")).prefix  # doctest: +SKIP
        (101,)
    """
    special, types = encoding.special_tokens_mask, encoding.type_ids
    start = special.index(0) if 0 in special else len(special)
    end = len(special) - special[::-1].index(0) if 0 in special else len(special)
    return Frame(
        prefix=tuple(encoding.ids[:start]),
        suffix=tuple(encoding.ids[end:]),
        prefix_types=tuple(types[:start]),
        text_type=types[start] if start < len(types) else 0,
        suffix_types=tuple(types[end:]),
    )
