"""`Embedder`, the main public class: it turns texts and images into vectors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import numpy as np

from embedder.activations import apply_activation
from embedder.artifact.hub_access import HubAccess
from embedder.artifact.manifest import DEFAULT_PROMPTS, EMBED, IMAGE
from embedder.artifact.match_logits import match_logits
from embedder.common.checks import check_count, check_flag
from embedder.common.keywords import refuse_keywords
from embedder.common.read_only import ReadOnlyDict
from embedder.encoding import embeddings_of, encode_batch, encode_items, encode_stream
from embedder.errors import InputError
from embedder.hints import ATTRIBUTE_HINTS, LOAD_HINTS
from embedder.inputs import Input, InputKinds, Inputs, TokenizedText, check_list, is_single
from embedder.options import OPTIONS_OF_ENCODE, EncodeOptions, EncodeSettings, LoadSettings
from embedder.results import CutTexts, Embeddings, EncodeResult, drop_unreadable, quantize, raise_unreadable
from embedder.tokenizing import Tokenizing
from embedder.vectors import similarity

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from embedder.backends import Backend

DEFAULT_MODEL = "all-MiniLM-L6-v2"


class Embedder(Tokenizing):
    """A model that turns texts, and images if it takes them, into vectors. Safe to call from many threads at once.

    Pickle stores the path and the options. Unpickling loads the model again. A `with` statement releases the memory and
    the threads at its end. The attributes cannot be set.

    Example:
        >>> model = Embedder("all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> model.encode(["The cat sits outside.", "A dog plays."]).shape  # doctest: +SKIP
        (2, 384)
    """

    _instead: ClassVar[Mapping[str, str]] = ATTRIBUTE_HINTS
    _task = EMBED

    @refuse_keywords("Embedder", LOAD_HINTS | OPTIONS_OF_ENCODE)
    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        provider: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        truncate_dim: int | None = None,
        max_seq_length: int | None = None,
        verify: bool = True,
        provider_options: Mapping[str, str | int] | None = None,
        backend: Backend | None = None,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Load an exported model. A model of the Hub is fetched at its first use.

        Args:
            model: a path; or a name, such as "all-MiniLM-L6-v2" or "BAAI/bge-small-en-v1.5". A name is looked for in
                the model directory, which `$EMBEDDER_HOME` names; in `artifacts/`; and among the artifacts on the Hub.
                If it is in none of them, the exporter makes an artifact of the Hub's checkpoint, once. This needs
                `embedder-export`.
            provider: "cpu" or "cuda"; "cuda:1" is the second GPU. None takes a GPU if one works, otherwise the CPU.
            dtype: which graph runs: "fp32", "fp16", "int8" or "int4", if the artifact has it. "auto" takes the
                fastest one for the device. None takes the first graph of the manifest, which is fp32 if there is an
                fp32 graph.
            threads: most threads that compute on a CPU, whatever the number of callers. None takes one for each core
                that this process may use.
            truncate_dim: how many dimensions of each vector to keep, from the first on. None keeps all.
            max_seq_length: most tokens of a text that the model reads, special tokens included. None takes the model's
                own limit. A greater one is possible where the manifest says that the graph can read more.
            verify: check the SHA-256 of the files that are loaded, and the content of the tokenizer. False checks the
                sizes alone, which is faster. Use it for files that another program has checked.
            provider_options: options of onnxruntime's provider for the GPU, such as `{"gpu_mem_limit": 4_000_000_000}`,
                in bytes. The CPU takes none.
            backend: an object that runs the graph of the texts instead of onnxruntime; see `embedder.backends.Backend`.
            revision: a branch, tag or commit of the model on the Hub. None takes its main branch. An artifact here
                counts only if it was made from that revision.
            token: a token for a private or gated model of the Hub. None takes the one of HF_TOKEN or of
                `hf auth login`.
            local_files_only: do not use the network, only files that are here.

        Raises:
            InputError: the artifact has no graph of this dtype, or an option has a wrong type or is out of range.
            ModelNotFoundError: there is no such model. The message says where it was looked for, and how to make it.
            ArtifactError: a file is missing, truncated or altered; this version of embedder cannot read the format; or
                the artifact is for another task.
            ProviderError: the provider is unknown or does not work here.
            DependencyError: onnxruntime is not installed.
        """
        settings = LoadSettings(provider, dtype, threads, truncate_dim, verify, max_seq_length, provider_options)
        self._load(model, HubAccess(revision, token, local_files_only), settings, backend)
        manifest = self.manifest
        self._dimension = truncate_dim or manifest.dimension
        # By `read_paths`.
        self._kinds = tuple(InputKinds(IMAGE in manifest.modalities, read_paths) for read_paths in (False, True))

    def __repr__(self) -> str:
        return (
            f"Embedder({self.manifest.source.model!r}, dimension={self.dimension}, "
            f"max_seq_length={self.max_seq_length}, dtype={self.dtype!r}, "
            f"provider={self.device!r})"
        )

    @property
    def dimension(self) -> int:
        """Length of a vector, after truncation."""
        return self._dimension

    @property
    def truncate_dim(self) -> int | None:
        """How many dimensions are kept, as given to the constructor. None keeps all."""
        return self._settings.truncate_dim

    @property
    def prompts(self) -> dict[str, str]:
        """The model's prompts by name. "query" and "document" are always there, empty if the model has none."""
        return ReadOnlyDict(DEFAULT_PROMPTS | self.manifest.prompts)

    @property
    def similarity_fn_name(self) -> str:
        """The function that `similarity` uses: "cosine", "dot", "euclidean" or "manhattan"."""
        name = self.manifest.similarity_fn_name
        assert name is not None  # the manifest of a model for embeddings has one
        return name

    @property
    def modalities(self) -> tuple[str, ...]:
        """The kinds of input that the model takes: "text", and "image" if it takes images."""
        return self.manifest.modalities

    def encode(
        self, inputs: Inputs, *, settings: EncodeSettings | None = None, **options: Unpack[EncodeOptions]
    ) -> Embeddings:
        """Return the vectors of one or many texts and, if the model takes them, images. They may be mixed.

        A string is a text. An image is a `pathlib.Path`, bytes, an open file, a Pillow image, or an array of uint8
        (height, width, channels). With `read_paths=True`, a string that names an existing image file is an image too.

        Args:
            inputs: one input; or many inputs: a list, another sequence, an iterator, an array of strings, a Series of
                pandas or polars, or an array of pyarrow.
            settings: all options as one object, instead of `options`.
            **options: see `EncodeOptions`.

        Returns:
            float32 (dimension,) for one input; (n, dimension) for n inputs, in the caller's order; (0, dimension) for
            an empty list. With `precision`, the array that `quantize_embeddings` returns.

        Raises:
            InputError: an input is neither a text nor an image, or is not valid Unicode (the message says which one);
                or an option is unknown or out of range. Nothing has been encoded.
            ImageError: images could not be read. The error holds the vectors of the other inputs.
            DeviceMemoryError: the machine or the GPU has too little free memory for a single input. The message says
                for which one.
            DependencyError: there are images, and Pillow is not installed.

        Example:
            >>> model.encode("The cat sits outside.", truncate_dim=64).shape  # doctest: +SKIP
            (64,)
        """
        settings = EncodeSettings.of(options, settings).refuse_skip()
        kinds = self._kinds[settings.read_paths]
        items = check_list(inputs, kinds)
        vectors, reasons, cut = encode_items(self._engine, items, settings, self._dimension_of(settings))
        if reasons:
            raise_unreadable(drop_unreadable(vectors, reasons), settings)
        embeddings = quantize(vectors, settings)
        if cut is not None:
            CutTexts().add(np.flatnonzero(cut), len(vectors)).warn(self.max_seq_length, kinds.name)
        single: Embeddings = embeddings[0] if is_single(inputs, kinds) else embeddings
        return single

    def encode_query(
        self, inputs: Inputs, *, settings: EncodeSettings | None = None, **options: Unpack[EncodeOptions]
    ) -> Embeddings:
        """Return what `encode` returns. If no prompt is given, take the model's prompt for queries.

        Raises:
            InputError, ImageError, DependencyError: as in `encode`.

        Example:
            >>> model.encode_query("What is a cat?").shape  # doctest: +SKIP
            (384,)
        """
        return self.encode(inputs, settings=EncodeSettings.of(options, settings).or_prompt("query"))

    def encode_document(
        self, inputs: Inputs, *, settings: EncodeSettings | None = None, **options: Unpack[EncodeOptions]
    ) -> Embeddings:
        """Return what `encode` returns. If no prompt is given, take the model's prompt for documents.

        Raises:
            InputError, ImageError, DependencyError: as in `encode`.

        Example:
            >>> model.encode_document("A cat is an animal.").shape  # doctest: +SKIP
            (384,)
        """
        return self.encode(inputs, settings=EncodeSettings.of(options, settings).or_prompt("document"))

    def encode_readable(
        self, inputs: Inputs, *, settings: EncodeSettings | None = None, **options: Unpack[EncodeOptions]
    ) -> EncodeResult:
        """Encode as `encode` does, but leave out images that cannot be read. The result lists them.

        Returns:
            The vectors, float32 (k, dimension), also for one input; the index of the input of each vector, int64 (k,);
            and the reason why an image could not be read, by the index of the input.

        Raises:
            InputError, DependencyError: as in `encode`.

        Example:
            >>> model.encode_readable([Path("cat.png"), Path("damaged.png")]).indices  # doctest: +SKIP
            array([0])
        """
        settings = replace(EncodeSettings.of(options, settings), errors="skip")
        items = check_list(inputs, self._kinds[settings.read_paths])
        result = drop_unreadable(*encode_items(self._engine, items, settings, self._dimension_of(settings)))
        return replace(result, embeddings=quantize(result.embeddings, settings))

    def encode_iter(
        self, inputs: Iterable[Input], *, settings: EncodeSettings | None = None, **options: Unpack[EncodeOptions]
    ) -> Iterator[Embeddings]:
        """Yield the vectors of a stream of inputs, in bounded memory.

        Each array has the vectors of at most 1,024 inputs. The next 1,024 inputs are read ahead, on a GPU some 8,000.

        Yields:
            float32 (k, dimension), in the order of `inputs`. k may differ between arrays.

        Raises:
            InputError: as in `encode`. The call itself raises it for an option, the iterator for an input. `precision`
                must not be "int8" or "uint8", which need the ranges of all vectors.
            ImageError: images could not be read. The error holds the other vectors of the array. The stream ends.

        Example:
            >>> for vectors in model.encode_iter(open_lines()):  # doctest: +SKIP
            ...     store(vectors)
        """
        settings = EncodeSettings.of(options, settings).refuse_skip()
        name = self._kinds[settings.read_paths].name
        return embeddings_of(self._results(inputs, settings), self.max_seq_length, name)

    def iter_results(
        self, inputs: Iterable[Input], *, settings: EncodeSettings | None = None, **options: Unpack[EncodeOptions]
    ) -> Iterator[EncodeResult]:
        """Yield results as `encode_iter` yields arrays, but leave out images that cannot be read.

        Yields:
            Results as those of `encode_readable`. Indices count from the first input of the stream.

        Raises:
            InputError: as in `encode_iter`.

        Example:
            >>> for result in model.iter_results(paths):  # doctest: +SKIP
            ...     store(result.indices, result.embeddings)
        """
        return self._results(inputs, replace(EncodeSettings.of(options, settings), errors="skip"))

    def similarity(self, a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
        """Compare every vector of `a` with every vector of `b` by the function `similarity_fn_name`.

        Args:
            a: numbers (n, dimension), or one vector (dimension,).
            b: numbers (m, dimension), or one vector (dimension,).

        Returns:
            float32 (n, m). A higher score means more similar; distances are negated.

        Raises:
            InputError: the shapes do not fit.

        Example:
            >>> model.similarity([1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])  # doctest: +SKIP
            array([[1., 0.]], dtype=float32)
        """
        return similarity.similarity(self.similarity_fn_name, a, b)

    def match_probabilities(self, images: ArrayLike, texts: ArrayLike) -> NDArray[np.float32]:
        """Return the probability of each image and each text that they belong together. Only SigLIP models have it.

        It is sigmoid(scale * cosine + bias), with the model's scale and bias (Zhai et al., 2023:
        https://arxiv.org/abs/2303.15343). Each pair is judged alone, so those of an image need not sum to 1.

        Args:
            images: vectors of images, (n, dimension), or one vector (dimension,). They need not be normalised.
            texts: vectors of texts, (m, dimension), or one vector (dimension,).

        Returns:
            float32 (n, m), from 0 to 1.

        Raises:
            InputError: the model has no such probabilities, or the shapes do not fit.

        Example:
            >>> model = Embedder("google/siglip-base-patch16-224")  # doctest: +SKIP
            >>> images, texts = model.encode([Path("cat.jpg")]), model.encode(["a photo of a cat"])  # doctest: +SKIP
            >>> model.match_probabilities(images, texts)  # doctest: +SKIP
            array([[0.31]], dtype=float32)
        """
        logits = match_logits(self.manifest)
        if logits is None:
            raise InputError(
                f"{self.manifest.source.model} has no probabilities of an image and a text, as SigLIP models have. "
                "`similarity` compares them"
            )
        scores = similarity.cos_sim(images, texts) * np.float32(logits.scale) + np.float32(logits.bias)
        return apply_activation(scores, "sigmoid")

    def encode_batch(
        self,
        texts: Sequence[TokenizedText],
        *,
        single_thread: bool = False,
        settings: EncodeSettings | None = None,
        **options: Unpack[EncodeOptions],
    ) -> Embeddings:
        """Return the vectors of one batch, computed in the calling thread. For programs that make their own batches.

        The vectors are those of `encode`. The texts run in one call of the graph, or in a few where they would not
        share one well: texts of `batch_limits.unpadded_from_tokens` tokens and more share a call only with texts of the
        same length. The caller bounds the batch; see `batch_limits`.

        Args:
            texts: what `tokenize_texts` or `from_token_ids` of this model returned.
            single_thread: compute in the calling thread alone. Otherwise a batch takes all threads of the model if no
                other call is running.
            settings: all options as one object, instead of `options`.
            **options: see `EncodeOptions`. A prompt is refused: the texts have theirs.

        Returns:
            float32 (n, dimension), in the order of `texts`. With `precision`, the array that `quantize_embeddings`
            returns.

        Raises:
            InputError: a text is no TokenizedText, or has token ids or a length that no text of this model has; or an
                option is unknown or out of range.

        Example:
            >>> model.encode_batch(model.tokenize_texts(["a text", "another"])).shape  # doctest: +SKIP
            (2, 384)
        """
        settings = EncodeSettings.of(options, settings).refuse_skip()
        check_flag("single_thread", single_thread)
        dimension = self._dimension_of(settings)
        return encode_batch(self._engine, texts, settings, dimension, single_thread=single_thread)

    def _results(self, inputs: Any, settings: EncodeSettings) -> Iterator[EncodeResult]:
        """Encode a stream. The call itself checks the options."""
        kinds = self._kinds[settings.read_paths]
        return encode_stream(self._engine, inputs, kinds, settings, self._dimension_of(settings))

    def _dimension_of(self, settings: EncodeSettings) -> int:
        """Return the length of the vectors that a request asks for."""
        if settings.truncate_dim is None:
            return self.dimension
        check_count("truncate_dim", settings.truncate_dim, self.manifest.dimension)
        return settings.truncate_dim
