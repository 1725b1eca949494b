"""Make an object when it is first needed, and only once for all threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from embedder.common.forks import renew_after_fork

_T = TypeVar("_T")


class LoadOnce(Generic[_T]):
    """Calls `make` once and keeps the result. Safe to share between threads, and after a fork.

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
        """Return the object. The first caller makes it, others wait. If `make` raises, the next call tries again."""
        if not self._made:
            with self._lock:
                if not self._made:
                    self._made.append(self._make())
        return self._made[0]

    def renew(self) -> None:
        """Replace the lock after a fork: a thread of the parent may have held it."""
        self._lock = threading.Lock()
