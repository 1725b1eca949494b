"""Encode texts before a deadline. The texts are encoded in chunks, and the clock is read between them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from embedder.common.records import frozen
from embedder.functions.requests import TIMED_OUT, RequestError

# Seconds to write the answer: for any, and for each number in it. On a third of a core, a number takes 2 microseconds.
_WRITE_S = 0.05
_WRITE_S_PER_NUMBER = 4e-6
# Bytes of UTF-8 of the first chunk. They take a fraction of a second, and show how long the others will take.
_FIRST_CHUNK_BYTES = 4096
# A chunk takes at most this share of the time that remains, so it ends in time even where it takes twice as long.
_CHUNK_SHARE = 0.5
# A chunk has at most this many times the bytes of all before it: a few texts say little about the time of the others.
_GROWTH = 8
# A text of no characters has special tokens too. They take as long as about this many bytes.
_TEXT_BYTES = 16
# The model cuts texts off. A text takes no longer than one of this many bytes for each token that the model reads.
_BYTES_PER_TOKEN = 6


@frozen
class Deadline:
    """A time by which the answer must be written.

    Attributes:
        started: when the request came, by the clock.
        seconds: how long it may take. Infinity sets no limit.
        clock: returns the time in seconds.
    """

    started: float
    seconds: float
    clock: Callable[[], float]

    @classmethod
    def after(cls, *limits_s: float | None, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """Return the earliest deadline, counted from now. None is no limit.

        Example:
            >>> Deadline.after(30.0, None, clock=lambda: 5.0).remaining()
            30.0
        """
        return cls(clock(), min((limit for limit in limits_s if limit is not None), default=math.inf), clock)

    def elapsed(self) -> float:
        """Return the seconds since the request came."""
        return self.clock() - self.started

    def remaining(self) -> float:
        """Return the seconds until the deadline. Below 0, it is over."""
        return self.seconds - self.elapsed()


def chunks_in_time(texts: list[str], max_tokens: int, numbers: int, deadline: Deadline) -> Iterator[list[int]]:
    """Yield the indices of the texts of each chunk, longest texts first. The caller encodes each chunk at once.

    Args:
        texts: the texts of a request.
        max_tokens: most tokens of a text that the model reads.
        numbers: the count of numbers that the answer will have as decimal digits.
        deadline: when the answer must be written.

    Raises:
        RequestError: 504, the next chunk would not end in time by the rate so far. It is not begun.

    Example:
        >>> list(chunks_in_time(["a", "a longer text"], 256, 768, Deadline.after(None)))
        [[1, 0]]
    """
    sizes = [_TEXT_BYTES + min(_byte_count(text), max_tokens * _BYTES_PER_TOKEN) for text in texts]
    order = sorted(range(len(texts)), key=sizes.__getitem__, reverse=True)
    write_s = _WRITE_S + _WRITE_S_PER_NUMBER * numbers
    begun = deadline.clock()
    start = done_bytes = 0
    while start < len(order):
        left_s = deadline.remaining() - write_s
        s_per_byte = (deadline.clock() - begun) / done_bytes if done_bytes else 0.0
        chunk_bytes = math.inf if left_s == math.inf else max(_FIRST_CHUNK_BYTES, _GROWTH * done_bytes)
        if s_per_byte:
            chunk_bytes = min(chunk_bytes, _CHUNK_SHARE * left_s / s_per_byte)
        end = _end_of_chunk(order, sizes, start, chunk_bytes)
        size = sum(sizes[index] for index in order[start:end])
        if left_s <= size * s_per_byte:
            raise _out_of_time(start, len(order), deadline)
        yield order[start:end]
        start, done_bytes = end, done_bytes + size


def _byte_count(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _end_of_chunk(order: list[int], sizes: list[int], start: int, chunk_bytes: float) -> int:
    """Return the end of the chunk that begins at `start`. It has at least one text."""
    end, total = start + 1, sizes[order[start]]
    while end < len(order) and (total := total + sizes[order[end]]) <= chunk_bytes:
        end += 1
    return end


def _out_of_time(done: int, count: int, deadline: Deadline) -> RequestError:
    if deadline.seconds <= 0:
        return RequestError(TIMED_OUT, "the time was over before the request was begun. Try again later")
    return RequestError(
        TIMED_OUT,
        f"the time limit of {deadline.seconds:.1f} s is too short: {done:,} of {count:,} inputs were done after "
        f"{deadline.elapsed():.1f} s. Send fewer or shorter texts, or give the function more time",
    )
