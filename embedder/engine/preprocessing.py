"""Images to pixel values, as transformers' CLIPImageProcessor makes them; the only file that knows Pillow."""

import base64
import math
import os
import stat
import struct
import sys
import threading
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.manifest import ImageSettings
from embedder.errors import DependencyError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

# None is longer than five characters, which `is_image` looks at.
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".jfif", ".ppm", ".pgm")
_DATA, _BASE64, _URL = "data:image/", ";base64,", ("http://", "https://")
# In characters; media types come nowhere near.
_LONGEST_HEADER = 200

# Pixels that an image may be resized to before it is cropped, as 32 MB; no photograph comes near.
_MOST_RESIZED = 2**23
# In pixels of the larger of the two images; Lanczos sees furthest.
_FILTER_REACH = 3

# What makes an image upright, in Pillow's words, by its EXIF orientation from 2 on.
_TURNS = ["FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"]

# An opened Pillow image is decoded when it is first used, and two threads must not do that at once. One lock for all
# would decode a list of them one by one; a lock of its own none can have, as Pillow's images have no hash.
_LOADING: list[threading.Lock] = []


def _new_locks() -> None:
    _LOADING[:] = [threading.Lock() for _ in range(64)]


_new_locks()
if hasattr(os, "register_at_fork"):  # those of the parent may be held for ever
    os.register_at_fork(after_in_child=_new_locks)


def is_image(item: object) -> bool:
    """Whether `item` is meant as an image: a path, bytes, a file object, a Pillow image or an array.

    A string is a text, unless it has the ending of an image and is an existing file or a web address, or it is a data
    URI of an image.
    """
    if not isinstance(item, str):
        known = isinstance(item, bytes | bytearray | memoryview | np.ndarray | os.PathLike)
        return known or hasattr(item, "read") or _is_pillow(item)
    if item.startswith(_DATA):
        return _BASE64 in item[:_LONGEST_HEADER]
    if not item.startswith(_URL) or " " in item:
        return item[-5:].lower().endswith(IMAGE_ENDINGS) and os.path.isfile(item)
    try:
        return urlsplit(item).path.lower().endswith(IMAGE_ENDINGS)
    except ValueError:
        return False


def describe(item: object) -> str:
    """A name for messages of `item`, an image or what was given for one; at most 80 characters. Never raises."""
    try:
        name = _name(item)
    except Exception:  # whatever a caller's object does
        name = type(item).__name__
    return name if len(name) <= 80 else f"{name[:25]}...{name[-52:]}"


class Preprocessor:
    """What a model does to an image before its graph. Safe to call from many threads, also on one Pillow image.

    Takes a path, the bytes of a file, a file object (read from where it stands, and not closed), a data URI, a Pillow
    image (loaded if it is not, else left as it is), or an array of uint8: (height, width) or (height, width, channels)
    of 1, 3 or 4 channels, of which a fourth is alpha.

    What is decoded here is turned upright as its EXIF says, as transformers does with a path; a Pillow image is taken
    as it lies, as there. Of an animation the first frame counts. Colours become RGB as Pillow converts them: alpha is
    dropped, and of more than 8 bits of grey, which are not scaled, all above 255 is white.
    """

    def __init__(self, settings: ImageSettings) -> None:
        self._settings = settings
        # Of each channel what 0 to 255 become, in the original's order and precisions, so as to be the same numbers.
        rescaled = (np.arange(256) * settings.rescale).astype(np.float32)
        mean, std = np.array(settings.mean, np.float32), np.array(settings.std, np.float32)
        self._values = (rescaled - mean[:, None]) / std[:, None]

    def __call__(self, item: object) -> NDArray[np.float32]:
        """The pixel values of the image `item`, float32 of shape (3, height, width).

        Raises:
            InputError: it is no image, cannot be read, is damaged, or is too large.
            DependencyError: Pillow is not installed.
        """
        _check_pillow()
        name = describe(item)
        image = self._fitted(_rgb_image(item, name), name)
        pixels = np.empty((3, image.height, image.width), np.float32)
        for values, band, out in zip(self._values, image.split(), pixels, strict=True):
            np.take(values, np.asarray(band), out=out, mode="clip")  # other modes write to a copy first
        return pixels

    def _fitted(self, image: "Image", name: str) -> "Image":
        """`image`, resized and cropped."""
        size = self._resized_size(*image.size)
        part = box = (0, 0, *size)
        if self._settings.crop:
            height, width = self._settings.crop
            left, top = (size[0] - width) // 2, (size[1] - height) // 2
            box = (left, top, left + width, top + height)
        if self._settings.resize:
            if math.prod(size) > _MOST_RESIZED:
                part = (max(0, box[0]), max(0, box[1]), min(size[0], box[2]), min(size[1], box[3]))
            if (part[2] - part[0]) * (part[3] - part[1]) > _MOST_RESIZED:
                raise InputError(f"{name} would be resized to {size[0]} x {size[1]} pixels, which is too much: crop it")
            image = _resized(image, size, part, self._settings.resample)
        if box == part:
            return image
        # What lies outside becomes black.
        return image.crop((box[0] - part[0], box[1] - part[1], box[2] - part[0], box[3] - part[1]))

    def _resized_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that an image of `width` and `height` is resized to."""
        match self._settings.resize:
            case (height, width):
                return width, height
            case (edge,):
                other = int(edge * max(width, height) / min(width, height))
                return (edge, other) if width <= height else (other, edge)
        return width, height


def _is_pillow(item: object) -> bool:
    """Whether `item` is an image of Pillow, which need not be imported to find that it is none."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(item, getattr(module, "Image", ()))


def _check_pillow() -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            "images need Pillow: pip install Pillow (what the extra embedder[image] brings)"
        ) from error


def _name(item: Any) -> str:
    if isinstance(item, str) and item.startswith(_DATA):
        return f"a data URI ({len(item):,} characters)"
    if isinstance(item, str | os.PathLike):
        path = os.fsdecode(item)
        return path if path.isprintable() else ascii(path)
    if isinstance(item, bytes | bytearray | memoryview):
        return f"{type(item).__name__} ({memoryview(item).nbytes:,} of them)"
    if isinstance(item, np.ndarray):
        return f"an array of shape {item.shape} and dtype {item.dtype}"
    if _is_pillow(item):
        return f"a Pillow image of {item.width} x {item.height}"
    if hasattr(item, "read"):
        return f"the file object {getattr(item, 'name', '') or type(item).__name__}"
    return type(item).__name__


def _rgb_image(item: Any, name: str) -> "Image":
    """The image `item`, loaded, in RGB, upright; InputError calls it `name`."""
    try:
        if isinstance(item, np.ndarray):
            return _from_array(item, name)
        if _is_pillow(item):
            if 0 in item.size:
                raise InputError(f"{name} is empty")
            return _as_rgb(_loaded(item))
        with _source(item, name) as file:
            image = _opened(file, name)
            image.load()
            return _as_rgb(_upright(image))
    except InputError:
        raise
    except Exception as error:  # for a damaged file Pillow raises nearly anything
        if "truncated" in str(error).lower():
            raise InputError(f"{name} is truncated") from error
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{name} cannot be read: {reason:.200}") from error


def _from_array(array: NDArray[np.generic], name: str) -> "Image":
    from PIL import Image

    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or array.size == 0:
        shapes = "(height, width) or (height, width, channels), with 1, 3 or 4 channels, and not empty"
        raise InputError(f"{name} should be of dtype uint8 and of shape {shapes}")
    return Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array).convert("RGB")


def _source(item: Any, name: str) -> IO[bytes]:
    """A file to read `item` from, and to close."""
    if isinstance(item, str) and item.startswith(_DATA):
        _, found, payload = item.partition(_BASE64)
        if not found:
            raise InputError(f"{name} should begin with data:image/...;base64,")
        return BytesIO(base64.b64decode("".join(payload.split()), validate=True))
    if isinstance(item, str) and item.startswith(_URL):
        raise InputError(f"{name} is not fetched: download it, and give the path or the bytes")
    if isinstance(item, str | os.PathLike):
        if not stat.S_ISREG(os.stat(item).st_mode):  # to open a pipe may take for ever
            raise InputError(f"{name} is not a file")
        return open(item, "rb")
    if isinstance(item, bytes | bytearray | memoryview):
        return BytesIO(bytes(item))  # no copy of what are bytes
    if not hasattr(item, "read"):
        raise InputError(f"an image should be a path, bytes, a file object, a Pillow image or an array, not {name}")
    data = item.read()
    if not isinstance(data, bytes):
        raise InputError(f"{name} gives {type(data).__name__}, not bytes: open it in binary mode")
    return BytesIO(data)


def _opened(file: IO[bytes], name: str) -> "Image":
    """The image in `file`, not loaded yet, as PIL.Image.open finds it.

    That warns of images half as large as those it refuses, and a warning cannot be turned off for one thread alone.
    """
    from PIL import Image

    prefix = file.read(16)
    if not prefix:
        raise InputError(f"{name} is empty")
    damage = ""
    for prepare in (Image.preinit, Image.init):  # the usual formats, and all
        prepare()
        for kind, (read, accepts) in list(Image.OPEN.items()):
            accepted = accepts is None or accepts(prefix)
            # A string says what is missing here; EPS is a program, which Pillow has Ghostscript run.
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
        most = f"PIL.Image.MAX_IMAGE_PIXELS, of which there may be twice as many, is {Image.MAX_IMAGE_PIXELS:,}"
        raise InputError(f"{name} has {width} x {height} pixels, as a decompression bomb might: {most}")


def _upright(image: "Image") -> "Image":
    from PIL import Image

    try:
        turn = _TURNS[range(2, 9).index(image.getexif()[0x0112])]
    except Exception:  # there is none, or the EXIF is damaged, which need not be the picture
        return image
    return image.transpose(Image.Transpose[turn])


def _loaded(image: Any) -> Any:
    with _LOADING[id(image) // 64 % len(_LOADING)]:
        undecoded = getattr(image, "tile", None)
        try:
            image.load()
        except BaseException:
            if undecoded:  # else Pillow would take what it has for the whole image, the next time
                image.tile = undecoded
            raise
    return image


def _as_rgb(image: "Image") -> "Image":
    if image.mode == "RGB":
        return image
    if "transparency" in image.info:  # it is dropped, of which Pillow may warn
        image = image.copy()
        del image.info["transparency"]
    return (image.convert("LA") if image.mode == "La" else image).convert("RGB")


def _resized(image: "Image", size: tuple[int, int], part: tuple[int, int, int, int], resample: str) -> "Image":
    """Of `image` resized to `size` this `part` (left, top, right, bottom), without making the rest.

    It may differ a little from that of the whole: Pillow goes along one axis, rounds, and then along the other, and
    which it takes first depends on the sizes.
    """
    from PIL import Image

    method = Image.Resampling[resample.upper()]
    if part == (0, 0, *size):
        return image.resize(size, method)
    spans = []
    for axis in (0, 1):
        scale = image.size[axis] / size[axis]
        reach = math.ceil(_FILTER_REACH * max(scale, 1)) + 1
        start, end = part[axis] * scale, part[axis + 2] * scale
        # Pillow counts in float32: from nearby, or it would lose a pixel in many millions.
        low, high = max(0, math.floor(start) - reach), min(image.size[axis], math.ceil(end) + reach)
        spans.append((low, high, start - low, end - low))
    (left, right, x0, x1), (top, bottom, y0, y1) = spans
    shape = (part[2] - part[0], part[3] - part[1])
    return image.crop((left, top, right, bottom)).resize(shape, method, (x0, y0, x1, y1))
