"""The image side of a model: images decoded and prepared in threads, batches of a token budget, vectors in order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.manifest import IMAGE_INPUTS, ImageSettings, Output
from embedder.backends import Backend
from embedder.engine.job import Job, fixed_shape
from embedder.errors import InputError
from embedder.images.preprocessor import Preprocessor

# More images in a batch would not keep a GPU busier, and each takes megabytes.
_MAX_BATCH_IMAGES = 64


class ImageSide:
    """A graph of images with what prepares them, loaded. Safe to call from many threads."""

    def __init__(self, backend: Backend, settings: ImageSettings) -> None:
        self._backend = backend
        self._preprocessor = Preprocessor(settings)
        self._tokens_per_image = settings.tokens

    def run(self, images: list[Any], output: Output, job: Job) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Return the vectors of `images`, and the reasons why images could not be read.

        A thread decodes a batch and runs it while other threads decode theirs, so that the processor never waits for a
        decoder. No more images are in memory than threads times a batch: each is dropped from `images` once it is used.

        Returns:
            float32 (images, dimension), with rows of zeros for images that could not be read; and the reasons by row.
        """
        vectors = np.zeros((len(images), *fixed_shape(output)), np.float32)
        failures: dict[int, str] = {}
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
                    failures[row] = str(error)
            if rows:
                feeds = {IMAGE_INPUTS[0]: np.stack(pixels)}
                vectors[rows] = self._backend.run(feeds, single_batch=single)[output.name]
            return end - start

        for count in map(run, starts) if single else job.executor.map(run, starts):
            job.advance(count)
        return vectors, {row: failures[row] for row in sorted(failures)}

    def _batch_size(self, images: int, ceiling: int | None) -> int:
        device = self._backend.device
        size = min(ceiling or _MAX_BATCH_IMAGES, max(1, device.token_budget // self._tokens_per_image))
        return max(1, min(size, -(-images // device.threads)))  # little work is shared among the threads
