"""Replace a file or a directory in one step: write a new one beside it, then rename it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SUFFIX = ".partial"


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
