"""What callers give: checked before anything is encoded, with errors that name the culprit."""

import re
from collections.abc import Iterable, Iterator, Mapping, Set

import numpy as np

from embedder.errors import InputError

_SURROGATE = re.compile("[\ud800-\udfff]")


def checked_list(texts: str | Iterable[str]) -> list[str]:
    """`texts`, or the one text, as a list; InputError if one is none."""
    return list(checked_texts([texts] if isinstance(texts, str) else texts))


def checked_texts(texts: Iterable[str]) -> Iterator[str]:
    """`texts` one by one; InputError at once if they are no iterable of texts, and for a text when its turn comes."""
    # Iterating bytes gives numbers, a mapping its keys, a set no order: none can be meant.
    try:
        iterator = None if isinstance(texts, bytes | bytearray | Mapping | Set) else iter(texts)
    except TypeError:
        iterator = None
    if iterator is None:
        raise InputError(f"texts should be a string or an iterable of strings, not {type(texts).__name__}")
    return (_checked_text(index, text) for index, text in enumerate(iterator))


def _checked_text(index: int, text: object) -> str:
    if not isinstance(text, str):
        raise InputError(f"texts[{index}] should be a string, not {type(text).__name__}: {text!r:.80}")
    if not text.isascii() and (found := _SURROGATE.search(text)):
        raise InputError(
            f"texts[{index}] is not valid Unicode: it holds the lone surrogate U+{ord(found[0]):04X} at character "
            f'{found.start()}. text.encode("utf-8", "replace").decode() replaces it'
        )
    return text


def check_prompt(prompt: object) -> None:
    """Raise InputError unless `prompt` is a text."""
    if not isinstance(prompt, str) or _SURROGATE.search(prompt):
        raise InputError(f"prompt should be a string of valid Unicode, not {prompt!r:.80}")


def check_count(name: str, value: object, most: int | None = None) -> None:
    """Raise InputError unless `value` is None or a whole number from 1 to `most`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if value is None or (whole and value >= 1 and (most is None or value <= most)):  # type: ignore[operator]
        return
    upper = f" and at most {most}" if most else ""
    raise InputError(f"{name} should be a whole number, at least 1{upper}, not {value!r}")
