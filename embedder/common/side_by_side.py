"""Run two functions at the same time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TypeVar

_A = TypeVar("_A")
_B = TypeVar("_B")


def side_by_side(first: Callable[[], _A], second: Callable[[], _B]) -> tuple[_A, _B]:
    """Return `first()` and `second()`. Another thread runs `first`, while this one runs `second`.

    `first` may wait for `second`: if no thread can start, `second` runs before `first`. If both raise, the error of
    `second` is raised.

    Example:
        >>> side_by_side(lambda: 1, lambda: 2)
        (1, 2)
    """
    results: list[_A] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(first())
        except BaseException as error:
            errors.append(error)

    if sys.is_finalizing():  # other threads do not run any more
        return _in_turn(first, second)
    thread = threading.Thread(target=run, name="embedder", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is shutting down, or the system has no more threads
        return _in_turn(first, second)
    try:
        result = second()
    finally:
        thread.join()
    if errors:
        raise errors.pop()  # an error that stays in a local variable of its own traceback is not freed
    return results[0], result


def _in_turn(first: Callable[[], _A], second: Callable[[], _B]) -> tuple[_A, _B]:
    result = second()
    return first(), result
