"""A model with its options, as frameworks save and copy it. It is loaded where it is needed."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from embedder.artifact.hub_access import HubAccess
from embedder.common.checks import shown
from embedder.encoder import Embedder
from embedder.errors import InputError
from embedder.hints import LOAD_HINTS
from embedder.kept_models import get_model
from embedder.options import LoadSettings

_LOAD_OPTIONS = tuple(field.name for field in fields(LoadSettings))
HUB_OPTIONS = ("revision", "local_files_only")
# What to do instead, for options of `Embedder` and `encode` that no framework can use.
_HINTS = {
    "token": "the framework would save it with the other options. Set HF_TOKEN, or run `hf auth login`",
    "backend": "the framework saves the options, and a backend cannot be saved",
    "read_paths": "frameworks pass texts, and a string is a text here",
}


class SavedModel:
    """The name of a model and the options to load it with.

    The model is loaded when it is first needed. Objects with equal models and options share one loaded model.

    Attributes:
        name: name or path of the model.
        model_kwargs: options of `Embedder`.

    Example:
        >>> SavedModel("all-MiniLM-L6-v2", {"dtype": "int8"}).embedder.dtype  # doctest: +SKIP
        'int8'
    """

    def __init__(self, model: str | os.PathLike[str] | Embedder, model_kwargs: Mapping[str, Any] | None) -> None:
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
        self.model_kwargs = checked_options("model_kwargs", model_kwargs, known=(*_LOAD_OPTIONS, *HUB_OPTIONS))
        self._load = LoadSettings(**{k: v for k, v in self.model_kwargs.items() if k in _LOAD_OPTIONS})
        self._hub = HubAccess(**{k: v for k, v in self.model_kwargs.items() if k in HUB_OPTIONS})

    @property
    def embedder(self) -> Embedder:
        """The loaded model.

        Raises:
            EmbedderError: as in `Embedder`.
        """
        if self._embedder is None:
            self._embedder = get_model(self.name, self._load, self._hub)
        return self._embedder

    @property
    def directory(self) -> Path:
        """The directory of the model's artifact on this machine. The model is loaded.

        Raises:
            EmbedderError: as in `Embedder`.
        """
        return Path(_origin(self.embedder)[0])


def checked_options(
    name: str,
    options: Mapping[str, Any] | None,
    *,
    known: Collection[str] | None = None,
    refused: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return options as a dict.

    Args:
        name: what has the options, for the message.
        options: the options.
        known: the names that are allowed. None: `EncodeSettings` checks the names.
        refused: options that the framework cannot use, and what to do instead.

    Raises:
        InputError: `options` is no dict, JSON cannot hold a value, or an option is unknown or refused.

    Example:
        >>> checked_options("model_kwargs", {"dtype": "int8"}, known=["dtype"])
        {'dtype': 'int8'}
    """
    if options is not None and not isinstance(options, Mapping):
        raise InputError(f"{name} should be a dict of options, not {shown(options)}")
    hints = {**_HINTS, **(refused or {})}
    copy = dict(options or {})
    for option in copy:
        if option in hints or (known is not None and option not in known):
            hint = hints.get(option) or LOAD_HINTS.get(option) or f"known are {', '.join(known or ())}"
            raise InputError(f"{name} cannot have {option!r}: {hint}")
    try:
        json.dumps(copy)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} should hold values that JSON can hold, as frameworks save them: {error}") from error
    return copy


def _origin(model: Embedder) -> tuple[str, dict[str, Any]]:
    """Return the path of a loaded model, and the options that it was loaded with: what pickle stores of it."""
    _, (_, path, options) = model.__reduce__()
    defaults = LoadSettings().options()
    return path, {name: value for name, value in options.items() if value != defaults[name]}
