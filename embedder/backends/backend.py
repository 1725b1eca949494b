"""What the engine knows of a device: a description that carries every decision, and one method that runs a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from embedder.artifact.locate import Artifact
from embedder.artifact.manifest import GRAPH_INPUTS, Graph

# The inputs of a graph, and its outputs, by name.
Feeds = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class GraphFiles:
    """A graph of an artifact, with what a backend must know to run it well.

    Attributes:
        artifact: where its files lie. The engine has checked them.
        graph: its entry in the manifest.
        tokens_per_image: positions of an image in the model; 1 for a graph of texts.
        open_now: whether to open the graph when the backend is made, so that faults show at once. Otherwise the first
            call opens it.
    """

    artifact: Artifact
    graph: Graph
    tokens_per_image: int = 1
    open_now: bool = True

    @property
    def path(self) -> Path:
        """The graph's file."""
        return self.artifact.path(self.graph.file)

    def tokens_of(self, feeds: Feeds) -> int:
        """Return how many tokens `feeds` have, padding included."""
        if GRAPH_INPUTS[0] in feeds:
            return int(feeds[GRAPH_INPUTS[0]].size)
        return len(next(iter(feeds.values()))) * self.tokens_per_image


class Backend(Protocol):
    """Runs one graph on one device. Safe to call from many threads."""

    @property
    def device(self) -> Device:
        """Where it runs."""

    def run(self, feeds: Feeds, *, single_batch: bool = False) -> Outputs:
        """Return the graph's outputs by name.

        Args:
            feeds: the graph's inputs by name.
            single_batch: whether the caller has no other batch for now. A device may then use all of its threads.

        Raises:
            ArtifactError: the graph fails on these inputs.
        """


class Device(Protocol):
    """A device that works, and how to use it best."""

    @property
    def name(self) -> str:
        """What `provider=` calls it."""

    @property
    def token_budget(self) -> int:
        """Tokens of a batch, padding included, that it runs best."""

    @property
    def threads(self) -> int:
        """Batches that it runs at a time."""

    @property
    def preferred_dtypes(self) -> tuple[str, ...]:
        """Dtypes of graphs in the order of their speed on it, for `dtype="auto"`."""

    def open(self, files: GraphFiles) -> Backend:
        """Load a graph on the device.

        Raises:
            ArtifactError: the graph cannot be loaded, or has other outputs than the manifest says.
        """


class DeviceKind(Protocol):
    """A kind of device, which may or may not be usable here."""

    @property
    def name(self) -> str:
        """What `provider=` calls it."""

    def start(self, threads: int | None) -> Device:
        """Return a device of this kind that works.

        Args:
            threads: most threads that compute; None takes one for each usable core.

        Raises:
            ProviderError: there is none. The message says what is missing.
            DependencyError: onnxruntime is not installed.
        """
