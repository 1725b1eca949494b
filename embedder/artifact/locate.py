"""Open an artifact by its path or its name.

A model is looked for in this order: a path, the model directory, `artifacts` in the working directory, the Hub. If none
of them has it, the exporter makes an artifact of the Hub's checkpoint.
"""

from __future__ import annotations

import os
from pathlib import Path

from embedder.artifact.artifact import Artifact, Origin, Place, opened
from embedder.artifact.hub_access import DEFAULT_ACCESS, HubAccess
from embedder.artifact.manifest import MANIFEST_NAME
from embedder.errors import InputError, ModelNotFoundError


def open_artifact(
    model: str | os.PathLike[str],
    access: HubAccess = DEFAULT_ACCESS,
    *,
    refresh: bool = False,
    may_export: bool = True,
    task: str | None = None,
) -> Artifact:
    """Find the artifact `model`, fetch it, or make it. Only its manifest is read.

    Args:
        model: the path of an artifact; or its name; see `Embedder`.
        access: how the Hub is asked.
        refresh: ask the Hub whether a cached artifact is still the newest of its branch.
        may_export: whether the exporter may make the artifact.
        task: the task of the artifact, for a model that may have several. None takes any task.

    Raises:
        InputError: `model` is neither a name nor a path.
        ModelNotFoundError: there is no such artifact. The message says where it was looked for, and how to make it.
        ArtifactError: its manifest is damaged.
        EmbedderError: what the exporter raises, if it makes the artifact.

    Example:
        >>> open_artifact("all-MiniLM-L6-v2").manifest.dimension  # doctest: +SKIP
        384
    """
    name = os.fspath(model) if isinstance(model, str | os.PathLike) else None
    if not isinstance(name, str) or name in ("", ".") or "\0" in name:
        raise InputError(f"model should be the name or the path of an exported model, not {model!r}")
    artifact = _find_locally(name, access, task)
    if artifact is None:
        # Here, as it takes milliseconds of the start of a process.
        from embedder.artifact.find_on_hub import find_on_hub

        artifact = find_on_hub(name, access, refresh=refresh, may_export=may_export, task=task)
    return artifact


def _find_locally(model: str, access: HubAccess, task: str | None) -> Artifact | None:
    # Use os.path, not pathlib: pathlib raises for names that are too long and for home directories of unknown users.
    path = os.path.expanduser(model)
    if os.path.lexists(os.path.join(path, MANIFEST_NAME)):
        artifact = opened(Path(path), Origin(Place.PATH))
        if access.revision not in (None, artifact.manifest.source.revision):
            raise InputError(
                f"revision={access.revision!r} is for models of the Hub, and {model!r} is a directory here. Its "
                f"artifact was made from the revision {artifact.manifest.source.revision!r}"
            )
        return artifact
    if os.path.isdir(path):
        raise ModelNotFoundError(
            f"{model!r} is a directory without {MANIFEST_NAME}, so it is not an exported model. If it is a checkpoint, "
            f"export it first: embedder-export {model} --output DIRECTORY"
        )
    return _find_in_stores(model, access.revision, task)


def _find_in_stores(model: str, revision: str | None, task: str | None) -> Artifact | None:
    from embedder.artifact import store  # here, as a path does not need it

    # An artifact for the chosen task comes first. One under the model's own name may be for it too.
    for name in dict.fromkeys((store.name_for_task(model, task), model)):
        for place, directory in store.stores():
            found = store.find(directory, name, revision)
            if found is not None:
                artifact = opened(found, Origin(place))
                if task not in store.CHOSEN_TASKS or artifact.manifest.task == task:
                    return artifact
    return None
