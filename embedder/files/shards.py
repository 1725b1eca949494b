"""Write vectors to the Parquet files of a directory, one after the other, so that a run that is killed can go on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from embedder.common.file_locks import has_locks, try_lock
from embedder.errors import InputError
from embedder.files.formats import Format, RowFields
from embedder.files.journal import Job, Tally, differences
from embedder.files.object_store import file_exists, is_remote, list_remote
from embedder.files.parquet import read_tallies
from embedder.files.partial_file import PartialFile, open_partial
from embedder.files.targets import RemoteTarget, target_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A shard ends with the block in which it has so many rows.
SHARD_ROWS = 100_000


class Shards:
    """The files `part-00000.parquet`, `part-00001.parquet` ... of a directory. Make them by `open_shards`.

    Attributes:
        start: the inputs that earlier runs have done.
    """

    def __init__(
        self, directory: str, job: Job, make_format: Callable[[], Format], stack: ExitStack, *, resume: bool
    ) -> None:
        self._directory, self._job, self._make_format, self._stack = directory, job, make_format, stack
        self._resume = resume
        self._file: PartialFile | None = None
        self._number = 0
        self.start = self._tally = Tally()
        while file_exists(self._path()):
            self.start = self._tally = self._tally_of(self._path())
            target_of(self._path()).remove_parts()  # of a run that was killed when the shard was complete
            self._number += 1
        self._check_no_gap()
        if target_of(self._path()).partial.exists():
            self.start = self._tally = self._open().start

    def add(self, records: Sequence[RowFields], vectors: NDArray[np.generic], tally: Tally) -> None:
        """Write a block of vectors (k, columns), each with its record. It may be the last one of a shard."""
        if self._file is None:
            target_of(self._path()).remove_parts()  # of a run whose shard before it was deleted
        file = self._file or self._open()
        file.add(records, vectors, tally)
        self._tally = tally
        if file.end.rows >= SHARD_ROWS:
            self._finish()

    def finish(self) -> None:
        """Complete the last shard. If there are no rows at all, it is empty."""
        if self._file is None and self._number == 0:
            self._open()
        if self._file is not None:
            self._finish()

    def _path(self) -> str:
        return f"{self._directory}/part-{self._number:05}.parquet"

    def _open(self) -> PartialFile:
        shard = open_partial(
            target_of(self._path()), self._job, self._make_format(), resume=self._resume, before=self._tally
        )
        self._file = self._stack.enter_context(shard)
        return self._file

    def _finish(self) -> None:
        self._file = None
        self._stack.close()
        self._number += 1

    def _check_no_gap(self) -> None:
        """Raise InputError if a shard follows one that is missing: its rows would be written again."""
        later = [path for path in _shards_of(self._directory) if path > self._path()]
        if later:
            raise InputError(f"{later[0]} is there, but {self._path()} is missing. Choose an empty directory")

    def _tally_of(self, path: str) -> Tally:
        if not self._resume:
            raise InputError(
                f"{self._directory} has files of an earlier run. Go on by --resume (in Python resume=True), or "
                "choose an empty directory"
            )
        job, start, tally = read_tallies(path)
        if changes := differences(job, self._job):
            raise InputError(
                f"{path} is of another run: {'; '.join(changes)}. Give the same options, or choose an empty directory"
            )
        if start != self._tally or (self._number and tally.inputs <= start.inputs):
            raise InputError(f"{path} does not follow the file before it. Choose an empty directory")
        return tally


@contextmanager
def open_shards(directory: str, job: Job, make_format: Callable[[], Format], *, resume: bool) -> Iterator[Shards]:
    """Open the shards of a directory. Make the directory if it is not there.

    Args:
        directory: where the shards are written; it may be in an object store.
        job: what decides the vectors. A run goes on only with the same job.
        make_format: returns the format of a new shard.
        resume: go on with what an earlier run has left.

    Raises:
        InputError: the directory cannot be made; or has shards, and `resume` is False, or the job is another one.
        OSError: a write fails.

    Example:
        >>> with open_shards("vectors", job, make_format, resume=True) as shards:  # doctest: +SKIP
        ...     shards.add(records, vectors, tally)
    """
    directory = directory.rstrip("/")
    with ExitStack() as stack, _locked(directory):
        shards = Shards(directory, job, make_format, stack, resume=resume)
        yield shards
        shards.finish()


def _shards_of(directory: str) -> list[str]:
    pattern = "part-[0-9][0-9][0-9][0-9][0-9].parquet"
    if is_remote(directory):
        return list_remote(f"{directory}/{pattern}", ())
    return sorted(f"{directory}/{path.name}" for path in Path(directory).glob(pattern))


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Keep the other processes of this machine away from a directory, where the system has locks. Make it."""
    place = RemoteTarget(f"{directory}/part").partial.parent if is_remote(directory) else Path(directory)
    try:
        place.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{directory} cannot be written: {error.strerror}") from error
    if not has_locks():
        yield
        return
    descriptor = os.open(place, os.O_RDONLY)
    try:
        try_lock(descriptor)
        yield
    except BlockingIOError as error:
        raise InputError(f"another process is writing {directory}") from error
    finally:
        os.close(descriptor)
