"""A lock that many readers can hold at the same time, or one writer alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from embedder.common.forks import renew_after_fork


class ReadWriteLock:
    """A lock for many readers or one writer. Other callers wait. In a forked process nobody holds the lock at first.

    Example:
        >>> lock = ReadWriteLock()
        >>> with lock.read():
        ...     "other readers may come, writers wait"
        'other readers may come, writers wait'
    """

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the lock free after a fork: a thread of the parent may have held it."""
        self._state = _State()

    @contextmanager
    def read(self) -> Iterator[None]:
        """Hold the lock as a reader."""
        state = self._state
        with state.changed:
            state.changed.wait_for(lambda: not state.writing)
            state.readers += 1
        try:
            yield
        finally:
            with state.changed:
                state.readers -= 1
                state.changed.notify_all()

    @contextmanager
    def write(self) -> Iterator[None]:
        """Hold the lock as the writer, alone."""
        state = self._state
        with state.changed:
            state.changed.wait_for(lambda: not state.writing and not state.readers)
            state.writing = True
        try:
            yield
        finally:
            with state.changed:
                state.writing = False
                state.changed.notify_all()


class _State:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.readers = 0
        self.writing = False
