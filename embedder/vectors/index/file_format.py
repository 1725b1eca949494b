"""The file of a `VectorIndex`. It is written whole or not at all, and checked before it is used.

    8 bytes      magic
    8 bytes      length of the header, little-endian
    header       JSON, see `Header`; filled up with spaces to a multiple of 64 bytes
    sections     as `sections_of` lists them, little-endian; each filled up with zeros to a multiple of 64 bytes
    32 bytes     SHA-256 of everything before

The header determines where each section begins. So the file has no offsets that could point elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from embedder.common.decode import decode
from embedder.common.digests import check_once
from embedder.common.files import replacing
from embedder.errors import ArtifactError, FormatError

INDEX_FORMAT_VERSION = 2
INDEX_PRECISIONS = ("float32", "int8", "binary")
INDEX_SIMILARITIES = ("cosine", "dot")
_MAGIC = b"\x89EMBIDX\n"
_PREFIX_BYTES = len(_MAGIC) + 8
_DIGEST_BYTES = hashlib.sha256().digest_size
_ALIGNMENT = 64
_MAX_HEADER_BYTES = 1 << 20
_BYTES_PER_READ = 1 << 20

# The dtype and shape of each section.
Sections = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]


@dataclass(frozen=True)
class ModelDescription:
    """The model that the vectors were made by.

    Attributes:
        name: where the model came from, such as "sentence-transformers/all-MiniLM-L6-v2".
        weights: the first 16 digits of the SHA-256 of its weights.
        dtype: the dtype of the graph that ran, such as "fp32" or "int8". None if unknown.
    """

    name: str
    weights: str
    dtype: str | None

    def __str__(self) -> str:
        return f"{self.name}, weights {self.weights}"

    def same_weights(self, other: ModelDescription) -> bool:
        """Return whether both have the same name and weights. Their dtypes may differ."""
        return (self.name, self.weights) == (other.name, other.weights)


@dataclass(frozen=True)
class Header:
    """What the file holds.

    Attributes:
        format_version: the version of this format.
        dimension: the length of a vector.
        precision: how vectors are kept, one of `INDEX_PRECISIONS`.
        similarity: what vectors are compared by, one of `INDEX_SIMILARITIES`.
        count: how many vectors there are.
        model: what made the vectors. None if unknown.
        extra: for future use. Readers ignore keys here that they do not know.
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
        if self.dimension < 1:
            raise ValueError(f"dimension should be at least 1, not {self.dimension}")
        if self.count < 0:
            raise ValueError(f"count should be at least 0, not {self.count}")


def sections_of(header: Header) -> Sections:
    """Return the dtype and shape of each section, in the order of the file.

    - ids: the ids of the vectors.
    - vectors: the vectors, of length 1 if the similarity is the cosine.
    - codes and scales: a vector is about its codes times its scale.
    - bits: whether each number of a vector is above 0, packed.
    """
    n, dim = header.count, header.dimension
    sections: Sections = {"ids": (np.dtype("<i8"), (n,))}
    if header.precision == "float32":
        return sections | {"vectors": (np.dtype("<f4"), (n, dim))}
    if header.precision == "binary":
        sections["bits"] = (np.dtype("u1"), (n, -(-dim // 8)))
    return sections | {"codes": (np.dtype("i1"), (n, dim)), "scales": (np.dtype("<f4"), (n,))}


def upgrade(content: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a header of any known version in the current version.

    Raises:
        KeyError, TypeError, AttributeError: a field that a step needs is missing or of another type.
    """
    while content["format_version"] < INDEX_FORMAT_VERSION:
        content = _UPGRADES[content["format_version"]](content)
    return content


def upgrade_1_to_2(content: dict[str, Any]) -> dict[str, Any]:
    """Version 2 splits the description of the model into name, weights and dtype, and adds `extra`."""
    model = content["model"]
    if model is not None:
        name, separator, weights = model.rpartition(", weights ")
        model = {"name": name if separator else model, "weights": weights if separator else "", "dtype": None}
    return content | {"format_version": 2, "model": model, "extra": {}}


_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: upgrade_1_to_2}


def write_index(path: Path, header: Header, sections: dict[str, Iterable[NDArray[Any]]]) -> None:
    """Write `path`.

    Args:
        path: the file. An existing one is replaced once the new one is on the disk.
        header: what to write.
        sections: the rows of each of `sections_of(header)`, some at a time.

    Raises:
        OSError: the file system refused. An existing file is as it was.
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
    """Return the header of `path` in the current version, and its sections. They are mapped and read-only.

    Raises:
        FormatError: the file was written by a newer version of embedder, in a format that this one does not read.
        ArtifactError: the file cannot be read, is no index, or is damaged.
    """
    try:
        # The file is opened once: another process may replace it meanwhile.
        with path.open("rb") as stream:
            header, start = _read_header(path, stream)
            stream.seek(-_DIGEST_BYTES, os.SEEK_END)
            expected, size = stream.read(_DIGEST_BYTES).hex(), stream.tell()
            starts, end = _section_starts(header, start)
            if size != end + _DIGEST_BYTES:
                raise _damaged(path, f"it has {size} bytes, but by its header it should have {end + _DIGEST_BYTES}")
            check_once(path, expected, lambda: _check_digest(path, stream, expected))
            content = np.memmap(stream, np.uint8, "r")
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    sections = {}
    for name, (dtype, shape) in sections_of(header).items():
        section = content[starts[name] : starts[name] + dtype.itemsize * int(np.prod(shape))]
        sections[name] = section.view(np.ndarray).view(dtype).reshape(shape)
    return header, sections


def _section_starts(header: Header, start: int) -> tuple[dict[str, int], int]:
    """Return where each section begins, and where the last one ends."""
    starts = {}
    for name, (dtype, shape) in sections_of(header).items():
        starts[name] = start
        size = dtype.itemsize
        for length in shape:
            size *= length
        start += size + -size % _ALIGNMENT
    return starts, start


def _read_header(path: Path, stream: BinaryIO) -> tuple[Header, int]:
    prefix = stream.read(_PREFIX_BYTES)
    if prefix[: len(_MAGIC)] != _MAGIC:
        raise ArtifactError(f"{path} is no index of embedder: it begins with {prefix[: len(_MAGIC)]!r}")
    length = int.from_bytes(prefix[len(_MAGIC) :], "little")
    text = stream.read(min(length, _MAX_HEADER_BYTES))
    if len(text) != length:
        raise _damaged(path, f"its header should have {length} bytes, but {len(text)} can be read")
    try:
        content = json.loads(text)
        version = content["format_version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"format_version should be a whole number, at least 1, not {version!r:.80}")
        if version > INDEX_FORMAT_VERSION:
            raise FormatError(
                f"{path} has format version {version}, and this embedder reads versions up to {INDEX_FORMAT_VERSION}: "
                "upgrade embedder"
            )
        header = decode(Header, upgrade(content))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"its header cannot be read ({error})") from error
    return header, _PREFIX_BYTES + length


def _check_digest(path: Path, stream: BinaryIO, expected: str) -> None:
    digest = hashlib.sha256()
    remaining = stream.seek(0, os.SEEK_END) - _DIGEST_BYTES
    stream.seek(0)
    while remaining:
        chunk = stream.read(min(_BYTES_PER_READ, remaining))
        if not chunk:  # something has cut the file off meanwhile
            break
        digest.update(chunk)
        remaining -= len(chunk)
    if digest.hexdigest() != expected:
        raise _damaged(path, f"its sha256 is {digest.hexdigest()}, but it should be {expected}")


def _damaged(path: Path, problem: str) -> ArtifactError:
    return ArtifactError(f"{path} is damaged: {problem}. Copy it again, or make the index again")
