"""The transport of a connection, which can be closed for writing alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class LingeringTransport(asyncio.Transport):
    """A transport around another one. `close` leaves to its owner how the connection is closed.

    Example:
        >>> LingeringTransport(transport, owner.linger)  # doctest: +SKIP
    """

    def __init__(self, transport: asyncio.Transport, close: Callable[[], object]) -> None:
        """Take the transport.

        Args:
            transport: the transport of the event loop.
            close: called by `close`. It should call `end_writing` or `close_now`.
        """
        super().__init__()
        self._transport, self._close = transport, close
        self._is_closing = False

    def close(self) -> None:
        """Close the connection after what was written, as the owner does it; see asyncio."""
        if not self.is_closing():
            self._close()

    def end_writing(self) -> None:
        """Send what was written, and then the end. The connection is closed when the client closes it."""
        self._is_closing = True
        self._transport.write_eof()

    def close_now(self) -> None:
        """Send what was written, and close the connection."""
        self._transport.close()

    def is_closing(self) -> bool:
        """Return whether nothing more can be written; see asyncio."""
        return self._is_closing or self._transport.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, unless the end has been sent; see asyncio."""
        if not self.is_closing():
            self._transport.write(data)

    def abort(self) -> None:
        """Close the connection at once; see asyncio."""
        self._transport.abort()

    def pause_reading(self) -> None:
        """Let the client wait; see asyncio."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on; see asyncio."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection; see asyncio."""
        return self._transport.get_extra_info(name, default)
