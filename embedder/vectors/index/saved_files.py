"""What an index knows of the files that it was loaded from or saved to. So `save` overwrites no work of others."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from embedder.common.file_locks import locked
from embedder.common.forks import renew_after_fork
from embedder.errors import ConflictError
from embedder.vectors.index.file_format import read_digest


class SavedFiles:
    """The digest of each file when the index was last loaded from it or saved to it. Safe to share between threads."""

    def __init__(self) -> None:
        self.__setstate__({"digests": {}})

    def renew(self) -> None:
        """Replace the lock after a fork: a thread of the parent may have held it."""
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"digests": dict(self._digests)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._digests: dict[str, str] = state["digests"]
        self.renew()
        renew_after_fork(self)

    def record(self, path: Path, digest: str) -> None:
        """Record that the index was loaded from `path`, or saved to it. `digest` is the one in the file."""
        self._digests[os.path.realpath(path)] = digest

    def save(self, path: Path, write: Callable[[], str]) -> None:
        """Call `write`, which replaces the file `path` and returns its digest. Other calls for the same file wait.

        Raises:
            ConflictError: the file is not the one that the index was loaded from, or saved to. It is unchanged.
            OSError: the file cannot be written, or another process holds its lock for a minute.
        """
        with self._lock, locked(path):
            known = self._digests.get(os.path.realpath(path))
            if known is not None and path.exists() and read_digest(path) != known:
                raise ConflictError(
                    f"{path} has changed since this index was loaded from it or saved to it, and saving would undo "
                    "that change. Load it again and repeat your changes, or save to another file"
                )
            self.record(path, write())
