"""Lock files, so that processes take turns. The system releases a lock when its process ends, however it ends.

Windows has no such locks here, and some network file systems have none either. There nobody waits.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Opening a pipe without O_NONBLOCK waits for a writer.
_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_MAX_WAIT_S = 60.0
_WAIT_STEP_S = 0.01


def has_locks() -> bool:
    """Return whether this system has locks.

    Example:
        >>> has_locks()
        True
    """
    return fcntl is not None


def try_lock(descriptor: int) -> bool:
    """Lock an open file. Return whether that is possible here.

    Raises:
        BlockingIOError: another process, or another descriptor of this one, has the lock.

    Example:
        >>> with Path("notes.txt").open("w") as stream:
        ...     try_lock(stream.fileno())
        True
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the file `path`. If another process holds it, wait up to a minute.

    The file may be replaced meanwhile. Whoever waits then gets the lock of the new file. There is nothing to lock if
    there is no such file, or if it cannot be opened.

    Raises:
        OSError: another process holds the lock all the time.

    Example:
        >>> with locked(Path("notes.txt")):
        ...     "nobody else who asks for the lock replaces the file"
        'nobody else who asks for the lock replaces the file'
    """
    descriptor = None if fcntl is None else _open_locked(path)
    try:
        yield
    finally:
        if descriptor is not None:
            # A child that was forked meanwhile has the descriptor too, so closing it would not release the lock.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _open_locked(path: Path) -> int | None:
    """Open the file `path` and lock it. Return None if that is not possible here."""
    give_up = time.monotonic() + _MAX_WAIT_S
    while True:
        descriptor = _open(path)
        if descriptor is None:
            return None
        try:
            if not try_lock(descriptor):
                os.close(descriptor)
                return None
            if _is_at(descriptor, path):
                return descriptor
            os.close(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() >= give_up:
                problem = f"another process has held the lock of the file for {_MAX_WAIT_S:.0f} seconds"
                raise OSError(errno.EAGAIN, problem, os.fspath(path)) from None
            time.sleep(_WAIT_STEP_S)


def _open(path: Path) -> int | None:
    # Writable if possible, as some network file systems lock only such files.
    for access in (os.O_RDWR, os.O_RDONLY):
        try:
            return os.open(path, access | _NO_WAIT)
        except OSError:
            continue
    return None


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
