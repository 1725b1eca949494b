"""Find the entries of a zip file that `torch.save` wrote. They are stored, not compressed, so each is a range of bytes.

Nothing is taken on trust: every entry must lie in the file, none may overlap another, and no name comes twice.
The format is described at https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

# What every zip file of torch begins with.
MAGIC = b"PK\x03\x04"
# Limits of the list of entries. It has about 100 bytes for each tensor.
_MAX_LIST_BYTES = 1 << 23
_MAX_ENTRIES = 1 << 16
_CHUNK_BYTES = 1 << 20
_END = struct.Struct("<4s4H2LH")
_LOCATOR64 = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LISTED = struct.Struct("<4s6H3L5H2L")
_HEADER = struct.Struct("<4s5H3L2H")
_EXTRA = struct.Struct("<2H")
# This value in a field of 32 bits says that the true number is elsewhere, in 64 bits.
_IN_64_BITS = 0xFFFFFFFF
_DAMAGED = "its zip is damaged"
_STORED, _EXTRA_64_BITS = 0, 0x1
# Sizes after the data, and names in UTF-8. All other flags change what an entry is, such as an encrypted one.
_KNOWN_FLAGS = 0x808


@dataclass(frozen=True, slots=True)
class Entry:
    """A range of bytes of the file.

    Attributes:
        start: where it begins, in bytes.
        size: its length in bytes.
        crc32: the checksum of its bytes. None if the file was saved without checksums.
    """

    start: int
    size: int
    crc32: int | None


@dataclass(frozen=True, slots=True)
class _Listed:
    """An entry in the list at the end of the file: its name, where its header begins, its size and its checksum."""

    name: bytes
    header: int
    size: int
    crc32: int


def read_entries(stream: BinaryIO) -> dict[str, Entry]:
    """Return the entries of a zip file by name.

    Raises:
        ValueError: the file is damaged, or has something that `torch.save` does not write.
        OSError: the file cannot be read.

    Example:
        >>> with open("pytorch_model.bin", "rb") as stream:  # doctest: +SKIP
        ...     read_entries(stream)["archive/data.pkl"].size
        290
    """
    count, start, size = _find_list(stream)
    stream.seek(start)
    listed = sorted(_read_list(_read(stream, size), count), key=lambda entry: entry.header)
    # torch can save without checksums. It writes 0 for each of them.
    has_checksums = any(entry.crc32 for entry in listed)
    entries: dict[str, Entry] = {}
    for entry, end in zip(listed, [entry.header for entry in listed[1:]] + [start], strict=False):
        try:
            name = entry.name.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"its zip has the name {entry.name!r:.80}, which is not UTF-8") from error
        if name in entries:
            raise ValueError(f"its zip has two entries of the name {name!r:.80}")
        begin = _find_data(stream, entry)
        if begin + entry.size > end:
            raise ValueError(f"the entry {name!r:.80} of its zip reaches into the next")
        entries[name] = Entry(begin, entry.size, entry.crc32 if has_checksums else None)
    return entries


def read_entry(stream: BinaryIO, entry: Entry, max_bytes: int) -> bytes:
    """Return the bytes of a small entry.

    Args:
        stream: the file.
        entry: which bytes.
        max_bytes: a larger entry is refused.

    Raises:
        ValueError: the entry is too large, or its bytes do not have its checksum.
        OSError: the file cannot be read.

    Example:
        >>> import io
        >>> read_entry(io.BytesIO(b"little"), Entry(0, 6, None), 100)
        b'little'
    """
    if entry.size > max_bytes:
        raise ValueError(f"an entry of its zip has {entry.size:,} bytes; at most {max_bytes:,} are read")
    check_entry(stream, entry)
    stream.seek(entry.start)
    return _read(stream, entry.size)


def check_entry(stream: BinaryIO, entry: Entry) -> None:
    """Check the bytes of an entry against its checksum. This reads all of them, a part at a time.

    Raises:
        ValueError: they differ from what was saved.
        OSError: the file cannot be read.

    Example:
        >>> import io
        >>> check_entry(io.BytesIO(b"little"), Entry(0, 6, zlib.crc32(b"little")))
    """
    if entry.crc32 is None:
        return
    stream.seek(entry.start)
    checksum = 0
    for begin in range(0, entry.size, _CHUNK_BYTES):
        checksum = zlib.crc32(_read(stream, min(_CHUNK_BYTES, entry.size - begin)), checksum)
    if checksum != entry.crc32:
        raise ValueError("it is damaged: its bytes do not have the checksum that was saved with them")


def _read(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise ValueError("it ends too soon")
    return data


def _find_list(stream: BinaryIO) -> tuple[int, int, int]:
    """Return the number of entries, and the start and the length in bytes of their list."""
    end = stream.seek(0, 2) - _END.size
    fields = _unpack_at(stream, end, _END)
    if fields[0] != b"PK\x05\x06" or fields[-1]:
        raise ValueError("its zip has no end: the file is cut short, or something was added to it")
    numbers = fields[1:7]
    place = end - _LOCATOR64.size
    if place >= 0:
        magic, _, end64, _ = _unpack_at(stream, place, _LOCATOR64)
        if magic == b"PK\x06\x07":
            end = place - _END64.size
            magic, *_ = fields = _unpack_at(stream, end, _END64)
            if magic != b"PK\x06\x06" or end64 != end:
                raise ValueError(_DAMAGED)
            numbers = fields[4:]
    disk, list_disk, disk_count, count, size, start = numbers
    if disk or list_disk or disk_count != count or start + size != end:
        raise ValueError(_DAMAGED)
    if count > _MAX_ENTRIES or size > _MAX_LIST_BYTES:
        raise ValueError(f"its zip has {count:,} entries; at most {_MAX_ENTRIES:,} are read")
    return count, start, size


def _unpack_at(stream: BinaryIO, place: int, layout: struct.Struct) -> tuple[Any, ...]:
    if place < 0:
        raise ValueError("it ends too soon")
    stream.seek(place)
    return layout.unpack(_read(stream, layout.size))


def _read_list(data: bytes, count: int) -> Iterator[_Listed]:
    place = 0
    for _ in range(count):
        if place + _LISTED.size > len(data):
            raise ValueError(_DAMAGED)
        fields = _LISTED.unpack_from(data, place)
        magic, flags, method, crc32, packed, size = (fields[index] for index in (0, 3, 4, 7, 8, 9))
        name_size, extra_size, comment_size, disk = fields[10:14]
        place += _LISTED.size
        name = data[place : place + name_size]
        place += name_size
        size, packed, header = _in_64_bits(data[place : place + extra_size], [size, packed, fields[-1]])
        place += extra_size + comment_size
        if magic != b"PK\x01\x02" or disk or place > len(data):
            raise ValueError(_DAMAGED)
        if method != _STORED or packed != size or flags & ~_KNOWN_FLAGS:
            raise ValueError("its zip is compressed or encrypted, which torch.save never does")
        yield _Listed(name, header, size, crc32)


def _in_64_bits(extra: bytes, numbers: list[int]) -> list[int]:
    """Return `numbers` (sizes and place of an entry). Those that do not fit in 32 bits are taken from `extra`."""
    place = 0
    while place + _EXTRA.size <= len(extra):
        kind, size = _EXTRA.unpack_from(extra, place)
        place += _EXTRA.size
        if kind == _EXTRA_64_BITS:
            given = [int.from_bytes(extra[at : at + 8], "little") for at in range(place, place + size, 8)]
            if _IN_64_BITS in numbers and len(given) < numbers.count(_IN_64_BITS):
                raise ValueError(_DAMAGED)
            return [given.pop(0) if number == _IN_64_BITS else number for number in numbers]
        place += size
    return numbers


def _find_data(stream: BinaryIO, entry: _Listed) -> int:
    """Return where the bytes of an entry begin: after its header, which must have the same name as the list."""
    fields = _unpack_at(stream, entry.header, _HEADER)
    name_size, extra_size = fields[-2:]
    if fields[0] != MAGIC or name_size != len(entry.name) or _read(stream, name_size) != entry.name:
        raise ValueError(_DAMAGED)
    return entry.header + _HEADER.size + int(name_size) + int(extra_size)
