"""Metrics in the text format of Prometheus, of this process or of all workers together."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from embedder.serve.batcher import Batcher, BatchReport, RequestReport
    from embedder.serve.request_record import RequestRecord

# Otherwise each counter has a second series, with the time of its first use.
disable_created_metrics()  # type: ignore[no-untyped-call]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# prometheus_client reads it when it is imported. Then each process writes its metrics to a file in this directory.
DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_NO_MODEL = ""
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class Metrics:
    """The metrics of a server. It belongs to the thread of the event loop.

    Example:
        >>> metrics = Metrics()
        >>> b"embedder_connections 0.0" in metrics.render()
        True
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        by_model: Any = {"labelnames": ("model",), "registry": registry}
        by_request: Any = {"labelnames": ("model", "path", "status"), "registry": registry}
        by_path: Any = {"labelnames": ("model", "path"), "registry": registry, "buckets": _SECONDS}
        self._requests = Counter("embedder_requests_total", "Requests that have ended, by status.", **by_request)
        self._request_seconds = Histogram(
            "embedder_request_seconds", "Seconds from the headers of a request to the end of its answer.", **by_path
        )
        self._refused = Counter(
            "embedder_requests_refused_total", "Refused requests, by reason.", labelnames=("code",), registry=registry
        )
        self._texts = Counter("embedder_texts_total", "Texts and images of answered requests.", **by_model)
        self._tokens = Counter("embedder_tokens_total", "Tokens of the texts of answered requests.", **by_model)
        self.cut_texts = Counter("embedder_cut_texts_total", "Texts that the model did not read whole.", **by_model)
        self.cached_texts = Counter("embedder_cached_texts_total", "Texts whose vectors were in the cache.", **by_model)
        self.shared_texts = Counter(
            "embedder_shared_texts_total", "Texts that had a copy in a request that was not yet answered.", **by_model
        )
        self.queue_texts = Gauge(
            "embedder_queue_texts", "Texts that wait or are computed.", multiprocess_mode="livesum", **by_model
        )
        self.queue_seconds = Histogram(
            "embedder_queue_seconds", "Seconds that a text waits for its batch.", buckets=_SECONDS, **by_model
        )
        self.batch_seconds = Histogram(
            "embedder_batch_seconds", "Seconds that a batch takes in the model.", buckets=_SECONDS, **by_model
        )
        self.batch_texts = Histogram("embedder_batch_texts", "Texts of a batch.", buckets=_TEXTS, **by_model)
        self.batch_tokens = Histogram(
            "embedder_batch_tokens", "Tokens of a batch, without padding.", buckets=_TOKENS, **by_model
        )
        self.failed_batches = Counter("embedder_failed_batches_total", "Batches on which the model failed.", **by_model)
        self._connections = Gauge(
            "embedder_connections", "Open connections.", multiprocess_mode="livesum", registry=registry
        )
        self._ended: dict[tuple[str, str, int], tuple[Any, ...]] = {}

    def watch(self, name: str) -> ModelObserver:
        """Return the observer for the `Batcher` of a model."""
        return ModelObserver(self, name)

    def request_ended(self, record: RequestRecord, path: str, seconds: float) -> None:
        """Count a request that has ended.

        Args:
            record: what is known of it.
            path: its route. It must not be what a client has made up, because each value is kept for ever.
            seconds: how long it took.
        """
        key = (record.model or _NO_MODEL, path, record.status)
        metrics = self._ended.get(key)
        if metrics is None:
            model, _, status = key
            metrics = self._ended[key] = (
                self._requests.labels(model, path, status),
                self._request_seconds.labels(model, path),
                self._texts.labels(model),
                self._tokens.labels(model),
            )
        metrics[0].inc()
        metrics[1].observe(seconds)
        if record.texts and record.status == 200:
            metrics[2].inc(record.texts)
            metrics[3].inc(record.tokens)
        if record.code is not None:
            self._refused.labels(record.code).inc()

    def connections_changed(self, count: int) -> None:
        """Note the number of open connections."""
        self._connections.set(count)

    def render(self) -> bytes:
        """Return the metrics as text: those of all workers, if there are several."""
        if DIRECTORY_VARIABLE not in os.environ:
            return generate_latest(self._registry) + generate_latest(_process())
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


class ModelObserver:
    """Hears what the `Batcher` of a model does; see `embedder.serve.batcher.Observer`."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._batcher: Batcher | None = None
        self._depth = metrics.queue_texts.labels(name)
        self._queue_seconds = metrics.queue_seconds.labels(name)
        self._batch_seconds = metrics.batch_seconds.labels(name)
        self._batch_texts = metrics.batch_texts.labels(name)
        self._batch_tokens = metrics.batch_tokens.labels(name)
        self._failed = metrics.failed_batches.labels(name)
        self._cut = metrics.cut_texts.labels(name)
        self._cached = metrics.cached_texts.labels(name)
        self._shared = metrics.shared_texts.labels(name)

    def batcher_is(self, batcher: Batcher) -> None:
        """Take the batcher, whose queue is measured."""
        self._batcher = batcher

    def batch_ended(self, report: BatchReport) -> None:
        """Count a batch that has run."""
        for seconds in report.queue_s:
            self._queue_seconds.observe(seconds)
        self._batch_seconds.observe(report.compute_s)
        self._batch_texts.observe(report.items)
        self._batch_tokens.observe(report.tokens)
        if report.failed:
            self._failed.inc()
        self._measure_queue()

    def request_ended(self, report: RequestReport) -> None:
        """Count what an accepted request was made of."""
        for counter, count in ((self._cut, report.cut), (self._cached, report.cached), (self._shared, report.shared)):
            if count:
                counter.inc(count)
        self._measure_queue()

    def request_refused(self, code: str) -> None:
        """Measure the queue. The refusal itself is counted when the request ends."""
        self._measure_queue()

    def _measure_queue(self) -> None:
        if self._batcher is not None:
            self._depth.set(self._batcher.queue_depth)


def _process() -> CollectorRegistry:
    """Return the metrics of this process: its memory, processor time and open files."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry
