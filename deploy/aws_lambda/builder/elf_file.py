"""Strip shared libraries of any architecture.

A library is loaded by its segments. Symbol tables for debuggers lie behind or between them. They are cut off, or filled
with zeros, which compress to nothing. `strip` of binutils knows one architecture only, and breaks some libraries that
auditwheel has changed.
"""

from __future__ import annotations

import struct

_MAGIC_64_LITTLE = b"\x7fELF\x02\x01"
# In the header of the file, by offset: where the table of segments and the table of sections begin; then the sizes.
_TABLES, _SIZES = struct.Struct("<QQ"), struct.Struct("<HHHHH")
_TABLES_AT, _SIZES_AT = 32, 54
# A row of the table of segments: type, flags, offset in the file, two addresses, size in the file.
_SEGMENT = struct.Struct("<IIQQQQ")
_LOADED = 1


def is_library(content: bytes) -> bool:
    """Return whether `content` is a library or a program for 64-bit Linux, little-endian.

    Example:
        >>> is_library(b"text")
        False
    """
    return content.startswith(_MAGIC_64_LITTLE)


def strip_library(content: bytes) -> bytes:
    """Return a library without what is not loaded.

    Args:
        content: the file of the library.

    Example:
        >>> len(strip_library(Path("tokenizers.abi3.so").read_bytes()))  # doctest: +SKIP
        7952672
    """
    segments, _ = _TABLES.unpack_from(content, _TABLES_AT)
    row_size, rows, _, _, _ = _SIZES.unpack_from(content, _SIZES_AT)
    loaded = []
    for row in range(rows):
        kind, _, start, _, _, size = _SEGMENT.unpack_from(content, segments + row * row_size)
        if kind == _LOADED:
            loaded.append((start, start + size))
    stripped = bytearray(max(end for _, end in loaded))
    for start, end in loaded:
        stripped[start:end] = content[start:end]
    # There is no table of sections any more.
    _TABLES.pack_into(stripped, _TABLES_AT, segments, 0)
    _SIZES.pack_into(stripped, _SIZES_AT, row_size, rows, 0, 0, 0)
    return bytes(stripped)
