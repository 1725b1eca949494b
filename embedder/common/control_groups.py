"""Find the control groups of this process, of version 1 or 2, as containers have them. Only Linux has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def groups_of(controller: str) -> Iterator[tuple[int, Path]]:
    """Yield the groups of this process that may limit `controller`, each with its version, 1 or 2.

    Each group is followed by all groups above it. In a container, the path of the group may be the host's, and only the
    uppermost group exists.

    Args:
        controller: "cpu" or "memory".

    Example:
        >>> for version, group in groups_of("memory"):  # doctest: +SKIP
        ...     print(version, group)
        2 /sys/fs/cgroup/user.slice
        2 /sys/fs/cgroup
    """
    for line in read(MEMBERSHIP).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from ((2, group) for group in _upwards(ROOT, path))
        elif controller in controllers.split(","):
            yield from ((1, group) for group in _upwards(ROOT / controllers, path))


def read(path: Path) -> str:
    """Return the text of a file of the system without the white space around it. Empty if it cannot be read.

    Example:
        >>> read(Path("no such file"))
        ''
    """
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _upwards(root: Path, path: str) -> tuple[Path, ...]:
    group = root / path.lstrip("/")
    return (group, *(parent for parent in group.parents if parent == root or root in parent.parents))
