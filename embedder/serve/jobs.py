"""What the event loop and the compute threads know of a text, pair or image, and of the requests that wait for it."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedder.inputs import TokenizedText
from embedder.serve.fair_queue import Entry

# Equal keys have equal vectors.
Key: TypeAlias = tuple[bytes | int, ...]

# Longer contents are kept as their SHA-256.
_MAX_KEY_BYTES = 1024


class OpenRequest:
    """A request that was accepted and is not answered yet. It belongs to the event loop.

    Attributes:
        vectors: float32 (items, row_size): vectors, or raw scores. A row is undefined until its job has ended.
        missing: number of rows that are not there yet.
        future: gets None when all rows are there, or the error.
        jobs: the jobs that it waits for.
        bytes: bytes of its token ids, token type ids and images.
        tokens: number of tokens of its texts.
        cut: number of texts that the model does not read whole.
        cached: number of items whose vectors were in the cache.
        shared: number of items that had a copy in a request that was not answered.
    """

    __slots__ = ("bytes", "cached", "cut", "future", "jobs", "missing", "shared", "tokens", "vectors")

    def __init__(self, count: int, row_size: int, size: int, loop: asyncio.AbstractEventLoop) -> None:
        self.vectors: NDArray[np.float32] = np.empty((count, row_size), np.float32)
        self.missing = count
        self.future: asyncio.Future[None] = loop.create_future()
        self.jobs: list[Job] = []
        self.bytes = size
        self.tokens = self.cut = self.cached = self.shared = 0

    def set(self, row: int, vector: NDArray[np.float32]) -> None:
        """Take the vector of a row."""
        self.vectors[row] = vector
        self.missing -= 1
        if not self.missing and not self.future.done():
            self.future.set_result(None)

    def fail(self, error: BaseException) -> None:
        """End the request with an error."""
        if not self.future.done():
            self.future.set_exception(error)

    def end(self) -> None:
        """Note that nobody waits any more. An error that came too late to be seen is not logged."""
        if not self.future.cancel() and not self.future.cancelled():
            self.future.exception()


class Job:
    """A text, a pair of texts or an image, to compute once for all requests that wait for it.

    Attributes:
        item: the text, the pair or the image.
        key: what copies of it have in common.
        tokens: number of tokens of the text, or the number that an image counts as.
        waiting: the requests that wait for it, and their rows. It belongs to the event loop.
        put_at: time when it was put into the queue, in seconds.
        entry: its place in the queue. It belongs to the compute threads.
    """

    __slots__ = ("entry", "item", "key", "put_at", "tokens", "waiting")

    def __init__(self, item: TokenizedText | bytes, key: Key, tokens: int, put_at: float) -> None:
        self.item = item
        self.key = key
        self.tokens = tokens
        self.waiting: list[tuple[OpenRequest, int]] = []
        self.put_at = put_at
        self.entry: Entry[Job] | None = None


def key_of(item: TokenizedText | bytes) -> Key:
    """Return what copies of a text or an image have in common.

    Example:
        >>> key_of(TokenizedText(np.int64([5]))) == key_of(TokenizedText(np.int64([5])))
        True
    """
    if isinstance(item, bytes):
        return (b"image", _short(item))
    types = b"" if item.type_ids is None else _short(item.type_ids.tobytes())
    return (_short(item.ids.tobytes()), types, item.prompt_token_count)


def _short(content: bytes) -> bytes:
    return content if len(content) <= _MAX_KEY_BYTES else b"sha256" + hashlib.sha256(content).digest()


def size_of(item: TokenizedText | bytes) -> int:
    """Return the bytes that an item takes in the queue.

    Example:
        >>> size_of(b"..."), size_of(TokenizedText(np.int64([5, 6]), type_ids=np.int64([0, 0])))
        (3, 32)
    """
    if isinstance(item, bytes):
        return len(item)
    return item.ids.nbytes + (0 if item.type_ids is None else item.type_ids.nbytes)
