"""Check options. Each error names the option, the value and what is accepted."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from embedder.errors import InputError

_MAX_SHOWN_CHARACTERS = 80
_SURROGATE = re.compile("[\ud800-\udfff]")


def shown(value: object) -> str:
    """Return the text that stands for `value` in a message, at most 80 characters long. Never raises.

    Example:
        >>> shown("a text")
        "'a text'"
    """
    try:
        return repr(value)[:_MAX_SHOWN_CHARACTERS]
    except Exception:  # the caller's object may raise any error
        return f"<{type(value).__name__}>"


def find_surrogate(text: str) -> re.Match[str] | None:
    """Return the first lone surrogate of `text`, or None. A text with one is not valid Unicode.

    Example:
        >>> find_surrogate("a" + chr(0xD800)).start()
        1
    """
    return _SURROGATE.search(text)


def check_text(text: str, name: str) -> None:
    """Raise InputError if `text` is not valid Unicode. The message calls the text `name`.

    Example:
        >>> check_text("a text", "texts[0]")
    """
    if not text.isascii() and (found := find_surrogate(text)):
        raise InputError(
            f"{name} is not valid Unicode: it contains the lone surrogate U+{ord(found[0]):04X} at character "
            f'{found.start()}. text.encode("utf-8", "replace").decode() replaces it'
        )


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Raise InputError unless `value` is one of `known`.

    Example:
        >>> check_choice("precision", "int8", ("float32", "int8"))
    """
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name} should be one of {', '.join(known)}, not {shown(value)}")


def check_count(name: str, value: object, largest: int | None = None, *, smallest: int = 1) -> None:
    """Raise InputError unless `value` is None or a whole number from `smallest` to `largest`.

    Example:
        >>> check_count("batch_size", 8)
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if value is None or (whole and value >= smallest and (largest is None or value <= largest)):  # type: ignore[operator]
        return
    upper = f" and at most {largest}" if largest else ""
    raise InputError(f"{name} should be a whole number, at least {smallest}{upper}, not {shown(value)}")


def check_counts(**counts: object) -> None:
    """Raise InputError unless each of `counts` is a whole number of at least 1. None is refused.

    Example:
        >>> check_counts(top_k=10, batch_size=8)
    """
    for name, value in counts.items():
        check_count(name, 0 if value is None else value)


def check_flag(name: str, value: object) -> None:
    """Raise InputError unless `value` is True or False.

    Example:
        >>> check_flag("normalize_embeddings", True)
    """
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} should be True or False, not {shown(value)}")


def check_number(name: str, value: object, expected: str = "a number") -> None:
    """Raise InputError unless `value` is a real number other than NaN. The message contains `expected`.

    Example:
        >>> check_number("threshold", 0.5)
    """
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or value != value:  # only NaN differs from itself
        raise InputError(f"{name} should be {expected}, not {shown(value)}")


def check_function(name: str, value: object) -> None:
    """Raise InputError unless `value` can be called.

    Example:
        >>> check_function("score_function", print)
    """
    if not callable(value):
        raise InputError(f"{name} should be a function, such as embedder.cos_sim, not {shown(value)}")


def read_assignments(name: str, text: str) -> dict[str, str]:
    """Return the values of a text such as "a=1,b=2" by their names.

    Raises:
        InputError: a part has no "=". The message calls the text `name`.

    Example:
        >>> read_assignments("provider_options", "gpu_mem_limit=4000000000,use_tf32=0")
        {'gpu_mem_limit': '4000000000', 'use_tf32': '0'}
    """
    values = {}
    for part in text.split(","):
        key, separator, value = part.partition("=")
        if not separator:
            raise InputError(f"{name} should be NAME=VALUE, or several of them with commas between, not {shown(text)}")
        values[key.strip()] = value.strip()
    return values
