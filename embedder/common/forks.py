"""Run code in the child after a fork, so that objects replace their threads and locks.

A fork copies the memory, but only the thread that calls it. In the child the other threads are gone, and the locks that
they held stay locked.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Protocol


class Renewable(Protocol):
    """An object that has threads or locks."""

    def renew(self) -> None:
        """Replace the threads and locks by new ones."""


_renewables: weakref.WeakSet[Renewable] = weakref.WeakSet()


def call_after_fork(function: Callable[[], None]) -> None:
    """Call `function()` in each forked child, before any other code runs there.

    Example:
        >>> call_after_fork(lambda: None)
    """
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(after_in_child=function)


def renew_after_fork(renewable: Renewable) -> None:
    """Call `renewable.renew()` in each forked child. The object can still be garbage-collected.

    Example:
        >>> renew_after_fork(executor)  # doctest: +SKIP
    """
    _renewables.add(renewable)


def _renew_all() -> None:
    for renewable in list(_renewables):
        renewable.renew()


call_after_fork(_renew_all)
