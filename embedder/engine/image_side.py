"""The image side of a model: decode and prepare images in threads, run batches, return vectors in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.image_settings import ImageSettings
from embedder.artifact.manifest import IMAGE_INPUTS, Output
from embedder.backends import Backend
from embedder.common.executor import TaskQueue
from embedder.engine.job import Job
from embedder.engine.memory import MemoryLimit, errors_at
from embedder.engine.outputs import fixed_shape, values_of
from embedder.errors import InputError
from embedder.images.preprocessor import Preprocessor

# Larger batches do not use a GPU better, and each image takes megabytes.
_MAX_BATCH_IMAGES = 64
# On a GPU, so many images are decoded in a task: their threads wait for Python less often than for single images.
_DECODED_TOGETHER = 4

# The row of an image and its pixels, float32 (3, height, width).
_Decoded: TypeAlias = tuple[int, NDArray[np.float32]]


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
        self._limit = MemoryLimit()

    def run(self, images: list[Any], output: Output, job: Job) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Return the vectors of `images`, and the reasons why images could not be read.

        On a CPU, each thread decodes its batch and then runs it, so some threads decode while others run the graph. On
        a GPU, which runs a batch in less time than a thread decodes an image, all threads decode images of one batch.
        Each image is removed from `images` when it is used. So only a few batches are in memory.

        Args:
            images: sources of images. The list is emptied.
            output: the output of the graph to return.
            job: the request.

        Returns:
            float32 (images, dimension), with rows of zeros for images that could not be read; and the reasons by row.

        Raises:
            ArtifactError: the graph fails, or its result has another shape.
            InputMemoryError: the device has too little memory for one of the images alone.
            DependencyError: Pillow is not installed.
        """
        run = _ImageRun(self, images, output, job)
        if self._backend.device.preparing_threads:
            run.decode_ahead()
        else:
            run.decode_and_run()
        return run.vectors, {row: run.reasons[row] for row in sorted(run.reasons)}

    def decode(self, image: Any) -> NDArray[np.float32]:
        """Return the pixels of an image as the graph takes them. Raises InputError if it cannot be read."""
        return self._preprocessor(image)

    def run_batch(self, pixels: Sequence[NDArray[np.float32]], output: Output, *, single: bool) -> NDArray[np.float32]:
        """Return the vectors of decoded images, float32 (images, dimension).

        Raises:
            ArtifactError, InputMemoryError: as in `run`.
        """
        found = []

        def run(start: int, stop: int) -> None:
            feeds = {IMAGE_INPUTS[0]: np.stack(pixels[start:stop])}
            outputs = self._backend.run(feeds, single_batch=single)
            found.append(values_of(outputs, output.name, (stop - start, *fixed_shape(output))))

        self._limit.run(0, len(pixels), lambda start, stop: (stop - start) * self._tokens_per_image, run)
        return found[0] if len(found) == 1 else np.concatenate(found)

    def batch_size(self, images: int, largest: int | None) -> int:
        """Return the number of images of a batch, for a request of `images` that wants at most `largest`."""
        device = self._backend.device
        budget = min(device.token_budget, self._limit.tokens)
        size = min(largest or _MAX_BATCH_IMAGES, max(1, budget // self._tokens_per_image))
        if device.preparing_threads:  # to decode them takes so long that small batches would not help
            return size
        return max(1, min(size, -(-images // device.threads)))  # few images are divided among the threads


class _ImageRun:
    """The images of a window.

    Attributes:
        vectors: float32 (images, dimension), zeros until they are there.
        reasons: why an image could not be read, by row.
    """

    def __init__(self, side: ImageSide, images: list[Any], output: Output, job: Job) -> None:
        self._side, self._images, self._output, self._job = side, images, output, job
        self.vectors = np.zeros((len(images), *fixed_shape(output)), np.float32)
        self.reasons: dict[int, str] = {}
        self._size = side.batch_size(len(images), job.batch_size)

    def decode_and_run(self) -> None:
        """Decode and run each batch in one thread."""
        starts = range(0, len(self._images), self._size)
        single = len(starts) == 1

        def run(start: int) -> int:
            rows = range(start, min(start + self._size, len(self._images)))
            self._run(self._decode(rows), single=single)
            return len(rows)

        for count in map(run, starts) if single else self._job.executor.map(run, starts):
            self._job.advance(count)

    def decode_ahead(self) -> None:
        """Decode images in all threads, and run batches as soon as they are full."""
        executor, count = self._job.executor, len(self._images)
        size = max(1, min(_DECODED_TOGETHER, -(-count // executor.threads)))
        groups = [range(start, min(start + size, count)) for start in range(0, count, size)]
        runs: TaskQueue[None] = TaskQueue(executor)
        batch: list[_Decoded] = []
        try:
            decoded = executor.map(self._decode, groups, ahead=2 * executor.threads)
            for rows, images in zip(groups, decoded, strict=True):
                batch += images
                self._job.advance(len(rows))
                while len(batch) >= self._size:
                    runs.submit(self._run, batch[: self._size])
                    del batch[: self._size]
                    if len(runs) > executor.threads:
                        runs.result()
            if batch:
                runs.submit(self._run, batch)
            while runs:
                runs.result()
        finally:
            runs.close()

    def _decode(self, rows: Iterable[int]) -> list[_Decoded]:
        """Return the pixels of images with their rows, without the images that cannot be read."""
        decoded = []
        for row in rows:
            image, self._images[row] = self._images[row], None
            try:
                decoded.append((row, self._side.decode(image)))
            except InputError as error:
                self.reasons[row] = str(error)
        return decoded

    def _run(self, decoded: list[_Decoded], *, single: bool = False) -> None:
        if decoded:
            rows, pixels = zip(*decoded, strict=True)
            with errors_at(rows.__getitem__):
                self.vectors[list(rows)] = self._side.run_batch(pixels, self._output, single=single)
