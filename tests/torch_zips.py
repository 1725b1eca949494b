"""Zips as `torch.save` writes them, zips that are written to do harm, and random damage. Nothing here needs torch."""

import random
import struct
import zlib
from collections.abc import Callable, Iterator

from tests.torch_pickles import call, name, state_dict, storage, tensor, text, tuple_of


def zip_of(entries: dict[str, bytes], **changes: int) -> bytes:
    """Return a zip of stored entries.

    Args:
        entries: the bytes of each entry by name.
        changes: numbers that the list of entries gives instead of the true ones: method, flags, crc, packed, size,
            header, count, list_size, list_start, comment, disk. The first entry gets them.
    """
    body, listed = bytearray(), bytearray()  # bytes would be copied for each entry
    for number, (entry, data) in enumerate(entries.items()):
        changed = changes if number == 0 else {}
        raw, crc = entry.encode("utf-8", "surrogateescape"), zlib.crc32(data)
        listed += struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 0, 0, changed.get("flags", 0), changed.get("method", 0), 0, 0,
            changed.get("crc", crc), changed.get("packed", len(data)), changed.get("size", len(data)), len(raw), 0, 0,
            0, 0, 0, changed.get("header", len(body)),
        ) + raw  # fmt: skip
        sizes = (crc, len(data), len(data), len(raw), 0)
        body += struct.pack("<4s5H3L2H", b"PK\x03\x04", 0, 0, 0, 0, 0, *sizes) + raw + data
    count = changes.get("count", len(entries))
    end = struct.pack(
        "<4s4H2LH", b"PK\x05\x06", changes.get("disk", 0), 0, count, count, changes.get("list_size", len(listed)),
        changes.get("list_start", len(body)), changes.get("comment", 0),
    )  # fmt: skip
    return bytes(body + listed + end)


PLAIN = state_dict(tensor())
NUMBERS = struct.pack("<6f", *range(6))


def archive_of(data: bytes = PLAIN, **changes: int) -> bytes:
    """Return a file of torch with the pickle `data` and one storage of six numbers."""
    others = {"archive/byteorder": b"little", "archive/data/0": NUMBERS, "archive/version": b"3\n"}
    return zip_of({"archive/data.pkl": data} | others, **changes)


def hostile_zips() -> dict[str, bytes]:
    """Return zips that are written to do harm, by what is special in them."""
    plain = archive_of()
    entries = {"archive/data.pkl": PLAIN, "archive/data/0": NUMBERS}
    most = 0xFFFFFFFF
    made = {
        "plain": plain,
        "no entries": zip_of({}),
        "no pickle": zip_of({"archive/data/0": NUMBERS}),
        "two folders": zip_of(entries | {"other/data.pkl": PLAIN}),
        "another folder": zip_of({name.replace("archive", "a b"): data for name, data in entries.items()}),
        "a deeper folder": zip_of({f"x/{name}": data for name, data in entries.items()}),
        "a folder above": zip_of({f"../{name}": data for name, data in entries.items()}),
        "no folder": zip_of({"data.pkl": PLAIN, "data/0": NUMBERS}),
        "an empty folder": zip_of({"/data.pkl": PLAIN, "/data/0": NUMBERS}),
        "TorchScript": zip_of(entries | {"archive/constants.pkl": b"\x80\x02).", "archive/code/a.py": b"import os"}),
        "big-endian": zip_of(entries | {"archive/byteorder": b"big"}),
        "a long byte order": zip_of(entries | {"archive/byteorder": b"little" * 1000}),
        "names that are not UTF-8": zip_of(entries | {"archive/\udcff": b""}),
        "60,000 entries": zip_of(entries | {f"archive/data/x{number}": b"" for number in range(60_000)}),
        "cut short": plain[:-1],
        "something added": plain + b"x",
        "something before": b"x" + plain,
        "a second archive": plain + plain,
        "only the magic": b"PK\x03\x04",
        "only the end": plain[-22:],
        "a 64-bit end without its list": plain[:-22] + struct.pack("<4sLQL", b"PK\x06\x07", 0, 2**63, 1) + plain[-22:],
        "a 64-bit end that lies": plain[:-22] + _end64(len(plain) - 22, 2**40, 2**60, 0) + plain[-22:],
        "70,000 entries": b"PK\x03\x04" + bytes(3_999_996) + _end64(4_000_000, 70_000, 0, 4_000_000) + plain[-22:],
    }
    for field, values in {
        "method": (8, 12, 99),
        "flags": (1, 0x41),
        "crc": (0, 1, most),
        "packed": (0, 1, most),
        "size": (0, 1, most - 1, most),
        "header": (1, 100, most - 1, most),
        "count": (0, 1, 2, 4, 0xFFFF),
        "list_size": (0, 1, 46, most),
        "list_start": (0, 1, most),
        "comment": (1, 0xFFFF),
        "disk": (1,),
    }.items():
        made |= {f"{field} {value}": archive_of(**{field: value}) for value in values}
    double = zip_of({"archive/data.pkl": PLAIN, "archive/data/0": NUMBERS, "archive/data/1": NUMBERS})
    made["two entries of one name"] = double.replace(b"archive/data/1", b"archive/data/0")
    made["entries that overlap"] = _overlapping(double)
    return made


def _end64(place: int, count: int, list_size: int, list_start: int) -> bytes:
    """Return a 64-bit end of a zip that lies at `place`."""
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 0, 0, 0, 0, count, count, list_size, list_start)
    return record + struct.pack("<4sLQL", b"PK\x06\x07", 0, place, 1)


def _overlapping(data: bytes) -> bytes:
    """Let the last entry of the list begin where the one before begins."""
    places = [place for place in range(len(data)) if data.startswith(b"PK\x01\x02", place)]
    header = data[places[-2] + 42 : places[-2] + 46]
    return data[: places[-1] + 42] + header + data[places[-1] + 46 :]


def mutations(files: list[bytes], random_numbers: random.Random) -> Iterator[bytes]:
    """Yield damaged forms of valid files, without an end."""
    while True:
        data = bytearray(random_numbers.choice(files))
        for _ in range(random_numbers.choice((1, 1, 1, 2, 5))):
            random_numbers.choice(_MUTATIONS)(data, random_numbers)
        yield bytes(data)


def pickle_mutations(pickles: list[bytes], random_numbers: random.Random) -> Iterator[bytes]:
    """Yield valid zips with damaged forms of the pickles, without an end. Their checksums are right."""
    for damaged in mutations(pickles, random_numbers):
        yield archive_of(damaged)


def _flip(data: bytearray, numbers: random.Random) -> None:
    if data:
        data[numbers.randrange(len(data))] ^= 1 << numbers.randrange(8)


def _set(data: bytearray, numbers: random.Random) -> None:
    if data:
        data[numbers.randrange(len(data))] = numbers.choice(b"\0\1\x7f\x80\xff()}]Nq.htuRQbcX\x93\x81\x85\x8a")


def _cut(data: bytearray, numbers: random.Random) -> None:
    del data[numbers.randrange(len(data) + 1) :]


def _remove(data: bytearray, numbers: random.Random) -> None:
    begin = numbers.randrange(len(data) + 1)
    del data[begin : begin + numbers.choice((1, 2, 4, 8, 30))]


def _insert(data: bytearray, numbers: random.Random) -> None:
    begin = numbers.randrange(len(data) + 1)
    data[begin:begin] = numbers.choice((*_PIECES, numbers.randbytes(numbers.randrange(1, 9))))


def _copy(data: bytearray, numbers: random.Random) -> None:
    begin, place = numbers.randrange(len(data) + 1), numbers.randrange(len(data) + 1)
    data[place:place] = data[begin : begin + numbers.randrange(1, 60)]


def _number(data: bytearray, numbers: random.Random) -> None:
    size = numbers.choice((1, 2, 4, 8))
    begin = numbers.randrange(max(1, len(data) - size))
    value = numbers.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1, len(data)))
    data[begin : begin + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")


def _swap(data: bytearray, numbers: random.Random) -> None:
    first, second = sorted(numbers.randrange(len(data) + 1) for _ in range(2))
    size = numbers.randrange(1, 20)
    data[first : first + size], data[second : second + size] = data[second : second + size], data[first : first + size]


_PIECES = (
    name("os system") + tuple_of(text("touch ran")) + b"R0",
    name("builtins eval"),
    text("os") + text("system") + b"\x93",
    b"}b",
    b"2",
    b"\x85" * 1000,
    b"(" * 1000,
    b"\x82\x01",
    b"\x8b\xff\xff\xff\x7f",
    b"r\xff\xff\xff\xff",
    b"PK\x05\x06",
    b"PK\x01\x02",
    call(name("collections OrderedDict")),
    storage(),
    tensor(),
)
_MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip, _flip, _set, _set, _cut, _remove, _insert, _copy, _number, _number, _swap,
)  # fmt: skip
