"""The image side of a model: decode and prepare images in threads, run batches, return vectors in order."""

from __future__ import annotations

from collections import deque
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
        >>> ImageSide(backend, settings).start([Path("cat.png")], output, job).finish()[0].shape  # doctest: +SKIP
        (1, 512)
    """

    def __init__(self, backend: Backend, settings: ImageSettings) -> None:
        self._backend = backend
        self._preprocessor = Preprocessor(settings)
        self._tokens_per_image = settings.tokens
        self._limit = MemoryLimit()

    @property
    def decodes_ahead(self) -> bool:
        """Whether all threads decode images of one batch, because the device runs it faster than one thread decodes."""
        return self._backend.device.preparing_threads > 0

    def start(self, images: list[Any], output: Output, job: Job) -> ImageRun:
        """Start to compute the vectors of `images`, sources of images. The list is emptied."""
        return ImageRun(self, images, output, job)

    def decode(self, image: Any) -> NDArray[np.float32]:
        """Return the pixels of an image as the graph takes them. Raises InputError if it cannot be read."""
        return self._preprocessor(image)

    def run_batch(self, pixels: Sequence[NDArray[np.float32]], output: Output, *, single: bool) -> NDArray[np.float32]:
        """Return the vectors of decoded images, float32 (images, dimension).

        Raises:
            ArtifactError: the graph fails, or its result has another shape.
            InputMemoryError: the device has too little memory for one of the images alone.
        """
        found = []

        def run(start: int, stop: int) -> None:
            feeds = {IMAGE_INPUTS[0]: np.stack(pixels[start:stop])}
            outputs = self._backend.run(feeds, single_batch=single)
            part = values_of(outputs, output.name, (stop - start, *fixed_shape(output)))
            # The next call may overwrite an array of the backend's own.
            found.append(part if len(part) == len(pixels) else np.array(part))

        self._limit.run(0, len(pixels), lambda start, stop: (stop - start) * self._tokens_per_image, run)
        return found[0] if len(found) == 1 else np.concatenate(found)

    def batch_size(self, images: int, largest: int | None) -> int:
        """Return the number of images of a batch, for a request of `images` that wants at most `largest`."""
        device = self._backend.device
        budget = min(device.token_budget, self._limit.tokens)
        size = min(largest or _MAX_BATCH_IMAGES, max(1, budget // self._tokens_per_image))
        if self.decodes_ahead:  # to decode them takes so long that small batches would not help
            return size
        return max(1, min(size, -(-images // device.threads)))  # few images are divided among the threads


class ImageRun:
    """The images of some windows.

    On a CPU, each thread decodes its batch and then runs it, so some threads decode while others run the graph. On a
    GPU, all threads decode images, and a batch runs as soon as it is full. Each image is removed from the list when it
    is used. So only a few batches are in memory.
    """

    def __init__(self, side: ImageSide, images: list[Any], output: Output, job: Job) -> None:
        """Start to decode, on a GPU. On a CPU the work starts when the result is wanted."""
        self._side, self._images, self._output, self._job = side, images, output, job
        self._vectors = np.zeros((len(images), *fixed_shape(output)), np.float32)
        self._reasons: dict[int, str] = {}
        self._size = side.batch_size(len(images), job.batch_size)
        self._decoding: TaskQueue[list[_Decoded]] = TaskQueue(job.executor)
        self._groups: deque[range] = deque()
        if side.decodes_ahead:
            size = max(1, min(_DECODED_TOGETHER, -(-len(images) // job.executor.threads)))
            self._groups.extend(range(start, min(start + size, len(images))) for start in range(0, len(images), size))
            self._decode_ahead()

    def finish(self) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Wait for all images.

        Returns:
            float32 (images, dimension), with rows of zeros for images that could not be read; and the reasons by row.

        Raises:
            ArtifactError, InputMemoryError: as in `ImageSide.run_batch`.
            DependencyError: Pillow is not installed.
        """
        if self._side.decodes_ahead:
            self._run_full_batches()
        else:
            self._decode_and_run()
        return self._vectors, {row: self._reasons[row] for row in sorted(self._reasons)}

    def cancel(self) -> None:
        """Cancel what has not started."""
        self._groups.clear()
        self._decoding.cancel()

    def _decode_and_run(self) -> None:
        """Decode and run each batch in one thread."""
        starts = range(0, len(self._images), self._size)
        single = len(starts) == 1

        def run(start: int) -> int:
            rows = range(start, min(start + self._size, len(self._images)))
            self._run(self._decode(rows), single=single)
            return len(rows)

        for count in map(run, starts) if single else self._job.executor.map(run, starts):
            self._job.advance(count)

    def _decode_ahead(self) -> None:
        """Keep all threads busy with decoding. Decoded images are large, so only a few wait to be run."""
        while self._groups and len(self._decoding) < 2 * self._job.executor.threads:
            self._decoding.submit(self._decode, self._groups.popleft())

    def _run_full_batches(self) -> None:
        """Run batches as soon as they are full."""
        runs: TaskQueue[int] = TaskQueue(self._job.executor)
        batch: list[_Decoded] = []
        try:
            while self._decoding:
                batch += self._decoding.result()
                self._decode_ahead()
                while len(batch) >= self._size:
                    runs.submit(self._run, batch[: self._size])
                    del batch[: self._size]
                    if len(runs) > self._job.executor.threads:
                        self._job.advance(runs.result())
            runs.submit(self._run, batch)
            while runs:
                self._job.advance(runs.result())
        finally:
            self._decoding.close()
            runs.close()
        self._job.advance(len(self._reasons))

    def _decode(self, rows: Iterable[int]) -> list[_Decoded]:
        """Return the pixels of images with their rows, without the images that cannot be read."""
        decoded = []
        for row in rows:
            image, self._images[row] = self._images[row], None
            try:
                decoded.append((row, self._side.decode(image)))
            except InputError as error:
                self._reasons[row] = str(error)
        return decoded

    def _run(self, decoded: list[_Decoded], *, single: bool = False) -> int:
        """Run decoded images as one batch. Return their number."""
        if decoded:
            rows, pixels = zip(*decoded, strict=True)
            with errors_at(rows.__getitem__):
                self._vectors[list(rows)] = self._side.run_batch(pixels, self._output, single=single)
        return len(decoded)
