"""What `encode` and `predict` of sentence-transformers take besides the options of embedder."""

from __future__ import annotations

import logging
import os
from typing import Any
from urllib.parse import urlsplit

from embedder.common.checks import shown
from embedder.errors import InputError

# A model for images of sentence-transformers reads the file or the URL of a string that ends so.
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tiff", ".webp")

_LOG = logging.getLogger("embedder")


def shows_progress(show_progress_bar: bool | None) -> bool:
    """Return whether to show progress. None shows it if the level of the logger "embedder" is INFO or DEBUG."""
    if show_progress_bar is None:
        return _LOG.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
    return bool(show_progress_bar)


def take_inputs(inputs: Any, kwargs: dict[str, Any]) -> Any:
    """Return the inputs of `encode`, and refuse options that it does not have.

    Args:
        inputs: the first argument.
        kwargs: the keyword arguments without a parameter.

    Raises:
        InputError: an option is unknown.
    """
    options = dict(kwargs)
    options.pop("task", None)
    inputs = options.pop("sentences", inputs) if inputs is None else inputs
    for name, value in options.items():
        hint = ". Set model.max_seq_length to change the limit" if name == "processing_kwargs" else ""
        raise InputError(f"encode has no option {name!r} (it is {shown(value)}){hint}")
    return inputs


def add_prompt(texts: Any, prompt: str | None = None) -> Any:
    """Return the texts with `prompt` before each of them."""
    return [prompt + text for text in texts] if prompt else texts


def check_image_strings(inputs: Any, single: bool) -> Any:
    """Return the inputs of a model for images, as a list unless there is one.

    Raises:
        InputError: a string is the path or the URL of an image. sentence-transformers reads the image there. embedder
            treats a string as a text.
    """
    inputs = inputs if single or isinstance(inputs, list | tuple) else list(inputs)
    for item in (inputs,) if single else inputs:
        if isinstance(item, str) and _names_image(item):
            raise InputError(
                f"{shown(item)} names an image, and a string is a text here. Pass pathlib.Path(...) for a file, or "
                "the bytes of the image"
            )
    return inputs


def _names_image(text: str) -> bool:
    if text.startswith("data:image/"):
        return True
    if text.startswith(("http://", "https://")):
        try:
            return " " not in text and urlsplit(text).path.lower().endswith(_IMAGE_SUFFIXES)
        except ValueError:
            return False
    return text.lower().endswith(_IMAGE_SUFFIXES) and os.path.isfile(text)
