"""The file of a `SparseIndex`. It appears only when it is complete, and it is checked before it is used.

    8 bytes      the magic bytes
    4 numbers    the version of the format, the dimension, the number of vectors and of postings: int64
    sections     starts int64, rows int32, values float32, ids int64. Zeros fill up each to a multiple of 64 bytes.
    32 bytes     the SHA-256 of all bytes before

All numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from embedder.common.digests import FileState, check_once
from embedder.common.files import open_regular, replacing
from embedder.errors import ArtifactError, FormatError
from embedder.vectors.sparse.postings import Postings

_MAGIC = b"\x89EMBSPR\n"
_VERSION = 1
_NUMBERS = np.dtype("<i8")
_PREFIX_BYTES = len(_MAGIC) + 4 * _NUMBERS.itemsize
_DIGEST_BYTES = hashlib.sha256().digest_size
_ALIGNMENT = 64
_BYTES_PER_READ = 1 << 20
_LARGEST = 2**31 - 1


def write_sparse_index(path: Path, postings: Postings, ids: NDArray[np.int64]) -> None:
    """Write an index to a file.

    Args:
        path: the file. An existing file is replaced when the new file is complete and on the disk.
        postings: the postings of all vectors.
        ids: the id of each vector, int64 (n,).

    Raises:
        OSError: the file cannot be written. An existing file is unchanged.
    """
    sizes = (len(postings.starts) - 1, postings.count, len(postings.rows))
    arrays = {"starts": postings.starts, "rows": postings.rows, "values": postings.values, "ids": ids}
    with replacing(path, durable=True) as partial, partial.open("xb") as stream:
        digest = hashlib.sha256()

        def put(content: Any) -> None:
            stream.write(content)
            digest.update(content)

        put(_MAGIC + np.array([_VERSION, *sizes], _NUMBERS).tobytes())
        put(bytes(-_PREFIX_BYTES % _ALIGNMENT))
        for name, dtype, length in _sections(*sizes):
            put(np.ascontiguousarray(arrays[name], dtype).view(np.uint8))
            put(bytes(-length * dtype.itemsize % _ALIGNMENT))
        stream.write(digest.digest())


def _sections(dimension: int, count: int, postings: int) -> Iterator[tuple[str, np.dtype[Any], int]]:
    """Yield the name, the dtype and the length of each section."""
    yield "starts", np.dtype("<i8"), dimension + 1
    yield "rows", np.dtype("<i4"), postings
    yield "values", np.dtype("<f4"), postings
    yield "ids", np.dtype("<i8"), count


def read_sparse_index(path: Path) -> tuple[Postings, NDArray[np.int64]]:
    """Read an index.

    Returns:
        The postings and the ids, as read-only memory-mapped arrays.

    Raises:
        FormatError: a newer version of embedder wrote the file.
        ArtifactError: the file cannot be read, is no such index, or is damaged.
    """
    try:
        # The file is opened only once, because another process may replace it meanwhile.
        with open_regular(path) as stream:
            sizes = _read_sizes(path, stream)
            arrays, end = _map_sections(path, stream, sizes)
            stream.seek(end)
            expected = stream.read(_DIGEST_BYTES).hex()
            postings = Postings(sizes[1], arrays["starts"], arrays["rows"], arrays["values"])

            def check() -> None:
                _check_digest(path, stream, end, expected)
                _check_postings(path, postings)

            check_once(path, FileState.of(stream.fileno()), f"{expected} and postings", check)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    return postings, arrays["ids"]


def _read_sizes(path: Path, stream: BinaryIO) -> tuple[int, int, int]:
    prefix = stream.read(_PREFIX_BYTES)
    if prefix[: len(_MAGIC)] != _MAGIC or len(prefix) < _PREFIX_BYTES:
        raise ArtifactError(f"{path} is not a sparse index of embedder: it begins with {prefix[: len(_MAGIC)]!r}")
    version, *sizes = np.frombuffer(prefix[len(_MAGIC) :], _NUMBERS).tolist()
    if version > _VERSION:
        raise FormatError(
            f"{path} has format version {version}, and this embedder reads versions up to {_VERSION}: upgrade embedder"
        )
    dimension, count, postings = sizes
    if version < 1 or not 1 <= dimension <= _LARGEST or not 0 <= count <= _LARGEST or postings < 0:
        raise _damaged(path, f"its version and sizes are {[version, *sizes]}")
    return dimension, count, postings


def _map_sections(path: Path, stream: BinaryIO, sizes: tuple[int, int, int]) -> tuple[dict[str, NDArray[Any]], int]:
    """Return the sections, and the offset in bytes at which the last one ends."""
    start, places = _PREFIX_BYTES + -_PREFIX_BYTES % _ALIGNMENT, {}
    for name, dtype, length in _sections(*sizes):
        places[name] = start, dtype, length
        start += length * dtype.itemsize
        start += -start % _ALIGNMENT
    size = os.fstat(stream.fileno()).st_size
    if size != start + _DIGEST_BYTES:
        raise _damaged(path, f"it has {size} bytes, but by its sizes it should have {start + _DIGEST_BYTES}")
    content = np.memmap(stream, np.uint8, "r")
    arrays = {
        name: content[at : at + length * dtype.itemsize].view(np.ndarray).view(dtype)
        for name, (at, dtype, length) in places.items()
    }
    return arrays, start


def _check_digest(path: Path, stream: BinaryIO, end: int, expected: str) -> None:
    digest = hashlib.sha256()
    stream.seek(0)
    while end:
        chunk = stream.read(min(_BYTES_PER_READ, end))
        if not chunk:  # another process has shortened the file meanwhile
            break
        digest.update(chunk)
        end -= len(chunk)
    if digest.hexdigest() != expected:
        raise _damaged(path, f"its sha256 is {digest.hexdigest()}, but it should be {expected}")


def _check_postings(path: Path, postings: Postings) -> None:
    starts, rows = postings.starts, postings.rows
    if starts[0] != 0 or starts[-1] != len(rows) or (np.diff(starts) < 0).any():
        raise _damaged(path, "the starts of its places do not rise from 0 to the number of postings")
    if len(rows) and not (rows.min() >= 0 and rows.max() < postings.count):
        raise _damaged(path, "a posting belongs to no vector")
    if not np.isfinite(postings.values).all():
        raise _damaged(path, "a number is not finite")


def _damaged(path: Path, problem: str) -> ArtifactError:
    return ArtifactError(f"{path} is damaged: {problem}. Copy it again, or make the index again")
