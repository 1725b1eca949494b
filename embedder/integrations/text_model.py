"""A model for queries and documents, with its options, as frameworks save and copy it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embedder.common.checks import shown
from embedder.encoder import DEFAULT_MODEL, Embedder
from embedder.errors import InputError
from embedder.integrations.saved_model import SavedModel, checked_options
from embedder.options import EncodeSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What to do instead, for options of `encode` that a framework cannot use.
_HINTS = {
    "precision": "frameworks take float32 vectors. Quantise in the vector store",
    "prompt": "give the prompts to the constructor, by names of their own",
    "prompt_name": "give the text of the prompt to the constructor; Embedder.prompts has it",
}


class TextModel(SavedModel):
    """A model, its options, and the vectors of queries and documents. Safe to share between threads.

    The model is loaded when it is first needed. Objects with equal models and options share one loaded model. Pickle
    and `copy` keep the options, and load the model again where it is needed.

    Attributes:
        name: name or path of the model.
        model_kwargs: options of `Embedder`.
        encode_kwargs: options of `encode`.
        query_prompt: text to put before each query. None takes the model's own prompt for queries.
        document_prompt: text to put before each document. None takes the model's own prompt for documents.

    Example:
        >>> model = TextModel("all-MiniLM-L6-v2", encode_kwargs={"normalize_embeddings": True})
        >>> model.encode_queries(["What is a cat?"]).shape  # doctest: +SKIP
        (1, 384)
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
        """Check the options.

        Raises:
            InputError: an option is unknown, has a wrong type or is out of range, or a framework cannot use it; or a
                loaded model was given together with `model_kwargs`.
            SettingError: the loaded model has a backend of its own, which cannot be saved.
        """
        super().__init__(model, model_kwargs)
        self.encode_kwargs = checked_options("encode_kwargs", encode_kwargs, refused=_HINTS)
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        settings = EncodeSettings.of(self.encode_kwargs)
        self._query_settings = replace(settings, prompt=query_prompt)
        self._document_settings = replace(settings, prompt=document_prompt)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.name, self.options())

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of the constructor, as values that JSON can hold.

        Example:
            >>> TextModel(model_kwargs={"dtype": "int8"}).options()["model_kwargs"]
            {'dtype': 'int8'}
        """
        return {
            "query_prompt": self.query_prompt,
            "document_prompt": self.document_prompt,
            "model_kwargs": dict(self.model_kwargs),
            "encode_kwargs": dict(self.encode_kwargs),
        }

    def encode_queries(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """Return the vectors of queries, float32 (n, dimension).

        Raises:
            InputError: a text is not a string, or `texts` is a single string.

        Example:
            >>> model.encode_queries(["What is a cat?"]).shape  # doctest: +SKIP
            (1, 384)
        """
        return self.embedder.encode_query(_as_list(texts), settings=self._query_settings)

    def encode_documents(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """Return the vectors of documents, float32 (n, dimension).

        Raises:
            InputError: a text is not a string, or `texts` is a single string.

        Example:
            >>> model.encode_documents(["A cat is an animal."]).shape  # doctest: +SKIP
            (1, 384)
        """
        return self.embedder.encode_document(_as_list(texts), settings=self._document_settings)

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query as a list.

        Raises:
            InputError: the text is not a string.

        Example:
            >>> len(model.embed_query("What is a cat?"))  # doctest: +SKIP
            384
        """
        vector: list[float] = self.encode_queries([text])[0].tolist()
        return vector

    def embed_documents(self, texts: Iterable[str]) -> list[list[float]]:
        """Return the vectors of documents as lists.

        Raises:
            InputError: a text is not a string, or `texts` is a single string.

        Example:
            >>> len(model.embed_documents(["A cat.", "A dog."]))  # doctest: +SKIP
            2
        """
        vectors: list[list[float]] = self.encode_documents(texts).tolist()
        return vectors


def _as_list(texts: Iterable[str]) -> list[str]:
    # The characters of a string would be texts of their own.
    if isinstance(texts, str):
        raise InputError(f"a list of texts is needed here, not the single text {shown(texts)}")
    return list(texts)


def _restore(name: str, options: Mapping[str, Any]) -> TextModel:
    """Make a copy, or a pickled object, again."""
    return TextModel(name, **options)
