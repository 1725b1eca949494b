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
from collections.abc import Callable, Iterable
from dataclasses import asdict, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from embedder.common.decode import decode
from embedder.common.digests import FileState, check_once
from embedder.common.files import open_regular, replacing
from embedder.common.json_text import parse_json
from embedder.common.records import frozen
from embedder.errors import ArtifactError, FormatError
from embedder.vectors.index.values import find_bad_values

INDEX_FORMAT_VERSION = 2
INDEX_PRECISIONS = ("float32", "int8", "binary")
INDEX_SIMILARITIES = ("cosine", "dot")
# The limit of the length of a vector. Those of known models have thousands of numbers.
MAX_DIMENSION = 2**24
_MAGIC = b"\x89EMBIDX\n"
_PREFIX_BYTES = len(_MAGIC) + 8
_DIGEST_BYTES = hashlib.sha256().digest_size
_ALIGNMENT = 64
_MAX_HEADER_BYTES = 1 << 20
_BYTES_PER_READ = 1 << 20

# The dtype and shape of each section.
Sections = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]


@frozen
class ModelDescription:
    """The model that made the vectors.

    Attributes:
        name: the model's name, such as "sentence-transformers/all-MiniLM-L6-v2".
        weights: the first 16 digits of the SHA-256 of its weights.
        dtype: the dtype of the graph that ran, such as "fp32" or "int8". None if unknown.
    """

    name: str
    weights: str
    dtype: str | None

    def __str__(self) -> str:
        return f"{self.name}, weights {self.weights}"

    def same_weights(self, other: ModelDescription) -> bool:
        """Return whether both models have the same name and the same weights. Their dtypes may differ."""
        return (self.name, self.weights) == (other.name, other.weights)


@frozen
class Header:
    """The description of the vectors at the beginning of the file.

    Attributes:
        format_version: the version of the file format.
        dimension: the length of a vector.
        precision: how vectors are kept: one of `INDEX_PRECISIONS`.
        similarity: how vectors are compared: one of `INDEX_SIMILARITIES`.
        count: the number of vectors.
        model: the model that made the vectors. None if it is unknown.
        extra: keys of later versions. Readers ignore keys here that they do not know.
    """

    format_version: int
    dimension: int
    precision: str
    similarity: str
    count: int
    model: ModelDescription | None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, known in (("precision", INDEX_PRECISIONS), ("similarity", INDEX_SIMILARITIES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} should be one of {', '.join(known)}, not {getattr(self, name)!r}")
        if not 1 <= self.dimension <= MAX_DIMENSION:
            raise ValueError(f"dimension should be from 1 to {MAX_DIMENSION:,}, not {self.dimension:,}")
        if self.count < 0:
            raise ValueError(f"count should be at least 0, not {self.count}")


def sections_of(header: Header) -> Sections:
    """Return the dtype and shape of each section, in the order of the file.

    - ids: the id of each vector.
    - vectors: the vectors. If the similarity is "cosine", they have length 1.
    - codes and scales: the codes of a vector, multiplied by its scale, are close to the vector.
    - bits: a packed bit for each number of a vector. It is 1 if the number is above 0.
    """
    n, dim = header.count, header.dimension
    sections: Sections = {"ids": (np.dtype("<i8"), (n,))}
    if header.precision == "float32":
        return sections | {"vectors": (np.dtype("<f4"), (n, dim))}
    if header.precision == "binary":
        sections["bits"] = (np.dtype("u1"), (n, -(-dim // 8)))
    return sections | {"codes": (np.dtype("i1"), (n, dim)), "scales": (np.dtype("<f4"), (n,))}


def upgrade(content: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a header in the current version. `content` may have any earlier version.

    Raises:
        KeyError, TypeError, AttributeError: a field is missing, or has another type.
    """
    while content["format_version"] < INDEX_FORMAT_VERSION:
        content = _UPGRADES[content["format_version"]](content)
    return content


def upgrade_1_to_2(content: dict[str, Any]) -> dict[str, Any]:
    """Return a header of version 1 in version 2.

    Version 2 splits the description of the model into name, weights and dtype. It also adds `extra`.
    """
    model = content["model"]
    if model is not None:
        name, separator, weights = model.rpartition(", weights ")
        model = {"name": name if separator else model, "weights": weights if separator else "", "dtype": None}
    return content | {"format_version": 2, "model": model, "extra": {}}


_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: upgrade_1_to_2}


def write_index(path: Path, header: Header, sections: dict[str, Iterable[NDArray[Any]]]) -> None:
    """Write an index to a file.

    Args:
        path: the file. An existing file is replaced when the new file is complete and on the disk.
        header: the header.
        sections: for each section of `sections_of(header)`, its rows in several arrays.

    Raises:
        OSError: the file cannot be written. An existing file is unchanged.
    """
    with replacing(path, durable=True) as partial, partial.open("xb") as stream:
        _write(stream, header, sections)


def _write(stream: BinaryIO, header: Header, sections: dict[str, Iterable[NDArray[Any]]]) -> None:
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


def read_index(path: Path) -> tuple[Header, dict[str, NDArray[Any]]]:
    """Return the header of `path` in the current version, and its sections as read-only memory-mapped arrays.

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
    return header, sections


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
