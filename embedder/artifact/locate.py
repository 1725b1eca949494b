"""Find an artifact by name or path, and check that its files are there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from embedder.artifact import hub
from embedder.artifact.hub_errors import RepositoryFileError
from embedder.artifact.manifest import MANIFEST_NAME, File, Manifest, read_manifest
from embedder.common.files import check_regular
from embedder.errors import ArtifactError, InputError, ModelNotFoundError


@dataclass(frozen=True)
class Artifact:
    """An exported model on disk: its directory and its manifest.

    Example:
        >>> open_artifact("all-MiniLM-L6-v2").directory.name  # doctest: +SKIP
        'all-MiniLM-L6-v2'
    """

    directory: Path
    manifest: Manifest

    def path(self, file: File) -> Path:
        """Return the path of `file`.

        Example:
            >>> artifact.path(artifact.manifest.tokenizer.file).name  # doctest: +SKIP
            'tokenizer.json'
        """
        return self.directory / file.name


def open_artifact(model: str | os.PathLike[str]) -> Artifact:
    """Find the artifact `model`, and check that its files exist and have the right sizes.

    Args:
        model: the path of a directory; the name of one in `artifacts/` (or in `$EMBEDDER_ARTIFACTS`); or the id of a
            Hub repository that holds an artifact. Its files are fetched into the Hub's cache once.

    Raises:
        InputError: `model` is neither a name nor a path.
        ModelNotFoundError: there is no such artifact. The message says how to export it.
        ArtifactError: its manifest is damaged, or a file is missing or truncated.

    Example:
        >>> open_artifact("all-MiniLM-L6-v2").manifest.dimension  # doctest: +SKIP
        384
    """
    if not isinstance(model, str | os.PathLike) or str(model) in ("", ".") or "\0" in str(model):
        raise InputError(f"model should be the name or the path of an exported model, not {model!r}")
    directory = _locate(
        os.fspath(model)
    ).absolute()  # files are also opened later, when the working directory may differ
    artifact = Artifact(directory, read_manifest(directory))
    for file in artifact.manifest.files:
        _check_size(artifact.path(file), file.size)
    return artifact


def _locate(model: str) -> Path:
    # Use os.path, not pathlib: pathlib raises for names that are too long and for home directories of unknown users.
    path = os.path.expanduser(model)
    if os.path.isfile(os.path.join(path, MANIFEST_NAME)):
        return Path(path)
    if os.path.isdir(path):
        raise ModelNotFoundError(
            f"{model!r} is a directory without {MANIFEST_NAME}, so it is not an exported model. If it is a checkpoint, "
            f"export it first: embedder-export {model} --output DIRECTORY"
        )
    name = model.removeprefix(hub.DEFAULT_ORGANISATION)
    artifacts = Path(os.environ.get("EMBEDDER_ARTIFACTS", "artifacts"))
    exported = artifacts / name.rpartition("/")[2]
    if os.path.isfile(exported / MANIFEST_NAME) and ("/" not in model or _is_from(exported, name)):
        return exported
    if hub.is_repository_id(name):
        return _fetch(name)
    if os.sep in name:
        raise ModelNotFoundError(f"no exported model at {model!r}: there is no {MANIFEST_NAME} there")
    raise ModelNotFoundError(
        f"no exported model {model!r} in {str(artifacts)!r} (the variable EMBEDDER_ARTIFACTS sets this directory). "
        f"{_how_to_export(name, exported)}"
    )


def _how_to_export(name: str, output: str | Path) -> str:
    return f"Export it, in a clone of embedder: make export MODEL={name}; or: embedder-export {name} --output {output}"


def _is_from(exported: Path, name: str) -> bool:
    """Return whether `exported` was made from `name`, not from a model of the same name of another organisation."""
    return read_manifest(exported).source.model == name


def _fetch(repository: str) -> Path:
    # Fetch the manifest first: it names the few files to fetch. A repository without a manifest may hold gigabytes.
    try:
        directory = hub.fetch(repository, [MANIFEST_NAME], cached_first=True)
    except RepositoryFileError as error:
        raise ModelNotFoundError(
            f"the Hub repository {repository!r} holds no {MANIFEST_NAME}, so it is not an exported model. "
            f"{_how_to_export(repository, 'DIRECTORY')}"
        ) from error
    names = [file.name for file in read_manifest(directory).files]
    return hub.fetch(repository, [MANIFEST_NAME, *names], hub.HubAccess(directory.name), cached_first=True)


def _check_size(path: Path, size: int) -> None:
    try:
        check_regular(path)
        found = path.stat().st_size
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing: export or copy the model again") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}. Export or copy the model again") from error
    if found != size:
        raise ArtifactError(
            f"{path} has {found:,} bytes, the manifest says {size:,}: it was truncated or replaced. "
            "Export or copy the model again"
        )
