"""Write a file of vectors so that a run that is stopped or killed can go on: `FILE.partial`, and its journal."""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from embedder.common.counted import counted
from embedder.common.file_locks import has_locks, try_lock
from embedder.errors import InputError
from embedder.files.formats import Format, RowFields
from embedder.files.journal import (
    Coverage,
    Job,
    Journal,
    Progress,
    Tally,
    differences,
    is_start_of_journal,
    read_journal,
)
from embedder.files.targets import Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A link in the place of a partial file may lead to any file.
_OPEN = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
_MAX_TRIES = 100


class Output(Protocol):
    """Where vectors are written.

    Attributes:
        start: the inputs that are done.
    """

    start: Tally

    def add(self, records: Sequence[RowFields], vectors: NDArray[np.generic], tally: Tally) -> None:
        """Write a block of vectors (k, columns), each with its record. `tally` is of all inputs up to there."""


class PartialFile:
    """A file that is being written. Make it by `open_partial`.

    Attributes:
        start: the inputs that an earlier run has done.
    """

    def __init__(self, stream: IO[bytes], log: IO[bytes], format: Format, journal: Journal) -> None:
        self._stream, self._log, self._format, self._left = stream, log, format, journal
        self._blocks = list(journal.blocks)
        self.start = journal.end.tally

    @property
    def end(self) -> Progress:
        """What the file holds at the end of its last block."""
        return self._blocks[-1] if self._blocks else self._left.start

    @property
    def journal(self) -> Journal:
        """The journal of all blocks."""
        return Journal(self._left.job, self._left.start, tuple(self._blocks))

    def add(self, records: Sequence[RowFields], vectors: NDArray[np.generic], tally: Tally) -> None:
        """Write a block of vectors (k, columns), each with its record, then its line in the journal."""
        content = self._format.block(records, vectors) if records else b""
        self._stream.write(content)
        self._stream.flush()
        end = self.end
        block = Progress(tally, end.rows + len(records), end.size_bytes + len(content), zlib.crc32(content))
        self._log.write(block.line())
        self._log.flush()
        self._blocks.append(block)


class CompleteFile:
    """A file that an earlier run has completed. It stays as it is.

    Attributes:
        start: the inputs that are in it: all.
    """

    def __init__(self, name: str, start: Tally) -> None:
        self._name, self.start = name, start

    def add(self, records: Sequence[RowFields], vectors: NDArray[np.generic], tally: Tally) -> None:
        """Raise InputError: there should be nothing to add."""
        raise InputError(f"the inputs have changed while they were read, and {self._name} was complete. Run it again")


@contextmanager
def open_partial(
    target: Target,
    job: Job,
    format: Format,
    *,
    resume: bool,
    before: Tally | None = None,
) -> Iterator[PartialFile]:
    """Open the partial file of `target`. At the end of the `with` statement it replaces `target`.

    If the body raises an error, the written vectors are kept. A note on the error says where.

    Args:
        target: the file to write; see `open_files`.
        job: what decides the vectors. A run goes on only with the same job.
        format: the format of the file.
        resume: go on with what a run has left that was stopped.
        before: the inputs that are in other files. None if there are none.

    Raises:
        InputError: another process writes the file; a stopped run has left vectors, and `resume` is False, or the job
            is another one; or the file cannot be created.
        OSError: a write fails.
    """
    with _locked_journal(target) as log:
        start = Progress(before or Tally(), 0, len(format.head(0)))
        with _written(target, log, job, format, start, resume=resume) as file:
            yield file


@contextmanager
def open_single(
    target: Target, job: Job, format: Format, *, resume: bool, coverage: Callable[[Tally], Coverage]
) -> Iterator[PartialFile | CompleteFile]:
    """Open the only file of a job as `open_partial` does. With `resume`, a complete file of the same job stays.

    Args:
        target: the file to write; see `open_files`.
        job: what decides the vectors. A run goes on only with the same job.
        format: the format of the file.
        resume: go on with what a run has left that was stopped, or has completed.
        coverage: returns which inputs of this job a tally is of.

    Raises:
        InputError, OSError: as in `open_partial`.
    """
    keep_journal = resume and not format.has_metadata and target.path is not None
    with _locked_journal(target) as log:
        done = _completed(target, log, job, format) if resume else None
        covered = None if done is None else coverage(done)
        if done and covered is Coverage.ALL:
            target.remove_parts(keep_journal=keep_journal)  # of a run that was killed when the file was complete
            yield CompleteFile(target.name, done)
            return
        # The file may have replaced its own input. Then nothing can go on with what is left of that run.
        stale = done if covered is Coverage.OTHERS else None
        start = Progress(Tally(), 0, len(format.head(0)))
        with _written(target, log, job, format, start, resume=resume, stale=stale, keep_journal=keep_journal) as file:
            yield file


@contextmanager
def _written(
    target: Target,
    log: IO[bytes],
    job: Job,
    format: Format,
    start: Progress,
    *,
    resume: bool,
    stale: Tally | None = None,
    keep_journal: bool = False,
) -> Iterator[PartialFile]:
    journal = _left(target, log, job, format, start, resume=resume, stale=stale) or Journal(job, start)
    partial = target.partial
    file: PartialFile | None = None
    try:
        with _opened(target, log, format, journal) as stream:
            file = PartialFile(stream, log, format, journal)
            yield file
        target.put(format.complete(target, file.journal))
    except BaseException as error:
        if not (file.end if file else journal.end).rows:
            target.remove_parts()
        elif file and partial.exists():
            with suppress(OSError):
                target.complete.unlink(missing_ok=True)
            _keep(file, format, partial, error)
        raise
    target.remove_parts(keep_journal=keep_journal)


def _completed(target: Target, log: IO[bytes], job: Job, format: Format) -> Tally | None:
    """Return the inputs of a complete file of the same job. None if there is no such file, or images are left out."""
    found = format.completed(target, read_journal(log.read()))
    log.seek(0)
    return found[1] if found and found[0] == job and not found[1].unreadable else None


@contextmanager
def _locked_journal(target: Target) -> Iterator[IO[bytes]]:
    """Open the journal of `target`, and lock it. Make it if it is not there."""
    path = target.journal
    try:
        log = _open_locked(path)
    except BlockingIOError as error:
        raise InputError(f"another process is writing {target.name}") from error
    except OSError as error:
        raise InputError(f"{target.name} cannot be written: {error.strerror}") from error
    try:
        yield log
        log.close()
    except BaseException:
        with suppress(OSError):  # closing may fail again on a full disk
            log.close()
        raise
    finally:
        if not has_locks() and not target.partial.exists():
            target.remove_parts()  # Windows removes the journal only when it is closed


def _open_locked(path: Path) -> IO[bytes]:
    for _ in range(_MAX_TRIES):
        log = os.fdopen(os.open(path, _OPEN | os.O_CREAT, 0o666), "r+b")
        try:
            _check_regular(log, path)
            try_lock(log.fileno())
            # Another process may have removed the journal before it was locked. Then this one makes another.
            if os.path.samestat(os.fstat(log.fileno()), path.stat()):
                return log
        except FileNotFoundError:
            pass
        except BaseException:
            log.close()
            raise
        log.close()
    raise BlockingIOError


def _check_regular(stream: IO[bytes], path: Path) -> None:
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        raise InputError(f"{path} is not a regular file. Delete it")


def _left(
    target: Target,
    log: IO[bytes],
    job: Job,
    format: Format,
    start: Progress,
    *,
    resume: bool,
    stale: Tally | None,
) -> Journal | None:
    """Return the journal of what a stopped run has left, or None if there is nothing to keep, or all of it is `stale`.

    Raises:
        InputError: something is left, and this run cannot go on with it.
    """
    partial = target.partial
    content = log.read()
    if not os.path.lexists(partial):
        if not is_start_of_journal(content):
            raise InputError(f"{target.journal} is there, and is no journal of embedder. Rename it, or delete it")
        return None
    old = read_journal(content)
    if old is None:
        if not content:
            target.journal.unlink()
        raise InputError(
            f"{partial} is there, and no journal of this version says what is in it. Rename it, or delete it"
        )
    with os.fdopen(os.open(partial, _OPEN), "r+b") as stream:
        _check_regular(stream, partial)
        whole = old.whole(stream)
        if not whole.blocks or not (whole.end.rows or resume) or whole.end.tally == stale:
            return None
        found = f"{partial} has {counted(whole.end.rows, 'record')} of a run that was stopped"
        if not resume:
            raise InputError(f"{found}. Go on by --resume (in Python resume=True), or delete it to start again")
        if changes := differences(whole.job, job):
            raise InputError(
                f"{found}, and that run was another one: {'; '.join(changes)}. Give the same options, or delete the "
                "file to start again"
            )
        if whole.start != start:
            raise InputError(f"{partial} does not follow the file before it. Delete it, or choose an empty directory")
        format.reopen(stream, whole)
    return whole


@contextmanager
def _opened(target: Target, log: IO[bytes], format: Format, journal: Journal) -> Iterator[IO[bytes]]:
    """Open the partial file to write its next block. What does not belong to the journal is cut off."""
    partial = target.partial
    content = journal.content()
    if journal.blocks:
        log.truncate(len(content))  # a journal begins with what was read of it
        log.seek(len(content))
    else:
        partial.unlink(missing_ok=True)  # first, because no run goes on with a partial file without a journal
        log.seek(0)
        log.truncate()
        log.write(content)
        log.flush()
        os.fsync(log.fileno())  # also after a loss of power
        with partial.open("xb") as new:
            new.write(format.head(0))
    with os.fdopen(os.open(partial, _OPEN), "r+b") as stream:
        mode = target.mode()
        if mode is not None:
            partial.chmod(stat.S_IMODE(mode) | stat.S_IRUSR | stat.S_IWUSR)
        stream.truncate(journal.end.size_bytes)
        stream.seek(journal.end.size_bytes)
        try:
            yield stream
        except BaseException:
            with suppress(OSError):  # closing may fail again on a full disk
                stream.close()
            raise


def _keep(file: PartialFile, format: Format, partial: Path, error: BaseException) -> None:
    """Cut the partial file after its last block. Add a note to `error` that says where the vectors are."""
    rows = file.end.rows
    try:
        format.close(partial, file.journal)
    except OSError as reason:
        error.add_note(f"{counted(rows, 'record')} in {partial} cannot be completed: {reason}")
    else:
        error.add_note(
            f"the finished vectors are kept: {counted(rows, 'record')} in {partial}. Go on by --resume (in Python "
            "resume=True)"
        )
