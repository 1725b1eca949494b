"""Collect the body of a request that arrives in parts."""

from __future__ import annotations

from embedder.functions.requests import Limits, body_too_large

# A server closes the connection when a request is refused before its body was read. The client is still sending then,
# and never sees the answer. So bodies of up to this many times the limit are read, but not kept.
_MAX_READ_FACTOR = 10


class BodyBuffer:
    """Keeps the parts of a body up to the limit. Not safe to share between threads.

    Attributes:
        size: how many bytes were added.

    Example:
        >>> body = BodyBuffer(Limits())
        >>> body.add(b"[")
        >>> body.add(b"]")
        >>> body.content()
        b'[]'
    """

    def __init__(self, limits: Limits) -> None:
        self.size = 0
        self._limits = limits
        self._kept = bytearray()

    def check_length(self, size: int) -> None:
        """Raise RequestError, 413, if a body of `size` bytes is so large that it should not be read to its end."""
        if size > self._limits.max_body_bytes * _MAX_READ_FACTOR:
            raise body_too_large(self._limits)

    def add(self, part: bytes) -> None:
        """Add a part.

        Raises:
            RequestError: 413, the body is so large that it should not be read to its end.
        """
        self.size += len(part)
        if self.size <= self._limits.max_body_bytes:
            self._kept += part
        else:
            self._kept.clear()
        self.check_length(self.size)

    def content(self) -> bytes:
        """Return the body.

        Raises:
            RequestError: 413, the body is larger than the limit.
        """
        if self.size > self._limits.max_body_bytes:
            raise body_too_large(self._limits)
        return bytes(self._kept)
