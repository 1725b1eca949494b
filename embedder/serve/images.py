"""Check the images of a request before a model decodes them. No file is opened, and no address is asked."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Mapping

from embedder.common.json_values import shown_value
from embedder.errors import DependencyError, InputError
from embedder.images.reading import check_pillow, read_size
from embedder.images.sources import BASE64_MARK, DATA_PREFIX
from embedder.serve.errors import RequestRefused

# A decoded image takes three bytes a pixel, and a little more while it is resized.
MAX_PIXELS = 50_000_000
UNREADABLE = "unreadable_image"
# Pillow reads many more formats. Most of them are rare, and their readers have seen few strangers' files.
_FORMATS: dict[str, tuple[tuple[int, bytes], ...]] = {
    "JPEG": ((0, b"\xff\xd8\xff"),),
    "PNG": ((0, b"\x89PNG\r\n\x1a\n"),),
    "WebP": ((0, b"RIFF"), (8, b"WEBP")),
    "GIF": ((0, b"GIF8"),),
    "BMP": ((0, b"BM"),),
    "TIFF": ((0, b"II*\0"),),
    "TIFF, big-endian": ((0, b"MM\0*"),),
    "AVIF": ((4, b"ftypavif"),),
}
_NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"


def decode_data_uri(uri: object, name: str) -> bytes:
    """Return the bytes of an image that a data URI holds.

    Args:
        uri: a string such as "data:image/png;base64,iVBORw...".
        name: the key, for messages.

    Raises:
        RequestRefused: 400, it is not a data URI of an image, such as a path or an address; or it is not base64.

    Example:
        >>> decode_data_uri("data:image/gif;base64,R0lGODlh", "input[0].image")
        b'GIF89a'
    """
    header, mark, payload = uri.partition(BASE64_MARK) if isinstance(uri, str) else ("", "", "")
    if not mark or not header.startswith(DATA_PREFIX) or "," in header:
        example = "data:image/png;base64,..."
        raise _refuse(
            f'{name} should be a data URI, such as "{example}", not {shown_value(uri)}. No file is read and no address '
            "is asked",
            name,
        )
    try:
        return binascii.a2b_base64(payload, strict_mode=True)
    except ValueError as error:  # also for letters that are not ASCII
        raise _refuse(f"{name} is not valid base64: {error}", name) from error


async def check_images(images: Mapping[str, bytes]) -> None:
    """Raise RequestRefused unless each image can be opened and has at most 50 million pixels. None is decoded.

    Args:
        images: the bytes of each image, by its name in messages.

    Raises:
        RequestRefused: 400, an image is of no known format, or damaged; 413, it has too many pixels; 501, Pillow is not
            installed here.
    """
    for name, data in images.items():
        _check_format(data, name)
    await asyncio.to_thread(_check_sizes, images)


def _check_format(data: bytes, name: str) -> None:
    for marks in _FORMATS.values():
        if all(data.startswith(mark, place) for place, mark in marks):
            return
    raise _refuse(f"{name} is not an image of a known format: send {_NAMES}", name)


def _check_sizes(images: Mapping[str, bytes]) -> None:
    try:
        check_pillow()
    except DependencyError as error:
        raise RequestRefused(501, "no_images", "this server cannot read images: Pillow is not installed") from error
    for name, data in images.items():
        try:
            width, height = read_size(data, name)
        except InputError as error:
            raise _refuse(str(error), name) from error
        if width * height > MAX_PIXELS:
            raise RequestRefused(
                413,
                "image_too_large",
                f"{name} has {width:,} x {height:,} pixels, and the limit is {MAX_PIXELS:,} in all. Scale it down",
                param=name,
            )


def _refuse(message: str, name: str) -> RequestRefused:
    return RequestRefused(400, UNREADABLE, message, param=name)
