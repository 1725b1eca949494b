"""What callers give: checked before anything is encoded, with errors that name the culprit."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from embedder.engine.preprocessing import is_image
from embedder.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

ImageSource: TypeAlias = Union[
    str, os.PathLike[str], bytes, bytearray, memoryview, IO[bytes], "PillowImage", NDArray[np.uint8]
]
Input: TypeAlias = ImageSource  # a text is a string, too

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class ImageItem:
    """An image among the caller's inputs, to be told from a text though both may be strings."""

    source: ImageSource


def is_single(inputs: object, *, images: bool) -> bool:
    """Whether `inputs` is one text or, where the model takes `images`, one image, rather than many."""
    if isinstance(inputs, np.ndarray):  # of one or four dimensions it is many
        return images and inputs.ndim in (2, 3) and inputs.dtype.kind not in "OSU"
    return isinstance(inputs, str) or (images and is_image(inputs))


def checked_list(inputs: Input | Iterable[Input], *, images: bool, read_paths: bool = True) -> list[str | ImageItem]:
    """`inputs`, or the one, as a list; InputError if one is neither a text nor, where the model takes `images`, one."""
    many = [inputs] if is_single(inputs, images=images) else inputs
    return list(checked_inputs(many, images=images, read_paths=read_paths))


def checked_inputs(inputs: Any, *, images: bool, read_paths: bool = True) -> Iterator[str | ImageItem]:
    """`inputs` one by one; InputError at once if they cannot be any, and for one of them when its turn comes.

    read_paths: whether a string that names an image is one.
    """
    # Iterating bytes gives numbers, a mapping its keys, a set no order: none can be meant.
    try:
        iterator = None if isinstance(inputs, bytes | bytearray | Mapping | Set) else iter(inputs)
    except TypeError:
        iterator = None
    if iterator is None:
        expected = "a string, an image or an iterable of them" if images else "a string or an iterable of strings"
        raise InputError(f"{_name(images)} should be {expected}, not {type(inputs).__name__}")
    return (_checked(index, item, images, read_paths) for index, item in enumerate(iterator))


def _checked(index: int, item: object, images: bool, read_paths: bool) -> str | ImageItem:
    if images and (read_paths or not isinstance(item, str)) and is_image(item):
        return ImageItem(item)  # type: ignore[arg-type]
    if not isinstance(item, str):
        expected = "a string or an image" if images else "a string"
        alone = "" if images or not is_image(item) else "; this model takes no images"
        raise InputError(
            f"{_name(images)}[{index}] should be {expected}, not {type(item).__name__}: {item!r:.80}{alone}"
        )
    if not item.isascii() and (found := _SURROGATE.search(item)):
        raise InputError(
            f"{_name(images)}[{index}] is not valid Unicode: it holds the lone surrogate U+{ord(found[0]):04X} at "
            f'character {found.start()}. text.encode("utf-8", "replace").decode() replaces it'
        )
    return item


def _name(images: bool) -> str:
    return "inputs" if images else "texts"


def check_prompt(prompt: object) -> None:
    """Raise InputError unless `prompt` is a text."""
    if not isinstance(prompt, str) or _SURROGATE.search(prompt):
        raise InputError(f"prompt should be a string of valid Unicode, not {prompt!r:.80}")


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Raise InputError unless `value` is one of `known`."""
    if value not in known:
        raise InputError(f"{name} should be one of {', '.join(known)}, not {value!r}")


def check_errors(errors: object) -> None:
    """Raise InputError unless `errors` is one of the ways to treat images that cannot be read."""
    if errors not in ("raise", "skip"):
        raise InputError(f'errors should be "raise" or "skip", not {errors!r:.80}')


def check_count(name: str, value: object, most: int | None = None) -> None:
    """Raise InputError unless `value` is None or a whole number from 1 to `most`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if value is None or (whole and value >= 1 and (most is None or value <= most)):  # type: ignore[operator]
        return
    upper = f" and at most {most}" if most else ""
    raise InputError(f"{name} should be a whole number, at least 1{upper}, not {value!r}")


def check_counts(**counts: object) -> None:
    """Raise InputError unless each of `counts` is a whole number of at least 1; None is none."""
    for name, value in counts.items():
        check_count(name, 0 if value is None else value)
