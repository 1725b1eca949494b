"""How much memory this process can still take: the minimum of the machine's and that of its control groups."""

from __future__ import annotations

from pathlib import Path

from embedder.common.control_groups import groups_of, read

_MEMINFO = Path("/proc/meminfo")
# By the version of the control groups: the files of the limit and of the memory in use, and the field of memory.stat
# with the bytes of cached files that nobody has used for a while. Linux drops these files when memory is short.
_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def free_memory_bytes() -> int | None:
    """Return how many bytes this process can still take. None if the system does not say it, as outside of Linux.

    Example:
        >>> free_memory_bytes()  # doctest: +SKIP
        8123456000
    """
    fields = _fields(_MEMINFO)
    if "MemAvailable:" not in fields:
        return None
    found = [_free_in(version, group) for version, group in groups_of("memory")]
    return max(0, min([fields["MemAvailable:"] * 1024, *(free for free in found if free is not None)]))


def _free_in(version: int, group: Path) -> int | None:
    """Return how many bytes a control group can still take. None if it has no limit."""
    limit_file, used_file, cached_field = _FILES[version]
    limit, used = read(group / limit_file), read(group / used_file)
    if not (limit.isdecimal() and used.isdecimal()):
        return None
    return int(limit) - int(used) + _fields(group / "memory.stat").get(cached_field, 0)


def _fields(path: Path) -> dict[str, int]:
    """Return the numbers of a file with a name and a number on each line."""
    lines = (line.split() for line in read(path).splitlines())
    return {line[0]: int(line[1]) for line in lines if len(line) >= 2 and line[1].isdecimal()}
