"""Files in object stores: s3://bucket/key and gs://bucket/key, through the file systems of pyarrow.

pyarrow finds the credentials as the other tools of these stores do. `AWS_ENDPOINT_URL` names another server with the
interface of S3.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from embedder.common.imports import import_optional
from embedder.errors import InputError

_SCHEMES = ("s3://", "gs://")
_GLOB_CHARACTERS = "*?["
_COPY_BYTES = 8 << 20


def is_remote(path: str) -> bool:
    """Return whether a path is in an object store.

    Example:
        >>> is_remote("s3://bucket/in.parquet"), is_remote("in.parquet")
        (True, False)
    """
    return path.startswith(_SCHEMES)


def open_remote(uri: str) -> BinaryIO:
    """Open a file of an object store. It can be read at any place.

    Raises:
        InputError: the file cannot be read.
        DependencyError: pyarrow is not installed.

    Example:
        >>> with open_remote("s3://bucket/notes.txt") as stream:  # doctest: +SKIP
        ...     stream.readline()
        b'a text'
    """
    system, path = _system_of(uri)
    with _named(uri, "read"):
        return io.BufferedReader(system.open_input_file(path))


def list_remote(uri: str, endings: tuple[str, ...]) -> list[str]:
    """Return the files below a directory whose names have one of `endings`, or those that a pattern finds. Sorted.

    Args:
        uri: a directory, or a pattern such as "s3://bucket/data/*.parquet". A star stands for one part of a path.
        endings: the endings of the files of a directory.

    Raises:
        InputError: the store cannot be read.
        DependencyError: pyarrow is not installed.

    Example:
        >>> list_remote("s3://bucket/data/", (".parquet",))  # doctest: +SKIP
        ['s3://bucket/data/1.parquet', 's3://bucket/data/2.parquet']
    """
    system, path = _system_of(uri)
    is_pattern = any(character in uri for character in _GLOB_CHARACTERS)
    first = min((path.find(character) for character in _GLOB_CHARACTERS if character in path), default=len(path))
    folder = path[:first].rpartition("/")[0] if is_pattern else path.rstrip("/")
    with _named(uri, "read"):
        selector = _arrow_fs().FileSelector(folder, recursive=True, allow_not_found=True)
        names = [info.path for info in system.get_file_info(selector) if info.is_file]
    if is_pattern:
        parts = path.split("/")
        found = [name for name in names if _fits(name.split("/"), parts)]
    else:
        found = [name for name in names if name.lower().endswith(endings)]
    scheme = uri[: uri.index("://") + 3]
    return sorted(scheme + name for name in found)


def _fits(names: list[str], patterns: list[str]) -> bool:
    """Return whether each part of a path fits its pattern. The pattern ** stands for any number of parts."""
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_fits(names[start:], patterns[1:]) for start in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], patterns[0]) and _fits(names[1:], patterns[1:])


def is_remote_file(uri: str) -> bool:
    """Return whether there is such a file.

    Raises:
        InputError: the store cannot be read.
        DependencyError: pyarrow is not installed.

    Example:
        >>> is_remote_file("s3://bucket/notes.txt")  # doctest: +SKIP
        True
    """
    system, path = _system_of(uri)
    with _named(uri, "read"):
        found: bool = system.get_file_info(path).is_file
    return found


def file_exists(path: str) -> bool:
    """Return whether there is such a file, in an object store or on this machine.

    Raises:
        InputError, DependencyError: as in `is_remote_file`.

    Example:
        >>> file_exists("no such file")
        False
    """
    return is_remote_file(path) if is_remote(path) else Path(path).exists()


def check_bucket(uri: str) -> None:
    """Raise InputError if a file of an object store cannot be written because its bucket is missing.

    A store that cannot be asked now may be there later, and some credentials allow no such question. So only a clear
    answer counts.

    Raises:
        InputError: there is no such bucket, or the URI names no file in it.
        DependencyError: pyarrow is not installed.

    Example:
        >>> check_bucket("s3://bucket/vectors.npy")  # doctest: +SKIP
    """
    scheme, _, path = uri.partition("://")
    bucket, _, name = path.partition("/")
    if not (bucket and name):
        raise InputError(f"{uri} should be of the form s3://bucket/name")
    _check_bucket(f"{scheme}://{bucket}")


@cache  # each shard asks
def _check_bucket(uri: str) -> None:
    system, bucket = _system_of(uri, "written")
    try:
        is_missing = system.get_file_info(bucket).type == _arrow_fs().FileType.NotFound
    except OSError:
        return
    if is_missing:
        raise InputError(f"{uri} cannot be written: there is no such bucket")


def upload(path: Path, uri: str) -> None:
    """Copy a file of this machine to an object store. It appears there when all of it is there.

    Raises:
        InputError: the store cannot be written.
        DependencyError: pyarrow is not installed.

    Example:
        >>> upload(Path("vectors.npy"), "s3://bucket/vectors.npy")  # doctest: +SKIP
    """
    system, name = _system_of(uri, "written")
    files = _arrow_fs()
    with _named(uri, "written"):
        # A stream of Python that is interrupted would be closed, and so leave a part of the file.
        files.copy_files(str(path), name, files.LocalFileSystem(), system, chunk_size=_COPY_BYTES)


def _system_of(uri: str, verb: str = "read") -> tuple[Any, str]:
    """Return the file system of a URI, and the path there."""
    with _named(uri, verb):
        # A pattern is no valid URI: its characters have other meanings there.
        system, _ = _arrow_fs().FileSystem.from_uri("/".join(uri.split("/")[:3]))
    return system, uri[uri.index("://") + 3 :]


def _arrow_fs() -> Any:
    return import_optional("pyarrow.fs", needed_for="An object store", requirement="embedder-onnx[parquet]")


@contextmanager
def _named(uri: str, verb: str) -> Iterator[None]:
    """Name the file in the errors of the store."""
    try:
        yield
    except (OSError, ValueError) as error:  # pyarrow's own errors are a ValueError each
        raise InputError(f"{uri} cannot be {verb}: {error}") from error
