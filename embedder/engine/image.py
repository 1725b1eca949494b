"""The image side of a model: images decoded and prepared in threads, batches of a token budget, vectors in order."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.manifest import IMAGE_INPUTS
from embedder.backends.session import Session
from embedder.engine.preprocessing import Preprocessor
from embedder.errors import InputError

# In a batch: more would not keep a GPU busier, and each has megabytes of pixels.
_MOST_IMAGES = 64


class ImageModel:
    """An image graph with what prepares images for it, loaded. Safe to call from many threads at once."""

    def __init__(self, session: Session, preprocessor: Preprocessor, tokens: int, dimension: int) -> None:
        self.session = session
        self._preprocessor = preprocessor
        self._tokens = tokens
        self._dimension = dimension

    def embed(
        self,
        images: list[Any],
        batch_size: int | None,
        pool: ThreadPoolExecutor,
        advance: Callable[[int], None],
    ) -> tuple[NDArray[np.float32], dict[int, str]]:
        """The embeddings, float32 (n, dim), of `images`, which are dropped from the list as they are used.

        A batch is decoded and run in one thread while others are in others, so that neither waits for the other, and
        no more images are in memory than there are threads times a batch.

        Returns:
            The embeddings, and what was wrong with each image that could not be read, by its row, which is zero.
        """
        embeddings = np.zeros((len(images), self._dimension), np.float32)
        failures: dict[int, str] = {}
        size = min(batch_size or _MOST_IMAGES, max(1, self.session.token_budget // self._tokens))
        size = min(size, -(-len(images) // self.session.threads))  # each thread gets its share of little work
        starts = range(0, len(images), max(1, size))

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
                inputs = {IMAGE_INPUTS[0]: np.stack(pixels)}
                embeddings[rows] = self.session.run(inputs, len(rows) * self._tokens, alone=len(starts) == 1)
            return end - start

        for count in map(run, starts) if len(starts) == 1 else pool.map(run, starts):
            advance(count)
        return embeddings, failures
