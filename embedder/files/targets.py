"""Where a complete file goes, and where its parts lie meanwhile."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

from embedder.common.cache import make_trusted_cache
from embedder.common.files import file_to_replace
from embedder.errors import InputError
from embedder.files.object_store import check_bucket, is_remote, upload

# The folder in the user's cache with the parts of files in object stores.
_UNFINISHED = "unfinished"


class Target(ABC):
    """A file to write.

    Attributes:
        name: the name of the file.
        path: the file, if it is on this machine.
        partial: the blocks that are written so far.
        journal: says what is in `partial`.
        complete: the complete file, if the format cannot make it of `partial` in place.
    """

    path: Path | None = None

    def __init__(self, name: str, base: Path) -> None:
        self.name = name
        self.partial = base.with_name(f"{base.name}.partial")
        self.journal = base.with_name(f"{base.name}.journal")
        self.complete = base.with_name(f"{base.name}.complete")

    @abstractmethod
    def mode(self) -> int | None:
        """Return the permissions of the file that will be replaced. None if there is none."""

    @abstractmethod
    def put(self, complete: Path) -> None:
        """Put a complete file in its place, in one step."""

    def remove_parts(self, *, keep_journal: bool = False) -> None:
        """Remove the partial file and its journal, as far as they are there."""
        for path in (self.complete, self.partial, *([] if keep_journal else [self.journal])):
            with suppress(PermissionError):  # Windows removes no open file
                path.unlink(missing_ok=True)


class LocalTarget(Target):
    """A file on this machine. Its parts lie beside it.

    Example:
        >>> LocalTarget(Path("vectors.npy")).partial.name
        'vectors.npy.partial'
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), path)
        self.path: Path = path

    def mode(self) -> int | None:
        """Return the permissions of the old file."""
        return self.path.stat().st_mode if self.path.is_file() else None

    def put(self, complete: Path) -> None:
        """Rename the complete file. It is on the disk before: its parts are removed next, and power may be lost."""
        with complete.open("r+b") as stream:
            os.fsync(stream.fileno())
        if self.path.is_file():
            shutil.copymode(self.path, complete)
        complete.replace(self.path)


class RemoteTarget(Target):
    """A file in an object store. Its parts lie in the user's cache.

    Example:
        >>> RemoteTarget("s3://bucket/vectors.npy").partial.name  # doctest: +SKIP
        'vectors.npy.partial'
    """

    def __init__(self, uri: str) -> None:
        """Make the directory of the parts.

        Raises:
            InputError: it cannot be made, or there is no such bucket.
        """
        import hashlib

        check_bucket(uri)
        folder, _, name = uri.rpartition("/")
        key = hashlib.sha256(folder.encode()).hexdigest()[:16]
        try:
            directory = make_trusted_cache(_UNFINISHED) / key
            directory.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the vectors of {uri} wait in your cache, which cannot be used: {error}. XDG_CACHE_HOME names another"
            ) from error
        super().__init__(uri, directory / name)

    def mode(self) -> int | None:
        """Return nothing: an object store has no such permissions."""
        return None

    def put(self, complete: Path) -> None:
        """Upload the complete file. It appears in the store when all of it is there."""
        upload(complete, self.name)


def target_of(path: str) -> Target:
    """Return the target of a path. Call it before long work: it finds what would stop its end.

    Raises:
        InputError: the file cannot be created or replaced.

    Example:
        >>> target_of("vectors.npy").journal.name
        'vectors.npy.journal'
    """
    return RemoteTarget(path) if is_remote(path) else LocalTarget(file_to_write(path))


def file_to_write(path: str | os.PathLike[str]) -> Path:
    """Return the file that `path` names or links to. Call it before long work: it finds what would stop its end.

    Raises:
        InputError: the file cannot be created or replaced.

    Example:
        >>> file_to_write("vectors.npy").name
        'vectors.npy'
    """
    try:
        return file_to_replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
