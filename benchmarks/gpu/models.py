"""The models of the GPU benchmark: their sizes, their workloads, and the work that an input costs.

all-MiniLM-L6-v2 has its real weights. The others have the sizes of published models, and random weights from a fixed
seed. Speed does not depend on the weights.
"""

from dataclasses import dataclass

MINILM = "all-MiniLM-L6-v2"
# The edges of CLIP's images and of their patches, in pixels.
CLIP_SIDE, CLIP_PATCH = 224, 32
# The tokens of an image: its patches and the class token.
IMAGE_TOKENS = (CLIP_SIDE // CLIP_PATCH) ** 2 + 1
# The workloads with images: from files, and decoded and in the model's size.
IMAGE_WORKLOADS = ("images", "arrays")


@dataclass(frozen=True)
class Tower:
    """The sizes of a transformer."""

    layers: int
    width: int
    inner: int

    def operations(self, tokens):
        """Return the floating-point operations of an input of `tokens` tokens.

        Counts the matrix products of the linear layers and of attention. A multiplication and an addition count as two.
        """
        weights = 4 * self.width**2 + 2 * self.width * self.inner
        return self.layers * (2 * weights * tokens + 4 * self.width * tokens**2)


@dataclass(frozen=True)
class Model:
    """A model that is measured.

    Attributes:
        text: the sizes of the transformer of texts.
        counts: the number of inputs of each workload.
        image: the sizes of the transformer of images, if there is one.
    """

    text: Tower
    counts: dict[str, int]
    image: Tower | None = None


BASE = Tower(12, 768, 3072)
# So many inputs that a run of all models and programs takes some five minutes on an H100.
MODELS = {
    MINILM: Model(Tower(6, 384, 1536), {"short": 20_000, "long": 2000, "mixed": 6740}),
    "MPNet-base": Model(BASE, {"short": 8000, "long": 1000, "mixed": 3000}),
    "XLM-R-base": Model(BASE, {"short": 8000, "long": 1000, "mixed": 3000}),
    "bge-m3": Model(Tower(24, 1024, 4096), {"short": 4000, "very long": 120, "mixed": 1000}),
    "CLIP-B-32": Model(Tower(12, 512, 2048), {"short": 8000, "images": 300, "arrays": 600}, BASE),
}
