"""Progress bars on stderr."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any


def progress_bar(total: int | None, unit: str, description: str) -> AbstractContextManager[Any]:
    """Return a context manager that shows a bar. Its `update(n)` adds n steps; `total` is None if it is not known."""
    from tqdm import tqdm  # here, as it takes milliseconds of the start of every process

    bar: AbstractContextManager[Any] = tqdm(total=total, unit=unit, desc=description)
    return bar
