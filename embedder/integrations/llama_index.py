"""An embedding for LlamaIndex."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from embedder.common.imports import import_optional
from embedder.encoder import DEFAULT_MODEL
from embedder.integrations.text_model import TextModel

import_optional("llama_index.core", needed_for=__name__, requirement="llama-index-core")

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr

if TYPE_CHECKING:
    from embedder.encoder import Embedder

# embedder cuts batches by tokens itself, so the batches of LlamaIndex should be large.
_BATCH_SIZE = 1024


class EmbedderEmbedding(BaseEmbedding):
    """An embedding that uses a model of embedder. Safe to share between threads.

    `to_dict` and `from_dict` keep all options. The asynchronous methods run in a thread and leave the event loop free.

    Example:
        >>> embedding = EmbedderEmbedding("all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> len(embedding.get_query_embedding("What is a cat?"))  # doctest: +SKIP
        384
    """

    query_prompt: str | None = Field(default=None, description="Text to put before each query.")
    document_prompt: str | None = Field(default=None, description="Text to put before each document.")
    model_kwargs: dict[str, Any] = Field(default_factory=dict, description="Options of Embedder.")
    encode_kwargs: dict[str, Any] = Field(default_factory=dict, description="Options of encode.")

    _model: TextModel = PrivateAttr()

    def __init__(
        self,
        model_name: str | os.PathLike[str] | Embedder = DEFAULT_MODEL,
        *,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        encode_kwargs: Mapping[str, Any] | None = None,
        embed_batch_size: int = _BATCH_SIZE,
        **fields: Any,
    ) -> None:
        """Load the model.

        Args:
            model_name: name or path of a model, as `Embedder` takes it; or a loaded Embedder.
            query_prompt: text to put before each query. None takes the model's own prompt for queries.
            document_prompt: text to put before each document. None takes the model's own prompt for documents.
            model_kwargs: options of `Embedder`, such as `{"dtype": "int8"}`.
            encode_kwargs: options of `encode`, such as `{"normalize_embeddings": True}`.
            embed_batch_size: most texts that LlamaIndex passes at once.
            **fields: the other fields of BaseEmbedding, such as `callback_manager`.

        Raises:
            EmbedderError: the model cannot be loaded, or an option cannot be used.
        """
        model = TextModel(
            model_name,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            model_kwargs=model_kwargs,
            encode_kwargs=encode_kwargs,
        )
        super().__init__(model_name=model.name, embed_batch_size=embed_batch_size, **model.options(), **fields)
        self._model = model
        _ = model.embedder

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex saves the class.

        Example:
            >>> EmbedderEmbedding.class_name()  # doctest: +SKIP
            'EmbedderEmbedding'
        """
        return "EmbedderEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._model.embed_query(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._model.embed_documents(texts)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
