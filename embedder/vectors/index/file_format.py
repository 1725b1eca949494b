"""The file of a `VectorIndex`. It appears only when it is complete, and it is checked before it is used.

    8 bytes      the magic bytes
    8 bytes      the length of the header, little-endian
    header       JSON, see `Header`. Spaces fill it up until the sections begin at a multiple of 64 bytes.
    sections     in the order of `sections_of`, little-endian. Zeros fill up each to a multiple of 64 bytes.
    32 bytes     the SHA-256 of all bytes before

The file has no offsets, because the header determines where each section begins. So no offset can be wrong.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from embedder.common.decode import decode
from embedder.common.digests import FileState, check_once
from embedder.common.files import open_regular, replacing
from embedder.common.json_text import parse_json
from embedder.errors import ArtifactError, FormatError
from embedder.vectors.index.header import INDEX_FORMAT_VERSION, STRING_COLUMNS, Header, sections_of, upgrade
from embedder.vectors.index.storage import Snapshot
from embedder.vectors.index.values import find_bad_values

_MAGIC = b"\x89EMBIDX\n"
_PREFIX_BYTES = len(_MAGIC) + 8
_DIGEST_BYTES = hashlib.sha256().digest_size
_ALIGNMENT = 64
_MAX_HEADER_BYTES = 1 << 20
_BYTES_PER_READ = 1 << 20


def string_sizes(snapshot: Snapshot) -> dict[str, int]:
    """Return the number of bytes of each column of strings, without the columns that have none."""
    sizes = {name: sum(int(lengths.sum()) for lengths in snapshot.kept_lengths(name)) for name in STRING_COLUMNS}
    return {name: size for name, size in sizes.items() if size}


def write_snapshot(path: Path, header: Header, snapshot: Snapshot) -> str:
    """Write a snapshot to a file, without the deleted rows. See `write_index`."""
    sections: dict[str, Iterable[NDArray[Any]]] = {}
    for name in header.strings:
        sections[f"{name}_ends"], sections[f"{name}_bytes"] = snapshot.kept_ends(name), snapshot.kept_bytes(name)
    for name in sections_of(header).keys() - sections.keys():
        sections[name] = snapshot.kept_rows(name)
    return write_index(path, header, sections)


def write_index(path: Path, header: Header, sections: Mapping[str, Iterable[NDArray[Any]]]) -> str:
    """Write an index to a file.

    Args:
        path: the file. An existing file is replaced when the new file is complete and on the disk.
        header: the header.
        sections: for each section of `sections_of(header)`, its rows in several arrays.

    Returns:
        The SHA-256 at the end of the file.

    Raises:
        OSError: the file cannot be written. An existing file is unchanged.
    """
    with replacing(path, durable=True) as partial, partial.open("xb") as stream:
        return _write(stream, header, sections)


def _write(stream: BinaryIO, header: Header, sections: Mapping[str, Iterable[NDArray[Any]]]) -> str:
    digest = hashlib.sha256()

    def put(content: Any) -> int:
        stream.write(content)
        digest.update(content)
        return memoryview(content).nbytes

    text = json.dumps(asdict(header)).encode()
    text += b" " * (-(_PREFIX_BYTES + len(text)) % _ALIGNMENT)
    put(_MAGIC + len(text).to_bytes(8, "little") + text)
    for name, (dtype, _) in sections_of(header).items():
        size = sum(put(np.ascontiguousarray(rows, dtype).reshape(-1).view(np.uint8)) for rows in sections[name])
        put(bytes(-size % _ALIGNMENT))
    stream.write(digest.digest())
    return digest.hexdigest()


def read_digest(path: Path) -> str:
    """Return the SHA-256 at the end of an index. It says what the file has, and is not checked.

    Raises:
        OSError: the file cannot be read.
    """
    with open_regular(path) as stream:
        stream.seek(-min(_DIGEST_BYTES, os.fstat(stream.fileno()).st_size), os.SEEK_END)
        return stream.read(_DIGEST_BYTES).hex()


def is_index_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins as the file of an index does. The rest of it is not checked.

    Raises:
        OSError: the file cannot be read, or is not a regular file.
    """
    with open_regular(path) as stream:
        return stream.read(len(_MAGIC)) == _MAGIC


def read_index(path: Path) -> tuple[Header, dict[str, NDArray[Any]], str]:
    """Read an index.

    Returns:
        The header in the current version, the sections as read-only memory-mapped arrays, and the SHA-256 of the file.

    Raises:
        FormatError: a newer version of embedder wrote the file in a format that this version cannot read.
        ArtifactError: the file cannot be read, is not an index, or is damaged.
    """
    try:
        # The file is opened only once, because another process may replace it meanwhile.
        with open_regular(path) as stream:
            header, start = _read_header(path, stream)
            stream.seek(-_DIGEST_BYTES, os.SEEK_END)
            expected, size = stream.read(_DIGEST_BYTES).hex(), stream.tell()
            starts, end = _section_starts(header, start)
            if size != end + _DIGEST_BYTES:
                raise _damaged(path, f"it has {size} bytes, but by its header it should have {end + _DIGEST_BYTES}")
            sections = _map_sections(stream, header, starts)

            def check() -> None:
                _check_digest(path, stream, expected)
                problem = find_bad_values(header.similarity, sections)
                if problem is not None:
                    raise _damaged(path, problem)

            check_once(path, FileState.of(stream.fileno()), f"{expected} and values", check)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    return header, sections, expected


def _map_sections(stream: BinaryIO, header: Header, starts: dict[str, int]) -> dict[str, NDArray[Any]]:
    content = np.memmap(stream, np.uint8, "r")
    sections = {}
    for name, (dtype, shape) in sections_of(header).items():
        section = content[starts[name] : starts[name] + dtype.itemsize * math.prod(shape)]
        sections[name] = section.view(np.ndarray).view(dtype).reshape(shape)
    return sections


def _section_starts(header: Header, start: int) -> tuple[dict[str, int], int]:
    """Return the offset in bytes at which each section begins, and the offset at which the last one ends."""
    starts = {}
    for name, (dtype, shape) in sections_of(header).items():
        starts[name] = start
        size = dtype.itemsize
        for length in shape:
            size *= length
        start += size + -size % _ALIGNMENT
    return starts, start


def _read_header(path: Path, stream: BinaryIO) -> tuple[Header, int]:
    """Return the header, and the offset in bytes at which the sections begin."""
    prefix = stream.read(_PREFIX_BYTES)
    if prefix[: len(_MAGIC)] != _MAGIC:
        raise ArtifactError(f"{path} is not an index of embedder: it begins with {prefix[: len(_MAGIC)]!r}")
    length = int.from_bytes(prefix[len(_MAGIC) :], "little")
    text = stream.read(min(length, _MAX_HEADER_BYTES))
    if len(text) != length:
        raise _damaged(path, f"its header should have {length} bytes, but {len(text)} can be read")
    try:
        content = parse_json(text)
        version = content["format_version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"format_version should be a whole number, at least 1, not {version!r:.80}")
        if version > INDEX_FORMAT_VERSION:
            raise FormatError(
                f"{path} has format version {version}, and this embedder reads versions up to {INDEX_FORMAT_VERSION}: "
                "upgrade embedder"
            )
        header = decode(Header, upgrade(content))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(path, f"its header cannot be read ({error})") from error
    return header, _PREFIX_BYTES + length


def _check_digest(path: Path, stream: BinaryIO, expected: str) -> None:
    """Raise ArtifactError unless the bytes before the digest have the SHA-256 `expected`."""
    digest = hashlib.sha256()
    remaining = stream.seek(0, os.SEEK_END) - _DIGEST_BYTES
    stream.seek(0)
    while remaining:
        chunk = stream.read(min(_BYTES_PER_READ, remaining))
        if not chunk:  # another process has shortened the file meanwhile
            break
        digest.update(chunk)
        remaining -= len(chunk)
    if digest.hexdigest() != expected:
        raise _damaged(path, f"its sha256 is {digest.hexdigest()}, but it should be {expected}")


def _damaged(path: Path, problem: str) -> ArtifactError:
    return ArtifactError(f"{path} is damaged: {problem}. Copy it again, or make the index again")
