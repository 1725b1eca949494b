"""`MultiVectorEncoder`, the public class of late interaction: it gives a vector for each token of a text."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import numpy as np

from embedder.artifact.hub_access import HubAccess
from embedder.artifact.manifest import DEFAULT_PROMPTS, MULTI_VECTOR
from embedder.artifact.multi_vector import DOCUMENT, QUERY, ROLES, MultiVectorSettings
from embedder.common.checks import check_choice, check_count, check_flag
from embedder.common.keywords import refuse_keywords
from embedder.common.read_only import ReadOnlyDict
from embedder.engine.distinct import find_distinct
from embedder.errors import InputError
from embedder.hints import MULTI_VECTOR_ATTRIBUTE_HINTS, MULTI_VECTOR_LOAD_HINTS
from embedder.inputs import InputKinds, Item, check_documents, check_list, is_single
from embedder.loaded_model import LoadedModel
from embedder.options import OPTIONS_OF_MULTI_VECTOR, EncodeSettings, LoadSettings, MultiVectorOptions
from embedder.ranked import RankedDocument, rank_documents
from embedder.results import CutTexts
from embedder.vectors.maxsim import TokenVectors, maxsim, maxsim_pairwise
from embedder.vectors.similarity import normalize

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedder.backends import Backend

_KINDS = InputKinds()
_CUT_HINT = "Cut long texts into chunks first, by the chunks method of an Embedder"


class MultiVectorEncoder(LoadedModel):
    """A model that gives a vector for each token, such as ColBERT. Safe to call from many threads at once.

    Pickle stores the path and the options. Unpickling loads the model again. A `with` statement releases the memory and
    the threads at its end. The attributes cannot be set.

    Example:
        >>> model = MultiVectorEncoder("lightonai/GTE-ModernColBERT-v1")  # doctest: +SKIP
        >>> query = model.encode_query("Where is the cat?")  # doctest: +SKIP
        >>> documents = model.encode_document(["It rains.", "The cat is outside."])  # doctest: +SKIP
        >>> model.similarity(query, documents).shape  # doctest: +SKIP
        (1, 2)
    """

    _instead: ClassVar[Mapping[str, str]] = MULTI_VECTOR_ATTRIBUTE_HINTS
    _task = MULTI_VECTOR
    _limit_option = "document_length"

    @refuse_keywords("MultiVectorEncoder", MULTI_VECTOR_LOAD_HINTS | OPTIONS_OF_MULTI_VECTOR)
    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        provider: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        document_length: int | None = None,
        verify: bool = True,
        provider_options: Mapping[str, str | int] | None = None,
        backend: Backend | None = None,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Load an exported model of late interaction. A model of the Hub is fetched at its first use.

        Args:
            model: as in `Embedder`: a path, or a name such as "lightonai/GTE-ModernColBERT-v1".
            provider: as in `Embedder`.
            dtype: as in `Embedder`.
            threads: as in `Embedder`.
            document_length: most tokens of a document that the model reads, special tokens included. None takes the
                model's own limit. A greater one is possible where the manifest says that the graph can read more.
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
        check_count("document_length", document_length)
        settings = LoadSettings(provider, dtype, threads, None, verify, document_length, provider_options)
        self._load(model, HubAccess(revision, token, local_files_only), settings, backend)

    def _load_options(self) -> dict[str, Any]:
        options = self._settings.options()
        del options["truncate_dim"]
        return options | {"document_length": options.pop("max_seq_length")}

    def __repr__(self) -> str:
        return (
            f"MultiVectorEncoder({self.manifest.source.model!r}, dimension={self.dimension}, "
            f"query_length={self.query_length}, document_length={self.document_length}, dtype={self.dtype!r}, "
            f"provider={self.device!r})"
        )

    @property
    def dimension(self) -> int:
        """Length of a token's vector."""
        return self.manifest.dimension

    @property
    def query_length(self) -> int:
        """Most tokens of a query, special tokens included. The model does not read the rest."""
        return self._roles.query_length

    @property
    def document_length(self) -> int:
        """Most tokens of a document, special tokens included. The model does not read the rest."""
        return self._settings.max_seq_length or self._roles.document_length

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a text that `encode` reads without a task, special tokens included."""
        return self.manifest.tokenizer.max_seq_length

    @property
    def prompts(self) -> dict[str, str]:
        """The model's prompts by name. "query" and "document" are always there, empty if the model has none."""
        return ReadOnlyDict(DEFAULT_PROMPTS | self.manifest.prompts)

    @property
    def similarity_fn_name(self) -> str:
        """The function that `similarity` uses: "maxsim" or "meanmaxsim"."""
        name = self.manifest.similarity_fn_name
        assert name is not None  # the manifest of such a model has one
        return name

    @property
    def _roles(self) -> MultiVectorSettings:
        settings = self.manifest.multi_vector
        assert settings is not None  # the manifest of such a model has them
        return settings

    def encode(
        self, texts: str | Iterable[str], *, task: str | None = None, **options: Unpack[MultiVectorOptions]
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """Return the vectors of the tokens of one or many texts. They do not depend on the other texts.

        For search, call `encode_query` and `encode_document`. They take the prompts that the model was trained with.

        Args:
            texts: one text or many texts.
            task: "query" or "document", for the limit of tokens, the expansion of queries, and the tokens that are left
                out. None treats texts as documents that may have `max_seq_length` tokens.
            **options: see `MultiVectorOptions`.

        Returns:
            For each text, float32 (tokens, dimension), in the caller's order. For one text, its array alone.

        Raises:
            InputError: a text is no string or is not valid Unicode (the message says which one); or an option is
                unknown or out of range. Nothing has been encoded.

        Example:
            >>> model.encode("The cat is outside.").shape  # doctest: +SKIP
            (7, 128)
        """
        if task is not None:
            check_choice("task", task, ROLES)
        return self._encode(texts, EncodeSettings.of_multi_vector(options, "encode", ["task"]), task)

    def encode_query(
        self, texts: str | Iterable[str], **options: Unpack[MultiVectorOptions]
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """Return what `encode` returns for queries. If no prompt is given, take the model's prompt for queries.

        Raises:
            InputError: as in `encode`.

        Example:
            >>> model.encode_query("Where is the cat?").shape  # doctest: +SKIP
            (32, 128)
        """
        settings = EncodeSettings.of_multi_vector(options, "encode_query")
        return self._encode(texts, settings.or_prompt(QUERY), QUERY)

    def encode_document(
        self, texts: str | Iterable[str], **options: Unpack[MultiVectorOptions]
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """Return what `encode` returns for documents. If no prompt is given, take the model's prompt for documents.

        Raises:
            InputError: as in `encode`.

        Example:
            >>> [len(vectors) for vectors in model.encode_document(["It rains.", "A cat."])]  # doctest: +SKIP
            [5, 5]
        """
        settings = EncodeSettings.of_multi_vector(options, "encode_document")
        return self._encode(texts, settings.or_prompt(DOCUMENT), DOCUMENT)

    def similarity(self, queries: TokenVectors, documents: TokenVectors) -> NDArray[np.float32]:
        """Compare every query with every document by the function `similarity_fn_name`; see `embedder.maxsim`.

        Args:
            queries: what `encode_query` returned.
            documents: what `encode_document` returned.

        Returns:
            float32 (queries, documents). A higher score means more similar.

        Raises:
            InputError: the shapes do not fit.

        Example:
            >>> model.similarity(model.encode_query("a cat"), model.encode_document(["A cat."])).shape  # doctest: +SKIP
            (1, 1)
        """
        return maxsim(queries, documents, self.similarity_fn_name)

    def similarity_pairwise(self, queries: TokenVectors, documents: TokenVectors) -> NDArray[np.float32]:
        """Compare query i with document i, for each i, by the function `similarity_fn_name`.

        Returns:
            float32 (queries,). A higher score means more similar.

        Raises:
            InputError: the shapes do not fit, or there are not as many documents as queries.

        Example:
            >>> query, document = model.encode_query("a cat"), model.encode_document("A cat.")  # doctest: +SKIP
            >>> model.similarity_pairwise(query, document).shape  # doctest: +SKIP
            (1,)
        """
        return maxsim_pairwise(queries, documents, self.similarity_fn_name)

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_k: int | None = None,
        return_documents: bool = False,
        **options: Unpack[MultiVectorOptions],
    ) -> list[RankedDocument]:
        """Return the documents by their score with a query, best first, as `CrossEncoder.rank` does.

        Equal scores keep the caller's order.

        Args:
            query: the query.
            documents: the documents.
            top_k: how many documents to return. None returns all.
            return_documents: whether the results have the documents, under "text".
            **options: see `MultiVectorOptions`, without prompts: the query and the documents have their own.

        Raises:
            InputError: the query or a document is not a string or is not valid Unicode (the message says which one); or
                an option is unknown or out of range.

        Example:
            >>> model.rank("Where is the cat?", ["It rains.", "The cat is outside."])[0]["corpus_id"]  # doctest: +SKIP
            1
        """
        settings = EncodeSettings.of_multi_vector(options, "rank", ("top_k", "return_documents"))
        if settings.prompt is not None or settings.prompt_name is not None:
            raise InputError(
                "rank takes no prompt: the query and the documents have their own. Give prompts to encode_query and "
                "encode_document, and call similarity"
            )
        check_count("top_k", top_k)
        check_flag("return_documents", return_documents)
        pairs = check_documents(query, documents)
        texts = [pair.second for pair in pairs]
        if not texts:
            return []
        found = self._encode(texts, settings.or_prompt(DOCUMENT), DOCUMENT)
        quiet = replace(settings, show_progress_bar=False)
        scores = self.similarity(self._encode(query, quiet.or_prompt(QUERY), QUERY), found)[0]
        return rank_documents(scores, texts, top_k, return_documents=return_documents)

    def _encode(
        self, texts: Any, settings: EncodeSettings, role: str | None
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        items = check_list(texts, _KINDS)
        found = self._vectors_of(items, settings, role)
        if settings.normalize_embeddings:
            found = [normalize(vectors) for vectors in found]
        return found[0] if is_single(texts, _KINDS) else found

    def _vectors_of(self, items: list[Item], settings: EncodeSettings, role: str | None) -> list[NDArray[np.float32]]:
        """Return the vectors of a list of texts. Each text has an array of its own, also if it is there twice."""
        if len(items) == 1 and isinstance(items[0], str) and not (settings.show_progress_bar or settings.warn_if_cut):
            return list(self._engine.run_text(items[0], settings, role))
        distinct, places = find_distinct(items)
        values = np.empty(len(distinct), object)
        cut = np.zeros(len(distinct), bool)
        for block in self._engine.run(distinct, settings, len(items), places, role):
            rows = slice(block.start, block.start + len(block.values))
            values[rows] = block.values
            if block.cut is not None:
                cut[rows] = block.cut
        limit = self._limit_of(role)
        CutTexts().add(np.flatnonzero(places.spread(cut)), len(items)).warn(limit, "texts", _CUT_HINT)
        found: list[NDArray[np.float32]] = list(places.spread(values))
        if places.copies:
            first = set(places.rows)
            found = [vectors if row in first else vectors.copy() for row, vectors in enumerate(found)]
        return found

    def _limit_of(self, role: str | None) -> int:
        if role is None:
            return self.max_seq_length
        return self.query_length if role == QUERY else self.document_length
