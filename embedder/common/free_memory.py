"""How much memory this process can still take: the minimum of the machine's and that of its control groups."""

from __future__ import annotations

from pathlib import Path

from embedder.common.control_groups import groups_of, read

_MEMINFO = Path("/proc/meminfo")
# By the version of the control groups: the files of the limit and of the memory in use.
_FILES = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
# By the version: the fields of memory.stat with the bytes of cached files that were read once, of those that were read
# more often, and of those that a process has mapped.
_CACHE_FIELDS = {
    1: ("total_inactive_file", "total_active_file", "total_mapped_file"),
    2: ("inactive_file", "active_file", "file_mapped"),
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
    limit, used = (read(group / name) for name in _FILES[version])
    if not (limit.isdecimal() and used.isdecimal()):
        return None
    return int(limit) - int(used) + _droppable_bytes(version, group)


def _droppable_bytes(version: int, group: Path) -> int:
    """Return the bytes of cached files that Linux drops when memory is short.

    Mapped files, such as the weights of a model, stay in use, so they do not count.
    """
    fields = _fields(group / "memory.stat")
    inactive, active, mapped = (fields.get(name, 0) for name in _CACHE_FIELDS[version])
    return max(inactive, inactive + active - mapped)


def _fields(path: Path) -> dict[str, int]:
    """Return the numbers of a file with a name and a number on each line."""
    lines = (line.split() for line in read(path).splitlines())
    return {line[0]: int(line[1]) for line in lines if len(line) >= 2 and line[1].isdecimal()}
