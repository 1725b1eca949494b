"""Calls of native code that must have returned before the interpreter ends.

When the interpreter ends, it ends each daemon thread that returns from native code. Before Python 3.14, this unwinds
the stack of the thread. The C++ of onnxruntime does not allow that: it aborts the process. So at exit, the interpreter
waits for such calls, and other threads begin no new ones. tokenizers does not need this.
"""

from __future__ import annotations

import threading
import time

from embedder.common.forks import renew_after_fork

# How often to look whether a call is still running. Calls take milliseconds.
_POLL_S = 0.002


class NativeCalls:
    """Counts the calls that are running in `with` statements. Safe to share between threads.

    Example:
        >>> calls = NativeCalls()
        >>> with calls:
        ...     sorted([2, 1])
        [1, 2]
    """

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget the calls after a fork: their threads exist only in the parent."""
        self._running: list[None] = []  # appending and popping are atomic, and faster than a number with a lock
        self._exit_thread: int | None = None
        self._wait_s = 0.0

    def __enter__(self) -> None:
        self._running.append(None)
        if self._exit_thread not in (None, threading.get_ident()):
            self._running.pop()
            # A function that runs at exit may wait for this thread, so the wait has an end.
            threading.Event().wait(self._wait_s)
            self._running.append(None)

    def __exit__(self, *error: object) -> None:
        self._running.pop()

    def end(self, timeout_s: float) -> None:
        """Wait for the running calls of other threads. From now on, each new call of another thread waits first.

        Args:
            timeout_s: how long to wait at most, here and in other threads.

        Example:
            >>> NativeCalls().end(timeout_s=1.0)
        """
        self._wait_s = timeout_s
        self._exit_thread = threading.get_ident()
        end_s = time.monotonic() + timeout_s
        while self._running and time.monotonic() < end_s:
            time.sleep(_POLL_S)


# The calls of onnxruntime in this process.
native_calls = NativeCalls()
