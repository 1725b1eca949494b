"""Cut a long text into chunks that the model can read whole."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise

from embedder.common.checks import check_count
from embedder.common.records import frozen
from embedder.common.sentences import (
    first_sentence_end,
    is_attached,
    is_between_words,
    last_line_end,
    last_sentence_end,
    last_word_end,
)
from embedder.common.tokenizer_file import MAX_TOKEN_CHARACTERS
from embedder.engine.tokenizer import TextTokenizer
from embedder.errors import InputError

_SPACE = re.compile(r"\s*")
# A first guess at the number of characters of a token.
_CHARACTERS_PER_TOKEN = 8
# Read this much more than the last chunk needed.
_READ_AHEAD = 1.5
_MIN_READ = 32


@frozen
class Chunk:
    """A piece of a text.

    Attributes:
        text: the piece. It begins and ends with a character that is not white space.
        start: index of its first character in the whole text.
        end: index after its last character. `text == whole_text[start:end]`.
        token_count: number of its tokens, without special tokens and prompts.

    Example:
        >>> model.chunks("A cat. A dog.", size=3)  # doctest: +SKIP
        [Chunk(text='A cat.', start=0, end=6, token_count=3), Chunk(text='A dog.', start=7, end=13, token_count=3)]
    """

    text: str
    start: int
    end: int
    token_count: int


@frozen
class _Reading:
    """What has been read from the start of a chunk on.

    Attributes:
        starts: index of the first character of each token, in order. There are at most `size` + 1.
        stop: index of the first character that has not been read.
    """

    starts: list[int]
    stop: int

    def limit(self, count: int) -> int:
        """Return the index of the character where the first `count` tokens have ended."""
        return self.starts[count] if count < len(self.starts) else self.stop


class Chunker:
    """Cuts one text into chunks of at most `size` tokens. The memory that it needs does not depend on the text.

    Example:
        >>> [chunk.text for chunk in Chunker(tokenizer, 3, 0, ()).chunks("A cat. A dog.")]  # doctest: +SKIP
        ['A cat.', 'A dog.']
    """

    def __init__(
        self, tokenizer: TextTokenizer, size: int | None = None, overlap: int = 0, prompts: Sequence[str] = ()
    ) -> None:
        """Prepare to cut a text.

        Args:
            tokenizer: the model's tokenizer.
            size: most tokens of a chunk, without special tokens and prompts. None takes what the model can read.
            overlap: most tokens at the end of a chunk that the next chunk begins with.
            prompts: texts that may stand before a chunk. With each of them, the model can read the chunk whole.

        Raises:
            InputError: `size` or `overlap` is no whole number, or is out of range.
        """
        most = tokenizer.room - max(tokenizer.token_counts(prompts), default=0)
        _check(size, overlap, most, tokenizer.max_seq_length)
        size = int(size or most)
        self._tokenizer = tokenizer
        self._size = size
        self._overlap = int(overlap)
        self._prompts = prompts
        self._read_length = max(_MIN_READ, size * _CHARACTERS_PER_TOKEN)
        # A chunk has no more characters, even if they give no tokens.
        self._max_read_length = max(_MIN_READ, size * MAX_TOKEN_CHARACTERS)

    def chunks(self, text: str) -> Iterator[Chunk]:
        """Yield the chunks of `text`, in order. Together they have all of it but white space.

        Raises:
            InputError: a single character has more than `size` tokens.
        """
        start, end = _skip_space(text, 0), 0
        while start < len(text):
            reading = self._read(text, start)
            chunk = self._cut(text, start, end, reading)
            if chunk is None:  # what is repeated leaves no room for more
                start = _skip_space(text, end)
                reading = self._read(text, start)
                chunk = self._cut(text, start, end, reading) or self._cut_character(text, start)
            yield chunk
            end = chunk.end
            rest = _skip_space(text, end)
            start = rest if rest == len(text) else self._next_start(text, chunk)

    def _read(self, text: str, start: int) -> _Reading:
        """Tokenise as much of the text from `start` on as a chunk can have."""
        while True:
            stop = min(start + self._read_length, len(text))
            offsets = self._tokenizer.offsets(text[start:stop], self._size + 1)
            if len(offsets) > self._size or stop == len(text) or self._read_length >= self._max_read_length:
                break
            self._read_length = min(2 * self._read_length, self._max_read_length)
        starts = _starts(offsets, start)
        if len(starts) > self._size:
            self._read_length = max(_MIN_READ, int(_READ_AHEAD * (starts[-1] - start)))
        return _Reading(starts, stop)

    def _cut(self, text: str, start: int, previous_end: int, reading: _Reading) -> Chunk | None:
        """Return the chunk from `start` on, or None if it would have nothing that comes after `previous_end`.

        If possible, it has more than `overlap` tokens, so that the next chunk does not repeat all of it.
        """
        needed = max(start, _skip_space(text, previous_end))  # the chunk must have this character
        count = self._size
        while count > 0:
            limit = reading.limit(count)
            if limit <= needed:
                return None
            wanted = reading.limit(self._overlap) if self._overlap else needed
            end = _best_end(text, limit, wanted if needed < wanted < limit else needed, reading.starts)
            piece = text[start:end].rstrip()
            excess, token_count = self._measure(piece)
            if excess <= 0:
                return Chunk(piece, start, start + len(piece), token_count)
            # Alone, a piece may have more tokens than inside the text.
            count = min(count, bisect_left(reading.starts, end)) - excess
        return None

    def _measure(self, piece: str) -> tuple[int, int]:
        """Return by how many tokens a piece is too long, at most 0 if it fits; and its number of tokens."""
        room = self._tokenizer.room
        texts = [piece, *(prompt + piece for prompt in self._prompts)]
        count, *with_prompts = self._tokenizer.token_counts(texts)
        return max(count - self._size, *(longer - room for longer in [count, *with_prompts])), count

    def _cut_character(self, text: str, start: int) -> Chunk:
        """Return the single character at `start` as a chunk."""
        excess, token_count = self._measure(text[start])
        if excess > 0:
            raise InputError(
                f"size should be greater than {self._size} for this text: the character {text[start]!r} at {start} has "
                "more tokens"
            )
        return Chunk(text[start], start, start + 1, token_count)

    def _next_start(self, text: str, chunk: Chunk) -> int:
        """Return the index where the next chunk starts: up to `overlap` tokens before the end of `chunk`.

        This is the start of a sentence if possible, else of a word, else of a token.
        """
        first = chunk.token_count - self._overlap
        if self._overlap == 0 or first <= 0:
            return _skip_space(text, chunk.end)
        starts = _starts(self._tokenizer.offsets(chunk.text), chunk.start)
        # A character may have several tokens. The next chunk takes none or all of them.
        places = [place for before, place in pairwise(starts[first - 1 :]) if before < place]
        if not places:
            return _skip_space(text, chunk.end)
        left_out = text[chunk.start : places[0]].rstrip()  # a sentence may end with it
        start = first_sentence_end(text, chunk.start + len(left_out) - 1, chunk.end - 1)
        if start is None:
            words = (place for place in places if is_between_words(text, place))
            characters = (place for place in places if not is_attached(text, place))
            start = next(words, next(characters, chunk.end))
        return _skip_space(text, start)


def _check(size: int | None, overlap: int, most: int, limit: int) -> None:
    """Check the options of `Chunker`. A chunk can have at most `most` tokens."""
    if most < 1:
        raise InputError(f"the model's prompt leaves no room for a chunk: the model reads {limit:,} tokens")
    check_count("size", size)
    if size is not None and size > most:
        raise InputError(
            f"size should be at most {most:,}, not {size:,}: the model reads {limit:,} tokens, with special tokens and "
            "its prompt"
        )
    check_count("overlap", -1 if overlap is None else overlap, smallest=0)
    if overlap >= (size or most):
        raise InputError(f"overlap should be less than size, which is {size or most:,}, not {overlap:,}")


def _best_end(text: str, limit: int, after: int, starts: Sequence[int]) -> int:
    """Return where to end a chunk: the best place in (`after`, `limit`].

    This is the end of the text, of a sentence, of a line, of a word or of a token, in this order.
    """
    if limit == len(text):
        return limit
    for find in (last_sentence_end, last_line_end, last_word_end):
        end = find(text, after, limit)
        if end is not None:
            return end
    tokens = reversed(starts[: bisect_left(starts, limit + 1)])
    return next((place for place in tokens if place > after and not is_attached(text, place)), limit)


def _starts(offsets: Iterable[tuple[int, int]], start: int) -> list[int]:
    """Return the index of the first character of each token in the whole text, in order."""
    return list(accumulate((start + first for first, _ in offsets), max))


def _skip_space(text: str, start: int) -> int:
    """Return the index of the first character from `start` on that is not white space, or the length of the text."""
    match = _SPACE.match(text, start)
    assert match is not None  # the pattern matches an empty string
    return match.end()
