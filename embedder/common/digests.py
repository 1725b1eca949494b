"""Checking files against their SHA-256, the large ones once.

Reading 90 MB of weights takes as long as loading them, so a file that was found whole is remembered by what changes
with its content (size, times, inode), as git does with its index, in the user's cache directory. It is read again
when any of that differs; where the cache cannot be written, at every load.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from embedder.errors import ArtifactError

# Times are coarse: a file changed just now may change again without showing it, so it is not remembered yet.
_SETTLED_NS = 2_000_000_000


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_digest(path: Path, sha256: str) -> None:
    """Read `path`, and raise ArtifactError unless it has that SHA-256."""
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
    """As `check_digest`, but a file that has not changed since it was found right is not read again."""
    check_once(path, sha256, lambda: check_digest(path, sha256))


def check_once(path: Path, sha256: str, check: Callable[[], None]) -> None:
    """Call `check`, which raises unless `path` has that content, unless it has passed and nothing changed since."""
    state = path.stat()
    mark = f"{sha256} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"
    with _cache_is_optional():
        if _record(path).read_bytes() == mark.encode():
            return
    check()
    if time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) > _SETTLED_NS:
        with _cache_is_optional():
            _write_atomically(_record(path), mark)


def _cache_is_optional() -> contextlib.suppress:
    # pathlib raises RuntimeError where the user has no home.
    return contextlib.suppress(OSError, RuntimeError)


def cache_directory() -> Path:
    """Where embedder keeps what it can make again, for this user; RuntimeError where the user has no home."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # unset, or to be ignored by the XDG Base Directory Specification
        cache = Path.home() / ".cache"
    return cache / "embedder"


def _record(path: Path) -> Path:
    return cache_directory() / "verified" / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
