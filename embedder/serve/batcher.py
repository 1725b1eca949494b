"""`Batcher`: concurrent requests share batches of one model.

    request ──▶ limits ▸ cache ▸ copies that are not answered yet ▸ fair queue ──▶ compute threads ──▶ rows of requests

The event loop has the requests, and the threads have the queue. A batch goes back to the loop in one call.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedder.common.records import frozen
from embedder.errors import ImageError, InputError
from embedder.inputs import TokenizedText
from embedder.serve.batch_model import BatchModel, UnreadableImage, Vector
from embedder.serve.compute import BatchResult, ComputeThreads
from embedder.serve.errors import RequestRefused
from embedder.serve.jobs import Job, Key, OpenRequest, key_of, size_of
from embedder.serve.work_rate import WorkRate

# The event loop itself makes the keys of items of so many bytes. That takes about a millisecond.
_MAX_LOOP_BYTES = 1_000_000


@frozen
class BatcherSettings:
    """The limits of a `Batcher`.

    Attributes:
        queue_size: most texts and images that wait or are computed, of all requests.
        queue_bytes: most bytes of their token ids, token type ids and images.
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
        >>> batcher = Batcher(BatchedEmbedder(model))  # doctest: +SKIP
        >>> texts = model.tokenize_texts(["a text", "another"])  # doctest: +SKIP
        >>> asyncio.run(batcher.encode(texts)).shape  # doctest: +SKIP
        (2, 384)
    """

    def __init__(
        self, model: BatchModel, settings: BatcherSettings | None = None, observer: Observer | None = None
    ) -> None:
        """Prepare to encode. Threads start with the first request.

        Args:
            model: the model.
            settings: the limits. None takes the defaults.
            observer: hears of batches and requests.
        """
        self._settings = settings or BatcherSettings()
        self._observer = observer
        self._row_size = model.row_size
        limits = model.batch_limits
        self._tokens_per_image, self._padded_tokens = limits.tokens_per_image, limits.padded_tokens
        self._threads = ComputeThreads(model, self._settings.token_budget, self._deliver)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._jobs: dict[Key, Job] = {}  # those that have not ended
        self._cache: OrderedDict[Key, Vector] = OrderedDict()  # the vectors that were used last are at the end
        self._rate = WorkRate()
        self._stopping = False
        self._depth = self._bytes = 0  # of the open requests
        self._tokens = 0  # of the jobs
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def queue_depth(self) -> int:
        """Number of texts and images that wait or are computed."""
        return self._depth

    async def encode(
        self, items: Sequence[TokenizedText | bytes], *, deadline_s: float | None = None
    ) -> NDArray[np.float32]:
        """Return the model's rows, float32 (n, row_size): whole vectors, or the raw scores of pairs.

        Args:
            items: texts, as `Embedder.tokenize_texts` returns them; or pairs, as `CrossEncoder.tokenize_pairs` does; or
                images as bytes, if the model takes them.
            deadline_s: seconds from now on after which the answer is of no use. None waits as long as it takes.

        Raises:
            RequestRefused: 429 "queue_full", there is no room for the request, `retry_after_s` says when to ask again;
                503 "stopping", the server ends; 504 "timeout", the deadline has passed.
            ImageError: an image could not be read. `reasons` says which one and why.
            InputError: the model takes no images.
            EmbedderError: the model failed.
        """
        loop = asyncio.get_running_loop()
        self._bind(loop)
        size = self._admit(items)
        request = OpenRequest(len(items), self._row_size, size, loop)
        self._open(request)
        timer = None if deadline_s is None else loop.call_later(deadline_s, _fail_late, request, deadline_s)
        outcome = "failed"
        try:
            self._put(request, items, await _keys_of(items, size))
            if request.missing:
                await request.future
            outcome = "answered"
            return request.vectors
        except RequestRefused:
            outcome = "timeout"
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            if timer is not None:
                timer.cancel()
            request.end()
            self._close(request, outcome)

    async def drain(self) -> None:
        """Refuse new requests, answer those that were accepted, and end the threads."""
        self._stopping = True
        await self._empty.wait()
        self._threads.stop()
        await asyncio.to_thread(self._threads.join)

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make `loop` the one that the batcher works for. Requests of a loop that has been closed are forgotten."""
        if self._loop is loop:
            return
        if self._loop is not None and self._depth and not self._loop.is_closed():
            raise RuntimeError("a Batcher has requests of another event loop")
        self._threads.withdraw(self._jobs.values())
        self._loop, self._jobs = loop, {}
        self._depth = self._bytes = self._tokens = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def _admit(self, items: Sequence[TokenizedText | bytes]) -> int:
        """Return the bytes of the items of a request, or refuse the request."""
        if self._stopping:
            self._refused("stopping")
            raise RequestRefused(503, "stopping", "the server is ending. Ask another one, or ask again later")
        if self._tokens_per_image is None and any(isinstance(item, bytes) for item in items):
            raise InputError("the model takes no images")
        size = sum(map(size_of, items))
        settings = self._settings
        full = self._depth + len(items) > settings.queue_size or self._bytes + size > settings.queue_bytes
        if full and self._depth:  # a request that is larger than the queue has it alone
            self._refused("queue_full")
            wait_s = self._rate.seconds_for(self._tokens)
            raise RequestRefused(
                429,
                "queue_full",
                f"the queue is full: it has {self._depth:,} inputs of at most {settings.queue_size:,}. Ask again later",
                retry_after_s=wait_s,
            )
        return size

    def _refused(self, code: str) -> None:
        if self._observer is not None:
            self._observer.request_refused(code)

    def _open(self, request: OpenRequest) -> None:
        self._depth += len(request.vectors)
        self._bytes += request.bytes
        if self._depth:
            self._empty.clear()

    def _close(self, request: OpenRequest, outcome: str) -> None:
        """Forget a request that has ended. Drop those of its jobs that have not started and that nobody else wants."""
        if outcome != "answered":
            self._leave_jobs(request)
        self._depth -= len(request.vectors)
        self._bytes -= request.bytes
        if not self._depth:
            self._empty.set()
        if self._observer is not None:
            self._observer.request_ended(
                RequestReport(
                    len(request.vectors), request.tokens, request.cut, request.cached, request.shared, outcome
                )
            )

    def _leave_jobs(self, request: OpenRequest) -> None:
        for job in request.jobs:
            job.waiting = [(other, row) for other, row in job.waiting if other is not request]
        unwanted = [job for job in request.jobs if not job.waiting]
        withdrawn = self._threads.withdraw(unwanted)
        for job in (*withdrawn, *(job for job in unwanted if job.entry is None)):
            self._forget(job)

    def _put(self, request: OpenRequest, items: Sequence[TokenizedText | bytes], keys: Sequence[Key]) -> None:
        """Take rows from the cache. Put the other items into the queue, except copies of those that are there."""
        now = perf_counter()
        self._rate.start(now, idle=not self._jobs)
        new: list[Job] = []
        shared: list[Job] = []
        for row, (item, key) in enumerate(zip(items, keys, strict=True)):
            if isinstance(item, TokenizedText):
                request.tokens += len(item)
                request.cut += item.cut
            if (vector := self._cached(key)) is not None:
                request.cached += 1
                request.set(row, vector)
                continue
            job = self._jobs.get(key)
            if job is None:
                job = self._jobs[key] = Job(item, key, self._tokens_of(item), now)
                self._tokens += job.tokens
                new.append(job)
            else:
                shared.append(job)
            if not (job.waiting and job.waiting[-1][0] is request):
                request.jobs.append(job)
            job.waiting.append((request, row))
        request.shared = len(shared)
        if new or shared:
            self._threads.put(new, shared)

    def _forget(self, job: Job) -> None:
        """Note that a job has ended. It may be of an event loop that was closed, and forgotten already."""
        if self._jobs.get(job.key) is job:
            del self._jobs[job.key]
            self._tokens -= job.tokens

    def _tokens_of(self, item: TokenizedText | bytes) -> int:
        return max(self._padded_tokens, len(item)) if isinstance(item, TokenizedText) else self._tokens_per_image or 1

    def _cached(self, key: Key) -> Vector | None:
        vector = self._cache.get(key) if self._cache else None
        if vector is not None:
            self._cache.move_to_end(key)
        return vector

    def _deliver(self, result: BatchResult) -> None:
        """Hand a batch to the event loop. A compute thread calls this."""
        loop = self._loop
        assert loop is not None  # a request has been accepted
        with suppress(RuntimeError):  # the loop has been closed, so that nobody waits
            loop.call_soon_threadsafe(self._take, result)

    def _take(self, result: BatchResult) -> None:
        """Give each request of a batch its rows."""
        for job, outcome in zip(result.jobs, result.outcomes, strict=True):
            self._forget(job)
            for request, row in job.waiting:
                if isinstance(outcome, np.ndarray):
                    request.set(row, outcome)
                else:
                    request.fail(_error_of(outcome, row))
            if isinstance(outcome, np.ndarray):
                self._remember(job.key, outcome)
        tokens = sum(job.tokens for job in result.jobs)
        self._rate.add(tokens, result.ended)
        if self._observer is not None:
            queue_s = tuple(result.started - job.put_at for job in result.jobs)
            compute_s = result.ended - result.started
            self._observer.batch_ended(BatchReport(len(result.jobs), tokens, queue_s, compute_s, result.failed))

    def _remember(self, key: Key, vector: Vector) -> None:
        if self._settings.cache_size:
            self._cache[key] = vector.copy()  # a row would keep the vectors of its batch
            self._cache.move_to_end(key)
            if len(self._cache) > self._settings.cache_size:
                self._cache.popitem(last=False)


async def _keys_of(items: Sequence[TokenizedText | bytes], size: int) -> list[Key]:
    """Return the keys of the items of a request. A thread makes those of many bytes, so that the loop serves others."""
    if size <= _MAX_LOOP_BYTES:
        return list(map(key_of, items))
    return await asyncio.to_thread(lambda: list(map(key_of, items)))


def _fail_late(request: OpenRequest, deadline_s: float) -> None:
    request.fail(
        RequestRefused(504, "timeout", f"there was no answer within {deadline_s:g} s. Send fewer texts at a time")
    )


def _error_of(error: BaseException, row: int) -> BaseException:
    """Return the error for the request that has the failed item as its item `row`."""
    if isinstance(error, UnreadableImage):
        return ImageError({row: str(error)}, np.empty(0, np.int64), np.empty((0, 0), np.float32))
    if isinstance(error, Exception):
        return error
    return RuntimeError(f"a compute thread was interrupted by {type(error).__name__}")
