"""An artifact: its directory, its manifest, and where it comes from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import partial
from pathlib import Path

from embedder.artifact.hub_access import DEFAULT_ACCESS, HubAccess
from embedder.artifact.manifest import File, Graph, Manifest, read_manifest
from embedder.common.digests import check_digest
from embedder.common.files import check_regular, lfs_pointer_problem
from embedder.common.records import frozen
from embedder.errors import ArtifactError


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
            from embedder.artifact import hub  # here, as a model that is whole does not need it

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
            from embedder.artifact import hub

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


def opened(directory: Path, origin: Origin) -> Artifact:
    """Read the manifest in `directory`, and return the artifact.

    Raises:
        ArtifactError: the manifest is damaged.

    Example:
        >>> opened(Path("artifacts/all-MiniLM-L6-v2"), Origin(Place.PATH)).manifest.dimension  # doctest: +SKIP
        384
    """
    # Files are also opened later, when the working directory may differ.
    return Artifact(directory.absolute(), read_manifest(directory), origin)
