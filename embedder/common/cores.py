"""How many cores this process may really use: what is installed, allowed and paid for, whichever is least."""

import math
import os
from collections.abc import Iterable
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_CPUINFO = Path("/proc/cpuinfo")
_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def usable_cores() -> int:
    """Cores that this process may run on, at least 1.

    Two hardware threads of one core count once, as one keeps its arithmetic units busy. The process' affinity and the
    quota of its control group (v1 or v2, as containers have) are honoured where the system has them.
    """
    return max(1, min(_allowed_cores(), _quota()))


def has_fast_integers() -> bool:
    """Whether products of integers are faster here than those of floating-point numbers.

    They are on any CPU with AVX2 or newer, and on 64-bit ARM. Where the system does not say, it has one.
    """
    flags = next((line for line in _read(_CPUINFO).splitlines() if line.startswith("flags")), None)
    return flags is None or "avx2" in flags.split()


def _allowed_cores() -> int:
    if not hasattr(os, "sched_getaffinity"):  # but on Linux
        return os.cpu_count() or 1
    return len({_siblings(number) for number in os.sched_getaffinity(0)})


def _siblings(number: int) -> str:
    """The hardware threads of a core, the same for each of them."""
    return _read(Path(_TOPOLOGY.format(number))) or str(number)


def _quota() -> int:
    """Cores' worth of time that the control groups grant, rounded up; many where they set no limit."""
    cores = math.inf
    for line in _read(_MEMBERSHIP).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            limits = [_limit(*_read(group / "cpu.max").split()) for group in _upwards(_CGROUPS, path)]
        elif "cpu" in controllers.split(","):
            groups = _upwards(_CGROUPS / controllers, path)
            limits = [_limit(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")) for group in groups]
        else:
            continue
        cores = min(cores, *limits)
    return math.ceil(min(cores, 2**31))


def _upwards(root: Path, path: str) -> Iterable[Path]:
    """A control group and all above it. In a container the path may be the host's: then only the root is there."""
    group = root / path.lstrip("/")
    return (group, *(parent for parent in group.parents if parent == root or root in parent.parents))


def _limit(quota: str = "", period: str = "") -> float:
    """The quota is `max` or negative where there is none; both are microseconds."""
    if not (quota.isdecimal() and period.isdecimal() and int(quota) and int(period)):
        return math.inf
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
