"""The protocols between the engine and a device: a description of the device, and one method that runs a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from embedder.artifact.artifact import Artifact
from embedder.artifact.manifest import GRAPH_INPUTS, Graph
from embedder.common.checks import shown
from embedder.common.digests import CheckedFile, open_checked
from embedder.common.records import frozen
from embedder.errors import InputError

# The inputs and the outputs of a graph, by name.
Feeds = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]

_T = TypeVar("_T")


@frozen
class CheckedGraph:
    """The two files of a graph, and the digests that they should have.

    Attributes:
        file: the graph.
        weights: the weights. They lie beside the graph, and onnxruntime opens both.
    """

    file: CheckedFile
    weights: CheckedFile

    def check(self) -> None:
        """Raise ArtifactError unless both files have the right digests."""
        self.file.check()
        self.weights.check()

    def open(self, open: Callable[[Path], _T]) -> _T:
        """Return `open(path of the graph)`. Both files have the right digests before and after it.

        Raises:
            ArtifactError: a file is missing, is damaged, or was replaced while it was opened.
        """
        return open_checked((self.file, self.weights), lambda: open(self.file.path))


def _do_nothing() -> None:
    """Stand for a function that nobody gave."""


@frozen
class GraphFiles:
    """A graph of an artifact, and what a backend needs to open it.

    Attributes:
        artifact: the artifact.
        graph: the graph's entry in the manifest.
        tokens_per_image: number of tokens of an image in the model; 1 for a graph of texts.
        verify: whether to check the digests of the files.
        opening: the backend calls this just before onnxruntime opens the graph, which needs no Python then.
        open_now: whether to open the graph when the backend is made, so that a damaged graph is an error at once.
            Otherwise the first call opens it.
        checked: the graph's files with the digests that they should have. The engine checks
            them before and after `Device.open`. A backend that opens them later does so by `checked.open`.
    """

    artifact: Artifact
    graph: Graph
    tokens_per_image: int = 1
    verify: bool = True
    opening: Callable[[], object] = _do_nothing
    open_now: bool = True
    checked: CheckedGraph = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        graph, path = self.graph, self.artifact.path
        files = CheckedGraph(
            CheckedFile(path(graph.file), graph.file.sha256 if self.verify else None),
            CheckedFile(path(graph.weights), graph.weights.sha256 if self.verify else None, recorded=True),
        )
        object.__setattr__(self, "checked", files)

    @property
    def path(self) -> Path:
        """The path of the graph's file."""
        return self.artifact.path(self.graph.file)

    def tokens_of(self, feeds: Feeds) -> int:
        """Return the number of tokens in `feeds`, padding included."""
        if GRAPH_INPUTS[0] in feeds:
            return int(feeds[GRAPH_INPUTS[0]].size)
        return len(next(iter(feeds.values()))) * self.tokens_per_image


class Backend(Protocol):
    """One graph on one device. Safe to call from many threads.

    Example:
        >>> device = select_device("cpu", threads=2)  # doctest: +SKIP
        >>> device.open(GraphFiles(artifact, graph)).run(feeds)["embedding"].shape  # doctest: +SKIP
        (2, 384)
    """

    @property
    def device(self) -> Device:
        """The device that runs the graph."""

    def run(self, feeds: Feeds, *, single_batch: bool = False) -> Outputs:
        """Return the graph's outputs by name.

        Args:
            feeds: the graph's inputs by name: int64 (batch, tokens) for texts, float32 (batch, 3, height, width) for
                images.
            single_batch: whether the caller has only this batch. The device may then use all of its threads.

        Raises:
            ArtifactError: the graph fails on these inputs.
            DeviceMemoryError: the device has too little memory for these inputs. The engine tries again with fewer.

        The engine checks the shape of the outputs, and that their numbers are finite.
        """


class Device(Protocol):
    """A started device, and how to use it best."""

    @property
    def name(self) -> str:
        """The name for `provider=`."""

    @property
    def token_budget(self) -> int:
        """Most tokens in one call of a graph, padding included."""

    @property
    def unpadded_from_tokens(self) -> int | None:
        """Texts of at least this many tokens share a batch only with texts of the same length. None: with any texts."""

    @property
    def threads(self) -> int:
        """Number of batches that run at the same time."""

    @property
    def preparing_threads(self) -> int:
        """Number of threads that tokenise or decode inputs while those of the batches wait for the device.

        0 for a device whose batches occupy the threads. They prepare inputs too then.
        """

    @property
    def preferred_dtypes(self) -> tuple[str, ...]:
        """Dtypes for `dtype="auto"`, the fastest on this device first."""

    def open(self, files: GraphFiles) -> Backend:
        """Load a graph on the device.

        Raises:
            ArtifactError: the graph cannot be loaded, or its outputs are not those of the manifest.
        """


class DeviceKind(Protocol):
    """A kind of device, such as CPU or CUDA. This machine may have none of this kind."""

    @property
    def name(self) -> str:
        """The name for `provider=`."""

    @property
    def has_numbers(self) -> bool:
        """Whether a machine may have several, so that `provider=` may have a number after a colon."""

    @property
    def option_names(self) -> tuple[str, ...]:
        """The names that `provider_options=` may have. Empty if the device takes none."""

    def is_installed(self) -> bool:
        """Return whether the onnxruntime installed here was built for this kind. The machine may have none of it."""

    def workers(self) -> tuple[str, ...]:
        """Return the provider of each process of a pool that uses all devices of this kind.

        Raises:
            ProviderError: no device of this kind is here. The message says what is missing.
            DependencyError: onnxruntime is not installed.
        """

    def start(self, threads: int | None, index: int, options: Mapping[str, str]) -> Device:
        """Return a working device of this kind.

        Args:
            threads: most threads that compute. None takes one for each usable core.
            index: number of the device among those of its kind, from 0 on.
            options: the options of onnxruntime's provider. Their names are among `option_names`.

        Raises:
            ProviderError: the device does not work here. The message says what is missing.
            DependencyError: onnxruntime is not installed.
        """


def check_backend(backend: object, *options: object) -> None:
    """Raise InputError if a caller's own `backend` cannot run a graph, or was given together with other `options`.

    Example:
        >>> check_backend(None, "cpu", 2)
    """
    if backend is None:
        return
    if not callable(getattr(backend, "run", None)):
        raise InputError(
            f"backend should be an object that runs the graph of texts, not {shown(backend)}. Leave it out: embedder "
            "always uses onnxruntime"
        )
    if any(option is not None for option in options):
        raise InputError(
            "a backend has its own provider and threads. Give backend=, or provider=, provider_options= and threads="
        )
