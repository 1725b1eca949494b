"""Images to pixel values, as transformers' CLIPImageProcessor makes them."""

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.manifest import ImageSettings
from embedder.errors import InputError
from embedder.images.reading import check_pillow, read_rgb
from embedder.images.sources import describe

if TYPE_CHECKING:
    from PIL.Image import Image

# An image of 32 MB. No photograph comes near before it is cropped.
_MAX_RESIZED_PIXELS = 2**23
# Lanczos, the widest filter, reads this many pixels of the smaller image to each side.
_FILTER_RADIUS_PIXELS = 3


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
        check_pillow()
        name = describe(item)
        image = self._fitted(read_rgb(item, name), name)
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
            if math.prod(size) > _MAX_RESIZED_PIXELS:
                part = (max(0, box[0]), max(0, box[1]), min(size[0], box[2]), min(size[1], box[3]))
            if (part[2] - part[0]) * (part[3] - part[1]) > _MAX_RESIZED_PIXELS:
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
        reach = math.ceil(_FILTER_RADIUS_PIXELS * max(scale, 1)) + 1
        start, end = part[axis] * scale, part[axis + 2] * scale
        # Pillow counts in float32: from nearby, or it would lose a pixel in many millions.
        low, high = max(0, math.floor(start) - reach), min(image.size[axis], math.ceil(end) + reach)
        spans.append((low, high, start - low, end - low))
    (left, right, x0, x1), (top, bottom, y0, y1) = spans
    shape = (part[2] - part[0], part[3] - part[1])
    return image.crop((left, top, right, bottom)).resize(shape, method, (x0, y0, x1, y1))
