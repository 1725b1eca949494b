"""Make an object when it is first needed, once for all threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from embedder.common.forks import renew_after_fork

_T = TypeVar("_T")


class LoadOnce(Generic[_T]):
    """Holds what `make` returns. Safe to share between threads, and after a fork.

    Example:
        >>> table = LoadOnce(lambda: list(range(3)))
        >>> table.get()
        [0, 1, 2]
    """

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._made: list[_T] = []
        self.renew()
        renew_after_fork(self)

    def get(self) -> _T:
        """Return the object. The first caller makes it, the others wait. If `make` raises, the next call tries it."""
        if not self._made:
            with self._lock:
                if not self._made:
                    self._made.append(self._make())
        return self._made[0]

    @property
    def made(self) -> _T | None:
        """The object if it has been made, else None."""
        return self._made[0] if self._made else None

    def renew(self) -> None:
        """Make the lock anew, as a thread of the parent may have held it during a fork."""
        self._lock = threading.Lock()
