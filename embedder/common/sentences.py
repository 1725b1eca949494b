"""Find the places where a text is best cut: after a sentence, a line or a word.

The rules are for texts in any language. They need no dictionary, so they are sometimes wrong: "approx. Five" is cut.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# A mark that may end a sentence, with the quotes and brackets that close after it; or an empty line.
_ENDS = re.compile(
    r"(?P<mark>[.!?\u2026\u037e\u0589\u061f\u06d4\u0964\u0965\u1362\u1367\u104b\u17d4\u203c\u2047-\u2049"
    r"\u3002\uff01\uff0e\uff1f\uff61]+)"
    r"[\"')\]}\u00bb\u2019\u201d\u203a\u300b\u300d\u300f\u3011\uff09*_`]*"
    r"|(?=\n[^\S\n]*\n)"
)
# After these marks, a sentence ends without white space.
_CJK_MARKS = frozenset("\u3002\uff01\uff0e\uff1f\uff61")
# Words that are mostly followed by more of their sentence. A single letter is one too, such as an initial.
_ABBREVIATIONS = frozenset(
    (
        *("abb", "bd", "bzw", "ca", "cf", "co", "corp", "dept", "dr", "ed", "eds", "eq", "etc", "fig", "gen", "gov"),
        *("hr", "inc", "jr", "lt", "ltd", "mr", "mrs", "ms", "no", "nr", "op", "pp", "prof", "ref", "rev", "sec"),
        *("sen", "sr", "st", "str", "usw", "vgl", "vol", "vs"),
    )
)
# What begins a line and is no sentence: the number of an item of a list, and a heading of Markdown.
_ITEM_NUMBER = re.compile(r"(?:^|\n)[^\S\n]*(?:\d{1,3}|[A-Za-z])\Z")
_HEADING = re.compile(r"(?:^|\n)#{1,6} [^\n]*\Z")
_MAX_HEADING = 200
_LAST_WORD = re.compile(r"(?:[^\W\d_]\.)*(?:[^\W\d_]+|\b\d{1,2})\Z")
# Characters that are looked at around a mark.
_LOOK_AHEAD = 16
# Scripts without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, and those of Chinese and Japanese.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3040-\u30ff\u3100-\u312f\u31a0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
# Categories of Unicode that belong to the character before: combining marks, closing brackets and quotes, marks such
# as commas, and invisible characters such as the joiner of an emoji.
_ATTACHED = frozenset(("Mn", "Mc", "Me", "Pe", "Pf", "Po", "Cf"))
# Joins two emojis to one.
_JOINER = "\u200d"


def last_sentence_end(text: str, after: int, limit: int) -> int | None:
    """Return the last position in (`after`, `limit`] where a sentence ends, or None. An empty line ends a sentence.

    A mark that a lower-case letter follows, and the point of an abbreviation, count only if there is no other.

    Example:
        >>> last_sentence_end("Dr. Hall sat. Then she left the room.", 0, 20)
        13
    """
    found = list(_sentence_ends(text, after, limit))
    sure = [end for end, is_sure in found if is_sure]
    return sure[-1] if sure else found[-1][0] if found else None


def first_sentence_end(text: str, after: int, limit: int) -> int | None:
    """Return the first position in (`after`, `limit`] where a sentence surely ends, or None.

    Example:
        >>> first_sentence_end("Dr. Hall sat. Then she left the room.", 0, 20)
        13
    """
    return next((end for end, is_sure in _sentence_ends(text, after, limit) if is_sure), None)


def _sentence_ends(text: str, after: int, limit: int) -> Iterator[tuple[int, bool]]:
    """Yield each position in (`after`, `limit`] where a sentence may end, and whether it surely does."""
    for match in _ENDS.finditer(text, after, limit + _LOOK_AHEAD):
        mark, end = match["mark"], match.end()
        if not after < end <= limit:
            continue
        if mark is None:  # a heading belongs to what follows
            yield end, _HEADING.search(text[max(0, end - _MAX_HEADING) : end]) is None
        elif mark[-1] in _CJK_MARKS or end == len(text):
            yield end, True
        elif text[end].isspace():
            following = text[end : end + _LOOK_AHEAD].lstrip()
            before = text[max(0, match.start() - _LOOK_AHEAD) : match.start()]
            if mark == "." and _ITEM_NUMBER.search(before):
                continue
            yield end, not (following[:1].islower() or (mark == "." and _is_abbreviated(before)))


def _is_abbreviated(before: str) -> bool:
    """Return whether the text before a point ends with an abbreviation, an initial or a number of one or two digits."""
    word = _LAST_WORD.search(before)
    if word is None:
        return False
    letters = word[0].lower()
    return len(letters) == 1 or "." in letters or letters.isdigit() or letters in _ABBREVIATIONS


def last_line_end(text: str, after: int, limit: int) -> int | None:
    r"""Return the last position in (`after`, `limit`] that a line break follows, or None.

    Example:
        >>> last_line_end("one\ntwo\nthree", 0, 9)
        7
    """
    found = text.rfind("\n", after + 1, limit + 1)
    return None if found < 0 else found


def last_word_end(text: str, after: int, limit: int) -> int | None:
    """Return the last position in (`after`, `limit`] between two words, or None.

    Example:
        >>> last_word_end("one two three", 0, 9)
        8
    """
    return next((place for place in range(limit, after, -1) if is_between_words(text, place)), None)


def is_between_words(text: str, place: int) -> bool:
    """Return whether two words, or a word and an end of the text, meet at `place`.

    In scripts that have no spaces, any two characters count as words, but not a character and its combining mark.

    Example:
        >>> is_between_words("one two", 4), is_between_words("one two", 5)
        (True, False)
    """
    if place in (0, len(text)) or text[place].isspace() or text[place - 1].isspace():
        return True
    unspaced = _UNSPACED.match(text[place - 1]) or _UNSPACED.match(text[place])
    return unspaced is not None and not is_attached(text, place)


def is_attached(text: str, place: int) -> bool:
    r"""Return whether the character at `place` belongs to the one before, as a combining mark or a comma does.

    Example:
        >>> is_attached("ne\u0301e", 2)
        True
    """
    character = text[place]
    skin_tone = "\U0001f3fb" <= character <= "\U0001f3ff"
    return skin_tone or unicodedata.category(character) in _ATTACHED or text[place - 1] == _JOINER
