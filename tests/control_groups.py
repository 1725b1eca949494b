"""Limit the memory and the CPU time of a process by control groups, of version 1 or 2."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
# Lambda's period is short, so that a function waits often, and briefly.
_PERIOD_US = 20_000


@dataclass(frozen=True)
class Group:
    """A control group of version 1 or 2, or one of each controller.

    Attributes:
        memory: the directory with the limit of memory; None if memory cannot be limited here.
        cpu: the directory with the limit of CPU time; None if it cannot be limited here.
    """

    memory: Path | None
    cpu: Path | None

    @property
    def doors(self) -> list[Path]:
        """The files that take a process in."""
        return sorted({place / "cgroup.procs" for place in (self.memory, self.cpu) if place})

    def peak_memory_bytes(self) -> int:
        """The largest memory so far, with the cached pages of files that the group read first."""
        assert self.memory
        names = "memory.max_usage_in_bytes", "memory.peak"
        return next(int((self.memory / name).read_text()) for name in names if (self.memory / name).exists())

    def killed_for_memory(self) -> int:
        """The number of processes that were killed because the memory was used up."""
        assert self.memory
        names = "memory.oom_control", "memory.events"
        lines = next((self.memory / name).read_text() for name in names if (self.memory / name).exists())
        return next(int(line.split()[1]) for line in lines.splitlines() if line.startswith("oom_kill "))


@contextmanager
def make_group(memory_mb: int | None, cpus: float | None) -> Iterator[Group]:
    """Make a control group with these limits. What cannot be limited here is None. Its processes must end first."""
    with ExitStack() as stack:
        memory = stack.enter_context(_directory("memory")) if memory_mb else None
        cpu = stack.enter_context(_directory("cpu", memory)) if cpus else None
        if memory and memory_mb:
            _write(memory, {"memory.limit_in_bytes": memory_mb * 2**20, "memory.max": memory_mb * 2**20})
        if cpu and cpus:
            quota = round(cpus * _PERIOD_US)
            _write(cpu, {"cpu.cfs_period_us": _PERIOD_US, "cpu.cfs_quota_us": quota})
            _write(cpu, {"cpu.max": f"{quota} {_PERIOD_US}"})
        yield Group(memory, cpu)


def can_limit(controller: str) -> bool:
    """Return whether a control group of "memory" or "cpu" can be made here."""
    with _directory(controller) as directory:
        return directory is not None


@contextmanager
def _directory(controller: str, other: Path | None = None) -> Iterator[Path | None]:
    """Make a directory below this process' own group, or take `other`, which has the controller too."""
    if other is not None and (other / _LIMITS[controller][1]).exists():
        yield other
        return
    directory = _make(controller)
    try:
        yield directory
    finally:
        if directory is not None:
            directory.rmdir()


# The files of version 1 and 2 that show that a group has the controller.
_LIMITS = {"memory": ("memory.limit_in_bytes", "memory.max"), "cpu": ("cpu.cfs_quota_us", "cpu.max")}


def _make(controller: str) -> Path | None:
    for parent in _own_groups(controller):
        try:
            directory = Path(tempfile.mkdtemp(prefix="embedder-test-", dir=parent))
        except OSError:
            continue
        if any(os.access(directory / name, os.W_OK) for name in _LIMITS[controller]):
            return directory
        directory.rmdir()
    return None


def _own_groups(controller: str) -> Iterator[Path]:
    """The groups of this process that may have `controller`. In a container the path may be the host's."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            root = _ROOT / controllers
            yield root / path.lstrip("/")
            yield root


def _write(directory: Path, values: dict[str, object]) -> None:
    for name, value in values.items():
        if (directory / name).exists():
            (directory / name).write_text(str(value))
