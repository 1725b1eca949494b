"""The public class: texts and images in, vectors out.

prompt → tokenise → sort by length → batches of a token budget → onnxruntime → back into the caller's order.
One path for one text and for a million: they go through it in windows, so memory stays bounded. Images of a model that
takes them go through their own graph beside it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder.artifact.locate import open_artifact
from embedder.artifact.manifest import DEFAULT_PROMPTS, IMAGE
from embedder.common.progress import progress_bar
from embedder.engine.batching import pad, windows
from embedder.engine.engine import Model, Window
from embedder.errors import ImageError, InputError
from embedder.inputs import (
    ImageItem,
    Input,
    check_count,
    check_errors,
    check_prompt,
    checked_inputs,
    checked_list,
    is_single,
)
from embedder.vectors import similarity

DEFAULT_MODEL, DEFAULT_IMAGE_MODEL = "all-MiniLM-L6-v2", "clip-ViT-B-32"
_LOG = logging.getLogger(__name__)


class EncodeOptions(TypedDict, total=False):
    """The options of `encode` and its siblings; their names and meanings are those of sentence-transformers.

    prompt_name: the model's prompt to put before each text; see `Embedder.prompts`. By default the model's default.
    prompt: the prompt itself; takes precedence over `prompt_name`.
    batch_size: most inputs in one call of the model. Batches are filled by tokens, so this is only a ceiling.
    show_progress_bar: show progress on stderr.
    normalize_embeddings: scale each vector to length 1, after truncation.
    truncate_dim: keep the first so many dimensions.
    read_paths: whether a string that names an image, as `encode` has it, is one. Strings of strangers should all be
        texts, or they choose which files are read: then False.
    """

    prompt_name: str | None
    prompt: str | None
    batch_size: int | None
    show_progress_bar: bool | None
    normalize_embeddings: bool
    truncate_dim: int | None
    read_paths: bool


class Embedder:
    """A model, loaded. Safe to call from many threads at once.

    Attributes:
        manifest: what the artifact says of itself: its source, settings, files, and measured parity.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        provider: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
    ) -> None:
        """Load an exported model.

        Args:
            model: the path of an artifact; the name of one in `artifacts/` (or in `$EMBEDDER_ARTIFACTS`); or the id of
                a Hub repository that holds one.
            provider: "cpu" or "cuda"; None takes a GPU where onnxruntime has one, else the CPU.
            dtype: "fp32" or "int8", of those that the artifact has; "auto" is the fastest for the provider and the CPU;
                None is fp32, the exact one, where the artifact has it.
            threads: most threads to compute with on a CPU; None takes one for each core that this process may use.

        Raises:
            InputError: the artifact has no such graph, or `threads` is out of range; the message says which it has.
            ModelNotFoundError: there is no such artifact; the message says how to export it.
            ArtifactError: a file is missing, truncated, altered, or of a format this version does not read.
            ProviderError: the provider is unknown or not available.
            DependencyError: onnxruntime is not installed.
        """
        check_count("threads", threads)
        self._model = Model(open_artifact(model), provider, dtype, threads)
        self.manifest = self._model.manifest

    def __repr__(self) -> str:
        return (
            f"Embedder({self.manifest.source.model!r}, dimension={self.dimension}, "
            f"max_seq_length={self.max_seq_length}, dtype={'+'.join(self._model.dtypes)!r}, "
            f"provider={self._model.provider!r})"
        )

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.manifest.dimension

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a text, special tokens included, that the model sees; the rest is cut off."""
        return self.manifest.tokenizer.max_seq_length

    @property
    def prompts(self) -> dict[str, str]:
        """The model's prompts by name; "query" and "document" are always there, empty where the model has none."""
        return DEFAULT_PROMPTS | self.manifest.prompts

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model takes: "text", and "image" if it takes images, too."""
        return self.manifest.modalities

    @overload
    def encode(
        self, inputs: Input | Iterable[Input], *, errors: Literal["raise"] = ..., **options: Unpack[EncodeOptions]
    ) -> NDArray[np.float32]: ...

    @overload
    def encode(
        self, inputs: Input | Iterable[Input], *, errors: Literal["skip"], **options: Unpack[EncodeOptions]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...

    def encode(
        self,
        inputs: Input | Iterable[Input],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = False,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        read_paths: bool = True,
        errors: Literal["raise", "skip"] = "raise",
    ) -> NDArray[np.float32] | tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The embeddings of `inputs`: one or many texts and, if the model takes them, images, which may be mixed.

        An image is a path, bytes, an open file, a Pillow image, or an array of uint8 (height, width, channels). A
        string is one where it ends as an image's name does (.jpg, .png ...) and is a file, or where it is a data URI,
        unless `read_paths` is False.

        `EncodeOptions` describes the options. `errors` is what becomes of images that cannot be read: "raise" an error,
        which has the embeddings of all others; or "skip" them, and return the indices of the others, too.

        Returns:
            float32: (dim,) for one input, (n, dim) in the caller's order for n of them, (0, dim) for none. With
            `errors="skip"` a pair: float32 (k, dim) of those that could be read, and their indices, int64 (k,).

        Raises:
            ImageError: images cannot be read; the message says which, and the error has the others' embeddings.
            InputError: an input is neither a text nor an image, or holds a lone surrogate (the message says which); or
                an option is out of range. Nothing has been encoded then.
            DependencyError: there are images, and Pillow is not installed.
        """
        checked = checked_list(inputs, images=self._takes_images, read_paths=read_paths)
        blocks = self._blocks(
            checked,
            len(checked),
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            normalize_embeddings,
            truncate_dim,
            errors,
        )
        embeddings = np.empty((len(checked), truncate_dim or self.dimension), np.float32)
        reasons: dict[int, str] = {}
        for block in blocks:
            embeddings[block.start : block.start + len(block.embeddings)] = block.embeddings
            reasons |= block.reasons
        if reasons or errors == "skip":
            return _Block(0, embeddings, reasons).readable(errors)
        return embeddings[0] if is_single(inputs, images=self._takes_images) else embeddings

    @overload
    def encode_iter(
        self, inputs: Iterable[Input], *, errors: Literal["raise"] = ..., **options: Unpack[EncodeOptions]
    ) -> Iterator[NDArray[np.float32]]: ...

    @overload
    def encode_iter(
        self, inputs: Iterable[Input], *, errors: Literal["skip"], **options: Unpack[EncodeOptions]
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]: ...

    def encode_iter(
        self,
        inputs: Iterable[Input],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = False,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        read_paths: bool = True,
        errors: Literal["raise", "skip"] = "raise",
    ) -> Iterator[NDArray[np.float32]] | Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """The embeddings of a stream of inputs, in bounded memory: at most some thousand are held at once.

        Up to 1,024 inputs make an array, and as many are read ahead.

        Yields:
            float32 arrays (k, dim), k varying, which laid end to end are the embeddings in the order of `inputs`. With
            `errors="skip"` each comes with the indices of its inputs, int64 (k,), as `encode` has it.

        Raises:
            InputError: as `encode`; for an option at once, for an input when its turn comes. ImageError, too: it has
                the other embeddings of its array, and ends the stream.
        """
        if is_single(inputs, images=self._takes_images):
            raise InputError("encode_iter takes an iterable of inputs; for one call encode")
        blocks = self._blocks(
            checked_inputs(inputs, images=self._takes_images, read_paths=read_paths),
            len(inputs) if isinstance(inputs, Sized) else None,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            normalize_embeddings,
            truncate_dim,
            errors,
        )
        if errors == "skip":
            return (block.readable(errors) for block in blocks)
        return (block.readable(errors)[0] for block in blocks)

    def _blocks(
        self,
        items: Iterable[str | ImageItem],
        total: int | None,
        prompt_name: str | None,
        prompt: str | None,
        batch_size: int | None,
        show_progress_bar: bool | None,
        normalize_embeddings: bool,
        truncate_dim: int | None,
        errors: str,
    ) -> Iterator[_Block]:
        """What both ways to encode share: options are checked at once, and each window of inputs makes a block."""
        check_count("batch_size", batch_size)
        check_count("truncate_dim", truncate_dim, self.dimension)
        check_errors(errors)
        prefix = self._resolve_prompt(prompt_name, prompt)
        stream = windows(prefix + item if isinstance(item, str) else item for item in items)
        unpooled = self._model.unpooled(prefix)
        unit = "input" if self._takes_images else "text"

        def blocks() -> Iterator[_Block]:
            start = 0
            with (
                progress_bar(total, unit, "Encoding") if show_progress_bar else nullcontext() as bar,
                ThreadPoolExecutor(self._model.workers(), "embedder") as pool,
            ):
                advance = bar.update if bar is not None else lambda count: None
                for window in _read_ahead(stream, self._model.prepare, pool):
                    embeddings, reasons = self._model.embed(window, unpooled, batch_size, pool, advance)
                    embeddings = np.ascontiguousarray(embeddings[:, :truncate_dim])
                    if normalize_embeddings:
                        embeddings = similarity.normalize(embeddings)
                    yield _Block(start, embeddings, {start + row: reason for row, reason in reasons.items()})
                    start += len(embeddings)

        return blocks()

    def encode_query(self, inputs: Input | Iterable[Input], **options: Unpack[EncodeOptions]) -> NDArray[np.float32]:
        """As `encode`, with the model's prompt for queries where no prompt is given."""
        return self.encode(inputs, **self._with_prompt(options, "query"))

    def encode_document(self, inputs: Input | Iterable[Input], **options: Unpack[EncodeOptions]) -> NDArray[np.float32]:
        """As `encode`, with the model's prompt for documents where no prompt is given."""
        return self.encode(inputs, **self._with_prompt(options, "document"))

    def similarity(self, a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
        """Every vector of `a` (n, dim) against every one of `b` (m, dim), by the model's own function.

        Returns:
            float32 of shape (n, m); higher is nearer (distances are negated). A single vector counts as one row.

        Raises:
            InputError: the shapes do not fit.
        """
        return similarity.similarity(self.manifest.similarity_fn_name or "cosine", a, b)

    def tokenize(self, texts: str | Iterable[str]) -> dict[str, NDArray[np.int64]]:
        """What the model is given for `texts`: `input_ids` and `attention_mask`, int64 of shape (n, longest).

        Raises:
            InputError: a text is not a string.
        """
        checked = checked_list(texts, images=False)
        token_ids = self._model.prepare(checked).token_ids
        input_ids, attention_mask = pad(token_ids, self.manifest.tokenizer.pad_id)
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    @property
    def _takes_images(self) -> bool:
        return IMAGE in self.modalities

    @staticmethod
    def _with_prompt(options: EncodeOptions, name: str) -> EncodeOptions:
        if options.get("prompt") is None and options.get("prompt_name") is None:
            options["prompt_name"] = name
        return options

    def _resolve_prompt(self, prompt_name: str | None, prompt: str | None) -> str:
        if prompt is None:
            name = prompt_name if prompt_name is not None else self.manifest.default_prompt_name
            if name is not None and name not in list(self.prompts):  # a list, as not all that is given can be hashed
                raise InputError(f"unknown prompt_name {name!r}: the model has {', '.join(map(repr, self.prompts))}")
            prompt = "" if name is None else self.prompts[name]
        check_prompt(prompt)
        return prompt


@dataclass(frozen=True)
class _Block:
    """The embeddings of inputs from `start` on, and by the indices of those that cannot be read the reasons."""

    start: int
    embeddings: NDArray[np.float32]
    reasons: dict[int, str]

    def readable(self, errors: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The embeddings of those that can be read, and their indices; an error if that is not all and should be."""
        indices = np.arange(self.start, self.start + len(self.embeddings), dtype=np.int64)
        if not self.reasons:
            return self.embeddings, indices
        indices = np.delete(indices, [index - self.start for index in self.reasons])
        embeddings = self.embeddings[indices - self.start]
        if errors == "raise":
            raise ImageError(self.reasons, indices, embeddings)
        for index, reason in self.reasons.items():
            _LOG.warning("skipped inputs[%d]: %s", index, reason)
        return embeddings, indices


_loaded: dict[tuple[str | None, ...], Embedder] = {}
_loading = threading.Lock()


def encode(
    inputs: Input | Iterable[Input],
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    provider: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    **options: Unpack[EncodeOptions],
) -> NDArray[np.float32]:
    """Encode `inputs` by `model`, which is loaded at the first call and kept for the next ones.

    As `Embedder(model, provider=provider, ...).encode(inputs, **options)`, with the same result and errors.
    """
    # What a name or a relative path means depends on where one is.
    here = None if os.path.isabs(str(model)) else os.getcwd()
    key = (str(model), repr((provider, dtype, threads)), here, os.environ.get("EMBEDDER_ARTIFACTS"))
    if key not in _loaded:
        with _loading:
            if key not in _loaded:  # another thread may have been first
                _loaded[key] = Embedder(model, provider=provider, dtype=dtype, threads=threads)
    return _loaded[key].encode(inputs, **options)


def _read_ahead(
    stream: Iterator[list[str | ImageItem]],
    prepare: Callable[[list[str | ImageItem]], Window],
    pool: ThreadPoolExecutor,
) -> Iterator[Window]:
    """Each window of inputs, prepared while the caller is busy with the window before it."""
    items = next(stream, None)
    window = prepare(items) if items else None
    while window is not None:
        error, items = None, None
        try:
            items = next(stream, None)
        except Exception as raised:  # whatever the caller's inputs raise comes after what they gave before
            error = raised
        prepared = pool.submit(prepare, items) if items else None
        yield window
        if error is not None:
            raise error
        window = prepared.result() if prepared else None
