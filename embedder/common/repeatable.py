"""Items that are computed while they are read, and can be read again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


class Repeatable(Iterable[Item]):
    """An iterable that begins with the first item each time. Unlike a generator, it can be read more than once.

    Example:
        >>> items = Repeatable(lambda: iter("ab"))
        >>> list(items), list(items)
        (['a', 'b'], ['a', 'b'])
    """

    def __init__(self, start: Callable[[], Iterator[Item]]) -> None:
        """Take the function that returns a new iterator over all items."""
        self._start = start

    def __iter__(self) -> Iterator[Item]:
        return self._start()
