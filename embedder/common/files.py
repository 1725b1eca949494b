"""Read regular files only. Replace a file or a directory in one step: write a new one beside it, then rename it.

The new content lies in a staging directory beside the target. A killed process leaves its staging directory behind, so
the next writer in the same place removes it. Each running writer holds a lock in its staging
directory, so that others leave it alone. The system releases the lock when the process ends, however it ends. Process
ids would not do: they are used again, and containers or machines that share a disk have ids of their own.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BufferedReader, BufferedWriter
from pathlib import Path

from embedder.common.file_locks import has_locks, try_lock

# Opening a pipe without O_NONBLOCK waits for a writer. Windows has neither this flag nor such pipes.
_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_READ = os.O_RDONLY | _NO_WAIT

_PREFIX, _SUFFIX = ".embedder-", ".partial"
# The entries of a staging directory.
_LOCK, _NEW, _OLD, _GONE = "lock", "new", "old", "gone"
# Some disks have no locks, or locks that other machines do not see. There a staging directory counts as abandoned if
# nothing in it has changed for this long.
_MAX_SILENCE_S = 24 * 60 * 60
_MAX_TRIES = 100
_CHUNK_BYTES = 1 << 16
# The first line of a pointer, https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md.
_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\n"


def check_regular(path: str | os.PathLike[str], max_bytes: int | None = None) -> None:
    """Raise OSError unless `path` is a regular file, or a link to one. Nothing is opened.

    Call it before a library opens the path itself. A library waits for ever at a pipe, and reads /dev/zero for ever.

    Args:
        path: the file.
        max_bytes: most bytes that the file may have. None sets no limit.

    Raises:
        OSError: there is no such file, it is not a regular file, or it is larger.

    Example:
        >>> check_regular(Path("/dev/null"))
        Traceback (most recent call last):
        ...
        OSError: [Errno 22] it is not a regular file: '/dev/null'
    """
    try:
        state = os.stat(path)
    except ValueError as error:  # a null character, or one that the file system cannot encode
        raise _impossible_name(path) from error
    _check_state(state, path, max_bytes)


def open_regular(path: str | os.PathLike[str], max_bytes: int | None = None) -> BufferedReader:
    """Open a regular file, or a link to one, for reading. Never waits.

    Args:
        path: the file.
        max_bytes: most bytes that the file may have. None sets no limit.

    Raises:
        OSError: the file cannot be opened, it is not a regular file, or it is larger.

    Example:
        >>> with open_regular(Path("notes.txt")) as stream:  # doctest: +SKIP
        ...     first = stream.read(100)
    """

    def opener(name: str, _: int) -> int:
        descriptor = os.open(name, _READ)  # not inherited by other programs, as always in Python
        try:
            _check_state(os.fstat(descriptor), path, max_bytes)  # the file may have been replaced meanwhile
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    check_regular(path, max_bytes)  # first, because to open a device can have an effect
    return open(path, "rb", opener=opener)


def read_regular(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Return the content of a regular file of at most `max_bytes` bytes. Never reads more.

    Raises:
        OSError: the file cannot be read, it is not a regular file, or it is larger.

    Example:
        >>> read_regular(Path("notes.txt"), max_bytes=1000)  # doctest: +SKIP
        b'all or nothing'
    """
    with open_regular(path, max_bytes) as stream:
        content = read_at_most(stream, max_bytes + 1)
    if len(content) > max_bytes:  # the files of /proc say that they have 0 bytes
        raise _too_large(path, max_bytes)
    return content


def read_at_most(stream: BufferedReader, max_bytes: int) -> bytes:
    """Return the first `max_bytes` bytes of a regular file that was just opened, or all if it has fewer.

    It reserves memory for what is there. `stream.read(max_bytes)` reserves `max_bytes` bytes, and a machine with less
    memory refuses that.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> with open_regular(Path("notes.txt")) as stream:  # doctest: +SKIP
        ...     content = read_at_most(stream, 100)
    """
    content = stream.read(min(os.fstat(stream.fileno()).st_size, max_bytes))
    # A file may have more bytes than its size says.
    while len(content) < max_bytes and (more := stream.read(min(_CHUNK_BYTES, max_bytes - len(content)))):
        content += more
    return content


def file_to_replace(path: str | os.PathLike[str]) -> Path:
    """Return the file that `path` names or links to, for `replacing`. There may be no such file yet.

    Without this, a link would be replaced instead of the file, and a device by a file.

    Raises:
        OSError: its directory is missing, or there is something else than a regular file.

    Example:
        >>> file_to_replace("notes.txt").name
        'notes.txt'
    """
    try:
        target = Path(os.path.realpath(path))
        if not target.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, f"{target.parent} is not a directory", os.fspath(path))
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a directory", os.fspath(path))
        if target.exists():
            check_regular(target)
    except ValueError as error:
        raise _impossible_name(path) from error
    return target


def lfs_pointer_problem(path: str | os.PathLike[str]) -> str | None:
    """Return what is wrong and what to do if `path` is a git-lfs pointer. None if it is not, or cannot be read.

    A clone without git-lfs has a few lines of text in the place of each large file.

    Example:
        >>> lfs_pointer_problem("no such file") is None
        True
    """
    try:
        with open_regular(path) as stream:
            start = stream.read(len(_LFS_POINTER))
    except OSError:
        return None
    if start != _LFS_POINTER:
        return None
    return f"{path} is a git-lfs pointer, not the file: run `git lfs pull`, or fetch it with `hf download`"


def _check_state(state: os.stat_result, path: str | os.PathLike[str], max_bytes: int | None) -> None:
    if not stat.S_ISREG(state.st_mode):
        kind = "a directory" if stat.S_ISDIR(state.st_mode) else "not a regular file"
        raise OSError(errno.EINVAL, f"it is {kind}", os.fspath(path))
    if max_bytes is not None and state.st_size > max_bytes:
        raise _too_large(path, max_bytes)


def _impossible_name(path: str | os.PathLike[str]) -> OSError:
    return OSError(errno.EINVAL, "no file can have this name", os.fspath(path))


def _too_large(path: str | os.PathLike[str], max_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes", os.fspath(path))


@contextmanager
def replacing(target: Path, *, durable: bool = False, swap_directory: bool = False) -> Iterator[Path]:
    """Yield a new path. It becomes `target` if the body ends without an error. Otherwise it is removed.

    Readers see the old content or the new content, never a part. A reader that has the old file open, or has mapped it
    into memory, keeps the old content. If two writers run at once, the last one wins. What killed writers have left in
    the same directory is removed first.

    Args:
        target: the file or directory to write. Its parent directory must exist.
        durable: flush the content and the directory entry to the disk, so that the result survives a loss of power.
        swap_directory: replace an existing directory. If False, an existing directory is an error.

    Raises:
        OSError: the file system refused. `target` has not changed.

    Example:
        >>> with replacing(Path("notes.txt")) as partial:
        ...     partial.write_text("all or nothing")
        14
    """
    remove_leftovers(target.parent)
    with _staging(target.parent) as staging:
        partial = staging / _NEW / target.name
        partial.parent.mkdir()
        yield partial
        if target.is_file() and partial.is_file():
            partial.chmod(target.stat().st_mode)
        if durable:
            _flush(partial)
        if swap_directory and target.is_dir():
            _swap(partial, target, staging / _OLD / target.name)
        else:
            partial.replace(target)
        if durable and os.name == "posix":
            _flush(target.parent)


def remove_leftovers(directory: Path) -> None:
    """Remove what killed writers have left in `directory`. The files of running writers stay.

    Example:
        >>> remove_leftovers(Path("artifacts"))
    """
    with suppress(OSError):  # if the directory cannot be read, the write that follows raises a better error
        with os.scandir(directory) as entries:
            # No writer makes a link. One that came with a stranger's files may lead to any directory.
            found = [entry.name for entry in entries if is_staging(entry.name) and not entry.is_symlink()]
        for staging in (directory / name for name in found):
            with suppress(OSError):
                staging.rmdir()  # if it is empty, its writer was killed, or has not locked it yet and makes another
                continue
            _remove_if_abandoned(staging)


def _remove(path: Path) -> None:
    """Remove a file, or a directory with its content, as far as the file system allows. It may be missing."""
    if path.is_dir() and not path.is_symlink():
        import shutil  # here, as it takes milliseconds of the start of every process

        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def discard(path: Path) -> None:
    """Remove a file or a directory in one step: others see all of it or nothing.

    Raises:
        OSError: the file system refused.

    Example:
        >>> discard(Path("artifacts/old"))  # doctest: +SKIP
    """
    remove_leftovers(path.parent)
    with _staging(path.parent) as staging:
        path.rename(staging / _GONE)


def is_staging(name: str) -> bool:
    """Return whether `name` is that of a staging directory.

    Example:
        >>> is_staging("model.onnx")
        False
    """
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


@contextmanager
def _staging(parent: Path) -> Iterator[Path]:
    """Make a staging directory in `parent` and lock it. Remove it at the end."""
    staging, lock = _make_staging(parent)
    try:
        yield staging
    finally:
        _empty(staging)
        lock.close()  # Windows removes no open file
        _remove_empty(staging)


def _make_staging(parent: Path) -> tuple[Path, BufferedWriter]:
    """Make a staging directory. Return it, and its lock, which is released when the stream is closed."""
    for _ in range(_MAX_TRIES):
        staging = parent / f"{_own_prefix()}{os.urandom(8).hex()}{_SUFFIX}"
        staging.mkdir(mode=0o700)
        # Another process may remove the directory before it is locked. Then this one makes another.
        with suppress(FileNotFoundError, BlockingIOError):
            lock = (staging / _LOCK).open("xb")
            try:
                try_lock(lock.fileno())
                if os.path.samestat(os.fstat(lock.fileno()), (staging / _LOCK).stat()):
                    return staging, lock
            except BaseException:
                lock.close()
                raise
            lock.close()
    raise OSError(errno.EAGAIN, "other processes removed each new directory", os.fspath(parent))


def _empty(staging: Path) -> None:
    """Remove the content of a staging directory except its lock, which tells other processes that it is in use."""
    with suppress(OSError):
        for path in staging.iterdir():
            if path.name != _LOCK:
                _remove(path)


def _remove_empty(staging: Path) -> None:
    _remove(staging / _LOCK)
    with suppress(OSError):
        staging.rmdir()


@cache
def _own_prefix() -> str:
    """Return the start of the names of this machine's staging directories."""
    import hashlib  # here, as these take milliseconds of the start of every process
    import platform

    return f"{_PREFIX}{hashlib.sha256(platform.node().encode()).hexdigest()[:8]}-"


def _remove_if_abandoned(staging: Path) -> None:
    """Remove a staging directory if its writer has ended."""
    descriptor = None
    if has_locks():
        with suppress(OSError):
            # Not waiting, as the file may be a pipe. Writable, as some network file systems lock only such files.
            descriptor = os.open(staging / _LOCK, os.O_RDWR | _NO_WAIT)
    try:
        # The lock is held until the directory is gone, so that a writer that is about to lock it makes another.
        is_free = descriptor is not None and try_lock(descriptor)
        if (is_free and staging.name.startswith(_own_prefix())) or _age_s(staging) > _MAX_SILENCE_S:
            _restore(staging)
            _empty(staging)
            _remove_empty(staging)
    except BlockingIOError:
        pass  # its writer is running
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _age_s(directory: Path) -> float:
    """Return for how many seconds nothing in `directory` has changed."""
    newest = 0.0
    for path in (directory, *directory.rglob("*")):
        with suppress(OSError):
            newest = max(newest, path.lstat().st_mtime)
    return time.time() - newest


def _restore(staging: Path) -> None:
    """Put back what a writer had moved away when it was killed, unless there is something new in its place."""
    if (staging / _OLD).is_symlink():  # as in `remove_leftovers`
        return
    with suppress(OSError):
        for old in (staging / _OLD).iterdir():
            if not os.path.lexists(staging.parent / old.name):
                old.rename(staging.parent / old.name)


def _swap(partial: Path, target: Path, old: Path) -> None:
    old.parent.mkdir()
    target.rename(old)
    try:
        partial.rename(target)
    except OSError:
        old.rename(target)
        raise
    _remove(old)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
