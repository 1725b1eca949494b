"""Read regular files only. Replace a file or a directory in one step: write a new one beside it, then rename it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

_SUFFIX = ".partial"
# Opening a pipe without O_NONBLOCK waits for a writer. Windows has neither this flag nor such pipes.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)


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
        raise OSError(errno.EINVAL, "no file can have this name", os.fspath(path)) from error
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
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:  # the files of /proc say that they have 0 bytes
        raise _too_large(path, max_bytes)
    return content


def _check_state(state: os.stat_result, path: str | os.PathLike[str], max_bytes: int | None) -> None:
    if not stat.S_ISREG(state.st_mode):
        kind = "a directory" if stat.S_ISDIR(state.st_mode) else "not a regular file"
        raise OSError(errno.EINVAL, f"it is {kind}", os.fspath(path))
    if max_bytes is not None and state.st_size > max_bytes:
        raise _too_large(path, max_bytes)


def _too_large(path: str | os.PathLike[str], max_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes", os.fspath(path))


@contextmanager
def replacing(target: Path, *, durable: bool = False, swap_directory: bool = False) -> Iterator[Path]:
    """Yield a path beside `target`. It becomes `target` if the body ends without an error. Otherwise it is removed.

    Readers see the old content or the new content, never a part. If two writers run at once, the last one wins. Partial
    files that a killed process left for the same target are removed first.

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
    for leftover in _leftovers(target):
        _remove(leftover)
    partial = target.with_name(f".{target.name}.{os.getpid()}-{os.urandom(4).hex()}{_SUFFIX}")
    try:
        yield partial
        if target.is_file() and partial.is_file():
            partial.chmod(target.stat().st_mode)
        if durable:
            _flush(partial)
        if swap_directory and target.is_dir():
            _swap(partial, target)
        else:
            partial.replace(target)
        if durable and os.name == "posix":
            _flush(target.parent)
    finally:
        _remove(partial)


def _swap(partial: Path, target: Path) -> None:
    old = partial.with_name(f"{partial.name}-old{_SUFFIX}")
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


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        import shutil  # here, as it takes milliseconds of the start of every process

        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _leftovers(target: Path) -> Iterator[Path]:
    """Yield the partial files of `target` that dead processes have left. Yields nothing on Windows."""
    if os.name != "posix":
        return
    prefix = f".{target.name}."
    for leftover in [path for path in _siblings(target) if path.name.startswith(prefix)]:
        process = leftover.name[len(prefix) :].partition("-")[0]
        if leftover.name.endswith(_SUFFIX) and process.isdecimal() and not _is_running(int(process)):
            yield leftover


def _siblings(target: Path) -> list[Path]:
    try:
        return list(target.parent.iterdir())
    except OSError:  # the write that follows raises a better error
        return []


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # the process belongs to another user
        return True
    return True
