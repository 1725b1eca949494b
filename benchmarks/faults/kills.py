"""Processes that are killed at random moments, and disks that are full. The next run must succeed and leave nothing."""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from benchmarks.faults.cases import SEED
from benchmarks.faults.downloads import Repository, must_succeed, outcome_of, start
from benchmarks.faults.judge import REFUSED, UNCHANGED, Outcome
from tests.hub_server import Hub, serve

_KILLS = 12
# The size of the disk, as a share of what the operation writes.
_DISK_SHARES = (0.02, 0.1, 0.3, 0.6, 0.9)
# Files that may differ between runs: locks, and records of checked files, which are named after their paths.
_INCIDENTAL = re.compile(r"lock|/verified/")
_NEW_MOUNTS = 0x00020000  # Linux's CLONE_NEWNS


@dataclass(frozen=True)
class Operation:
    """A command that is killed, and the commands around it.

    Attributes:
        name: for the table.
        repository: the repository on the server.
        before: a command that runs to its end first. Empty for none.
        command: the command that is killed.
        after: the command that must then print the vectors.
    """

    name: str
    repository: Repository
    before: tuple[str, ...]
    command: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def expected(self) -> str | None:
        """What the command prints; None for anything."""
        return self.repository.printed if self.command[0] == "encode" else None


def operations_of(artifact: Repository, checkpoint: Repository) -> list[Operation]:
    """Return everything that writes or removes files."""
    encode, export = ("encode", "--model", artifact.id), ("encode", "--model", checkpoint.id)
    packing = ("encode", "--model", str(artifact.directory))
    return [
        Operation("download", artifact, (), encode, encode),
        Operation("export at first use", checkpoint, (), export, export),
        Operation("packing", artifact, (), packing, packing),
        Operation("pull", artifact, (), ("pull", artifact.id), encode),
        Operation("pull with an export", checkpoint, (), ("pull", checkpoint.id), export),
        Operation("remove", artifact, ("pull", artifact.id), ("remove", artifact.id), encode),
        Operation("remove an export", checkpoint, ("pull", checkpoint.id), ("remove", checkpoint.id), export),
    ]


def kill(operation: Operation, scratch: Path) -> Iterator[Outcome]:
    """Kill the operation at random moments. Yield how each run after it ended."""
    rng = Random(f"{SEED} {operation.name}")
    repository = operation.repository
    with serve({repository.id: repository.directory}) as hub:
        seconds, clean = _measure(operation, hub, scratch / "clean")
        for number in range(_KILLS):
            home = scratch / str(number)
            _finish(operation, hub, home, operation.before)
            process = start(hub, home, *operation.command)
            time.sleep(rng.uniform(0.1, 1) * seconds)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            outcome = must_succeed(operation.name, outcome_of(start(hub, home, *operation.after), repository.printed))
            extra = sorted(_files(home) - clean)
            yield replace(outcome, result=f"left {extra[0]}") if extra else outcome
            shutil.rmtree(home)


def _measure(operation: Operation, hub: Hub, home: Path) -> tuple[float, set[str]]:
    """Return how long the operation takes, and the files that are there when all is well."""
    _finish(operation, hub, home, operation.before)
    began = time.perf_counter()
    _finish(operation, hub, home, operation.command)
    seconds = time.perf_counter() - began
    _finish(operation, hub, home, operation.after)
    return seconds, _files(home)


def _finish(operation: Operation, hub: Hub, home: Path, command: Sequence[str]) -> None:
    if command:
        outcome = outcome_of(start(hub, home, *command), None)
        assert outcome.result == UNCHANGED, outcome


def _files(home: Path) -> set[str]:
    names = (path.relative_to(home).as_posix() for path in home.rglob("*") if not path.is_dir())
    return {name for name in names if not _INCIDENTAL.search(f"/{name}")}


def own_mounts() -> bool:
    """Give this process its own mounts, which vanish when it ends. Return False if the user has no right to do so."""
    if ctypes.CDLL(None).unshare(_NEW_MOUNTS) != 0:
        return False
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    return True


def fill_disk(operation: Operation, scratch: Path) -> Iterator[Outcome]:
    """Run the operation on disks that are too small for it, and then again with room. Yield how it ended."""
    repository = operation.repository
    with serve({repository.id: repository.directory}) as hub:
        _, clean = _measure(operation, hub, scratch / "clean")
        size = sum(path.stat().st_size for path in (scratch / "clean").rglob("*") if path.is_file())
        for number, share in enumerate(_DISK_SHARES):
            home = scratch / str(number)
            home.mkdir()
            with _disk(home, int(size * share)):
                failed = outcome_of(start(hub, home, *operation.command), operation.expected)
                subprocess.run(["mount", "-o", f"remount,size={4 * size}", home], check=True)
                retried = outcome_of(start(hub, home, *operation.after), repository.printed)
                extra = sorted(_files(home) - clean)
            yield _after_retry(operation.name, failed, retried, extra)


@contextmanager
def _disk(directory: Path, size: int) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "faults", directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def _after_retry(kind: str, failed: Outcome, retried: Outcome, extra: list[str]) -> Outcome:
    """Return how a failure ended, or what was wrong with the run after it."""
    result = failed.result
    if result in (REFUSED, UNCHANGED) and retried.result != UNCHANGED:
        result = f"the retry failed: {retried.result}"
    elif result in (REFUSED, UNCHANGED) and extra:
        result = f"left {extra[0]}"
    return Outcome(kind, result, f"{failed.message} / {retried.message}")
