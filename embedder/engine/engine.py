"""An artifact, loaded: the graph that is wanted for texts, and for images if it takes them, each when first needed."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.locate import Artifact
from embedder.artifact.manifest import IMAGE, TEXT, Graph
from embedder.backends.prepacked import prepacked_graph
from embedder.backends.session import Session, choose_provider
from embedder.common.cores import has_fast_integers, usable_cores
from embedder.common.digests import check_digest, check_digest_once
from embedder.engine.image import ImageModel
from embedder.engine.preprocessing import Preprocessor
from embedder.engine.text import TextModel
from embedder.engine.tokenizer import TextTokenizer, TokenIds
from embedder.errors import InputError
from embedder.inputs import ImageItem

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Window:
    """Inputs that are held at once: which are images, the token ids of the texts, and the images."""

    is_image: NDArray[np.bool_]
    token_ids: list[TokenIds]
    images: list[Any]


class Model:
    """The graphs of an artifact, with what prepares their inputs. Safe to call from many threads at once.

    A model of texts alone is loaded at once, so that what is wrong with it shows.
    """

    def __init__(self, artifact: Artifact, provider: str | None, dtype: str | None, threads: int | None) -> None:
        """Choose the graphs; arguments and errors are those of `Embedder`."""
        self.manifest = artifact.manifest
        self._artifact = artifact
        self._wanted, self._threads = provider, threads
        self._device = choose_provider(provider)
        self._graphs = {
            modality: choose_graph(self.manifest.graphs_of(modality), dtype, self._device)
            for modality in self.manifest.modalities
        }
        self._loading = threading.Lock()
        self._text_model: TextModel | None = None
        self._image_model: ImageModel | None = None
        if self.manifest.images is None:
            self.text()

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The precisions of its graphs, one where they share it."""
        return tuple(dict.fromkeys(graph.dtype for graph in self._graphs.values()))

    @property
    def provider(self) -> str:
        """Where it runs; before it is loaded, where it is meant to."""
        loaded = self._text_model or self._image_model
        return loaded.session.provider if loaded else self._device

    def workers(self) -> int:
        """Threads that a call may want: those that compute and, on a GPU, those that decode images for it."""
        if IMAGE in self._graphs:
            return self._threads or usable_cores()
        return self.text().session.threads

    def prepare(self, items: list[str | ImageItem]) -> Window:
        """What `embed` takes: texts as token ids. It may be made in another thread, ahead of time."""
        texts = [item for item in items if isinstance(item, str)]
        images = [item.source for item in items if isinstance(item, ImageItem)]
        is_image = np.array([isinstance(item, ImageItem) for item in items], bool)
        return Window(is_image, self.text().tokenizer(texts) if texts else [], images)

    def unpooled(self, prompt: str) -> int:
        """How many tokens at the start of each text are left out of its pooling: those of the prompt, or none."""
        if self.manifest.head.include_prompt:
            return 0
        return self.text().tokenizer.prompt_length(prompt, self.manifest.tokenizer.special_ids)

    def embed(
        self, window: Window, unpooled: int, batch_size: int | None, pool: ThreadPoolExecutor, advance: Advance
    ) -> tuple[NDArray[np.float32], dict[int, str]]:
        """The embeddings of `window`, and what is wrong with images that cannot be read, by their rows.

        `advance` is told how many inputs of each batch are done. The images are dropped from `window`.
        """
        embeddings = np.empty((len(window.is_image), self.manifest.dimension), np.float32)
        reasons: dict[int, str] = {}
        if window.token_ids:
            embeddings[~window.is_image] = self.text().embed(window.token_ids, unpooled, batch_size, pool, advance)
        if window.images:
            alone = len(window.images) == 1
            found, unread = self.image(alone).embed(window.images, batch_size, pool, advance)
            rows = np.flatnonzero(window.is_image)
            embeddings[rows] = found
            reasons = {int(rows[row]): unread[row] for row in sorted(unread)}
        return embeddings, reasons

    def text(self) -> TextModel:
        """The text side, loaded."""
        if self._text_model is None:
            with self._loading:
                if self._text_model is None:  # another thread may have been first
                    settings = self.manifest.tokenizer
                    path = self._artifact.path(settings.file)
                    check_digest(path, settings.file.sha256)
                    session = self._load_session(TEXT, alone=True)
                    self._text_model = TextModel(session, TextTokenizer(path, settings.max_seq_length), self.manifest)
        return self._text_model

    def image(self, alone: bool) -> ImageModel:
        """The image side, loaded; `alone` is as in `Session`."""
        settings = self.manifest.images
        assert settings is not None  # there are images only where the model takes them
        if self._image_model is None:
            with self._loading:
                if self._image_model is None:  # as above
                    preprocessor = Preprocessor(settings)
                    session = self._load_session(IMAGE, alone=alone)
                    self._image_model = ImageModel(session, preprocessor, settings.tokens, self.manifest.dimension)
        return self._image_model

    def _load_session(self, modality: str, *, alone: bool) -> Session:
        artifact, graph = self._artifact, self._graphs[modality]
        path = artifact.path(graph.file)
        check_digest(path, graph.file.sha256)
        check_digest_once(artifact.path(graph.weights), graph.weights.sha256)
        packed = prepacked_graph(artifact, graph) if self._device == "cpu" else None
        return Session(path, graph, self.manifest.dimension, self._wanted, self._threads, packed, alone=alone)


def choose_graph(graphs: tuple[Graph, ...], wanted: str | None, provider: str) -> Graph:
    """The one of `graphs` that `wanted` is, as `Embedder` has it; InputError if there is none."""
    by_dtype = {graph.dtype: graph for graph in graphs}
    if wanted == "auto":
        if provider == "cuda":
            order = ("fp16", "fp32", "int8")
        else:
            order = ("int8", "fp32", "fp16") if has_fast_integers() else ("fp32", "int8", "fp16")
        wanted = next(dtype for dtype in order if dtype in by_dtype)
    elif wanted is None:
        wanted = graphs[0].dtype
    if not isinstance(wanted, str) or wanted not in by_dtype:
        raise InputError(
            f"the model has no graph {wanted!r}, it has {', '.join(map(repr, by_dtype))}: choose one of them, or "
            '"auto"; embedder-export --dtypes says which to write'
        )
    return by_dtype[wanted]
