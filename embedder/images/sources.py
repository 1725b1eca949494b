"""Tell images from texts, and name them in messages. Imports no image library."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

# `_names_image` relies on this: no ending has more than five characters.
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".jfif", ".ppm", ".pgm")
DATA_PREFIX, BASE64_MARK, URL_PREFIXES = "data:image/", ";base64,", ("http://", "https://")
# The header of a data URI is its media type, which is far shorter than this.
_MAX_DATA_HEADER_CHARACTERS = 200
_MAX_NAME_CHARACTERS = 80


def is_image(item: object, *, read_paths: bool = False) -> bool:
    """Return whether `item` is meant as an image: a path, bytes, a file object, a Pillow image or an array.

    A string is a text. With `read_paths`, three kinds of strings are images: the path of an existing file with the
    ending of an image, a web address with such an ending, and a data URI of an image.

    Example:
        >>> is_image("cat.png"), is_image(Path("cat.png"))
        (False, True)
    """
    if not isinstance(item, str):
        known = isinstance(item, bytes | bytearray | memoryview | np.ndarray | os.PathLike)
        return known or callable(getattr(item, "read", None)) or is_pillow(item)
    return read_paths and _names_image(item)


def _names_image(text: str) -> bool:
    if text.startswith(DATA_PREFIX):
        return BASE64_MARK in text[:_MAX_DATA_HEADER_CHARACTERS]
    if not text.startswith(URL_PREFIXES) or " " in text:
        return text[-5:].lower().endswith(IMAGE_ENDINGS) and os.path.isfile(text)
    from urllib.parse import urlsplit  # here, as it takes milliseconds of the start of every process

    try:
        return urlsplit(text).path.lower().endswith(IMAGE_ENDINGS)
    except ValueError:
        return False


def is_pillow(item: object) -> bool:
    """Return whether `item` is a Pillow image. Pillow is not imported here: before its import there are no such images.

    Example:
        >>> is_pillow("a text")
        False
    """
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(item, getattr(module, "Image", ()))


def describe(item: object) -> str:
    """Return a name of the image `item` for messages, at most 80 characters long. Never raises.

    Example:
        >>> describe(Path("cat.png")), describe(b"12")
        ('cat.png', 'bytes of length 2')
    """
    try:
        name = _name(item)
    except Exception:  # the caller's object may raise any error
        name = type(item).__name__
    return name if len(name) <= _MAX_NAME_CHARACTERS else f"{name[:25]}...{name[-52:]}"


def _name(item: Any) -> str:
    if isinstance(item, str) and item.startswith(DATA_PREFIX):
        return f"a data URI ({len(item):,} characters)"
    if isinstance(item, str | os.PathLike):
        path = os.fsdecode(item)
        return path if path.isprintable() else ascii(path)
    if isinstance(item, bytes | bytearray | memoryview):
        return f"{type(item).__name__} of length {memoryview(item).nbytes:,}"
    if isinstance(item, np.ndarray):
        return f"an array of shape {item.shape} and dtype {item.dtype}"
    if is_pillow(item):
        return f"a Pillow image of {item.width} x {item.height}"
    if hasattr(item, "read"):
        return f"the file object {getattr(item, 'name', '') or type(item).__name__}"
    return type(item).__name__
