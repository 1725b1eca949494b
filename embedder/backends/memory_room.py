"""Let a call of a graph begin only if its memory is free. Linux would end the process in the middle otherwise."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from embedder.common.forks import renew_after_fork
from embedder.common.free_memory import free_memory_bytes
from embedder.errors import DeviceMemoryError

# Calls that take less are not looked at: reading how much memory is free takes 0.3 ms.
SMALL_BYTES = 100_000_000


class MemoryShortageError(DeviceMemoryError):
    """A call needs more memory than is free.

    Attributes:
        needed_bytes: how much the call needs.
        free_bytes: how much is free.

    Example:
        >>> print(MemoryShortageError(2_800_000_000, 1_200_000_000))
        about 2.8 GB are needed, and 1.2 GB are free
    """

    def __init__(self, needed_bytes: int, free_bytes: int) -> None:
        # Rounded apart, so that the two numbers always differ.
        needed, free = math.ceil(needed_bytes / 1e8) / 10, math.floor(free_bytes / 1e8) / 10
        super().__init__(f"about {needed:.1f} GB are needed, and {free:.1f} GB are free")
        self.needed_bytes, self.free_bytes = needed_bytes, free_bytes


class MemoryRoom:
    """The memory that calls may take at the same time. The call that waits longest is served first.

    Safe to share between threads, and after a fork.

    Example:
        >>> room = MemoryRoom()
        >>> with room.reserved(200_000_000):
        ...     print("the memory was free")
        the memory was free
    """

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    @contextmanager
    def reserved(self, needed_bytes: int) -> Iterator[None]:
        """Wait until other calls leave `needed_bytes` free, and keep that much for the body.

        Raises:
            MemoryShortageError: so much is not free, and no other call is running that could give memory back.
        """
        if needed_bytes < SMALL_BYTES:
            yield
            return
        with self._changed:
            self._wait_for(needed_bytes)
            self._reserved_bytes += needed_bytes
        try:
            yield
        finally:
            with self._changed:
                self._reserved_bytes -= needed_bytes
                self._changed.notify_all()

    def _wait_for(self, needed_bytes: int) -> None:
        """Wait until `needed_bytes` are free. Shorter texts that came later do not go first, for ever maybe."""
        turn = object()
        self._waiting.append(turn)
        try:
            while self._waiting[0] is not turn or not self._fits(needed_bytes):
                self._changed.wait()
        finally:  # after an interrupt too
            self._waiting.remove(turn)
            self._changed.notify_all()

    def _fits(self, needed_bytes: int) -> bool:
        free_bytes = free_memory_bytes()
        if free_bytes is None:
            return True
        # What running calls have reserved may be in use already. Then it counts twice, and this call waits for them.
        if needed_bytes <= free_bytes - self._reserved_bytes:
            return True
        if self._reserved_bytes == 0:
            raise MemoryShortageError(needed_bytes, free_bytes)
        return False

    def renew(self) -> None:
        """Forget the calls of the parent after a fork."""
        self._reserved_bytes = 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()


# The memory of this process. All models share it.
PROCESS_ROOM = MemoryRoom()
