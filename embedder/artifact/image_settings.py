"""The part of the manifest that only models of images have: how an image is prepared."""

from __future__ import annotations

from embedder.artifact.measurements import Parity
from embedder.common.records import frozen, require

RESAMPLES = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
# The largest values of image settings. Known models have at most 1,024 pixels, and numbers near 1.
_MAX_IMAGE_EDGE = 4096
_MAX_IMAGE_NUMBER = 1e6


@frozen
class ImageSettings:
    """How to prepare an image for its graph: the steps of transformers' image processors, in this order.

    Attributes:
        resize: in pixels: (shorter edge,), (height, width), or () to keep the size.
        resample: Pillow's name of the resize filter, in lower case.
        crop: (height, width) of the centre crop in pixels, or () for no crop. A smaller image gets a black border.
        rescale: factor for the value of a pixel, which is from 0 to 255.
        mean: of red, green and blue. A value x becomes (x - mean) / std.
        std: of red, green and blue.
        tokens: number of tokens of an image in the model. The token budget of a batch counts them.
        parity: how close the vectors of images are to the reference's. The preparation is included.
    """

    resize: tuple[int, ...]
    resample: str
    crop: tuple[int, ...]
    rescale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tokens: int
    parity: Parity | None

    def __post_init__(self) -> None:
        for name, sizes, counts in (("resize", self.resize, (0, 1, 2)), ("crop", self.crop, (0, 2))):
            whole = len(sizes) in counts and min(sizes, default=1) >= 1
            require(whole and max(sizes, default=1) <= _MAX_IMAGE_EDGE, f"{name}: {list(sizes)!r:.80} is no size")
        require(self.resample in RESAMPLES, f"resample: {self.resample!r} is none of {', '.join(RESAMPLES)}")
        require(len(self.mean) == len(self.std) == 3, "mean, std: not three numbers each")
        require(0 not in self.std, "std: holds a zero")
        numbers = [abs(number) for number in (self.rescale, *self.mean, *self.std)]
        fitting = max(numbers) <= _MAX_IMAGE_NUMBER and min(map(abs, self.std)) >= 1 / _MAX_IMAGE_NUMBER
        require(fitting, "rescale, mean, std: hold a number that no image needs")
        require(self.tokens >= 1, f"tokens: {self.tokens} is below 1")
