"""Read images with Pillow: decode, turn upright, convert to RGB."""

from __future__ import annotations

import base64
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embedder.common.files import open_regular
from embedder.common.forks import call_after_fork
from embedder.common.imports import import_optional
from embedder.errors import InputError
from embedder.images.sources import BASE64_MARK, DATA_PREFIX, URL_PREFIXES, is_pillow

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow's names of the turns that make an image upright, for the EXIF orientations 2 to 8.
_TURNS = ["FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"]
_EXIF_ORIENTATION = 0x0112
# Pillow's plug-ins tell formats apart by the first bytes of a file.
_PREFIX_BYTES = 16

# Pillow decodes an opened image when it is first used, and two threads must not decode one image at the same time. One
# lock for all images would make threads wait for one another. One lock for each image is not possible, as Pillow's
# images cannot be hashed. So the address of an image selects one of these locks.
_DECODING_LOCKS: list[threading.Lock] = []
_DECODING_LOCK_COUNT = 64


def _new_locks() -> None:
    _DECODING_LOCKS[:] = [threading.Lock() for _ in range(_DECODING_LOCK_COUNT)]


_new_locks()
call_after_fork(_new_locks)  # a thread of the parent may have held one during the fork


def check_pillow() -> None:
    """Raise DependencyError unless Pillow is installed.

    Example:
        >>> check_pillow()  # doctest: +SKIP
    """
    import_optional("PIL.Image", needed_for="Reading images", requirement="embedder-onnx[image]")


def read_rgb(item: Any, name: str) -> Image:
    """Read the image `item`: decode it, turn it upright, convert it to RGB.

    Args:
        item: an image, as `embedder.images.sources.is_image` defines it.
        name: name of the image in messages.

    Raises:
        InputError: the image cannot be read, is damaged, or has too many pixels.

    Example:
        >>> read_rgb(Path("cat.png"), "cat.png").mode  # doctest: +SKIP
        'RGB'
    """
    with _failures(name):
        if isinstance(item, np.ndarray):
            return _from_array(item, name)
        if is_pillow(item):
            if 0 in item.size:
                raise InputError(f"{name} is empty")
            return _as_rgb(_decoded(item))
        with _source(item, name) as file:
            image = _opened(file, name)
            image.load()
            return _as_rgb(_upright(image))


def read_size(data: bytes, name: str) -> tuple[int, int]:
    """Return the width and height of the image in `data`. Its pixels are not decoded.

    Args:
        data: the content of an image file.
        name: name of the image in messages.

    Raises:
        InputError: the start of the image cannot be read, or it has too many pixels.

    Example:
        >>> read_size(Path("cat.png").read_bytes(), "cat.png")  # doctest: +SKIP
        (600, 400)
    """
    with _failures(name), _source(data, name) as file:
        width, height = _opened(file, name).size
        return width, height


@contextmanager
def _failures(name: str) -> Iterator[None]:
    """Raise InputError for each failure of Pillow, which raises errors of any type for a damaged file."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if "truncated" in str(error).lower():
            raise InputError(f"{name} is truncated") from error
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{name} cannot be read: {reason:.200}") from error


def _from_array(array: NDArray[np.generic], name: str) -> Image:
    from PIL import Image

    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or array.size == 0:
        shapes = "(height, width) or (height, width, channels), with 1, 3 or 4 channels, and not empty"
        raise InputError(f"{name} should be of dtype uint8 and of shape {shapes}")
    return Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array).convert("RGB")


def _source(item: Any, name: str) -> IO[bytes]:
    """Open `item` as a binary file. The caller closes it."""
    if isinstance(item, str) and item.startswith(DATA_PREFIX):
        _, found, payload = item.partition(BASE64_MARK)
        if not found:
            raise InputError(f"{name} should begin with data:image/...;base64,")
        return BytesIO(base64.b64decode("".join(payload.split()), validate=True))
    if isinstance(item, str) and item.startswith(URL_PREFIXES):
        raise InputError(f"{name} is not fetched: download it, and give the path or the bytes")
    if isinstance(item, str | os.PathLike):
        return open_regular(item)
    if isinstance(item, bytes | bytearray | memoryview):
        return BytesIO(bytes(item))  # bytes are not copied
    if not hasattr(item, "read"):
        raise InputError(f"an image should be a path, bytes, a file object, a Pillow image or an array, not {name}")
    data = item.read()
    if not isinstance(data, bytes):
        raise InputError(f"{name} gives {type(data).__name__}, not bytes: open it in binary mode")
    return BytesIO(data)


def _opened(file: IO[bytes], name: str) -> Image:
    """Open the image in `file` as PIL.Image.open does, without decoding it.

    PIL.Image.open is not used because it also warns of large images that it accepts. Python cannot turn off a warning
    in one thread alone.
    """
    from PIL import Image

    prefix = file.read(_PREFIX_BYTES)
    if not prefix:
        raise InputError(f"{name} is empty")
    damage = ""
    for prepare in (Image.preinit, Image.init):  # load the plug-ins of the usual formats, then all plug-ins
        prepare()
        for kind, (read, accepts) in list(Image.OPEN.items()):
            accepted = accepts is None or accepts(prefix)
            # `accepted` is a string if a library is missing; it says which one. An EPS file is a program: Pillow would
            # run it with Ghostscript.
            if not accepted or isinstance(accepted, str) or kind == "EPS":
                continue
            try:
                file.seek(0)
                image = read(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                damage = damage if accepts is None else f": as {kind} it is damaged ({error!s:.200})"
            else:
                _check_size(*image.size, name)
                return image
    raise InputError(f"{name} is not an image that Pillow can read{damage}")


def _check_size(width: int, height: int, name: str) -> None:
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None and width * height > 2 * Image.MAX_IMAGE_PIXELS:
        limit = f"the limit is twice PIL.Image.MAX_IMAGE_PIXELS, which is {Image.MAX_IMAGE_PIXELS:,}"
        raise InputError(f"{name} has {width} x {height} pixels, as a decompression bomb might: {limit}")


def _upright(image: Image) -> Image:
    from PIL import Image

    try:
        turn = _TURNS[range(2, 9).index(image.getexif()[_EXIF_ORIENTATION])]
    except Exception:  # there is no EXIF, or it is damaged; the pixels may still be right
        return image
    return image.transpose(Image.Transpose[turn])


def _decoded(image: Any) -> Any:
    with _DECODING_LOCKS[id(image) // 64 % len(_DECODING_LOCKS)]:
        undecoded = getattr(image, "tile", None)
        try:
            image.load()
        except BaseException:
            if undecoded:  # otherwise Pillow takes the decoded part for the whole image next time
                image.tile = undecoded
            raise
    return image


def _as_rgb(image: Image) -> Image:
    if image.mode == "RGB":
        return image
    if "transparency" in image.info:  # without this, Pillow may warn that the conversion drops it
        image = image.copy()
        del image.info["transparency"]
    return (image.convert("LA") if image.mode == "La" else image).convert("RGB")
