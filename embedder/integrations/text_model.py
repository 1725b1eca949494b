"""A model for texts, with its options, as frameworks save and copy it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embedder.artifact.hub_access import HubAccess
from embedder.common.checks import shown
from embedder.encoder import DEFAULT_MODEL, Embedder
from embedder.errors import InputError
from embedder.hints import LOAD_HINTS
from embedder.kept_models import get_model
from embedder.options import EncodeSettings, LoadSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LOAD_OPTIONS = tuple(field.name for field in fields(LoadSettings))
_HUB_OPTIONS = ("revision", "local_files_only")
# What to do instead, for options of `Embedder` and `encode` that a framework cannot use.
_HINTS = {
    "token": "the framework would save it with the other options. Set HF_TOKEN, or run `hf auth login`",
    "backend": "the framework saves the options, and a backend cannot be saved",
    "precision": "frameworks take float32 vectors. Quantise in the vector store",
    "read_paths": "frameworks pass texts, and a string is a text here",
    "prompt": "give the prompts to the constructor, by names of their own",
    "prompt_name": "give the text of the prompt to the constructor; Embedder.prompts has it",
}


class TextModel:
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
        self._embedder: Embedder | None = None
        if isinstance(model, Embedder):
            if model_kwargs:
                raise InputError("model_kwargs has no effect on a loaded model. Give the options to Embedder(...)")
            self._embedder = model
            model, model_kwargs = _origin(model)
        if not isinstance(model, str | os.PathLike):
            raise InputError(f"model should be a name, a path or an Embedder, not {shown(model)}")
        self.name = os.fspath(model)
        self.model_kwargs = _checked("model_kwargs", model_kwargs, (*_LOAD_OPTIONS, *_HUB_OPTIONS))
        self.encode_kwargs = _checked("encode_kwargs", encode_kwargs)
        self.query_prompt = query_prompt
        self.document_prompt = document_prompt
        self._load = LoadSettings(**{k: v for k, v in self.model_kwargs.items() if k in _LOAD_OPTIONS})
        self._hub = HubAccess(**{k: v for k, v in self.model_kwargs.items() if k in _HUB_OPTIONS})
        settings = EncodeSettings.of(self.encode_kwargs)
        self._query_settings = replace(settings, prompt=query_prompt)
        self._document_settings = replace(settings, prompt=document_prompt)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.name, self.options())

    @property
    def embedder(self) -> Embedder:
        """The loaded model.

        Raises:
            EmbedderError: as in `Embedder`.
        """
        if self._embedder is None:
            self._embedder = get_model(self.name, self._load, self._hub)
        return self._embedder

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


def _origin(model: Embedder) -> tuple[str, dict[str, Any]]:
    """Return the path of a loaded model, and the options that it was loaded with: what pickle stores of it."""
    _, (_, path, options) = model.__reduce__()
    defaults = LoadSettings().options()
    return path, {name: value for name, value in options.items() if value != defaults[name]}


def _checked(name: str, options: Mapping[str, Any] | None, known: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Return `options` as a dict. `EncodeSettings` checks the names where `known` is None."""
    if options is not None and not isinstance(options, Mapping):
        raise InputError(f"{name} should be a dict of options, not {shown(options)}")
    copy = dict(options or {})
    for option in copy:
        if option in _HINTS or (known is not None and option not in known):
            hint = _HINTS.get(option) or LOAD_HINTS.get(option) or f"known are {', '.join(known or ())}"
            raise InputError(f"{name} cannot have {option!r}: {hint}")
    try:
        json.dumps(copy)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} should hold values that JSON can hold, as frameworks save them: {error}") from error
    return copy


def _as_list(texts: Iterable[str]) -> list[str]:
    # The characters of a string would be texts of their own.
    if isinstance(texts, str):
        raise InputError(f"a list of texts is needed here, not the single text {shown(texts)}")
    return list(texts)


def _restore(name: str, options: Mapping[str, Any]) -> TextModel:
    """Make a copy, or a pickled object, again."""
    return TextModel(name, **options)
