"""Find the words that are typical of a group of texts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

# Letters and digits of any script, with apostrophes and hyphens inside.
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_MAX_CHARACTERS_READ = 2000
# Scripts without spaces give whole sentences as words.
_MAX_WORD_CHARACTERS = 24
_MIN_WORD_CHARACTERS = 4
# A word in fewer texts of a group is not typical of it.
_MIN_TEXTS = 2


def keywords(texts: Sequence[str], groups: Sequence[Sequence[int]], count: int) -> list[list[str]]:
    """Return up to `count` words for each group of texts: words that many texts in it have, and few others.

    A word counts once in a text. It is scored by the number of the group's texts that have it, times the squared
    logarithm of how rare it is among all texts. So no list of common words is needed, in any language. Upper and lower
    case are the same. Words of fewer than four letters are left out.

    Args:
        texts: all texts.
        groups: the rows of each group.
        count: the largest number of words for a group.

    Example:
        >>> keywords(["cats purr", "cats sleep", "rain falls", "rain pours"], [[0, 1], [2, 3]], 1)
        [['cats'], ['rain']]
    """
    words = [_words(text) for text in texts]
    text_counts = Counter(word for found in words for word in found)
    return [_best([words[row] for row in group], text_counts, len(texts))[:count] for group in groups]


def _words(text: str) -> set[str]:
    found = _WORD.findall(text[:_MAX_CHARACTERS_READ].lower())
    return {word for word in found if _MIN_WORD_CHARACTERS <= len(word) <= _MAX_WORD_CHARACTERS and not word.isdigit()}


def _best(group: list[set[str]], text_counts: Counter[str], count: int) -> list[str]:
    """Return the words of a group, the most typical first. Words of texts that are nearly all alike have no score."""
    inside = Counter(word for words in group for word in words)
    scores = {
        word: times * math.log(count / text_counts[word]) ** 2 for word, times in inside.items() if times >= _MIN_TEXTS
    }
    return sorted((word for word, score in scores.items() if score > 0), key=lambda word: (-scores[word], word))
