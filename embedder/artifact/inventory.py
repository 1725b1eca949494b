"""The models that are on this machine, and how to remove one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from embedder.artifact import hub, store
from embedder.artifact.artifact import Artifact, Origin, Place
from embedder.artifact.hub_access import HubAccess
from embedder.artifact.hub_listing import folder_of
from embedder.artifact.manifest import MANIFEST_NAME, read_manifest
from embedder.common.files import discard
from embedder.common.records import frozen
from embedder.errors import ArtifactError, InputError, ModelNotFoundError


@frozen
class Model:
    """A model on this machine.

    Attributes:
        name: the name that `Embedder` takes.
        revision: the branch, tag or commit that it was exported or fetched from, if its directory's name has it.
        directory: its directory.
        place: where that directory is.
        artifact: the artifact; None if its manifest is damaged.
        problem: what is wrong with the manifest; "" if nothing.
    """

    name: str
    revision: str | None
    directory: Path
    place: Place
    artifact: Artifact | None
    problem: str = ""


def list_models() -> list[Model]:
    """Return the models of the model directory, of `artifacts` and of the Hub's cache. Damaged ones are listed too.

    Example:
        >>> [model.name for model in list_models()]  # doctest: +SKIP
        ['all-MiniLM-L6-v2', 'BAAI/bge-small-en-v1.5']
    """
    found = [
        _describe(name, revision, directory, Origin(place))
        for place, root in store.stores()
        for name, revision, directory in store.stored(root)
    ]
    return found + _describe_fetched(hub.snapshots_with(MANIFEST_NAME))


def _describe(name: str, revision: str | None, directory: Path, origin: Origin) -> Model:
    try:
        artifact = Artifact(directory.absolute(), read_manifest(directory), origin)
    except ArtifactError as error:
        return Model(name, revision, directory, origin.place, None, str(error))
    return Model(name, revision, directory, origin.place, artifact)


def _describe_fetched(snapshots: list[tuple[str, str, Path]]) -> list[Model]:
    """Return the models of snapshots in the Hub's cache, each given by its repository, commit and directory."""
    return [
        _describe(repository, commit, directory, Origin(Place.HUB, repository, HubAccess(commit)))
        for repository, commit, directory in snapshots
    ]


def remove_model(model: str, revision: str | None = None) -> list[Model]:
    """Remove `model` from the model directory and from the Hub's cache. Return what was removed.

    Each directory vanishes in one step. Directories that the user has made, by a path or in `artifacts`, are refused.

    Args:
        model: its name.
        revision: remove only what was exported from that branch, tag or commit. None removes the export that was
            made without a revision, and all that was fetched.

    Raises:
        InputError: `model` is a path, or lies in `artifacts`.
        ModelNotFoundError: there is no such model.
        OSError: a directory cannot be removed.

    Example:
        >>> [found.directory for found in remove_model("BAAI/bge-small-en-v1.5")]  # doctest: +SKIP
        [PosixPath('/home/ann/.local/share/embedder/BAAI/bge-small-en-v1.5')]
    """
    if store.name_parts(model) is None:
        raise InputError(f"{model!r} is not the name of a model. Remove a directory of your own yourself")
    removed = _find_exported(model, revision) + ([] if revision is not None else _find_fetched(model))
    if not removed:
        own = store.find(store.local_artifacts(), model, revision)
        if own is not None:
            raise InputError(f"{model!r} lies in {own}, which embedder does not manage. Remove the directory yourself")
        at = "" if revision is None else f" of the revision {revision!r}"
        raise ModelNotFoundError(f"no model {model!r}{at} was found to remove. `embedder list` shows all models")
    for directory in {folder_of(found.name) if found.place is Place.HUB else found.directory for found in removed}:
        try:
            discard(directory)
        except OSError as error:  # it may name a file that the user does not know
            raise OSError(error.errno, error.strerror, str(directory)) from error
    return removed


def _find_exported(model: str, revision: str | None) -> list[Model]:
    with suppress(InputError):  # the user has no home directory
        directory = store.find(store.model_directory(), model, revision)
        if directory is not None:
            return [_describe(model, revision, directory, Origin(Place.MODEL_DIRECTORY))]
    return []


def _find_fetched(model: str) -> list[Model]:
    repository = store.repository_of(model)
    return _describe_fetched([found for found in hub.snapshots_with(MANIFEST_NAME) if found[0] == repository])
