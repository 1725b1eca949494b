"""Check files against their SHA-256. Large files are checked once, and again only when they change.

Reading 90 MB of weights takes as long as loading them. So the user's cache records each file that passed the check,
with its size, times and inode. If these are the same at the next load, the file has not changed. git does the same in
its index. If the cache cannot be used, the file is checked at every load.

A file is checked by its path, and then a library opens it by its path. Between the two, another process may replace it.
So `open_checked` compares the state of each file before and after it is opened.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from embedder.common.cache import make_trusted_cache, trusted_cache
from embedder.common.files import open_regular, read_regular
from embedder.common.records import frozen
from embedder.errors import ArtifactError

_T = TypeVar("_T")

# File times are coarse: a file may change twice within one tick. So a file that is younger than this is not recorded.
_MIN_AGE_NS = 2_000_000_000
# Most attempts to open files that change while they are opened.
_MAX_OPENINGS = 3
# The folder of the records in the user's cache.
_RECORDS = "verified"
_MAX_RECORD_BYTES = 1000


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a regular file's content, in lower-case hexadecimal.

    Raises:
        OSError: the file cannot be read, or is not a regular file.

    Example:
        >>> _ = Path("empty").write_bytes(b"")
        >>> sha256_of(Path("empty"))[:8]
        'e3b0c442'
    """
    import hashlib  # here, as it takes milliseconds of the start of every process

    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_digest(path: Path, sha256: str) -> None:
    """Read the file `path`. Raise ArtifactError unless its SHA-256 is `sha256`.

    Example:
        >>> check_digest(artifact.path(file), file.sha256)  # doctest: +SKIP
    """
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    if digest != sha256:
        raise ArtifactError(
            f"{path} has been altered or damaged: its sha256 is {digest}, the manifest says {sha256}. "
            "Export or copy the model again"
        )


@frozen
class FileState:
    """What changes when the content of a file changes, or when another file takes its place.

    Attributes:
        size: in bytes.
        modified_ns: time of the last change of the content, in nanoseconds.
        changed_ns: time of the last change of the content or of the file's attributes, in nanoseconds. No program can
            set it.
        inode: the number of the file on its device.
        device: the number of the device. It may differ after a reboot, so records do not have it.
    """

    size: int
    modified_ns: int
    changed_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, file: Path | int) -> FileState:
        """Return the state of a file, given by its path or by an open descriptor.

        Raises:
            ArtifactError: there is no such file, or it cannot be read.

        Example:
            >>> FileState.of(Path("."))  # doctest: +ELLIPSIS
            FileState(size=...)
        """
        try:
            found = os.stat(file)
        except OSError as error:
            raise ArtifactError(f"{file} cannot be read: {error.strerror}") from error
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)

    @property
    def is_settled(self) -> bool:
        """Whether the file is so old that any later change would show in its times."""
        return time.time_ns() - max(self.modified_ns, self.changed_ns) > _MIN_AGE_NS

    @property
    def mark(self) -> str:
        """The state as a line of a record."""
        return f"{self.size} {self.modified_ns} {self.changed_ns} {self.inode}"


def check_once(path: Path, state: FileState, sha256: str, check: Callable[[], None]) -> None:
    """Call `check` unless the file has passed it before and has not changed since.

    Args:
        path: the file.
        state: its state before the check.
        sha256: digest that the file should have.
        check: raises an error if the file does not have this digest.

    Example:
        >>> check_once(path, FileState.of(path), sha256, lambda: check_digest(path, sha256))  # doctest: +SKIP
    """
    import hashlib

    mark = f"{sha256} {state.mark}".encode()
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    records = trusted_cache(_RECORDS)
    if records is not None:
        with suppress(OSError):
            if read_regular(records / name, _MAX_RECORD_BYTES) == mark:
                return
    check()
    if records is not None and state.is_settled:
        with suppress(OSError):
            record = make_trusted_cache(_RECORDS) / name
            record.unlink(missing_ok=True)
            # A half-written record equals no mark, so the file need not appear in one step.
            with record.open("xb") as stream:
                stream.write(mark)


class CheckedFile:
    """A file, and the SHA-256 that it should have, if it is checked. Safe to share between threads.

    Example:
        >>> _ = Path("empty").write_bytes(b"")
        >>> CheckedFile(Path("empty"), sha256_of(Path("empty"))).check().size
        0
    """

    def __init__(self, path: Path, sha256: str | None, *, recorded: bool = False) -> None:
        """Describe a file.

        Args:
            path: the file.
            sha256: its digest. None checks only that the file is there, and that it does not change while it is opened.
            recorded: whether the user's cache records that the file has passed, because it is large.
        """
        self.path = path
        self._sha256 = sha256
        self._recorded = recorded
        self._passed: FileState | None = None  # the state in which the file has passed the check

    def check(self) -> FileState:
        """Check the digest, unless the file has passed and has not changed since. Return the state of the file.

        Raises:
            ArtifactError: the file is missing, or has another digest.
        """
        state = FileState.of(self.path)
        if state != self._passed:
            self._check_digest(state)
            self._passed = state
        return state

    def _check_digest(self, state: FileState) -> None:
        sha256 = self._sha256
        if sha256 is None:
            return
        if self._recorded:
            check_once(self.path, state, sha256, lambda: check_digest(self.path, sha256))
        else:
            check_digest(self.path, sha256)


def open_checked(files: Sequence[CheckedFile], open: Callable[[], _T]) -> _T:
    """Call `open`, which opens `files` by their paths, and return its result. The files have the right digests.

    If a file changes meanwhile, it is checked and opened again. A new hard link or another owner is a change too.

    Raises:
        ArtifactError: a file is missing, is damaged, or was replaced each time while it was opened.

    Example:
        >>> open_checked([], lambda: "a model")
        'a model'
    """
    for _ in range(_MAX_OPENINGS):
        before = [file.check() for file in files]
        opened = open()
        changed = [file for file, state in zip(files, before, strict=True) if file.check() != state]
        if not changed:
            return opened
        del opened  # before the next one is opened, so that two are never in memory together
    raise ArtifactError(f"{changed[0].path} was replaced while it was opened. Load the model again")
