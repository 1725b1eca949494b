"""The image side of a model: decode and prepare images in threads, run batches, return vectors in order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.image_settings import ImageSettings
from embedder.artifact.manifest import IMAGE_INPUTS, Output
from embedder.backends import Backend
from embedder.engine.job import Job
from embedder.engine.outputs import fixed_shape, values_of
from embedder.errors import InputError
from embedder.images.preprocessor import Preprocessor

# Larger batches do not use a GPU better, and each image takes megabytes.
_MAX_BATCH_IMAGES = 64


class ImageSide:
    """A loaded graph of images and its preprocessor. Safe to call from many threads.

    Example:
        >>> ImageSide(backend, settings).run([Path("cat.png")], output, job)[0].shape  # doctest: +SKIP
        (1, 512)
    """

    def __init__(self, backend: Backend, settings: ImageSettings) -> None:
        self._backend = backend
        self._preprocessor = Preprocessor(settings)
        self._tokens_per_image = settings.tokens

    def run(self, images: list[Any], output: Output, job: Job) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Return the vectors of `images`, and the reasons why images could not be read.

        Each thread decodes its batch and then runs it, so some threads decode while others run the graph. Each image is
        removed from `images` when it is used. So at most one batch for each thread is in memory.

        Args:
            images: sources of images. The list is emptied.
            output: the output of the graph to return.
            job: the request.

        Returns:
            float32 (images, dimension), with rows of zeros for images that could not be read; and the reasons by row.

        Raises:
            ArtifactError: the graph fails, or its result has another shape.
            DependencyError: Pillow is not installed.
        """
        shape = fixed_shape(output)
        vectors = np.zeros((len(images), *shape), np.float32)
        reasons: dict[int, str] = {}
        size = self._batch_size(len(images), job.batch_size)
        starts = range(0, len(images), size)
        single = len(starts) == 1

        def run(start: int) -> int:
            rows, pixels = [], []
            end = min(start + size, len(images))
            for row in range(start, end):
                image, images[row] = images[row], None
                try:
                    pixels.append(self._preprocessor(image))
                    rows.append(row)
                except InputError as error:
                    reasons[row] = str(error)
            if rows:
                feeds = {IMAGE_INPUTS[0]: np.stack(pixels)}
                outputs = self._backend.run(feeds, single_batch=single)
                vectors[rows] = values_of(outputs, output.name, (len(rows), *shape))
            return end - start

        for count in map(run, starts) if single else job.executor.map(run, starts):
            job.advance(count)
        return vectors, {row: reasons[row] for row in sorted(reasons)}

    def _batch_size(self, images: int, largest: int | None) -> int:
        device = self._backend.device
        size = min(largest or _MAX_BATCH_IMAGES, max(1, device.token_budget // self._tokens_per_image))
        return max(1, min(size, -(-images // device.threads)))  # few images are divided among the threads
