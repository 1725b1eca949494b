"""Run tasks in a bounded number of threads, also while the interpreter shuts down and after a fork.

`concurrent.futures.ThreadPoolExecutor` refuses new tasks once the main thread has ended, so it works neither in
`atexit` nor in a thread that outlives the main one. This executor does: its threads are daemons, and where the
interpreter starts no more threads, the caller runs the tasks itself.
"""

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from embedder.common.cores import usable_cores
from embedder.common.load_once import LoadOnce

_T = TypeVar("_T")
_R = TypeVar("_R")
# A task waiting for a thread: its future, the function, and its argument. None ends a thread.
_Task = tuple[Future[Any], Callable[[Any], Any], Any]


class Executor:
    """At most `threads` threads, started when they are needed, whatever the number of callers.

    Safe to share between threads. A task must not wait for another task of the same executor.

    Example:
        >>> list(Executor(2).map(abs, [-1, -2]))
        [1, 2]
    """

    def __init__(self, threads: int) -> None:
        self._limit = threads
        self._begin()

    def submit(self, function: Callable[[_T], _R], item: _T) -> "Future[_R]":
        """Start `function(item)` and return its future."""
        if self._process != os.getpid():  # the threads stayed behind in the parent
            self._finalizer.detach()
            self._begin()
        future: Future[_R] = Future()
        self._state.tasks.put((future, function, item))
        self._start_a_thread()
        return future

    def map(self, function: Callable[[_T], _R], items: Iterable[_T], ahead: int | None = None) -> Iterator[_R]:
        """Yield `function(item)` for each item, in order, while the next ones are computed.

        If the caller stops early or a task raises, tasks that have not begun are dropped, and running ones are waited
        for.

        Args:
            function: called in the executor's threads.
            items: consumed in the caller's thread.
            ahead: how many tasks to start before the first result is taken. None starts all.
        """
        waiting: deque[Future[_R]] = deque()
        try:
            for item in items:
                waiting.append(self.submit(function, item))
                if ahead is not None and len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            wait([future for future in waiting if not future.cancelled()])

    def close(self) -> None:
        """End the threads once they have done what was submitted. A later `submit` starts new ones."""
        if self._process == os.getpid():
            self._finalizer()
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._state = _State()
        self._finalizer = weakref.finalize(self, self._state.stop)
        self._finalizer.atexit = False  # callers may still come in functions that run at exit

    def _start_a_thread(self) -> None:
        state = self._state
        if state.idle.acquire(blocking=False):  # a thread waits for a task already
            return
        with state.lock:
            if len(state.threads) >= self._limit:
                return
            thread = threading.Thread(target=_work, args=(state,), name="embedder", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is shutting down
                if state.threads:
                    return
            else:
                state.threads.append(thread)
                return
        state.run_waiting_tasks()


class _State:
    """What the threads share. They must not refer to the executor, or it would never be collected."""

    def __init__(self) -> None:
        self.tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self.idle = threading.Semaphore(0)
        self.lock = threading.Lock()
        self.threads: list[threading.Thread] = []

    def stop(self) -> None:
        for _ in self.threads:
            self.tasks.put(None)

    def run_waiting_tasks(self) -> None:
        while True:
            try:
                task = self.tasks.get_nowait()
            except Empty:
                return
            if task is not None:
                _run(task)


def _work(state: _State) -> None:
    while True:
        try:
            task = state.tasks.get_nowait()
        except Empty:
            state.idle.release()
            task = state.tasks.get()
        if task is None:
            return
        _run(task)
        del task  # it may hold a batch of images


def _run(task: _Task) -> None:
    future, function, item = task
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function(item)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


_shared = LoadOnce(lambda: Executor(usable_cores()))


def shared_executor() -> Executor:
    """Return the executor of code that belongs to no model, such as search. It has a thread for each usable core."""
    return _shared.get()
