"""Count the tokens of texts of any length, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from embedder.common.records import frozen
from embedder.common.tokenizer_file import MAX_TOKEN_CHARACTERS
from embedder.engine.tokenizer import TextTokenizer

# Most texts in one call of the library, and most characters. It needs up to 500 bytes of memory for a character.
_MAX_TEXTS = 64
_WINDOW_CHARACTERS = 65_536
# Two windows of a longer text have about this many characters in common.
_COMMON_CHARACTERS = 4096
# A window grows up to this length until its tokens agree with those of the next one.
_MAX_WINDOW_CHARACTERS = 1_000_000


@frozen
class _Window:
    """A part of a long text.

    Attributes:
        start: index of its first character.
        stop: index after its last character.
        offsets: the first character of each token and the one after its last, int64 (tokens, 2).
    """

    start: int
    stop: int
    offsets: NDArray[np.int64]

    def tokens(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the offsets of the tokens whose first character is in [`start`, `stop`)."""
        first = self.offsets[:, 0]
        return self.offsets[(first >= start) & (first < stop)]


def count_tokens(tokenizer: TextTokenizer, texts: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of tokens of each text, int64 (texts,), with special tokens and without the limit.

    Raises:
        ArtifactError: the tokenizer has a fault that shows only in use.

    Example:
        >>> count_tokens(tokenizer, ["hello world", ""]).tolist()  # doctest: +SKIP
        [4, 2]
    """
    counts = np.empty(len(texts), np.int64)
    for rows in _parts(texts):
        first = texts[rows.start]
        if len(first) > _WINDOW_CHARACTERS:
            counts[rows] = _count_long(tokenizer, first)
        else:
            counts[rows] = tokenizer.token_counts(texts[rows])
    return counts + tokenizer.special_count


def _parts(texts: Sequence[str]) -> Iterator[slice]:
    """Yield slices of texts that fit into one call of the library. A longer text is alone in its slice."""
    start = characters = 0
    for row, text in enumerate(texts):
        characters += len(text)
        if row > start and (row - start == _MAX_TEXTS or characters > _WINDOW_CHARACTERS):
            yield slice(start, row)
            start, characters = row, len(text)
    if start < len(texts):
        yield slice(start, len(texts))


def _count_long(tokenizer: TextTokenizer, text: str) -> int:
    """Return the number of tokens of a text that is longer than a window.

    A token depends on the text around it, but not on text that is far away. So the text is read in windows, each of
    which begins before the end of the one before. Where the tokens of the two agree, the count goes on in the next one.
    """
    window, counted, total = _read(tokenizer, text, 0, _WINDOW_CHARACTERS), 0, 0
    while window.stop < len(text):
        following = _read(tokenizer, text, _next_start(window), _WINDOW_CHARACTERS)
        # At both ends of a window, tokens may differ from those of the whole text.
        place, end = following.start + _COMMON_CHARACTERS // 2, window.stop - MAX_TOKEN_CHARACTERS
        agree = np.array_equal(window.tokens(place, end), following.tokens(place, end))
        if not agree and window.stop - window.start < _MAX_WINDOW_CHARACTERS:
            window = _read(tokenizer, text, window.start, 2 * (window.stop - window.start))
            continue
        total += len(window.tokens(counted, place))
        window, counted = following, place
    return total + len(window.tokens(counted, window.stop + 1))


def _read(tokenizer: TextTokenizer, text: str, start: int, length: int) -> _Window:
    stop = min(start + length, len(text))
    offsets = np.array(tokenizer.offsets(text[start:stop]), np.int64).reshape(-1, 2)
    return _Window(start, stop, offsets + start)


def _next_start(window: _Window) -> int:
    """Return where the next window starts: at the start of a token, if there is one near."""
    wanted = window.stop - _COMMON_CHARACTERS
    near = window.tokens(wanted - MAX_TOKEN_CHARACTERS, wanted + 1)
    return int(near[-1, 0]) if len(near) else wanted
