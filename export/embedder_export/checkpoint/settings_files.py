"""Get a checkpoint's files of settings without its weights and its vocabulary: of a directory, or from the Hub."""

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from embedder.artifact import hub
from embedder.artifact.hub_access import HubAccess

from embedder_export.checkpoint.files import SETTINGS, read_json
from embedder_export.checkpoint.locate import repository_of
from embedder_export.checkpoint.modules import MODULES
from embedder_export.errors import CheckpointError

# The files of a checkpoint by their paths. A JSON file of settings has its content as the value. The value of any other
# file is None: only its presence counts.
SettingsFiles: TypeAlias = dict[str, Any]
# The only files of settings that are not read: one holds the vocabulary and can have 35 MB, the others are no JSON.
_UNREAD = ("tokenizer.json", "*.jinja")


def get_settings_files(model: str, access: HubAccess) -> tuple[str, SettingsFiles]:
    """Return the name of `model`, and its files.

    Args:
        model: a local directory, `org/name` on the Hub, or `name` for sentence-transformers/name.
        access: the revision, the token, and whether the network may be used.

    Raises:
        ModelNotFoundError: there is no such directory or repository, or the Hub cannot be reached.
        CheckpointError: a file is damaged, or the cache does not have the whole list of files.

    Example:
        >>> get_settings_files("all-MiniLM-L6-v2", HubAccess())[1]["config.json"]["model_type"]  # doctest: +SKIP
        'bert'
    """
    path = os.path.expanduser(model)
    if os.path.isdir(path):
        return Path(path).resolve().name, read_settings_files(Path(path))
    repository = repository_of(model)
    return repository, fetch_settings_files(repository, access)


def read_settings_files(directory: Path) -> SettingsFiles:
    """Return the files of the checkpoint in `directory`.

    Raises:
        CheckpointError: a file of settings is damaged.

    Example:
        >>> read_settings_files(Path("checkpoints/all-MiniLM-L6-v2"))["tokenizer.json"] is None  # doctest: +SKIP
        True
    """
    names = [path.relative_to(directory).as_posix() for path in sorted(directory.rglob("*")) if path.is_file()]
    modules = read_json(directory / MODULES, object) if MODULES in names else []
    return _with_content(names, modules, directory)


def fetch_settings_files(repository: str, access: HubAccess) -> SettingsFiles:
    """Fetch the files of settings of a repository of the Hub, and return its files.

    Args:
        repository: its id, such as "org/name".
        access: the revision, the token, and whether the network may be used.

    Raises:
        ModelNotFoundError: the repository or the revision does not exist, or the Hub cannot be reached.
        CheckpointError: a file is damaged, or the cache does not have the whole list of files.

    Example:
        >>> fetch_settings_files("BAAI/bge-small-en-v1.5", HubAccess())["config.json"]["hidden_size"]  # doctest: +SKIP
        384
    """
    listing = hub.list_files(repository, access)
    if not listing.is_complete:
        raise CheckpointError(
            f"the Hub cannot be reached, and its cache may have only a part of {repository}. Run this with a network"
        )
    modules: Any = []
    if MODULES in listing.names:
        modules = read_json(hub.fetch(repository, [MODULES], access) / MODULES, object)
    needed = _with_settings(listing.names, modules)
    directory = hub.fetch(repository, needed, access) if needed else Path()
    return _with_content(listing.names, modules, directory)


def _with_content(names: Iterable[str], modules: Any, directory: Path) -> SettingsFiles:
    names = list(names)
    needed = _with_settings(names, modules)
    return {name: read_json(directory / name, object) if name in needed else None for name in names}


def _with_settings(names: Iterable[str], modules: Any) -> list[str]:
    """Return the JSON files of settings among `names`: those at the top, and those in the folders of the modules."""
    entries = modules if isinstance(modules, list) else []
    paths = [entry.get("path") for entry in entries if isinstance(entry, dict)]
    folders = {".", *(PurePosixPath(path).as_posix() for path in paths if isinstance(path, str))}
    found = []
    for name in names:
        path = PurePosixPath(name)
        is_settings = _matches(path.name, SETTINGS) and not _matches(path.name, _UNREAD)
        if is_settings and path.parent.as_posix() in folders:
            found.append(name)
    return found


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
