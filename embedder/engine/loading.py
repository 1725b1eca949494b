"""Choose the graphs of an artifact, and load the two sides of a model: texts and images."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from embedder.artifact.artifact import Artifact
from embedder.artifact.manifest import IMAGE, OUTPUT_OF_TASK, RANK, TEXT, Graph, Output
from embedder.artifact.multi_vector import ROLES
from embedder.artifact.padded_tokens import padded_tokens
from embedder.backends import Backend, Device, GraphFiles
from embedder.common.digests import CheckedFile, open_checked
from embedder.common.records import frozen
from embedder.common.side_by_side import side_by_side
from embedder.engine.text_side import TextSide
from embedder.engine.tokenizer import TextTokenizer
from embedder.errors import InputError
from embedder.options import LoadSettings

if TYPE_CHECKING:
    from embedder.engine.image_side import ImageSide


def choose_graph(graphs: tuple[Graph, ...], dtype: str | None, device: Device) -> Graph:
    """Return the graph that `dtype` selects.

    Args:
        graphs: graphs of one modality.
        dtype: name of a dtype; "auto" for the fastest one on `device`; None for the first graph.
        device: the device that will run the graph.

    Raises:
        InputError: there is no such graph. The message lists the dtypes of the graphs.

    Example:
        >>> choose_graph(manifest.graphs_of("text"), "auto", device).dtype  # doctest: +SKIP
        'int8'
    """
    by_dtype = {graph.dtype: graph for graph in graphs}
    if dtype == "auto":
        dtype = next((name for name in device.preferred_dtypes if name in by_dtype), graphs[0].dtype)
    elif dtype is None:
        dtype = graphs[0].dtype
    if not isinstance(dtype, str) or dtype not in by_dtype:
        raise InputError(
            f"the model has no graph of dtype {dtype!r}, it has {', '.join(map(repr, by_dtype))}: choose one of them, "
            'or "auto". To add another dtype, export the model again with embedder-export --dtypes'
        )
    return by_dtype[dtype]


def output_of(graph: Graph, task: str) -> Output:
    """Return the output of `graph` for the artifact's task.

    Example:
        >>> output_of(graph, "embed").kind  # doctest: +SKIP
        'dense'
    """
    output = graph.output(OUTPUT_OF_TASK[task])
    assert output is not None  # the manifest made sure
    return output


@frozen
class Loader:
    """Loads the two sides of a model. It does not refer to the engine, so that a dropped engine is freed at once.

    Attributes:
        artifact: the artifact.
        graphs: the chosen graphs, by modality.
        device: the device that runs them.
        backend: runs the graph of the texts instead of onnxruntime. None: onnxruntime runs it.
        settings: how to load.
    """

    artifact: Artifact
    graphs: Mapping[str, Graph]
    device: Device
    backend: Backend | None
    settings: LoadSettings

    def load_text(self) -> TextSide:
        """Load the tokenizer and the graph of texts.

        Raises:
            ArtifactError: a file is missing, is damaged or does not match the manifest.
        """
        # onnxruntime opens the graph without Python, while Python loads the tokenizer. Python does one thing at a time,
        # so the tokenizer waits until onnxruntime has begun.
        begun = threading.Event()
        tokenizer, backend = side_by_side(lambda: self._load_tokenizer(begun), lambda: self._open_text_graph(begun))
        manifest = self.artifact.manifest
        if manifest.multi_vector is None:
            return TextSide(backend, self.graphs[TEXT], tokenizer, manifest.tokenizer, padded_tokens(manifest))
        from embedder.engine.token_side import TokenSide  # here, as most models do not need it

        limit = self.settings.max_seq_length
        return TokenSide(backend, self.graphs[TEXT], tokenizer, manifest.tokenizer, manifest.multi_vector, limit)

    def _open_text_graph(self, begun: threading.Event) -> Backend:
        files = GraphFiles(self.artifact, self.graphs[TEXT], verify=self.settings.verify, opening=begun.set)
        try:
            return self.backend or self._open(files)
        finally:
            begun.set()

    def _load_tokenizer(self, begun: threading.Event) -> TextTokenizer:
        begun.wait()
        manifest = self.artifact.manifest
        settings, multi = manifest.tokenizer, manifest.multi_vector
        path = self.artifact.path(settings.file)
        verify = self.settings.verify
        file = CheckedFile(path, settings.file.sha256 if verify else None)
        limit, pairs = settings.max_seq_length, manifest.task == RANK
        if multi is not None:  # each role has its own limit, which `TokenSide` applies
            limit = max(limit, self.settings.max_seq_length or 0, *map(multi.length_of, ROLES))
        tokenizer = open_checked([file], lambda: TextTokenizer(path, limit, pairs=pairs, verify=verify))
        if self.settings.max_seq_length is not None and multi is None:
            tokenizer.set_limit(self.settings.max_seq_length)
        return tokenizer

    def load_image(self) -> ImageSide:
        """Load the graph of images, of a model that has one.

        Raises:
            ArtifactError: as in `load_text`.
        """
        from embedder.engine.image_side import ImageSide  # here, as models of texts alone do not need it

        settings = self.artifact.manifest.images
        assert settings is not None  # such a model has them
        files = GraphFiles(self.artifact, self.graphs[IMAGE], settings.tokens, self.settings.verify, open_now=False)
        return ImageSide(self._open(files), settings)

    def _open(self, files: GraphFiles) -> Backend:
        return files.checked.open(lambda path: self.device.open(files))
