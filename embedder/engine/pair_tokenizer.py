"""Turn pairs of texts into token ids.

The library could do this too. But where it cuts a pair, it makes an encoding for each pair of the parts that it cuts
off: 18 GB for two long texts. And it tokenises a query again for each of its documents. So each side is tokenised
alone, equal texts once, and the sides are cut and joined here, as the library does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from embedder.common.checks import shown
from embedder.common.records import frozen
from embedder.engine.frame import find_special
from embedder.engine.token_table import Tokens
from embedder.engine.tokenizer import TextTokenizer
from embedder.errors import ArtifactError, InputError
from embedder.inputs import Pair

# A tokenizer has a token for one of these texts. The special tokens around it show where those of a pair are.
_PROBES = ("a", "1", ".", "é", "字")


@frozen
class _PairFrame:
    """The special tokens that a tokenizer puts around and between the two texts of a pair.

    Attributes:
        special: the token ids before, between and after the texts.
        special_types: the token type ids of `special`.
        text_types: the token type ids of the two texts' own tokens.
    """

    special: tuple[NDArray[np.int64], ...]
    special_types: tuple[NDArray[np.int64], ...]
    text_types: tuple[int, int]

    def types(self, first_count: int, second_count: int) -> NDArray[np.int64]:
        """Return the token type ids of a pair whose texts have these numbers of tokens."""
        before, between, after = self.special_types
        first, second = (
            np.full(count, kind) for count, kind in zip((first_count, second_count), self.text_types, strict=True)
        )
        return np.concatenate((before, first, between, second, after))


class _Side:
    """A text of some pairs. Counting its tokens may take long, and is done once.

    Attributes:
        text: the text.
        ids: its token ids up to the limit, without special tokens, int64 (tokens,).
        has_more: whether it has more tokens.
    """

    def __init__(self, tokenizer: TextTokenizer, text: str, ids: NDArray[np.int64], has_more: bool) -> None:
        self.text = text
        self.ids = ids
        self.has_more = has_more
        self._tokenizer = tokenizer

    @cached_property
    def count(self) -> int:
        """Number of all its tokens."""
        from embedder.engine.token_counts import count_tokens  # here, as few pairs need it

        return int(count_tokens(self._tokenizer, [self.text])[0])


class PairTokenizer:
    """Tokenises pairs of texts. Safe to call from many threads.

    Example:
        >>> tokenizer = PairTokenizer(TextTokenizer(Path("tokenizer.json"), 512, pairs=True))  # doctest: +SKIP
        >>> [(tokens, cut)] = tokenizer.tokenize([Pair("a cat", "a dog")])  # doctest: +SKIP
        >>> tokens[0]  # doctest: +SKIP
        array([ 101, 1037, 4937,  102, 1037, 3899,  102])
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        """Take the tokenizer of texts, which was made for pairs."""
        self._tokenizer = tokenizer

    def tokenize(self, pairs: Sequence[Pair]) -> Iterator[tuple[Tokens, bool]]:
        """Yield the token ids and the token type ids of each pair, and whether the pair has more tokens than the limit.

        The token ids include special tokens. Tokens that are too many are taken from the end of the longer text.

        Raises:
            InputError: a pair has no token, not even a special one.
            ArtifactError: the tokenizer has a fault that shows only in use, or joins texts in an unknown way.
        """
        sides = self._sides(dict.fromkeys(text for pair in pairs for text in (pair.first, pair.second)))
        for pair in pairs:
            yield self._join(self._frame, sides[pair.first], sides[pair.second])

    def _sides(self, texts: Iterable[str]) -> dict[str, _Side]:
        texts = list(texts)
        found = zip(texts, self._tokenizer.first_tokens(texts), strict=True)
        return {text: _Side(self._tokenizer, text, ids, has_more) for text, (ids, has_more) in found}

    def _join(self, frame: _PairFrame, first: _Side, second: _Side) -> tuple[Tokens, bool]:
        room = self._tokenizer.room
        # One token stands for all after the limit. This is enough to find the longer text, unless both have more.
        counts = (len(first.ids) + first.has_more, len(second.ids) + second.has_more)
        if first.has_more and second.has_more and room % 2:  # the text that is longer gets the odd token
            counts = (first.count, second.count)
        kept = cut_longest_first(*counts, room)
        before, between, after = frame.special
        ids = np.concatenate((before, first.ids[: kept[0]], between, second.ids[: kept[1]], after))
        if not len(ids):
            raise InputError(
                f"the pair {shown(first.text)} and {shown(second.text)} has no tokens, so that it gets no score"
            )
        return (ids, frame.types(min(counts[0], kept[0]), min(counts[1], kept[1]))), sum(counts) > room

    @cached_property
    def _frame(self) -> _PairFrame:
        probe = next((text for text in _PROBES if any(self._tokenizer.token_counts([text]))), "")
        # A text without tokens takes no room, so that these pairs are not cut, whatever the limit.
        first = find_special(self._tokenizer.encode_pair(probe, ""))
        second = find_special(self._tokenizer.encode_pair("", probe))
        before = len(first.prefix)
        special = _arrays(first.prefix, second.prefix[before:], second.suffix)
        frame = _PairFrame(
            special=special,
            special_types=_arrays(first.prefix_types, second.prefix_types[before:], second.suffix_types),
            text_types=(first.text_type, second.text_type),
        )
        if not probe or sum(map(len, special)) != self._tokenizer.special_count or not self._fits(frame, probe):
            raise ArtifactError(
                "the model's tokenizer joins the two texts of a pair in a way that this version does not know, so that "
                "it cannot run the model"
            )
        return frame

    def _fits(self, frame: _PairFrame, probe: str) -> bool:
        """Return whether the library joins two texts as `_join` does. It could swap them, or repeat one."""
        texts = (probe, f"{probe} {probe}")
        (ids, types), _ = self._join(frame, *self._sides(texts).values())
        expected = self._tokenizer.encode_pair(*texts)
        return (ids.tolist(), types.tolist()) == (expected.ids, expected.type_ids)


def cut_longest_first(first_count: int, second_count: int, room: int) -> tuple[int, int]:
    """Return how many tokens of the two texts of a pair to keep, at most.

    Tokens are taken from the longer text until the pair fits, or both texts have the same length. The texts then get
    half of the room each, the longer one with the odd token. The second text counts as the longer one of two equal
    ones.

    Args:
        first_count: number of tokens of the first text.
        second_count: number of tokens of the second text.
        room: most tokens of both texts together.

    Example:
        >>> cut_longest_first(3, 20, 11), cut_longest_first(20, 9, 11), cut_longest_first(9, 9, 11)
        ((3, 8), (6, 5), (5, 6))
    """
    shorter = min(first_count, second_count)
    longer = max(shorter, room - shorter)
    if shorter + longer > room:
        shorter = room // 2
        longer = room - shorter
    return (longer, shorter) if first_count > second_count else (shorter, longer)


def _arrays(*rows: tuple[int, ...]) -> tuple[NDArray[np.int64], ...]:
    return tuple(np.array(row, np.int64) for row in rows)
