"""`Batcher`: concurrent requests share batches of one model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from embedder.common.records import frozen
from embedder.errors import ImageError, InputError
from embedder.inputs import TokenizedText
from embedder.serve.errors import RequestRefused

if TYPE_CHECKING:
    from embedder.encoder import Embedder


@frozen
class BatcherSettings:
    """The limits of a `Batcher`.

    Attributes:
        queue_size: most texts and images that wait or are computed, of all requests.
        queue_bytes: most bytes of their token ids and images.
        cache_size: number of vectors of recent texts and images that are kept. 0 keeps none.
        token_budget: most tokens of a batch, padding included. None takes the token budget of the device.
    """

    queue_size: int = 16_384
    queue_bytes: int = 256_000_000
    cache_size: int = 0
    token_budget: int | None = None


@frozen
class BatchReport:
    """What is known of a batch that has run.

    Attributes:
        items: number of texts and images.
        tokens: number of their tokens, without padding.
        queue_s: for each text or image, the seconds that it waited in the queue.
        compute_s: seconds that the batch took.
        failed: whether the model raised an error.
    """

    items: int
    tokens: int
    queue_s: tuple[float, ...]
    compute_s: float
    failed: bool


@frozen
class RequestReport:
    """What is known of a request that was accepted, when it has ended.

    Attributes:
        items: number of texts and images.
        tokens: number of tokens of the texts.
        cut: number of texts that the model did not read whole.
        cached: number of items whose vectors were in the cache.
        shared: number of items that had a copy in this request or in another one that was not yet answered.
        outcome: "answered", "failed", "timeout" or "cancelled".
    """

    items: int
    tokens: int
    cut: int
    cached: int
    shared: int
    outcome: str


class Observer(Protocol):
    """Hears of what a `Batcher` does. It is called in the thread of the event loop, and must not raise."""

    def batch_ended(self, report: BatchReport) -> None:
        """Hear of a batch that has run."""

    def request_ended(self, report: RequestReport) -> None:
        """Hear of an accepted request that was answered, failed, or was given up."""

    def request_refused(self, code: str) -> None:
        """Hear of a request that was not accepted: "queue_full" or "stopping"."""


class Batcher:
    """Shares the batches of one model among concurrent requests. Its methods belong to one event loop.

    Example:
        >>> batcher = Batcher(model)  # doctest: +SKIP
        >>> texts = model.tokenize_texts(["a text", "another"])  # doctest: +SKIP
        >>> asyncio.run(batcher.encode(texts)).shape  # doctest: +SKIP
        (2, 384)
    """

    def __init__(
        self, model: Embedder, settings: BatcherSettings | None = None, observer: Observer | None = None
    ) -> None:
        """Prepare to encode. Threads start with the first request.

        Args:
            model: the model.
            settings: the limits. None takes the defaults.
            observer: hears of batches and requests.
        """
        self._model = model
        self._settings = settings or BatcherSettings()
        self._observer = observer
        self._stopping = False
        self._depth = 0

    @property
    def queue_depth(self) -> int:
        """Number of texts and images that wait or are computed."""
        return self._depth

    async def encode(
        self, items: Sequence[TokenizedText | bytes], *, deadline_s: float | None = None
    ) -> NDArray[np.float32]:
        """Return the model's vectors, float32 (n, the model's dimension), before `truncate_dim` and normalising.

        Args:
            items: texts, as `Embedder.tokenize_texts` returns them; and images as bytes, if the model takes them.
            deadline_s: seconds from now on after which the answer is of no use. None waits as long as it takes.

        Raises:
            RequestRefused: 429 "queue_full", there is no room for the request, `retry_after_s` says when to ask again;
                503 "stopping", the server ends; 504 "timeout", the deadline has passed.
            ImageError: an image could not be read. `reasons` says which one and why.
            InputError: the model takes no images.
            EmbedderError: the model failed.
        """
        if self._stopping:
            raise RequestRefused(503, "stopping", "the server is ending. Ask another one, or try again later")
        self._depth += len(items)
        try:
            return await asyncio.wait_for(asyncio.to_thread(self._encode, items), deadline_s)
        except TimeoutError:
            raise RequestRefused(504, "timeout", f"there was no answer within {deadline_s} s") from None
        finally:
            self._depth -= len(items)

    def _encode(self, items: Sequence[TokenizedText | bytes]) -> NDArray[np.float32]:
        dimension = self._model.manifest.dimension
        vectors = np.empty((len(items), dimension), np.float32)
        for row, item in enumerate(items):
            if isinstance(item, TokenizedText):
                vectors[row] = self._model.encode_batch([item], truncate_dim=dimension)[0]
            elif "image" not in self._model.modalities:
                raise InputError("this model takes no images")
            else:
                result = self._model.encode_readable([item], truncate_dim=dimension)
                if result.reasons:
                    raise ImageError({row: result.reasons[0]}, np.empty(0, np.int64), vectors[:0])
                vectors[row] = result.embeddings[0]
        return vectors

    async def drain(self) -> None:
        """Refuse new requests, answer those that were accepted, and end the threads."""
        self._stopping = True
        while self._depth:
            await asyncio.sleep(0.01)
