"""Draw sample images. Photographs cannot be shipped.

The export times and calibrates graphs on every other image, and measures their quality on the rest.
"""

from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import numpy as np
from embedder.artifact.image_settings import ImageSettings
from embedder.artifact.manifest import IMAGE_INPUTS
from embedder.images.preprocessor import Preprocessor
from numpy.typing import NDArray

from embedder_export.samples.feeds import Samples

# How many images the timed calls have: a single image, and about as many as the runtime's batches.
_BATCH_SIZES = (1, 4)
_IMAGE_COUNT = 96
_Pixels: TypeAlias = NDArray[np.float64]


def image_samples(images: ImageSettings) -> Samples:
    """Return the samples, prepared as `images` says: every other image to time and calibrate on, and the rest.

    Example:
        >>> image_samples(images).batches[1]["pixel_values"].shape  # doctest: +SKIP
        (4, 3, 224, 224)
    """
    pixels = [Preprocessor(images)(image) for image in sample_images()]
    feeds = [{IMAGE_INPUTS[0]: image[None]} for image in pixels]
    batches = [{IMAGE_INPUTS[0]: np.stack(pixels[: 2 * count : 2])} for count in _BATCH_SIZES]
    return Samples([*batches], [*feeds[::2]], [*feeds[1::2]])


@cache
def sample_images() -> list[NDArray[np.uint8]]:
    """Return images of many sizes and kinds, uint8 (height, width, 3). Each call returns the same images.

    Example:
        >>> len(sample_images())
        96
    """
    generator = np.random.default_rng(0)
    images = []
    for index in range(_IMAGE_COUNT):
        height, width = (int(size) for size in generator.integers(40, 400, 2))
        drawn = _KINDS[index // 2 % len(_KINDS)](
            generator, height, width
        )  # the kind changes with every second image, so both halves have all kinds
        images.append(np.clip(np.rint(drawn), 0, 255).astype(np.uint8))
    return images


def _clouds(generator: np.random.Generator, height: int, width: int) -> _Pixels:
    """Draw noise. Its amplitude falls with frequency, as in photographs (Field, 1987, doi:10.1364/JOSAA.4.002379)."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(generator.normal(size=(3, height, width)), axes=(1, 2)) / frequency ** generator.uniform(
        1, 1.5
    )
    noise: _Pixels = np.fft.irfft2(spectrum, (height, width), axes=(1, 2))
    noise /= noise.std(axis=(1, 2), keepdims=True)
    mixing = generator.normal(size=(3, 3)) * 0.3 + 1  # the colours of a photograph are correlated
    mixed: _Pixels = np.einsum("ij,jhw->hwi", mixing / np.linalg.norm(mixing, axis=1, keepdims=True), noise)
    drawn: _Pixels = generator.uniform(60, 190, 3) + mixed * generator.uniform(20, 70)
    return drawn


def _shapes(generator: np.random.Generator, height: int, width: int) -> _Pixels:
    """Draw discs and rectangles over clouds."""
    image = _clouds(generator, height, width)
    y, x = np.mgrid[:height, :width]
    for _ in range(int(generator.integers(2, 12))):
        top, left = generator.integers(0, height), generator.integers(0, width)
        radius = generator.integers(5, max(6, min(height, width) // 2))
        round_shape = generator.random() < 0.5
        inside = (
            np.hypot(y - top, x - left) < radius if round_shape else (abs(y - top) < radius) & (abs(x - left) < radius)
        )
        image[inside] = generator.uniform(0, 255, 3) + generator.normal(0, generator.uniform(0, 15), (inside.sum(), 3))
    return image


def _gradient(generator: np.random.Generator, height: int, width: int) -> _Pixels:
    """Draw a gradient between three colours."""
    across, down = np.linspace(0, 1, width)[None, :, None], np.linspace(0, 1, height)[:, None, None]
    corners = generator.uniform(0, 255, (3, 3))
    drawn: _Pixels = corners[0] + across * (corners[1] - corners[0]) + down * (corners[2] - corners[0])
    return drawn


def _stripes(generator: np.random.Generator, height: int, width: int) -> _Pixels:
    """Draw stripes of two colours."""
    y, x = np.mgrid[:height, :width]
    slope = generator.normal(size=2)
    on = np.sin((y * slope[0] + x * slope[1]) / generator.uniform(1, 12)) > generator.uniform(-0.5, 0.5)
    return np.where(on[..., None], generator.uniform(0, 255, 3), generator.uniform(0, 255, 3))


def _plain(generator: np.random.Generator, height: int, width: int) -> _Pixels:
    """Draw one colour, sometimes with noise."""
    colour = np.rint(generator.random(3)) * 255 if generator.random() < 0.5 else generator.uniform(0, 255, 3)
    return np.broadcast_to(colour, (height, width, 3)) + generator.normal(
        0, generator.choice([0, 3, 60]), (height, width, 3)
    )


_KINDS: tuple[Callable[[np.random.Generator, int, int], _Pixels], ...] = (
    _clouds, _shapes, _gradient, _shapes, _stripes, _clouds, _shapes, _plain,
)  # fmt: skip
