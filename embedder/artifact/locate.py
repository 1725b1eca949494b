"""Find an artifact by name or path, and make sure that the files that run are there.

A model is looked for in this order: a path, the model directory, `artifacts` in the working directory, the Hub. If none
of them has it, the exporter makes an artifact of the Hub's checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path

from embedder.artifact import first_use, hub, store
from embedder.artifact.hub import DEFAULT_ACCESS, HubAccess
from embedder.artifact.hub_errors import HubUnreachableError, RepositoryFileError
from embedder.artifact.manifest import MANIFEST_NAME, File, Graph, Manifest, read_manifest
from embedder.common.digests import check_digest
from embedder.common.files import check_regular, lfs_pointer_problem
from embedder.common.records import frozen
from embedder.errors import ArtifactError, InputError, ModelNotFoundError


class Place(StrEnum):
    """Where an artifact was found."""

    PATH = "path"
    MODEL_DIRECTORY = "model directory"
    ARTIFACTS = "artifacts in the working directory"
    HUB = "Hub"


@frozen
class Origin:
    """Where an artifact comes from.

    Attributes:
        place: where it was found.
        repository: the id of its Hub repository, if it was found there.
        access: how to fetch more files of that repository. Its revision is the commit.
    """

    place: Place
    repository: str | None = None
    access: HubAccess = DEFAULT_ACCESS

    def __str__(self) -> str:
        return str(self.place) if self.repository is None else f"{self.place}, {self.repository}@{self.access.revision}"


@frozen
class Artifact:
    """An exported model: its directory, its manifest, and where it comes from.

    Example:
        >>> open_artifact("all-MiniLM-L6-v2").directory.name  # doctest: +SKIP
        'all-MiniLM-L6-v2'
    """

    directory: Path
    manifest: Manifest
    origin: Origin

    def path(self, file: File) -> Path:
        """Return the path of `file`.

        Example:
            >>> artifact.path(artifact.manifest.tokenizer.file).name  # doctest: +SKIP
            'tokenizer.json'
        """
        return self.directory / file.name

    def has(self, file: File) -> bool:
        """Return whether `file` is here, whatever its content is."""
        return os.path.exists(self.path(file))  # pathlib raises for a directory that may not be read

    def graphs_here(self) -> list[Graph]:
        """Return the graphs that have both of their files here.

        Example:
            >>> [graph.dtype for graph in artifact.graphs_here()]  # doctest: +SKIP
            ['fp32', 'int8']
        """
        return [graph for graph in self.manifest.graphs if self.has(graph.file) and self.has(graph.weights)]

    def ensure(self, files: Iterable[File]) -> None:
        """Make sure that `files` are here and have the right sizes. Those of a Hub repository are fetched.

        Raises:
            ArtifactError: a file is missing, truncated or damaged.
            ModelNotFoundError: a file cannot be fetched.

        Example:
            >>> artifact.ensure(artifact.manifest.files)  # doctest: +SKIP
        """
        files = list(files)
        missing = [file for file in files if not self.has(file)]
        if missing and self.origin.repository is not None and not self.origin.access.local_files_only:
            hub.fetch(self.origin.repository, [file.name for file in missing], self.origin.access)
            for file in missing:
                self._check_fetched(file, partial(check_digest, self.path(file), file.sha256))
        for file in files:
            self._check_fetched(file, partial(self._check_size, file))

    def _check_fetched(self, file: File, check: Callable[[], None]) -> None:
        """Call `check`. Remove a damaged file of the Hub's cache, so that it is fetched again."""
        try:
            check()
        except ArtifactError as error:
            if self.origin.repository is None or not self.has(file):
                raise
            raise ArtifactError(f"{error}. {hub.discard(self.path(file))}") from error

    def _check_size(self, file: File) -> None:
        path = self.path(file)
        try:
            check_regular(path)
            found = path.stat().st_size
        except FileNotFoundError as error:
            raise ArtifactError(f"{path} is missing: {self._how_to_complete()}") from error
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error.strerror}. Export or copy the model again") from error
        if found != file.size:
            raise ArtifactError(
                lfs_pointer_problem(path)
                or f"{path} has {found:,} bytes, the manifest says {file.size:,}: it was truncated or replaced. "
                "Export or copy the model again"
            )

    def _how_to_complete(self) -> str:
        if self.origin.repository is not None:
            return f"to fetch it, run: embedder pull {self.origin.repository} (--dtype names another dtype)"
        here = list(dict.fromkeys(graph.dtype for graph in self.graphs_here()))
        choice = f", or choose one of the dtypes that are here, {', '.join(map(repr, here))}" if here else ""
        return f"export or copy the model again{choice}"


def open_artifact(
    model: str | os.PathLike[str],
    access: HubAccess = DEFAULT_ACCESS,
    *,
    refresh: bool = False,
    may_export: bool = True,
) -> Artifact:
    """Find the artifact `model`, fetch it, or make it. Only its manifest is read.

    Args:
        model: the path of an artifact; or its name; see `Embedder`.
        access: how the Hub is asked.
        refresh: ask the Hub whether a cached artifact is still the newest of its branch.
        may_export: whether the exporter may make the artifact.

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
    return _find_locally(name, access) or _find_on_hub(name, access, refresh=refresh, may_export=may_export)


def stores() -> Iterator[tuple[Place, Path]]:
    """Yield the two directories of models, in the order in which they are looked at. They need not exist.

    Example:
        >>> [place.value for place, directory in stores()]
        ['model directory', 'artifacts in the working directory']
    """
    with suppress(InputError):  # the user has no home directory
        yield Place.MODEL_DIRECTORY, store.model_directory()
    yield Place.ARTIFACTS, store.local_artifacts()


def _opened(directory: Path, origin: Origin) -> Artifact:
    # Files are also opened later, when the working directory may differ.
    return Artifact(directory.absolute(), read_manifest(directory), origin)


def _find_locally(model: str, access: HubAccess) -> Artifact | None:
    # Use os.path, not pathlib: pathlib raises for names that are too long and for home directories of unknown users.
    path = os.path.expanduser(model)
    if os.path.lexists(os.path.join(path, MANIFEST_NAME)):
        artifact = _opened(Path(path), Origin(Place.PATH))
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
    for place, directory in stores():
        found = store.find(directory, model, access.revision)
        if found is not None:
            return _opened(found, Origin(place))
    return None


def _find_on_hub(model: str, access: HubAccess, *, refresh: bool, may_export: bool) -> Artifact:
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
        directory = first_use.export_once(repository, exporter, access)
    except HubUnreachableError as error:
        # Without a network, `error` is about the search of the cache, which nobody asked for.
        reason = no_artifact if isinstance(no_artifact, HubUnreachableError) else error
        advice = f"When the Hub can be reached, run: embedder pull {model}"
        raise ModelNotFoundError(f"{_not_found(model, reason)}. {advice}") from reason
    return _opened(directory, Origin(Place.MODEL_DIRECTORY))


def _not_found(model: str, reason: object) -> str:
    """Return where a model was looked for, and what the Hub said."""
    texts = [str(place) if place is Place.ARTIFACTS else f"the {place} {path}" for place, path in stores()]
    places = "; ".join(["the directory of that name", *texts])
    return f"no exported model {model!r} was found. Looked at: {places}; the Hub: {reason}"


def _fetch(repository: str, access: HubAccess, *, refresh: bool) -> Artifact:
    """Fetch the manifest of a Hub repository. It names the files to fetch. Cached files are used as they are."""
    directory = hub.fetch(repository, [MANIFEST_NAME], access, cached_first=not refresh)
    origin = Origin(Place.HUB, repository, replace(access, revision=directory.name))
    with _checked_manifest(directory):
        return _opened(directory, origin)


@contextmanager
def _checked_manifest(directory: Path) -> Iterator[None]:
    """If the manifest cannot be read, say whether its download was damaged."""
    try:
        yield
    except ArtifactError:
        hub.check_fetched(directory, [MANIFEST_NAME])
        raise
