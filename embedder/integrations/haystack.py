"""Embedders for Haystack: one for queries, one for documents."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from embedder.common.checks import shown
from embedder.common.imports import import_optional
from embedder.encoder import DEFAULT_MODEL
from embedder.integrations.text_model import TextModel

import_optional("haystack", needed_for=__name__, requirement="haystack-ai")

from haystack import Document, component, default_from_dict, default_to_dict

if TYPE_CHECKING:
    from embedder.encoder import Embedder


@component
class EmbedderTextEmbedder:
    """Turns a query into a vector. Safe to share between threads.

    Example:
        >>> embedder = EmbedderTextEmbedder("all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> len(embedder.run("What is a cat?")["embedding"])  # doctest: +SKIP
        384
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Embedder = DEFAULT_MODEL,
        *,
        prompt: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        encode_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Check the options. `warm_up` loads the model, or the first call of `run`.

        Args:
            model: name or path of a model, as `Embedder` takes it; or a loaded Embedder.
            prompt: text to put before each query. None takes the model's own prompt for queries.
            model_kwargs: options of `Embedder`, such as `{"dtype": "int8"}`.
            encode_kwargs: options of `encode`, such as `{"normalize_embeddings": True}`.

        Raises:
            InputError: an option cannot be used.
        """
        self.model = TextModel(model, query_prompt=prompt, model_kwargs=model_kwargs, encode_kwargs=encode_kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the component as Haystack saves it.

        Example:
            >>> EmbedderTextEmbedder().to_dict()["init_parameters"]["model"]  # doctest: +SKIP
            'all-MiniLM-L6-v2'
        """
        return default_to_dict(self, prompt=self.model.query_prompt, **_saved(self.model))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EmbedderTextEmbedder:
        """Make the component again from what `to_dict` returned.

        Example:
            >>> EmbedderTextEmbedder.from_dict(EmbedderTextEmbedder().to_dict()).model.name  # doctest: +SKIP
            'all-MiniLM-L6-v2'
        """
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Load the model.

        Raises:
            EmbedderError: as in `Embedder`.

        Example:
            >>> embedder.warm_up()  # doctest: +SKIP
        """
        _ = self.model.embedder

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """Return `{"embedding": the vector of the text}`.

        Raises:
            TypeError: `text` is not a string.

        Example:
            >>> len(embedder.run("What is a cat?")["embedding"])  # doctest: +SKIP
            384
        """
        if not isinstance(text, str):
            raise TypeError(
                f"EmbedderTextEmbedder takes a string, not {shown(text)}. For documents, use EmbedderDocumentEmbedder"
            )
        return {"embedding": self.model.embed_query(text)}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, Any]:
        """Return what `run` returns. It runs in a thread, so that the event loop is free.

        Raises:
            TypeError: `text` is not a string.

        Example:
            >>> len(asyncio.run(embedder.run_async("What is a cat?"))["embedding"])  # doctest: +SKIP
            384
        """
        return await asyncio.to_thread(self.run, text)


@component
class EmbedderDocumentEmbedder:
    """Adds vectors to documents. Safe to share between threads.

    Example:
        >>> embedder = EmbedderDocumentEmbedder("all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> len(embedder.run([Document(content="A cat.")])["documents"][0].embedding)  # doctest: +SKIP
        384
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Embedder = DEFAULT_MODEL,
        *,
        prompt: str | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        model_kwargs: Mapping[str, Any] | None = None,
        encode_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Check the options. `warm_up` loads the model, or the first call of `run`.

        Args:
            model: name or path of a model, as `Embedder` takes it; or a loaded Embedder.
            prompt: text to put before each document. None takes the model's own prompt for documents.
            meta_fields_to_embed: metadata fields to put before the content of each document.
            embedding_separator: text between these fields, and between the last field and the content.
            model_kwargs: options of `Embedder`, such as `{"dtype": "int8"}`.
            encode_kwargs: options of `encode`, such as `{"normalize_embeddings": True}`.

        Raises:
            InputError: an option cannot be used.
        """
        self.model = TextModel(model, document_prompt=prompt, model_kwargs=model_kwargs, encode_kwargs=encode_kwargs)
        self.meta_fields_to_embed = list(meta_fields_to_embed or [])
        self.embedding_separator = embedding_separator

    def to_dict(self) -> dict[str, Any]:
        """Return the component as Haystack saves it.

        Example:
            >>> EmbedderDocumentEmbedder().to_dict()["init_parameters"]["model"]  # doctest: +SKIP
            'all-MiniLM-L6-v2'
        """
        return default_to_dict(
            self,
            prompt=self.model.document_prompt,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
            **_saved(self.model),
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EmbedderDocumentEmbedder:
        """Make the component again from what `to_dict` returned.

        Example:
            >>> EmbedderDocumentEmbedder.from_dict(EmbedderDocumentEmbedder().to_dict()).model.name  # doctest: +SKIP
            'all-MiniLM-L6-v2'
        """
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Load the model.

        Raises:
            EmbedderError: as in `Embedder`.

        Example:
            >>> embedder.warm_up()  # doctest: +SKIP
        """
        _ = self.model.embedder

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Return `{"documents": copies of the documents with their vectors}`.

        Raises:
            TypeError: `documents` is not a list of documents.

        Example:
            >>> len(embedder.run([Document(content="A cat.")])["documents"])  # doctest: +SKIP
            1
        """
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            raise TypeError(
                f"EmbedderDocumentEmbedder takes a list of documents, not {shown(documents)}. For a "
                "query, use EmbedderTextEmbedder"
            )
        vectors = self.model.embed_documents(map(self._text_of, documents))
        pairs = zip(documents, vectors, strict=True)
        return {"documents": [replace(document, embedding=vector) for document, vector in pairs]}

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """Return what `run` returns. It runs in a thread, so that the event loop is free.

        Raises:
            TypeError: `documents` is not a list of documents.

        Example:
            >>> len(asyncio.run(embedder.run_async([Document(content="A cat.")]))["documents"])  # doctest: +SKIP
            1
        """
        return await asyncio.to_thread(self.run, documents)

    def _text_of(self, document: Document) -> str:
        """Return the metadata fields to embed, and the content."""
        values = [document.meta.get(field) for field in self.meta_fields_to_embed]
        parts = [str(value) for value in values if value is not None]
        return self.embedding_separator.join([*parts, document.content or ""])


def _saved(model: TextModel) -> dict[str, Any]:
    """Return the options that both components save."""
    return {"model": model.name, "model_kwargs": model.model_kwargs, "encode_kwargs": model.encode_kwargs}
