"""Prepare windows ahead of those that run, and start windows ahead of those whose results are due."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from embedder.common.executor import Executor, TaskQueue
from embedder.common.records import frozen
from embedder.inputs import Item

_W = TypeVar("_W")
_R = TypeVar("_R")


@frozen
class Started(Generic[_R]):
    """Work that has been started.

    Attributes:
        finish: waits for the work and returns its result.
        cancel: cancels what has not begun.

    Example:
        >>> Started(lambda: 3, lambda: None).finish()
        3
    """

    finish: Callable[[], _R]
    cancel: Callable[[], None]


def prepare_ahead(
    stream: Iterator[list[Item]],
    prepare: Callable[[list[Item]], _W],
    executor: Executor,
    ahead: Callable[[list[Item]], int],
) -> Iterator[list[_W]]:
    """Yield `prepare(items)` for each list of a stream, in order: all that are ready, at least one at a time.

    The next ones are prepared in threads of the executor. The more the caller waits for other work, the more are ready.
    If the stream or `prepare` raises an error, the lists before it come first.

    Args:
        stream: lists of items.
        prepare: called for each list.
        executor: has the threads.
        ahead: returns how many lists to prepare ahead when this list is the last one that was read.

    Example:
        >>> list(prepare_ahead(iter([["a"], ["b", "c"]]), len, Executor(2), lambda items: 1))
        [[1], [2]]
    """
    items = next(stream, None)
    if items is None:
        return
    ready = [prepare(items)]  # in this thread, so that a single list needs no other one
    tasks: TaskQueue[_W] = TaskQueue(executor)
    failure: Exception | None = None
    limit = 1
    try:
        while True:
            while items is not None and len(tasks) < min(limit, ahead(items)):
                try:
                    items = next(stream, None)
                except Exception as error:
                    failure, items = error, None
                if items is not None:
                    tasks.submit(prepare, items)
            yield ready
            if not tasks:
                break
            ready = [tasks.result()]
            while tasks.has_result():
                ready.append(tasks.result())
            limit *= 2  # a slow stream gives its first results soon
    finally:
        tasks.cancel()
    if failure is not None:
        raise failure


def start_ahead(windows: Iterable[_W], start: Callable[[_W], Started[_R]], count: int) -> Iterator[_R]:
    """Yield the result of each window, in order. The next `count` windows have been started by then.

    If `windows` or `start` raises an error, the results of the windows before it come first.

    Example:
        >>> list(start_ahead([1, 2], lambda number: Started(lambda: -number, lambda: None), 1))
        [-1, -2]
    """
    iterator = iter(windows)
    started: deque[Started[_R]] = deque()
    failure: Exception | None = None
    try:
        while True:
            try:
                window = next(iterator, None)
                if window is None:
                    break
                started.append(start(window))
            except Exception as error:
                failure = error
                break
            del window  # it may hold images
            if len(started) > count:
                yield started.popleft().finish()
        while started:
            yield started.popleft().finish()
    finally:
        for work in started:
            work.cancel()
    if failure is not None:
        raise failure
