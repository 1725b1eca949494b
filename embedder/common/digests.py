"""Check files against their SHA-256. Large files are checked once, and again only when they change.

Reading 90 MB of weights takes as long as loading them. So the user's cache records each file that passed the check,
with its size, times and inode. If these are the same at the next load, the file has not changed. git does the same in
its index. If the cache cannot be written, the file is checked at every load.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from embedder.common.files import open_regular, read_regular, replacing
from embedder.errors import ArtifactError

# File times are coarse: a file may change twice within one tick. So a file that is younger than this is not recorded.
_MIN_AGE_NS = 2_000_000_000
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


def check_digest_once(path: Path, sha256: str) -> None:
    """Check as `check_digest` does, but read the file only if it has changed since it last passed.

    Example:
        >>> check_digest_once(artifact.path(file), file.sha256)  # doctest: +SKIP
    """
    check_once(path, sha256, lambda: check_digest(path, sha256))


def check_once(path: Path, sha256: str, check: Callable[[], None]) -> None:
    """Call `check` unless the file has passed it before and has not changed since.

    Args:
        path: the file.
        sha256: digest that the file should have.
        check: raises an error if the file does not have this digest.

    Raises:
        OSError: there is no such file.

    Example:
        >>> check_once(path, sha256, lambda: check_digest(path, sha256))  # doctest: +SKIP
    """
    state = path.stat()
    mark = f"{sha256} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"
    with _cache_is_optional():
        if read_regular(_record(path), _MAX_RECORD_BYTES) == mark.encode():
            return
    check()
    if time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) > _MIN_AGE_NS:
        with _cache_is_optional():
            record = _record(path)
            record.parent.mkdir(parents=True, exist_ok=True)
            with replacing(record) as partial:
                partial.write_text(mark)


def _cache_is_optional() -> contextlib.suppress:
    # pathlib raises RuntimeError if the user has no home directory.
    return contextlib.suppress(OSError, RuntimeError)


def cache_directory() -> Path:
    """Return this user's cache directory. embedder can make every file there again.

    Raises:
        RuntimeError: the user has no home directory.

    Example:
        >>> cache_directory().name
        'embedder'
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # unset; the XDG Base Directory Specification says to ignore relative paths
        cache = Path.home() / ".cache"
    return cache / "embedder"


def _record(path: Path) -> Path:
    return cache_directory() / "verified" / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
