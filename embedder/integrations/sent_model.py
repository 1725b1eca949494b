"""Send a model to machines that cannot read its files: its bytes travel, and are unpacked once on each machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedder.artifact.manifest import MANIFEST_NAME, read_manifest
from embedder.common.cache import make_trusted_cache
from embedder.common.digests import check_digest
from embedder.common.files import replacing
from embedder.common.imports import import_optional
from embedder.errors import ArtifactError, ModelNotFoundError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The folder of these models in the user's cache.
_SENT = "sent"


def digest_of(directory: Path) -> str:
    """Return the SHA-256 of an artifact's manifest, which has those of all other files.

    Example:
        >>> len(digest_of(Path("artifacts/all-MiniLM-L6-v2")))  # doctest: +SKIP
        64
    """
    return hashlib.sha256((directory / MANIFEST_NAME).read_bytes()).hexdigest()


def contents_of(directory: Path) -> list[tuple[str, NDArray[np.uint8]]]:
    """Return the name and the content of each file of an artifact that is here. The files are mapped into memory.

    Example:
        >>> [name for name, _ in contents_of(Path("artifacts/all-MiniLM-L6-v2"))][:2]  # doctest: +SKIP
        ['embedder.json', 'tokenizer.json']
    """
    names = dict.fromkeys([MANIFEST_NAME, *(file.name for file in read_manifest(directory).files)])
    return [(name, np.memmap(directory / name, np.uint8, "r")) for name in names if (directory / name).exists()]


def unpacked(digest: str, contents: Iterable[tuple[str, Any]]) -> Path:
    """Return the directory of an artifact that was sent to this machine. The first call on a machine writes it.

    It lies in the user's cache. The processes of a machine take turns.

    Args:
        digest: what `digest_of` returned for the artifact.
        contents: the name of each file, and its content in a buffer. Nothing of it is taken if the artifact is here.

    Raises:
        ArtifactError: a file was damaged on the way.
        ModelNotFoundError: the cache cannot be written.
        DependencyError: filelock is not installed.

    Example:
        >>> unpacked(digest_of(directory), contents_of(directory)).name  # doctest: +SKIP
        '5f2b...'
    """
    filelock = import_optional("filelock", needed_for="A model that is sent", requirement="filelock")
    try:
        cache = make_trusted_cache(_SENT)
        directory = cache / digest
        # It waits as long as it takes. A model may have gigabytes.
        with filelock.FileLock(cache / f"{digest}.lock"):
            if not directory.exists():
                with replacing(directory, durable=True) as partial:
                    _write(partial, digest, contents)
    except OSError as error:
        raise ModelNotFoundError(
            f"a model that was sent to this machine cannot be kept in your cache: {error}. XDG_CACHE_HOME names another"
        ) from error
    return directory


def _write(directory: Path, digest: str, contents: Iterable[tuple[str, Any]]) -> None:
    directory.mkdir()
    for name, content in contents:
        (directory / name).write_bytes(content)
    if digest_of(directory) != digest:
        raise ArtifactError(f"{MANIFEST_NAME} of a model was damaged on the way to this machine. Send the model again")
    for file in read_manifest(directory).files:
        if (directory / file.name).exists():
            check_digest(directory / file.name, file.sha256)
