"""Turn images into pixel values, as transformers' CLIPImageProcessor does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.image_settings import ImageSettings
from embedder.errors import InputError
from embedder.images.reading import check_pillow, read_rgb
from embedder.images.sources import describe

if TYPE_CHECKING:
    from PIL.Image import Image

# An image of 2**23 pixels takes 32 MB. A resized photograph is far smaller, even before the crop.
_MAX_RESIZED_PIXELS = 2**23
# Radius of Lanczos, the widest filter, in pixels of the smaller image.
_FILTER_RADIUS_PIXELS = 3


class Preprocessor:
    """Prepares images for a model's graph. Safe to call from many threads, also on one Pillow image.

    An image is a path, the bytes of a file, a file object, a data URI, a Pillow image, or an array of uint8: (height,
    width) or (height, width, channels) with 1, 3 or 4 channels. A file object is read from its position and not closed.

    - A file is turned upright as its EXIF says. A Pillow image is not turned. transformers does the same.
    - An animation gives its first frame.
    - Pillow converts colours to RGB and drops alpha. Grey values of more than 8 bits are not scaled: values above 255
      become white.

    Example:
        >>> Preprocessor(model.manifest.images)(Path("cat.png")).shape  # doctest: +SKIP
        (3, 224, 224)
    """

    def __init__(self, settings: ImageSettings) -> None:
        self._settings = settings
        # A table for each channel: the values for the levels 0 to 255. The order of the steps and the dtypes are those
        # of transformers, so that the numbers are the same.
        rescaled = (np.arange(256) * settings.rescale).astype(np.float32)
        mean, std = np.array(settings.mean, np.float32), np.array(settings.std, np.float32)
        self._values = (rescaled - mean[:, None]) / std[:, None]

    def __call__(self, item: object) -> NDArray[np.float32]:
        """Return the pixel values of the image `item`, float32 (3, height, width).

        Raises:
            InputError: the item is not an image, cannot be read, is damaged, or is too large.
            DependencyError: Pillow is not installed.

        Example:
            >>> preprocessor(np.zeros((600, 400, 3), np.uint8)).shape  # doctest: +SKIP
            (3, 224, 224)
        """
        check_pillow()
        name = describe(item)
        image = self._resize_and_crop(read_rgb(item, name), name)
        pixels = np.empty((3, image.height, image.width), np.float32)
        for values, band, out in zip(self._values, image.split(), pixels, strict=True):
            np.take(values, np.asarray(band), out=out, mode="clip")  # other modes write to a copy first
        return pixels

    def _resize_and_crop(self, image: Image, name: str) -> Image:
        """Return `image` resized and cropped. A box is (left, top, right, bottom) in pixels of the resized image."""
        size = self._resized_size(*image.size)
        part = box = (0, 0, *size)  # the part to make, and the part to return
        if self._settings.crop:
            height, width = self._settings.crop
            left, top = (size[0] - width) // 2, (size[1] - height) // 2
            box = (left, top, left + width, top + height)
        if self._settings.resize:
            if math.prod(size) > _MAX_RESIZED_PIXELS:
                part = (max(0, box[0]), max(0, box[1]), min(size[0], box[2]), min(size[1], box[3]))
            if (part[2] - part[0]) * (part[3] - part[1]) > _MAX_RESIZED_PIXELS:
                raise InputError(
                    f"{name} would be resized to {size[0]} x {size[1]} pixels, which is too large: crop it"
                )
            image = _resized(image, size, part, self._settings.resample)
        if box == part:
            return image
        # Pillow makes pixels outside of the image black.
        return image.crop((box[0] - part[0], box[1] - part[1], box[2] - part[0], box[3] - part[1]))

    def _resized_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height of the resized image."""
        match self._settings.resize:
            case (height, width):
                return width, height
            case (edge,):
                other = int(edge * max(width, height) / min(width, height))
                return (edge, other) if width <= height else (other, edge)
        return width, height


def _resized(image: Image, size: tuple[int, int], part: tuple[int, int, int, int], resample: str) -> Image:
    """Return the box `part` of `image` resized to `size`, without making the rest.

    Pixels may differ by one level from those of the whole resized image. Pillow resizes along one axis, rounds, and
    resizes along the other axis. The order of the axes depends on the sizes.
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
        # Crop first: Pillow computes positions in float32, and far from the origin they would be off by a pixel.
        low, high = max(0, math.floor(start) - reach), min(image.size[axis], math.ceil(end) + reach)
        spans.append((low, high, start - low, end - low))
    (left, right, x0, x1), (top, bottom, y0, y1) = spans
    shape = (part[2] - part[0], part[3] - part[1])
    return image.crop((left, top, right, bottom)).resize(shape, method, (x0, y0, x1, y1))
