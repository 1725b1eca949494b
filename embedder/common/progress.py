"""Progress on stderr, for calls that take long."""

from contextlib import AbstractContextManager
from typing import Any


def progress_bar(total: int | None, unit: str, description: str) -> AbstractContextManager[Any]:
    """A bar of `total` steps; it has `update(n)`."""
    from tqdm import tqdm  # here, as it takes milliseconds of the start of every process

    bar: AbstractContextManager[Any] = tqdm(total=total, unit=unit, desc=description)
    return bar
