"""The threads that compute: each takes a batch from the fair queue whenever it is free."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from time import perf_counter

from embedder.common.records import frozen
from embedder.inputs import TokenizedText
from embedder.serve.batch_choice import choose_batch
from embedder.serve.batch_model import BatchModel, UnreadableImage, Vector
from embedder.serve.fair_queue import Entry, FairQueue
from embedder.serve.jobs import Job

# A batch is chosen among this many texts at the front of the queue. More have less padding, and wait longer.
_CHOICE_TEXTS = 32
# The work for a batch is divided among idle threads, but into no smaller parts than this.
_MIN_BATCH_TOKENS = 64
# A text of more than this many token budgets is long.
_LONG_BUDGETS = 2


@frozen
class BatchResult:
    """A batch that has run.

    Attributes:
        jobs: its texts, or its image.
        outcomes: for each job its row, float32 (row_size,), or the error of the model.
        started: time when it started, in seconds.
        ended: time when it ended, in seconds.
        failed: whether the model raised an error.
    """

    jobs: tuple[Job, ...]
    outcomes: tuple[Vector | BaseException, ...]
    started: float
    ended: float
    failed: bool


class ComputeThreads:
    """Threads that encode jobs of one model. They start with the first job. Safe to share between threads.

    No thread waits for a batch to fill: the longer the queue, the larger the batches. Long texts leave one thread free
    for short ones, if there are several threads.

    Example:
        >>> threads = ComputeThreads(model, None, print)  # doctest: +SKIP
        >>> threads.put([Job(text, key_of(text), len(text), 0.0)])  # doctest: +SKIP
    """

    def __init__(self, model: BatchModel, token_budget: int | None, deliver: Callable[[BatchResult], object]) -> None:
        """Prepare the threads.

        Args:
            model: the model.
            token_budget: most tokens of a batch, padding included. None takes the token budget of the device.
            deliver: called in a compute thread with each batch that has run. It must not raise.
        """
        limits = model.batch_limits
        self._model = model
        self._budget = token_budget or limits.token_budget
        self._unpadded_from = limits.unpadded_from_tokens
        self._most_threads = limits.threads
        self._deliver = deliver
        self._changed = threading.Condition()
        self._queue: FairQueue[Job] = FairQueue(self._budget)
        self._threads: set[threading.Thread] = set()
        self._idle = self._running = self._running_long = 0
        self._stopping = False

    def put(self, jobs: Sequence[Job], shared: Collection[Job] = ()) -> None:
        """Put the jobs of a request into the queue.

        Args:
            jobs: its new jobs.
            shared: jobs of other requests that it waits for too. They move forward if the request would have them
                earlier.
        """
        with self._changed:
            flow = self._queue.begin()
            for job in jobs:
                job.entry = self._queue.put(job, job.tokens, flow)
            for job in shared:
                if job.entry is not None:
                    self._queue.hasten(job.entry, flow)
            if jobs:
                self._add_threads()
                self._changed.notify()

    def withdraw(self, jobs: Collection[Job]) -> list[Job]:
        """Take jobs out of the queue. Return those that had not started."""
        with self._changed:
            entries = [job.entry for job in jobs if job.entry is not None and job.entry.waits]
            self._queue.remove(entries)
            return [entry.item for entry in entries]

    def stop(self) -> None:
        """End the threads when the queue is empty."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def join(self) -> None:
        """Wait until the threads have ended."""
        for thread in list(self._threads):
            thread.join()

    def _add_threads(self) -> None:
        """Start threads until there are enough. Jobs wait if the system gives no thread, and there is one already."""
        while len(self._threads) < self._most_threads:
            thread = threading.Thread(target=self._work, name="embedder-serve", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                if not self._threads:
                    raise
                return
            self._threads.add(thread)

    def _work(self) -> None:
        jobs: tuple[Job, ...] | None = ()
        try:
            while (jobs := self._take()) is not None:
                try:
                    result = self._run(jobs)
                finally:
                    self._finish(jobs)
                self._deliver(result)
                jobs = ()
                del result  # it holds texts, images and vectors
        except BaseException as error:
            self._fail_all(jobs or (), error)
            raise
        finally:
            with self._changed:
                if not self._stopping:  # `join` waits for those that end because of `stop`
                    self._threads.discard(threading.current_thread())

    def _fail_all(self, jobs: tuple[Job, ...], error: BaseException) -> None:
        """Give the error that ends a thread to all jobs, so that no request waits for ever. The next job starts anew.

        Args:
            jobs: the batch of the thread.
            error: a fault of this module, or one that another thread has raised in this one.
        """
        with self._changed:
            entries = self._queue.first(len(self._queue))
            self._queue.remove(entries)
        jobs += tuple(entry.item for entry in entries)
        now = perf_counter()
        self._deliver(BatchResult(jobs, (error,) * len(jobs), now, now, failed=True))

    def _take(self) -> tuple[Job, ...] | None:
        """Wait for jobs and return a batch of them. Return None if the thread should end."""
        with self._changed:
            while not (first := self._queue.first(_CHOICE_TEXTS, self._may_start)):
                if self._stopping and not len(self._queue):
                    return None
                self._idle += 1
                try:
                    self._changed.wait()
                finally:
                    self._idle -= 1
            entries = self._choose(first)
            jobs = tuple(entry.item for entry in entries)
            self._queue.take(entries)
            if len(self._queue):
                self._changed.notify()
            self._running += 1
            self._running_long += self._is_long(entries[0])
            return jobs

    def _choose(self, entries: list[Entry[Job]]) -> list[Entry[Job]]:
        """Return the entries that run together with the first one."""
        if isinstance(entries[0].item.item, bytes):
            return entries[:1]
        texts = [entry for entry in entries if isinstance(entry.item.item, TokenizedText)]
        share = -(-self._queue.tokens // (1 + self._idle))
        budget = min(self._budget, max(share, _MIN_BATCH_TOKENS))
        return [texts[place] for place in choose_batch([entry.tokens for entry in texts], budget, self._unpadded_from)]

    def _may_start(self, entry: Entry[Job]) -> bool:
        free = self._most_threads - 1 - self._running_long
        return free > 0 or self._most_threads == 1 or not self._is_long(entry)

    def _is_long(self, entry: Entry[Job]) -> bool:
        return entry.tokens > _LONG_BUDGETS * self._budget

    def _finish(self, jobs: tuple[Job, ...]) -> None:
        with self._changed:
            self._running -= 1
            assert jobs[0].entry is not None  # it was in the queue
            if self._is_long(jobs[0].entry):
                self._running_long -= 1
                self._changed.notify()

    def _run(self, jobs: tuple[Job, ...]) -> BatchResult:
        """Encode a batch. If it fails, encode its texts one by one, so that one text harms no others."""
        started = perf_counter()
        outcomes, failed = self._outcomes(jobs), False
        if any(isinstance(outcome, BaseException) for outcome in outcomes):
            failed = not isinstance(outcomes[0], UnreadableImage)
            if len(jobs) > 1:
                outcomes = tuple(outcome for job in jobs for outcome in self._outcomes((job,)))
        return BatchResult(jobs, outcomes, started, perf_counter(), failed)

    def _outcomes(self, jobs: tuple[Job, ...]) -> tuple[Vector | BaseException, ...]:
        try:
            return tuple(self._encode(jobs))
        except BaseException as error:  # nobody would answer the requests if the thread ended here
            return (error,) * len(jobs)

    def _encode(self, jobs: tuple[Job, ...]) -> Sequence[Vector]:
        """Return the rows of a batch, float32 (jobs, row_size)."""
        texts = [job.item for job in jobs if isinstance(job.item, TokenizedText)]
        images = [job.item for job in jobs if isinstance(job.item, bytes)]
        if images:
            vectors = self._model.run_images(images)
        else:
            # A long text takes one thread. The others are for short texts that come meanwhile.
            long = len(texts[0]) > _LONG_BUDGETS * self._budget
            single = long or self._running > 1 or len(self._queue) > 0
            vectors = self._model.run(texts, single_thread=single)
        if len(vectors) != len(jobs):
            raise ValueError(f"the model gave {len(vectors)} vectors for {len(jobs)} inputs")
        return list(vectors)
