"""The file of a `VectorIndex`: written whole or not at all, and checked before it is used.

    8 bytes      magic
    8 bytes      length of the header, little-endian
    header       JSON, see `Header`; spaces fill it up to a multiple of 64 bytes
    sections     as `sections_of` lists them, little-endian; zeros fill each up to a multiple of 64 bytes
    32 bytes     SHA-256 of all that comes before

Where each section begins follows from the header, so the file has no offsets that could lead elsewhere. It is written
beside its place, flushed to the disk, and moved there in one step: a crash leaves the old file, or the new one.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from embedder.common.digests import check_once
from embedder.errors import ArtifactError, FormatError

FORMAT_VERSION = 1
PRECISIONS = ("float32", "int8", "binary")
SIMILARITIES = ("cosine", "dot")
_MAGIC = b"\x89EMBIDX\n"
_START = len(_MAGIC) + 8
_DIGEST = hashlib.sha256().digest_size
_ALIGNMENT = 64
_LONGEST_HEADER = 1 << 20
_READ = 1 << 20


@dataclass(frozen=True)
class Header:
    """What the file holds.

    model: what the vectors were made by, as `VectorIndex` names it; None where it does not know.
    """

    format_version: int
    dimension: int
    precision: str
    similarity: str
    count: int
    model: str | None


def sections_of(header: Header) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """The type and shape of each section, in their order.

    ids: as the caller has them. vectors: of length 1 where the similarity is the cosine. codes and scales: a vector is
    about its codes times its scale. bits: whether each number of a vector is above 0, packed.
    """
    n, dim = header.count, header.dimension
    sections: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {"ids": (np.dtype("<i8"), (n,))}
    if header.precision == "float32":
        return sections | {"vectors": (np.dtype("<f4"), (n, dim))}
    if header.precision == "binary":
        sections["bits"] = (np.dtype("u1"), (n, -(-dim // 8)))
    return sections | {"codes": (np.dtype("i1"), (n, dim)), "scales": (np.dtype("<f4"), (n,))}


def write_index(path: Path, header: Header, sections: dict[str, Iterable[NDArray[Any]]]) -> None:
    """Write `path`: of each of `sections_of(header)` the rows that its iterable gives, which are let go as they come.

    Raises:
        OSError: it cannot be written; then what was there before is still there.
    """
    for leftover in _leftovers(path):
        leftover.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}.partial")
    try:
        with partial.open("xb") as stream:
            _write(stream, header, sections)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if os.name == "posix":  # so that the move itself survives a loss of power
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _leftovers(path: Path) -> Iterator[Path]:
    """What processes that are no longer there have begun to write for `path`, where the system can tell."""
    if os.name != "posix":
        return
    for leftover in path.parent.glob(f".{path.name}.*-*.partial"):
        process = leftover.name[len(path.name) + 2 :].partition("-")[0]
        if process.isdecimal():
            try:
                os.kill(int(process), 0)
            except ProcessLookupError:
                yield leftover
            except OSError:  # it is somebody else's
                pass


def _write(stream: BinaryIO, header: Header, sections: dict[str, Iterable[NDArray[Any]]]) -> None:
    digest = hashlib.sha256()

    def put(content: Any) -> int:
        stream.write(content)
        digest.update(content)
        return memoryview(content).nbytes

    text = json.dumps(asdict(header)).encode()
    text += b" " * (-(_START + len(text)) % _ALIGNMENT)
    put(_MAGIC + len(text).to_bytes(8, "little") + text)
    for name, (dtype, _) in sections_of(header).items():
        size = sum(put(np.ascontiguousarray(rows, dtype).reshape(-1).view(np.uint8)) for rows in sections[name])
        put(bytes(-size % _ALIGNMENT))
    stream.write(digest.digest())


def read_index(path: Path) -> tuple[Header, dict[str, NDArray[Any]]]:
    """The header and the sections of `path`, which are mapped, and read-only.

    Raises:
        FormatError: it is of a format version that this version does not read.
        ArtifactError: it cannot be read, is no index, or is damaged.
    """
    try:
        with path.open("rb") as stream:
            header, start = _read_header(path, stream)
            stream.seek(-_DIGEST, os.SEEK_END)
            expected, size = stream.read(_DIGEST).hex(), stream.tell()
        places = _places(header, start)
        if size != places.pop("") + _DIGEST:
            raise _damaged(path, f"it has {size} bytes, its header says otherwise")
        check_once(path, expected, lambda: _check_digest(path, size - _DIGEST, expected))
        whole = np.memmap(path, np.uint8, "r")
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    sections = {}
    for name, (dtype, shape) in sections_of(header).items():
        begin = places[name]
        section = whole[begin : begin + dtype.itemsize * int(np.prod(shape))]
        sections[name] = section.view(np.ndarray).view(dtype).reshape(shape)
    return header, sections


def _places(header: Header, start: int) -> dict[str, int]:
    """Where each section begins, and under "" where the last one ends."""
    places = {}
    for name, (dtype, shape) in sections_of(header).items():
        places[name] = start
        size = dtype.itemsize
        for length in shape:
            size *= length
        start += size + -size % _ALIGNMENT
    places[""] = start
    return places


def _read_header(path: Path, stream: BinaryIO) -> tuple[Header, int]:
    begin = stream.read(_START)
    if begin[: len(_MAGIC)] != _MAGIC:
        raise ArtifactError(f"{path} is no index of embedder: it begins with {begin[: len(_MAGIC)]!r}")
    length = int.from_bytes(begin[len(_MAGIC) :], "little")
    text = stream.read(min(length, _LONGEST_HEADER))
    try:
        content = json.loads(text)
        version = content["format_version"]
        if version != FORMAT_VERSION:
            raise FormatError(
                f"{path} has format version {version!r}; this embedder reads version {FORMAT_VERSION}: "
                "make the index again, or upgrade embedder"
            )
        header = Header(**content)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _damaged(path, f"its header cannot be read ({error})") from error
    for field in fields(header):
        value = getattr(header, field.name)
        if type(value) is not field.type and not (field.name == "model" and type(value) in (str, type(None))):
            raise _damaged(path, f"its header has {value!r} as {field.name}")
    known = header.precision in PRECISIONS and header.similarity in SIMILARITIES
    if not known or header.dimension < 1 or header.count < 0 or len(text) != length:
        raise _damaged(path, f"its header has {header}")
    return header, _START + length


def _check_digest(path: Path, size: int, expected: str) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for at in range(0, size, _READ):
            digest.update(stream.read(min(_READ, size - at)))
    if digest.hexdigest() != expected:
        raise _damaged(path, f"its sha256 is {digest.hexdigest()}, it should be {expected}")


def _damaged(path: Path, problem: str) -> ArtifactError:
    return ArtifactError(f"{path} is damaged: {problem}. Make the index again, or copy it again")
