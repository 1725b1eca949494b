"""Fetch an artifact from the Hub. If the Hub has none, the exporter makes it of the checkpoint there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from embedder.artifact import first_use, hub, store
from embedder.artifact.artifact import Artifact, Origin, Place, opened
from embedder.artifact.hub_access import HubAccess
from embedder.artifact.hub_errors import HubUnreachableError, RepositoryFileError
from embedder.artifact.manifest import MANIFEST_NAME
from embedder.errors import ArtifactError, ModelNotFoundError


def find_on_hub(model: str, access: HubAccess, *, refresh: bool, may_export: bool, task: str | None = None) -> Artifact:
    """Return the artifact of a Hub repository, or the one that the exporter makes of its checkpoint.

    Args:
        model: the name of a model that is in neither directory of models.
        access: how the Hub is asked.
        refresh: ask the Hub whether a cached artifact is still the newest of its branch.
        may_export: whether the exporter may make the artifact.
        task: the task of an artifact that the exporter makes; None if the checkpoint decides.

    Raises:
        ModelNotFoundError: there is no such artifact. The message says where it was looked for, and how to make it.
        ArtifactError: its manifest is damaged.
        EmbedderError: what the exporter raises.

    Example:
        >>> find_on_hub("BAAI/bge-small-en-v1.5", HubAccess(), refresh=False, may_export=True)  # doctest: +SKIP
        Artifact(directory=...)
    """
    repository = store.repository_of(model)
    if repository is None or store.name_parts(model) is None:
        raise ModelNotFoundError(
            f"no exported model at {model!r:.300}: there is no {MANIFEST_NAME}, and this is not the name of a model"
        )
    try:
        return _fetch(repository, access, refresh=refresh)
    except (RepositoryFileError, HubUnreachableError) as error:
        no_artifact = error
    except ModelNotFoundError as error:
        raise ModelNotFoundError(_not_found(model, error)) from error
    exporter = first_use.find_exporter()
    if exporter is None or not may_export:
        command = first_use.how_to_install_exporter() if exporter is None else f"embedder pull {model}"
        advice = f"To export it from the Hub's checkpoint, run: {command}. Then try again"
        raise ModelNotFoundError(f"{_not_found(model, no_artifact)}. {advice}") from no_artifact
    if isinstance(no_artifact, HubUnreachableError):  # the checkpoint may be cached all the same
        access = replace(access, local_files_only=True)
    try:
        directory = first_use.export_once(repository, exporter, access, task)
    except HubUnreachableError as error:
        # Without a network, `error` is about the search of the cache, which nobody asked for.
        reason = no_artifact if isinstance(no_artifact, HubUnreachableError) else error
        advice = f"When the Hub can be reached, run: embedder pull {model}"
        raise ModelNotFoundError(f"{_not_found(model, reason)}. {advice}") from reason
    return opened(directory, Origin(Place.MODEL_DIRECTORY))


def _not_found(model: str, reason: object) -> str:
    """Return where a model was looked for, and what the Hub said."""
    texts = [str(place) if place is Place.ARTIFACTS else f"the {place} {path}" for place, path in store.stores()]
    places = "; ".join(["the directory of that name", *texts])
    return f"no exported model {model!r} was found. Looked at: {places}; the Hub: {reason}"


def _fetch(repository: str, access: HubAccess, *, refresh: bool) -> Artifact:
    """Fetch the manifest of a Hub repository. It names the files to fetch. Cached files are used as they are."""
    directory = hub.fetch(repository, [MANIFEST_NAME], access, cached_first=not refresh)
    origin = Origin(Place.HUB, repository, replace(access, revision=directory.name))
    with _checked_manifest(directory):
        return opened(directory, origin)


@contextmanager
def _checked_manifest(directory: Path) -> Iterator[None]:
    """If the manifest cannot be read, say whether its download was damaged."""
    try:
        yield
    except ArtifactError:
        hub.check_fetched(directory, [MANIFEST_NAME])
        raise
