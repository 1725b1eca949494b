"""Show progress bars on stderr."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any


def progress_bar(total: int | None, unit: str, description: str) -> AbstractContextManager[Any]:
    """Return a context manager that shows a bar. Its `update(n)` adds n steps.

    Args:
        total: number of steps; None if it is not known.
        unit: name of a step, such as "text".
        description: text before the bar.

    Example:
        >>> with progress_bar(2, "text", "Encoding") as bar:  # doctest: +SKIP
        ...     bar.update(2)
    """
    from tqdm import tqdm  # here, as it takes milliseconds of the start of every process

    bar: AbstractContextManager[Any] = tqdm(total=total, unit=unit, desc=description)
    return bar
