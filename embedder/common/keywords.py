"""Refuse the keywords that a function does not take, with a hint, where Python would raise a bare TypeError."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from embedder.errors import InputError

_Function = TypeVar("_Function", bound=Callable[..., Any])


def refuse_keywords(name: str, hints: Mapping[str, str]) -> Callable[[_Function], _Function]:
    """Return a decorator. Its function raises InputError for keywords that it does not take. Its signature is the same.

    Args:
        name: what messages call the function.
        hints: what to do instead, by the keyword.

    Example:
        >>> @refuse_keywords("load", {"colour": "pass paint= instead"})
        ... def load(path, *, paint=None):
        ...     return paint
        >>> load("a", colour=3)
        Traceback (most recent call last):
        ...
        embedder.errors.InputError: load has no option 'colour': pass paint= instead
    """

    def decorate(function: _Function) -> _Function:
        code = function.__code__
        positional = code.co_argcount
        accepted = code.co_varnames[code.co_posonlyargcount : positional + code.co_kwonlyargcount]
        options = ", ".join(code.co_varnames[positional : positional + code.co_kwonlyargcount])

        @functools.wraps(function)
        def checked(*args: Any, **keywords: Any) -> Any:
            for keyword in keywords:
                if keyword not in accepted:
                    raise InputError(f"{name} has no option {keyword!r}: {hints.get(keyword, f'known are {options}')}")
            return function(*args, **keywords)

        return cast(_Function, checked)

    return decorate
