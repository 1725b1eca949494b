"""Count the cores that this process may use: the minimum of its CPU affinity and the quota of its control groups."""

from __future__ import annotations

import math
import os
from pathlib import Path

from embedder.common.control_groups import groups_of, read

_CPUINFO = Path("/proc/cpuinfo")
_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def usable_cores() -> int:
    """Return the number of cores that this process may use, at least 1.

    Two hardware threads of one core count once, as one of them keeps the core's arithmetic units busy. The count
    respects the affinity of the process and the quota of its control groups (version 1 or 2, as containers have).

    Example:
        >>> usable_cores() >= 1
        True
    """
    return max(1, min(_allowed_cores(), _quota()))


def has_fast_integers() -> bool:
    """Return whether this CPU multiplies integers faster than floating-point numbers.

    CPUs with AVX2 do, and so do 64-bit ARM CPUs. If the system does not list the CPU's features, the answer is True.

    Example:
        >>> has_fast_integers() in (True, False)
        True
    """
    flags = next((line for line in read(_CPUINFO).splitlines() if line.startswith("flags")), None)
    return flags is None or "avx2" in flags.split()


def _allowed_cores() -> int:
    if not hasattr(os, "sched_getaffinity"):  # not Linux
        return os.cpu_count() or 1
    return len({_siblings(number) for number in os.sched_getaffinity(0)})


def _siblings(number: int) -> str:
    """Return the list of the hardware threads of one core. It is the same text for each of these threads."""
    return read(Path(_TOPOLOGY.format(number))) or str(number)


def _quota() -> int:
    """Return how many cores' time the control groups grant, rounded up. Without a limit the number is very large."""
    limits = [math.inf]
    for version, group in groups_of("cpu"):
        if version == 2:
            limits.append(_limit(*read(group / "cpu.max").split()))
        else:
            limits.append(_limit(read(group / "cpu.cfs_quota_us"), read(group / "cpu.cfs_period_us")))
    return math.ceil(min(*limits, 2**31))


def _limit(quota: str = "", period: str = "") -> float:
    """Return the cores that a quota grants: quota / period, both in microseconds. "max" or below 0 is no limit."""
    if not (quota.isdecimal() and period.isdecimal() and int(quota) and int(period)):
        return math.inf
    return int(quota) / int(period)
