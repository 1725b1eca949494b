"""The user's cache: files that embedder can make again at any time.

embedder trusts what it finds there. A record in the cache lets a file pass without another check. So the cache is used
only if nobody else can have written there. Elsewhere embedder works without a cache: each load takes longer.
"""

from __future__ import annotations

import os
from pathlib import Path

# The permission of a group or of others to write.
_WRITABLE_BY_OTHERS = 0o022


def cache_directory() -> Path:
    """Return the path of this user's cache. It may not exist, and it may not be trustworthy.

    Raises:
        RuntimeError: the user has no home directory.

    Example:
        >>> cache_directory().name
        'embedder'
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # unset; the XDG Base Directory Specification says to ignore relative paths
        cache = Path.home() / ".cache"
    return cache / "embedder"


def trusted_cache(folder: str) -> Path | None:
    """Return the path of `folder` in the user's cache, or None if other users may have written there.

    The cache and the directory in which it lies must belong to this user or to root, and only the owner may write to
    the cache. `sudo` with another user's home fails this check, and so does a cache below a stranger's directory. On
    Windows, the user's profile is private already, and nothing is checked. The folder may not exist yet.

    Example:
        >>> trusted_cache("verified")  # doctest: +SKIP
        PosixPath('/home/ada/.cache/embedder/verified')
    """
    try:
        directory = cache_directory().resolve()
        if os.name == "posix" and not _is_private(directory):
            return None
    except (OSError, RuntimeError):  # no home directory, or a loop of links
        return None
    return directory / folder


def make_trusted_cache(folder: str) -> Path:
    """Return as `trusted_cache` does, and make the directory.

    Raises:
        OSError: it cannot be made, or other users may write there.

    Example:
        >>> make_trusted_cache("verified").is_dir()  # doctest: +SKIP
        True
    """
    directory = trusted_cache(folder)
    if directory is not None:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(exist_ok=True)
        directory = trusted_cache(folder)  # some file systems let others write to every directory
    if directory is None:
        raise PermissionError(f"{folder} in the user's cache is not private")
    return directory


def _is_private(directory: Path) -> bool:
    """Check `directory`, if it exists, and the directory in which it lies or will be made."""
    for place in (directory, *directory.parents):
        try:
            state = place.stat()
        except FileNotFoundError:
            continue
        if state.st_uid not in (0, os.geteuid()):
            return False
        if place != directory:
            return True
        if state.st_mode & _WRITABLE_BY_OTHERS:
            return False
    return True
