"""Describe what is wrong with the values of a JSON request. Each surface raises its own error with the message."""

from __future__ import annotations

from collections.abc import Collection, Mapping

_MAX_KEYS_SHOWN = 3
_MAX_CHARACTERS_SHOWN = 40
_JSON_NAMES = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a string"}


def wrong_value(name: str, expected: str, value: object) -> str:
    """Return the message for a value of a wrong type, or out of range.

    Example:
        >>> wrong_value("inputs", "a list of strings", 3)
        'inputs should be a list of strings, not 3'
    """
    return f"{name} should be {expected}, not {shown_value(value)}"


def wrong_choice(name: str, value: object, known: Collection[str]) -> str | None:
    """Return the message for a value that is none of `known`; None if it is one.

    Example:
        >>> wrong_choice("task", "search", ("query", "document"))
        'task should be "query" or "document", not "search"'
    """
    if isinstance(value, str) and value in known:
        return None
    return wrong_value(name, " or ".join(f'"{choice}"' for choice in known), value)


def unknown_keys(keys: Collection[object], known: Collection[str], hints: Mapping[str, str]) -> str | None:
    """Return the message for keys that are not in `known`; None if all are.

    Args:
        keys: the keys of the request.
        known: the keys that it may have.
        hints: what to do instead, by unknown key.

    Example:
        >>> unknown_keys(["text"], ["inputs"], {"text": 'the texts belong under "inputs"'})
        'unknown key "text": the texts belong under "inputs". The keys are inputs'
    """
    unknown = [key for key in keys if key not in known]
    if not unknown:
        return None
    names = ", ".join(map(shown_value, unknown[:_MAX_KEYS_SHOWN]))
    more = f" and {len(unknown) - _MAX_KEYS_SHOWN} more" if len(unknown) > _MAX_KEYS_SHOWN else ""
    hint = next((f": {hints[key]}" for key in unknown if isinstance(key, str) and key in hints), "")
    return f"unknown key{'s' if unknown[1:] else ''} {names}{more}{hint}. The keys are {', '.join(known)}"


def shown_value(value: object) -> str:
    """Return `value` as a short text of JSON, or the name of its type where it may be long.

    Example:
        >>> shown_value("a text"), shown_value([1, 2])
        ('"a text"', 'a list')
    """
    if isinstance(value, str):
        cut = value[:_MAX_CHARACTERS_SHOWN].encode("utf-8", "replace").decode()
        return f'"{cut}{"..." if len(value) > _MAX_CHARACTERS_SHOWN else ""}"'
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15:
        return repr(value)
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return _JSON_NAMES.get(type(value), type(value).__name__)
