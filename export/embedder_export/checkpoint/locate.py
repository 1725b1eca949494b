"""Find a checkpoint: a local directory, or a repository of the Hub."""

import os
from dataclasses import dataclass
from pathlib import Path

from embedder.artifact.hub_access import DEFAULT_ACCESS, DEFAULT_ORGANISATION, HubAccess, is_repository_id
from embedder.errors import InputError, ModelNotFoundError

from embedder_export.checkpoint.fetch import fetch_checkpoint


@dataclass(frozen=True)
class Location:
    """The place of a checkpoint.

    Attributes:
        directory: its directory on this machine.
        name: its name in the manifest and in messages.
        repository: its id and its commit on the Hub. None for a local directory.
    """

    directory: Path
    name: str
    repository: tuple[str, str] | None


def locate(model: str, access: HubAccess = DEFAULT_ACCESS) -> Location:
    """Find `model`: a local directory, `org/name` on the Hub, or `name` for sentence-transformers/name.

    Args:
        model: a path or a name.
        access: the revision, the token, and whether the network may be used.

    Raises:
        InputError: `model` is a directory, and `access` has a revision.
        ModelNotFoundError: there is no such directory or repository.
        CheckpointError: the repository is no checkpoint, or modules.json is damaged.
        ArtifactError: a file was damaged during the download.

    Example:
        >>> locate("checkpoints/all-MiniLM-L6-v2").name  # doctest: +SKIP
        'all-MiniLM-L6-v2'
    """
    path = os.path.expanduser(model)
    if not os.path.isdir(path):
        return locate_on_hub(model, access)
    if access.revision is not None:
        raise InputError(f"{model!r} is a directory, so it has no revision {access.revision!r}")
    return Location(Path(path), Path(path).resolve().name, None)


def locate_on_hub(model: str, access: HubAccess) -> Location:
    """Fetch `model` from the Hub, even if there is a directory of this name.

    Args:
        model: `org/name`, or `name` for sentence-transformers/name.
        access: the revision, the token, and whether the network may be used.

    Raises:
        ModelNotFoundError: there is no such repository.
        CheckpointError: the repository is no checkpoint, or modules.json is damaged.
        ArtifactError: a file was damaged during the download.

    Example:
        >>> locate_on_hub("all-MiniLM-L6-v2", HubAccess()).repository[0]  # doctest: +SKIP
        'sentence-transformers/all-MiniLM-L6-v2'
    """
    repository = repository_of(model)
    directory = fetch_checkpoint(repository, access)
    return Location(directory, repository.removeprefix(DEFAULT_ORGANISATION), (repository, directory.name))


def repository_of(model: str) -> str:
    """Return the id of the repository that `model` names on the Hub.

    Args:
        model: `org/name`, or `name` for sentence-transformers/name.

    Raises:
        ModelNotFoundError: it is no name of a repository.

    Example:
        >>> repository_of("all-MiniLM-L6-v2")
        'sentence-transformers/all-MiniLM-L6-v2'
    """
    repository = model if "/" in model else DEFAULT_ORGANISATION + model
    if not is_repository_id(repository):
        raise ModelNotFoundError(f"{model!r} is neither a directory nor the name of a Hub repository")
    return repository
