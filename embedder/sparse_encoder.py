"""`SparseEncoder`, the public class that gives texts a weight for each word of a vocabulary."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.hub_access import HubAccess
from embedder.artifact.manifest import DEFAULT_PROMPTS, SPARSE, StaticQueries
from embedder.common.checks import check_count
from embedder.common.keywords import refuse_keywords
from embedder.common.load_once import LoadOnce
from embedder.common.read_only import ReadOnlyDict
from embedder.engine.distinct import find_distinct
from embedder.engine.outputs import SPARSE as SPARSE_DTYPE
from embedder.errors import InputError
from embedder.hints import SPARSE_ENCODE_HINTS, SPARSE_ENCODER_ATTRIBUTE_HINTS, SPARSE_ENCODER_HINTS
from embedder.inputs import InputKinds, check_list
from embedder.loaded_model import LoadedModel
from embedder.options import EncodeSettings, LoadSettings
from embedder.query_weights import QueryWeights
from embedder.results import CutTexts
from embedder.vectors.sparse import scores
from embedder.vectors.sparse.vectors import SparseVectors

if TYPE_CHECKING:
    from embedder.backends import Backend

_KINDS = InputKinds()
_SIMILARITIES = {"dot": scores.sparse_dot_score, "cosine": scores.sparse_cos_sim}


class SparseOptions(TypedDict, total=False):
    """Options of `SparseEncoder.encode` and its siblings. Names and meanings are those of sentence-transformers.

    Attributes:
        prompt_name: name of the prompt to put before each text. None takes the model's default.
        prompt: text to put before each text. It takes precedence over `prompt_name`.
        batch_size: most texts in one call of the graph. Batches are filled by tokens and may be smaller.
        show_progress_bar: show progress on stderr.
        max_active_dims: most numbers of a vector to keep, the largest ones. None takes the value that the model was
            loaded with.
        warn_if_cut: give one CutTextWarning if the model does not read all of a text.

    Example:
        >>> options: SparseOptions = {"batch_size": 32, "max_active_dims": 64}
        >>> model.encode(["a text"], **options).shape  # doctest: +SKIP
        (1, 30522)
    """

    prompt_name: str | None
    prompt: str | None
    batch_size: int | None
    show_progress_bar: bool | None
    max_active_dims: int | None
    warn_if_cut: bool


class SparseEncoder(LoadedModel):
    """A model that gives a text a weight for each word of its vocabulary. Safe to call from many threads at once.

    Most weights are 0. A word may have a weight although the text does not have it. Pickle stores the path and the
    options. Unpickling loads the model again. A `with` statement releases the memory and the threads at its end. The
    attributes cannot be set.

    Example:
        >>> model = SparseEncoder("naver/splade-v3")  # doctest: +SKIP
        >>> model.decode(model.encode(["The cat sits outside."]), top_k=2)  # doctest: +SKIP
        [[('cat', 2.5), ('outside', 2.2)]]
    """

    _instead: ClassVar[Mapping[str, str]] = SPARSE_ENCODER_ATTRIBUTE_HINTS
    _task = SPARSE

    @refuse_keywords("SparseEncoder", SPARSE_ENCODER_HINTS)
    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        provider: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        max_seq_length: int | None = None,
        max_active_dims: int | None = None,
        verify: bool = True,
        provider_options: Mapping[str, str | int] | None = None,
        backend: Backend | None = None,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Load an exported sparse model. A model of the Hub is fetched at its first use.

        Args:
            model: as in `Embedder`: a path, or a name such as "naver/splade-v3".
            provider: as in `Embedder`.
            dtype: as in `Embedder`.
            threads: as in `Embedder`.
            max_seq_length: as in `Embedder`. Queries of a model with static weights keep their own limit.
            max_active_dims: most numbers of a vector to keep, the largest ones. None takes the model's own limit, which
                most models do not have.
            verify: as in `Embedder`.
            provider_options: as in `Embedder`.
            backend: as in `Embedder`.
            revision: as in `Embedder`.
            token: as in `Embedder`.
            local_files_only: as in `Embedder`.

        Raises:
            InputError: the artifact has no graph of this dtype, or an option has a wrong type or is out of range.
            ModelNotFoundError, ArtifactError, ProviderError, DependencyError: as in `Embedder`.
        """
        check_count("max_active_dims", max_active_dims)
        settings = LoadSettings(provider, dtype, threads, None, verify, max_seq_length, provider_options)
        self._own_max_active_dims = max_active_dims
        self._load(model, HubAccess(revision, token, local_files_only), settings, backend)
        queries = self.manifest.queries
        self._queries: LoadOnce[QueryWeights] | None = None
        if queries is not None:
            self._artifact.ensure([queries.weights])
            self._queries = LoadOnce(lambda: self._load_queries(queries))
            self._queries.get()

    def _load_queries(self, queries: StaticQueries) -> QueryWeights:
        tokenizer = self.manifest.tokenizer.file
        return QueryWeights.load(self._artifact, tokenizer, queries, self.dimension, verify=self._settings.verify)

    def _load_options(self) -> dict[str, Any]:
        options = self._settings.options() | {"max_active_dims": self._own_max_active_dims}
        del options["truncate_dim"]
        return options

    def __repr__(self) -> str:
        return (
            f"SparseEncoder({self.manifest.source.model!r}, dimension={self.dimension}, "
            f"max_seq_length={self.max_seq_length}, dtype={self.dtype!r}, provider={self.device!r})"
        )

    @property
    def dimension(self) -> int:
        """Length of a vector: the number of words of the vocabulary."""
        return self.manifest.dimension

    @property
    def max_active_dims(self) -> int | None:
        """Most numbers of a vector that are kept by default. None keeps all."""
        return self._own_max_active_dims or self.manifest.max_active_dims

    @property
    def prompts(self) -> dict[str, str]:
        """The model's prompts by name. "query" and "document" are always there, empty if the model has none."""
        return ReadOnlyDict(DEFAULT_PROMPTS | self.manifest.prompts)

    @property
    def similarity_fn_name(self) -> str:
        """The function that `similarity` uses: "dot" or "cosine"."""
        return self.manifest.similarity_fn_name or "dot"

    def encode(self, inputs: str | Iterable[str], **options: Unpack[SparseOptions]) -> SparseVectors:
        """Return the vectors of one text or of many. A vector does not depend on the other texts.

        Args:
            inputs: one text; or many: a list, another sequence, an iterator, an array of strings, or a column.
            **options: see `SparseOptions`.

        Returns:
            A vector for each text, in the caller's order. One text gives one vector.

        Raises:
            InputError: an input is no text, or is not valid Unicode (the message says which one); or an option is
                unknown or out of range. Nothing has been encoded.

        Example:
            >>> model.encode(["The cat sits outside.", "It rains."]).shape  # doctest: +SKIP
            (2, 30522)
        """
        return self._encode(inputs, options, None)

    def encode_query(self, inputs: str | Iterable[str], **options: Unpack[SparseOptions]) -> SparseVectors:
        """Return the vectors of queries, with the model's prompt for queries if no prompt is given.

        Some models have static weights for queries. Then no graph runs, and this takes microseconds.

        Raises:
            InputError: as in `encode`.

        Example:
            >>> model.encode_query("What is a cat?").shape  # doctest: +SKIP
            (1, 30522)
        """
        return self._encode(inputs, options, "query")

    def encode_document(self, inputs: str | Iterable[str], **options: Unpack[SparseOptions]) -> SparseVectors:
        """Return the vectors of documents, with the model's prompt for documents if no prompt is given.

        Raises:
            InputError: as in `encode`.

        Example:
            >>> model.encode_document("A cat is an animal.").shape  # doctest: +SKIP
            (1, 30522)
        """
        return self._encode(inputs, options, "document")

    def similarity(self, a: SparseVectors, b: SparseVectors) -> NDArray[np.float32]:
        """Compare every vector of `a` with every vector of `b` by the function `similarity_fn_name`.

        Returns:
            float32 (n, m). A higher score means more similar.

        Raises:
            InputError: these are no SparseVectors of one dimension.

        Example:
            >>> model.similarity(model.encode_query("a cat"), model.encode_document(texts)).shape  # doctest: +SKIP
            (1, 1000)
        """
        return _SIMILARITIES[self.similarity_fn_name](a, b)

    def decode(self, vectors: SparseVectors, top_k: int | None = None) -> list[list[tuple[str, float]]]:
        """Return the words of each vector with their weights, the highest weight first.

        Args:
            vectors: vectors of this model.
            top_k: most words of each vector. None returns all.

        Returns:
            A list for each vector. Words are those of the tokenizer, such as "##s".

        Raises:
            InputError: the vectors have another dimension, or `top_k` is not a whole number of at least 1.

        Example:
            >>> model.decode(model.encode("A cat."), top_k=1)  # doctest: +SKIP
            [[('cat', 2.5)]]
        """
        if not isinstance(vectors, SparseVectors) or vectors.dimension != self.dimension:
            raise InputError(f"decode takes SparseVectors of length {self.dimension}, not {vectors!r:.80}")
        check_count("top_k", top_k)
        tokenizer = self._engine.tokenizer
        decoded = []
        for indices, values in vectors:
            order = np.argsort(-values, kind="stable")[:top_k]
            words = [tokenizer.token_of(token_id) or "" for token_id in indices[order].tolist()]
            decoded.append(list(zip(words, values[order].tolist(), strict=True)))
        return decoded

    @staticmethod
    def intersection(a: SparseVectors, b: SparseVectors) -> SparseVectors:
        """Return what one vector has in common with each of several: the products of their weights.

        Args:
            a: one vector.
            b: vectors.

        Raises:
            InputError: `a` has not exactly one vector, or the dimensions differ.

        Example:
            >>> common = model.intersection(query, documents)  # doctest: +SKIP
            >>> model.decode(common, top_k=3)  # doctest: +SKIP
        """
        return scores.intersection(a, b)

    @staticmethod
    def sparsity(vectors: SparseVectors) -> dict[str, float]:
        """Return the mean number of weights of a vector, and the mean share of zeros.

        Example:
            >>> model.sparsity(model.encode(texts))  # doctest: +SKIP
            {'active_dims': 44.0, 'sparsity_ratio': 0.9985584020614624}
        """
        return scores.sparsity(vectors)

    def _encode(self, inputs: Any, options: SparseOptions, side: str | None) -> SparseVectors:
        settings, max_active_dims = self._settings_of(options, side)
        texts = [text for text in check_list(inputs, _KINDS) if isinstance(text, str)]
        if side == "query" and self._queries is not None:
            vectors = self._weigh(self._queries.get(), texts, settings)
        else:
            vectors = self._run(texts, settings)
        return vectors if max_active_dims is None else vectors.largest(max_active_dims)

    def _weigh(self, queries: QueryWeights, texts: list[str], settings: EncodeSettings) -> SparseVectors:
        self._engine.check_open()
        prompt = self._engine.resolve_prompt(settings)
        vectors, cut = queries.encode([prompt + text for text in texts])
        if settings.warn_if_cut:
            CutTexts().add(np.flatnonzero(cut), len(texts)).warn(queries.max_seq_length, "texts")
        return vectors

    def _settings_of(self, options: SparseOptions, side: str | None) -> tuple[EncodeSettings, int | None]:
        known = SparseOptions.__annotations__
        for name in options:
            if name not in known:
                hint = SPARSE_ENCODE_HINTS.get(name, f"known are {', '.join(known)}")
                raise InputError(f"encode has no option {name!r}: {hint}")
        rest: dict[str, Any] = dict(options)
        most = rest.pop("max_active_dims", None)
        check_count("max_active_dims", most)
        settings = EncodeSettings(**rest)
        if side is not None:
            prompts = self.manifest.prompts
            # sentence-transformers takes the first of these that the model has.
            names = ("query",) if side == "query" else ("document", "passage", "corpus")
            own = next((name for name in names if name in prompts), None)
            settings = settings if own is None else settings.or_prompt(own)
        return settings, most or self.max_active_dims

    def _run(self, texts: list[str], settings: EncodeSettings) -> SparseVectors:
        distinct, places = find_distinct(list(texts))
        rows: list[NDArray[Any]] = []
        cut = np.zeros(len(distinct), bool)
        for block in self._engine.run(distinct, settings, len(texts), places):
            if block.cut is not None:
                cut[block.start : block.start + len(block.values)] = block.cut
            rows += list(block.values)
        if settings.warn_if_cut:
            CutTexts().add(np.flatnonzero(places.spread(cut)), len(texts)).warn(self.max_seq_length, "texts")
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in rows], dtype=np.int64)])
        joined = np.concatenate([np.zeros(0, SPARSE_DTYPE), *rows])
        vectors = SparseVectors(indptr, joined["index"], joined["value"], self.dimension)
        return vectors if places.sources is None else vectors.take(places.sources)
