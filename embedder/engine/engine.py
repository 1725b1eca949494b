"""The engine: compute the task's output for checked inputs, in the caller's order and in bounded memory.

    windows ▸ tokenise or decode ▸ sort by length ▸ batches of a token budget ▸ backend.run ▸ the caller's order

A million texts take this path window by window. One text is tokenised and run at once: `Engine.run_text`. Every kind of
output takes the same paths: `Embedder` and other classes of models are thin layers over an engine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.artifact import Artifact
from embedder.artifact.manifest import DEFAULT_PROMPTS, IMAGE, RANK, TEXT, File
from embedder.backends import Backend, Device, select_device
from embedder.common.cores import usable_cores
from embedder.common.executor import Executor
from embedder.common.load_once import LoadOnce
from embedder.common.progress import progress_bar
from embedder.common.records import frozen
from embedder.engine.ahead import prepare_ahead, start_ahead
from embedder.engine.batching import BatchLimits, windows, windows_ahead
from embedder.engine.distinct import Places
from embedder.engine.job import Job
from embedder.engine.loading import Loader, choose_graph, output_of
from embedder.engine.memory import InputMemoryError
from embedder.engine.outputs import Values, check_finite
from embedder.engine.token_table import TokenTable
from embedder.engine.tokenizer import TextTokenizer
from embedder.engine.window import WindowSides
from embedder.errors import EmbedderError, InputError
from embedder.inputs import Item, Pair, TokenizedText
from embedder.options import EncodeSettings, LoadSettings

_I = TypeVar("_I")

# Each item is at its own place in the list of inputs.
_ALL = Places(range(sys.maxsize), None)


@frozen
class Block:
    """Outputs of consecutive inputs.

    Attributes:
        start: index of the first input.
        values: the value of each input, as `engine.outputs` describes them. An unreadable image has zeros.
        reasons: why an image could not be read, by the index of the input.
        cut: whether each text was cut, bool (inputs,). None if the request does not ask.
    """

    start: int
    values: Values
    reasons: dict[int, str]
    cut: NDArray[np.bool_] | None


class Engine:
    """A loaded artifact. Safe to call from many threads at once, and after a fork.

    A model of texts alone is loaded when the engine is made, so that a damaged file is an error at once. A model of
    texts and images loads each side when it is first needed.

    Example:
        >>> engine = Engine(open_artifact("all-MiniLM-L6-v2"), LoadSettings())  # doctest: +SKIP
        >>> [block.values.shape for block in engine.run(["a text"], EncodeSettings())]  # doctest: +SKIP
        [(1, 384)]
    """

    def __init__(self, artifact: Artifact, settings: LoadSettings, backend: Backend | None = None) -> None:
        """Choose the device, choose the graphs for it, and load them.

        Args:
            artifact: the artifact to load.
            settings: how to load it.
            backend: runs the graph of the texts instead of onnxruntime.

        Raises:
            InputError: the artifact has no graph of the dtype.
            ArtifactError: a file is missing, is damaged or does not match the manifest.
            ProviderError: the provider is unknown or does not work here.
            DependencyError: onnxruntime is not installed.
        """
        self.manifest = artifact.manifest
        self.device: Device = (
            backend.device if backend else select_device(settings.provider, settings.threads, settings.provider_options)
        )
        self._graphs = {
            modality: choose_graph(self.manifest.graphs_of(modality), settings.dtype, self.device)
            for modality in self.manifest.modalities
        }
        self._outputs = {modality: output_of(graph, self.manifest.task) for modality, graph in self._graphs.items()}
        artifact.ensure(self._needed_files(backend))
        loader = Loader(artifact, self._graphs, self.device, backend, settings)
        self._text = LoadOnce(loader.load_text)
        self._image = LoadOnce(loader.load_image)
        images = IMAGE in self._graphs
        threads, preparing = self.device.threads, self.device.preparing_threads
        # On a GPU, many threads decode images.
        self._executor = Executor(max(threads, settings.threads or usable_cores()) if images else threads)
        self._preparing = Executor(preparing) if preparing else self._executor
        self._closed = False
        if not images:
            self._text.get()

    def _needed_files(self, backend: Backend | None) -> list[File]:
        """Return the tokenizer's file and those of the chosen graphs. `backend` runs in place of the graph of texts."""
        graphs = [graph for modality, graph in self._graphs.items() if backend is None or modality != TEXT]
        return [self.manifest.tokenizer.file, *(file for graph in graphs for file in (graph.file, graph.weights))]

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The different dtypes of the graphs that run."""
        return tuple(dict.fromkeys(graph.dtype for graph in self._graphs.values()))

    @property
    def digests(self) -> list[str]:
        """The SHA-256 of the files that run: the tokenizer, the graphs and their weights."""
        files = [
            self.manifest.tokenizer.file,
            *(each for graph in self._graphs.values() for each in (graph.file, graph.weights)),
        ]
        return [file.sha256 for file in files]

    def close(self) -> None:
        """End the threads and release the graphs. Later calls raise EmbedderError. Closing twice does nothing."""
        self._closed = True
        self._executor.close()
        self._preparing.close()
        self._text, self._image = LoadOnce(_refuse_closed), LoadOnce(_refuse_closed)

    def check_open(self) -> None:
        """Raise EmbedderError if the engine has been closed."""
        if self._closed:
            _refuse_closed()

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer of texts. Raises EmbedderError if the engine has been closed."""
        self.check_open()
        return self._text.get().tokenizer

    def tokenize(self, texts: list[Item]) -> TokenTable:
        """Return the token ids of texts.

        Example:
            >>> engine.tokenize(["hello"]).arrays  # doctest: +SKIP
            (array([ 101, 7592,  102]),)
        """
        return self.tokenizer.table([text for text in texts if isinstance(text, str)])

    def run(
        self,
        items: Iterable[Item],
        settings: EncodeSettings,
        total: int | None = None,
        places: Places | None = None,
        role: str | None = None,
    ) -> Iterator[Block]:
        """Yield the outputs of `items`, a block for each window. In a window, copies of a text are computed once.

        Args:
            items: checked inputs. One window is read ahead, on a GPU a few.
            settings: the options of the request. The engine uses the prompt, the batch size and the progress bar; the
                caller truncates, normalises and quantises.
            total: number of inputs, for the progress bar; None if it is not known.
            places: where `items` are among the caller's inputs, if copies were left out. The progress bar counts the
                copies too, and errors name the caller's inputs.
            role: as in `TextSide.for_role`.

        Raises:
            InputError: the model has no such prompt. The call itself raises this.
            ArtifactError: the graph fails on the inputs, or gives NaN, infinity or another shape than the manifest's.
            DeviceMemoryError: the device has too little memory for one of the inputs alone.
            EmbedderError: the engine has been closed.

        Example:
            >>> blocks = engine.run(["a text", "another"], EncodeSettings(batch_size=8), total=2)  # doctest: +SKIP
            >>> next(blocks).values.shape  # doctest: +SKIP
            (2, 384)
        """
        self.check_open()
        prompt = self.resolve_prompt(settings)
        prompted = (_prompted(item, prompt) for item in items) if prompt else items
        job = partial(Job, settings.batch_size, self._prompt_token_count(prompt), self._executor)
        return self._run(windows(prompted), settings, job, total, places or _ALL, role)

    def run_text(self, text: str | Pair, settings: EncodeSettings, role: str | None = None) -> Values:
        """Return the value of one text, an array of one value, without a window, a plan or another thread.

        The numbers are those that `run` yields. A call of the graph empties the CPU's caches, so that each step of
        `run` takes microseconds, also the steps that do nothing for one text.

        Args:
            text: a checked text or pair.
            settings: the options of the request. The engine uses the prompt.
            role: as in `TextSide.for_role`.

        Raises:
            InputError, ArtifactError, EmbedderError: as in `run`.

        Example:
            >>> engine.run_text("a text", EncodeSettings()).shape  # doctest: +SKIP
            (1, 384)
        """
        self.check_open()
        prompt = self.resolve_prompt(settings)
        side, prompt_token_count = self._text.get().for_role(role), self._prompt_token_count(prompt)
        tokens = side.tokenize([_prompted(text, prompt)])
        counts = np.array([prompt_token_count], np.int64)
        try:
            values = np.array(side.run_batch(tokens, self._outputs[TEXT], counts, single_batch=True))
        except InputMemoryError as error:
            raise error.named(0, self.device.name) from error.__cause__
        check_finite(values, (0,))
        return values

    @property
    def batch_limits(self) -> BatchLimits:
        """What makes a good batch on the device."""
        images = self.manifest.images
        device, side = self.device, self._text.get()
        per_image = None if images is None else images.tokens
        return BatchLimits(
            side.token_budget, device.threads, device.unpadded_from_tokens, per_image, side.padded_tokens
        )

    def read_texts(self, texts: Sequence[str | Pair], settings: EncodeSettings) -> list[TokenizedText]:
        """Return texts or pairs as `run_tokenized` takes them.

        Args:
            texts: checked texts or pairs.
            settings: the options of the request. The engine uses the prompt.

        Raises:
            InputError, ArtifactError, EmbedderError: as in `run`.

        Example:
            >>> engine.read_texts(["hello"], EncodeSettings())[0].ids  # doctest: +SKIP
            array([ 101, 7592,  102])
        """
        self.check_open()
        prompt = self.resolve_prompt(settings)
        side = self._text.get()
        return side.read_texts([_prompted(text, prompt) for text in texts], self._prompt_token_count(prompt))

    def read_token_ids(self, token_ids: Any) -> list[TokenizedText]:
        """Return lists of token ids as `run_tokenized` takes them.

        Raises:
            InputError: as in `read_token_ids` of `engine.token_ids`.
            EmbedderError: the engine has been closed.

        Example:
            >>> engine.read_token_ids([[101, 7592, 102]])[0].ids  # doctest: +SKIP
            array([ 101, 7592,  102])
        """
        self.check_open()
        return self._text.get().read_token_ids(token_ids)

    def run_tokenized(self, texts: Sequence[TokenizedText], settings: EncodeSettings, *, single_thread: bool) -> Values:
        """Return the values of one batch, computed in the calling thread.

        The numbers are those that `run` yields.

        Args:
            texts: what `read_texts` or `read_token_ids` returned.
            settings: the options of the request. The engine uses the batch size.
            single_thread: whether the batch uses one thread, also if no other call is running.

        Raises:
            InputError: a text is none that this model could have made.
            ArtifactError, EmbedderError: as in `run`.

        Example:
            >>> engine.run_tokenized(texts, EncodeSettings(), single_thread=False).shape  # doctest: +SKIP
            (2, 384)
        """
        self.check_open()
        side, output = self._text.get(), self._outputs[TEXT]
        try:
            values = side.run_tokenized(texts, output, settings.batch_size, single_thread=single_thread)
        except InputMemoryError as error:
            raise error.named(error.row, self.device.name) from error.__cause__
        if len(values):
            check_finite(values, range(len(values)))
        return values

    def _run(
        self,
        stream: Iterator[list[Item]],
        settings: EncodeSettings,
        make_job: Callable[[Callable[[int], object]], Job],
        total: int | None,
        places: Places,
        role: str | None,
    ) -> Iterator[Block]:
        start = 0
        with progress_bar(total, *self._words_of_progress(), shown=settings.show_progress_bar) as bar:
            bar.update(places.copies)
            job = make_job(bar.update)
            # A closed engine has other sides, which refuse.
            sides = WindowSides(lambda: self._text.get().for_role(role), lambda: self._image.get(), self._outputs)
            prepare = partial(sides.prepare, find_cut=settings.warn_if_cut)
            ahead = partial(windows_ahead, token_budget=self.device.token_budget)
            prepared = prepare_ahead(stream, prepare, self._preparing, ahead)
            # A GPU has work for the next windows when it has done the last batch.
            results = start_ahead(prepared, partial(sides.start, job=job), min(1, self.device.preparing_threads))
            while True:
                try:
                    found = next(results, None)
                except InputMemoryError as error:
                    raise error.named(places.rows[start + error.row], self.device.name) from error.__cause__
                if found is None:
                    return
                for result in found:
                    indices = places.rows[start : start + len(result.values)]
                    check_finite(result.values, indices)
                    reasons = {indices[row]: reason for row, reason in result.reasons.items()}
                    yield Block(start, result.values, reasons, result.cut)
                    start += len(result.values)

    def _words_of_progress(self) -> tuple[str, str]:
        """Return the word for one input, and what is done with the inputs."""
        if self.manifest.task == RANK:
            return "pair", "Scoring"
        return "input" if IMAGE in self._graphs else "text", "Encoding"

    def resolve_prompt(self, settings: EncodeSettings) -> str:
        """Return the text to put before each input.

        Raises:
            InputError: the model has no prompt of that name. The message lists the prompts of the model.
        """
        if settings.prompt is not None:
            return settings.prompt
        name = settings.prompt_name if settings.prompt_name is not None else self.manifest.default_prompt_name
        if name is None:
            return ""
        prompts = DEFAULT_PROMPTS | self.manifest.prompts
        if name not in list(prompts):  # a list, because `name` may be unhashable
            raise InputError(f"unknown prompt_name {name!r}: the model has {', '.join(map(repr, prompts))}")
        return prompts[name]

    def _prompt_token_count(self, prompt: str) -> int:
        """Return how many tokens at the start of each text the pooling leaves out."""
        if not prompt or not self.manifest.leaves_prompt_out:
            return 0
        return self._text.get().tokenizer.prompt_token_count(prompt, self.manifest.tokenizer.special_ids)


def _prompted(item: _I, prompt: str) -> _I | str | Pair:
    """Return `item` with the prompt before it, or before its first text if it is a pair. Images take no prompt."""
    if isinstance(item, str):
        return prompt + item
    return Pair(prompt + item.first, item.second) if isinstance(item, Pair) else item


def _refuse_closed() -> NoReturn:
    raise EmbedderError("the model has been closed. Load it again")
