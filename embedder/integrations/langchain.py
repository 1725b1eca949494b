"""Embeddings for LangChain."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from embedder.common.imports import import_optional
from embedder.encoder import DEFAULT_MODEL
from embedder.integrations.text_model import TextModel

import_optional("langchain_core.embeddings", needed_for=__name__, requirement="langchain-core")

from langchain_core.embeddings import Embeddings

if TYPE_CHECKING:
    from embedder.encoder import Embedder


class EmbedderEmbeddings(Embeddings):
    """Embeddings of a model of embedder. Safe to share between threads.

    The asynchronous methods are LangChain's own. They run in LangChain's executor, so that the event loop is free.

    Example:
        >>> embeddings = EmbedderEmbeddings("all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> len(embeddings.embed_query("What is a cat?"))  # doctest: +SKIP
        384
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Embedder = DEFAULT_MODEL,
        *,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        encode_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Load the model.

        Args:
            model: name or path of a model, as `Embedder` takes it; or a loaded Embedder.
            query_prompt: text to put before each query. None takes the model's own prompt for queries.
            document_prompt: text to put before each document. None takes the model's own prompt for documents.
            model_kwargs: options of `Embedder`, such as `{"dtype": "int8"}`.
            encode_kwargs: options of `encode`, such as `{"normalize_embeddings": True}`.

        Raises:
            EmbedderError: the model cannot be loaded, or an option cannot be used.
        """
        self.model = TextModel(
            model,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            model_kwargs=model_kwargs,
            encode_kwargs=encode_kwargs,
        )
        _ = self.model.embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of documents.

        Raises:
            InputError: a text is not a string.

        Example:
            >>> len(embeddings.embed_documents(["A cat.", "A dog."]))  # doctest: +SKIP
            2
        """
        return self.model.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query.

        Raises:
            InputError: the text is not a string.

        Example:
            >>> len(embeddings.embed_query("What is a cat?"))  # doctest: +SKIP
            384
        """
        return self.model.embed_query(text)
