"""End a long command in order when the system asks the process to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """The process was told to end, for example by `kill`, a time limit or a closed terminal.

    Attributes:
        status: the exit status that a shell reports for the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = 128 + number


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise `Stopped` in the body on SIGTERM and SIGHUP, so that it can keep its work.

    A signal that is ignored, as under `nohup`, or that has a handler already is left alone.
    """
    changed = []
    if threading.current_thread() is threading.main_thread():  # Python sets handlers there only
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
