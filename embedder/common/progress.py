"""Show progress bars on stderr."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Protocol


class Bar(Protocol):
    """A progress bar."""

    def update(self, steps: int) -> object:
        """Add `steps` to the finished steps."""

    def reset(self) -> object:
        """Begin again with no finished step."""


class _HiddenBar:
    """A bar that shows nothing."""

    def __enter__(self) -> _HiddenBar:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, steps: int) -> None:
        pass

    def reset(self) -> None:
        pass


def is_watched() -> bool:
    """Return whether standard error is a terminal. Progress is shown by default only there.

    Example:
        >>> is_watched()  # doctest: +SKIP
        True
    """
    return sys.stderr is not None and sys.stderr.isatty()


def progress_bar(total: int | None, unit: str, description: str, *, shown: bool | None) -> AbstractContextManager[Bar]:
    """Return a context manager that yields a bar.

    Args:
        total: number of steps; None if it is not known.
        unit: name of a step, such as "text".
        description: text before the bar.
        shown: whether to show the bar. If False or None, its methods do nothing.

    Example:
        >>> with progress_bar(2, "text", "Encoding", shown=False) as bar:
        ...     bar.update(2)
    """
    if not shown:
        return _HiddenBar()
    from tqdm import tqdm  # here, as it takes milliseconds of the start of every process

    bar: AbstractContextManager[Bar] = tqdm(total=total, unit=unit, desc=description)
    return bar
