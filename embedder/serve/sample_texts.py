"""Texts of mixed lengths to measure a server with."""

from __future__ import annotations

import random

_SUBJECTS = (
    *("The library", "A young engineer", "The harbour", "Our neighbour", "The orchestra", "A small company"),
    *("The night train", "A careful reader", "The old bridge", "The research group", "A customer", "The village"),
    *("The bakery", "A retired teacher", "The weather service", "The football club", "A visitor", "The hospital"),
)
_VERBS = (
    *("opens", "repairs", "describes", "measures", "sells", "paints", "protects", "translates", "explores", "plans"),
    *("remembers", "compares", "delivers", "celebrates", "questions", "improves", "collects", "replaces", "studies"),
)
_OBJECTS = (
    *("an early map of the coast", "the report of last year", "a box of wooden toys", "three kinds of apples"),
    *("the price of electricity", "a long letter", "the new timetable", "its oldest photographs", "a lemon cake"),
    *("the rules of the game", "a telescope", "the results of the vote", "a song about the sea", "the broken window"),
    *("an order that never arrived", "the history of glass", "a garden with tall trees", "the program of the machine"),
)
_ENDINGS = (
    *("in the morning", "without much noise", "for the first time", "after the storm", "with great patience"),
    *("because nobody else does", "before the shops close", "on the other side of the valley", "once a week"),
    *("for less money than before", "while it rains", "as the contract demands", "in two languages", "until winter"),
)
# How many sentences a text has, and how often. Most texts are short, as in real use, and a few are long.
_SENTENCE_COUNTS, _WEIGHTS = (1, 2, 4, 8, 20), (50, 20, 15, 10, 5)
_SEED = 19


def sample_texts(count: int) -> list[str]:
    """Return `count` texts in English, from one to twenty sentences long. The texts are the same each time.

    Example:
        >>> len(set(sample_texts(100)))
        100
    """
    choices = random.Random(_SEED)
    return [" ".join(_sentence(choices) for _ in range(length)) for length in _lengths(choices, count)]


def _lengths(choices: random.Random, count: int) -> list[int]:
    return choices.choices(_SENTENCE_COUNTS, _WEIGHTS, k=count)


def _sentence(choices: random.Random) -> str:
    return " ".join(choices.choice(words) for words in (_SUBJECTS, _VERBS, _OBJECTS, _ENDINGS)) + "."
