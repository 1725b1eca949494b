"""An embedding function for Chroma."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from embedder.common.imports import import_optional
from embedder.encoder import DEFAULT_MODEL
from embedder.integrations.text_model import TextModel

import_optional("chromadb", needed_for=__name__, requirement="chromadb")

from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
from chromadb.utils.embedding_functions import register_embedding_function

if TYPE_CHECKING:
    from embedder.encoder import Embedder

# Chroma has no Manhattan distance.
_SPACES: Mapping[str, Space] = {"cosine": "cosine", "dot": "ip", "euclidean": "l2", "manhattan": "l2"}


@register_embedding_function
class EmbedderEmbeddingFunction(EmbeddingFunction[Documents]):
    """Embeds documents and queries with a model of embedder. Safe to share between threads.

    Chroma saves the options with a collection. It makes the function again when the collection is opened, if this
    module has been imported.

    Example:
        >>> function = EmbedderEmbeddingFunction("all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> collection = client.create_collection("notes", embedding_function=function)  # doctest: +SKIP
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
        """Check the options. The model is loaded when it is first needed.

        Args:
            model: name or path of a model, as `Embedder` takes it; or a loaded Embedder.
            query_prompt: text to put before each query. None takes the model's own prompt for queries.
            document_prompt: text to put before each document. None takes the model's own prompt for documents.
            model_kwargs: options of `Embedder`, such as `{"dtype": "int8"}`.
            encode_kwargs: options of `encode`, such as `{"normalize_embeddings": True}`.

        Raises:
            InputError: an option cannot be used.
        """
        self.model = TextModel(
            model,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            model_kwargs=model_kwargs,
            encode_kwargs=encode_kwargs,
        )

    def __call__(self, input: Documents) -> Embeddings:
        """Return the vectors of documents, each float32 (dimension,)."""
        return list(self.model.encode_documents(input))

    def embed_query(self, input: Documents) -> Embeddings:
        """Return the vectors of queries, each float32 (dimension,).

        Example:
            >>> function.embed_query(["What is a cat?"])[0].shape  # doctest: +SKIP
            (384,)
        """
        return list(self.model.encode_queries(input))

    @staticmethod
    def name() -> str:
        """Return the name under which Chroma saves the function.

        Example:
            >>> EmbedderEmbeddingFunction.name()  # doctest: +SKIP
            'embedder'
        """
        return "embedder"

    def default_space(self) -> Space:
        """Return how Chroma compares vectors, if a collection does not say: as the model's own similarity does.

        Example:
            >>> EmbedderEmbeddingFunction().default_space()  # doctest: +SKIP
            'cosine'
        """
        return _SPACES[self.model.embedder.similarity_fn_name]

    def get_config(self) -> dict[str, Any]:
        """Return the options as Chroma saves them.

        Example:
            >>> EmbedderEmbeddingFunction().get_config()["model"]  # doctest: +SKIP
            'all-MiniLM-L6-v2'
        """
        return {"model": self.model.name, **self.model.options()}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> EmbedderEmbeddingFunction:
        """Make the function again from what `get_config` returned.

        Raises:
            InputError: an option cannot be used.

        Example:
            >>> EmbedderEmbeddingFunction.build_from_config({"model": "all-MiniLM-L6-v2"}).model.name  # doctest: +SKIP
            'all-MiniLM-L6-v2'
        """
        return EmbedderEmbeddingFunction(**config)
