"""Halve batches that do not fit into the memory of the device, and keep the next ones small."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from embedder.backends.memory_room import MemoryShortageError
from embedder.errors import DeviceMemoryError


class InputMemoryError(DeviceMemoryError):
    """One input alone does not fit into the memory of the device. The engine names the input to the caller.

    Attributes:
        row: the row of the input among those that ran together.
        tokens: its number of tokens.

    Example:
        >>> InputMemoryError(2, 512).row
        2
    """

    def __init__(self, row: int, tokens: int) -> None:
        super().__init__(row, tokens)
        self.row, self.tokens = row, tokens

    def named(self, index: int, device: str) -> DeviceMemoryError:
        """Return the error that the caller sees.

        Args:
            index: the caller's index of the input.
            device: the name of the device.

        Example:
            >>> print(InputMemoryError(2, 512).named(7, "abacus"))
            the device 'abacus' has too little free memory for input 7 (counted from 0), which has 512 tokens. ...
        """
        shortage = self.__cause__
        if isinstance(shortage, MemoryShortageError):
            return DeviceMemoryError(
                f"input {index} (counted from 0) has {self.tokens:,} tokens, and this machine has too little free "
                f"memory for them: {shortage}. End other programs, cut the text into chunks, or load the model with a "
                "smaller max_seq_length"
            )
        return DeviceMemoryError(
            f"the device {device!r} has too little free memory for input {index} (counted from 0), which has "
            f"{self.tokens:,} tokens. Release other models or end other programs that use the device, load the model "
            "with a smaller max_seq_length, or with provider='cpu'"
        )


@contextmanager
def errors_at(row_of: Callable[[int], int]) -> Iterator[None]:
    """Raise an InputMemoryError of the body for a row with `row_of(row)` instead.

    Example:
        >>> with errors_at(lambda row: row + 5):
        ...     raise InputMemoryError(2, 512)
        Traceback (most recent call last):
        ...
        embedder.engine.memory.InputMemoryError: (7, 512)
    """
    try:
        yield
    except InputMemoryError as error:
        raise InputMemoryError(int(row_of(error.row)), error.tokens) from error.__cause__


class MemoryLimit:
    """The number of tokens, padding included, that fit into the memory of a device. It is lowered when a call fails.

    Safe to share between threads.

    Example:
        >>> limit = MemoryLimit()
        >>> limit.lower(1000)
        >>> limit.tokens
        500
    """

    def __init__(self) -> None:
        self._tokens = sys.maxsize

    @property
    def tokens(self) -> int:
        """Most tokens of a batch."""
        return self._tokens

    def lower(self, failed: int) -> None:
        """Note that a call of `failed` tokens did not fit."""
        # Two threads may write at the same time. The greater number may stay, and then the next failure lowers it.
        self._tokens = min(self._tokens, max(1, failed // 2))

    def run(self, start: int, stop: int, tokens_of: Callable[[int, int], int], run: Callable[[int, int], None]) -> None:
        """Call `run(start, stop)`. If the device has too little memory, call it for parts until each part fits.

        Args:
            start: the first row.
            stop: the row after the last one.
            tokens_of: returns the number of tokens, padding included, of the rows between two rows.
            run: runs the rows between two rows.

        Raises:
            InputMemoryError: one row alone does not fit.

        Example:
            >>> MemoryLimit().run(0, 4, lambda start, stop: 10 * (stop - start), print)
            0 4
        """
        waiting = [(start, stop)]
        while waiting:
            start, stop = waiting.pop()
            tokens = tokens_of(start, stop)
            if stop - start == 1 or tokens <= self._tokens:
                try:
                    run(start, stop)
                    continue
                except DeviceMemoryError as error:
                    if stop - start == 1:
                        raise InputMemoryError(start, tokens) from error
                    self.lower(tokens)
            middle = (start + stop) // 2
            waiting += [(middle, stop), (start, middle)]
