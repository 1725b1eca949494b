"""Read the fields of messages in the format of Protocol Buffers, as ONNX and SentencePiece files have it.

The format: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    r"""Yield the number and the value of each field of a message: an int, or the bytes of anything else.

    Raises:
        ValueError: the message is damaged.
        IndexError: it ends within a number.

    Example:
        >>> list(fields(b"\x08\x96\x01\x12\x02hi"))
        [(1, 150), (2, b'hi')]
    """
    end = 0
    while end < len(message):
        key, start = _integer(message, end)
        number, kind = divmod(key, 8)
        if kind == 0:
            value, end = _integer(message, start)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, start = _integer(message, start)
        if size is None or start + size > len(message):
            raise ValueError(f"field {number} is damaged")
        end = start + size
        yield number, message[start:end]


def _integer(message: bytes, start: int) -> tuple[int, int]:
    """Return the integer of protobuf at `start`, and where it ends: seven bits a byte, the lowest ones first."""
    value = 0
    for index in range(10):
        byte = message[start + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, start + index + 1
    raise ValueError("an integer has more than 64 bits")
