"""Tell objects that the process was forked, so that they drop what stayed behind in the parent.

A fork copies the memory and only the thread that calls it. In the child, other threads are gone, and what they had
locked stays locked.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """An object with threads or locks."""

    def renew(self) -> None:
        """Make the threads and locks anew."""


_renewables: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_after_fork(renewable: Renewable) -> None:
    """Call `renewable.renew()` in each child, before any other code runs there. The object can still be collected."""
    _renewables.add(renewable)


def _renew_all() -> None:
    for renewable in list(_renewables):
        renewable.renew()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_renew_all)
