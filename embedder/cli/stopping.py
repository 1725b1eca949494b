"""Let a long command keep its finished work when a signal ends the process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """A signal ends the process. It may come from `kill`, from a time limit, or from a terminal that is closed.

    Attributes:
        status: the exit status that a shell reports for the signal: 128 plus its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = 128 + number


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """On SIGTERM and SIGHUP, raise `Stopped` in the body of the `with` statement, so that it can keep its work.

    A signal that is ignored, as `nohup` does, stays ignored. A signal that has a handler keeps it.
    """
    changed = []
    if threading.current_thread() is threading.main_thread():  # only the main thread may set handlers
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _stop)
                changed.append(number)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)
