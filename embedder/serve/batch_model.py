"""A model as the batcher sees it: it makes one row of numbers of each text, pair of texts or image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedder.common.records import frozen
from embedder.inputs import TokenizedText

if TYPE_CHECKING:
    from embedder.cross_encoder import CrossEncoder
    from embedder.encoder import Embedder
    from embedder.engine.batching import BatchLimits

Vector: TypeAlias = NDArray[np.float32]


class UnreadableImage(Exception):  # noqa: N818 (the Batcher makes an ImageError of it, which has the caller's index)
    """An image cannot be read. The message says why.

    Example:
        >>> str(UnreadableImage("it is cut off"))
        'it is cut off'
    """


class BatchModel(Protocol):
    """A model whose batches the server makes. Safe to call from many threads at once."""

    @property
    def row_size(self) -> int:
        """Number of numbers that an input gets: the dimension of a vector, or the number of labels."""

    @property
    def batch_limits(self) -> BatchLimits:
        """What makes a good batch on the device."""

    def run(self, texts: Sequence[TokenizedText], *, single_thread: bool) -> NDArray[np.float32]:
        """Return the rows of a batch of texts or pairs, float32 (n, row_size)."""

    def run_images(self, images: Sequence[bytes]) -> NDArray[np.float32]:
        """Return the rows of images, float32 (n, row_size). Raise UnreadableImage if one cannot be read."""


@frozen
class BatchedEmbedder:
    """An `Embedder` whose batches the server makes. A row is a whole vector of the model.

    Attributes:
        model: the model.
    """

    model: Embedder

    @property
    def row_size(self) -> int:
        """The dimension of a vector."""
        return self.model.manifest.dimension

    @property
    def batch_limits(self) -> BatchLimits:
        """What makes a good batch on the device."""
        return self.model.batch_limits

    def run(self, texts: Sequence[TokenizedText], *, single_thread: bool) -> NDArray[np.float32]:
        """Return the vectors of texts, float32 (n, dimension)."""
        return self.model.encode_batch(texts, single_thread=single_thread, truncate_dim=self.row_size)

    def run_images(self, images: Sequence[bytes]) -> NDArray[np.float32]:
        """Return the vectors of images, float32 (n, dimension). Raise UnreadableImage if one cannot be read."""
        result = self.model.encode_readable(images, truncate_dim=self.row_size)
        if result.reasons:
            raise UnreadableImage(next(iter(result.reasons.values())))
        return result.embeddings


@frozen
class BatchedCrossEncoder:
    """A `CrossEncoder` whose batches the server makes. A row has the raw scores of a pair.

    Attributes:
        model: the model.
    """

    model: CrossEncoder

    @property
    def row_size(self) -> int:
        """Number of labels."""
        return self.model.label_count

    @property
    def batch_limits(self) -> BatchLimits:
        """What makes a good batch on the device."""
        return self.model.batch_limits

    def run(self, texts: Sequence[TokenizedText], *, single_thread: bool) -> NDArray[np.float32]:
        """Return the raw scores of pairs, float32 (n, labels)."""
        return self.model.predict_batch(texts, single_thread=single_thread)

    def run_images(self, images: Sequence[bytes]) -> NDArray[np.float32]:
        """Raise UnreadableImage. The batcher never asks, because the model takes no images."""
        raise UnreadableImage("a cross-encoder takes no images")
