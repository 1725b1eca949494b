"""Run tasks in a bounded number of threads, also while the interpreter shuts down and after a fork.

`concurrent.futures.ThreadPoolExecutor` refuses new tasks after the main thread has ended. So it fails in `atexit`, and
in threads that run longer than the main thread. This executor works there, because its threads are daemons, which end
as the last thing at exit. If the interpreter starts no more threads, the caller's thread runs the tasks.

`concurrent.futures` also imports `logging`, which takes 3 ms of each start. `Task` stands in the place of its `Future`.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Generic, TypeVar

from embedder.common.cores import usable_cores
from embedder.common.forks import renew_after_fork
from embedder.common.load_once import LoadOnce
from embedder.common.native_calls import native_calls

_T = TypeVar("_T")
_R = TypeVar("_R")

# At exit, the interpreter waits at most this long for the tasks that have been submitted, and for calls of native code.
_LAST_TASKS_S = 10


class Task(Generic[_R]):
    """A call of a function, and later its result. Safe to share between threads.

    Example:
        >>> task = Task(abs, -3)
        >>> task.run()
        >>> task.result()
        3
    """

    def __init__(self, function: Callable[[_T], _R], item: _T) -> None:
        self._call: tuple[Callable[[Any], _R], Any] | None = (function, item)
        self._claim = threading.Lock()  # whoever gets it may run or cancel the task; it is never released
        self._done = threading.Event()
        self._results: list[_R] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Call the function, unless the task was cancelled or runs already."""
        if not self._claim.acquire(blocking=False):
            return
        assert self._call is not None
        (function, item), self._call = self._call, None
        try:
            self._results.append(function(item))
        except BaseException as error:
            self._error = error
        finally:
            del item  # it may hold a batch of images
            self._done.set()

    def cancel(self) -> bool:
        """Cancel the task unless it has started. Return whether it is cancelled."""
        if self._claim.acquire(blocking=False):
            self._call = None
            self._done.set()
        return self.cancelled()

    def cancelled(self) -> bool:
        """Return whether the task was cancelled. It has no result then."""
        return self._done.is_set() and not self._results and self._error is None

    def has_result(self) -> bool:
        """Return whether the function has returned. It has not if it raised an error."""
        return bool(self._results)

    def wait(self) -> None:
        """Wait until the task has ended or was cancelled."""
        self._done.wait()

    def result(self, timeout_s: float | None = None) -> _R:
        """Wait until the task has ended, and return its result. Raises the error that the function raised.

        Raises:
            TimeoutError: the task has not ended after `timeout_s` seconds.
        """
        if not self._done.wait(timeout_s):
            raise TimeoutError(f"the task has not ended after {timeout_s} s")
        try:
            if self._error is not None:
                raise self._error
            return self._results[0]
        finally:
            del self  # the error's traceback refers to this frame, and the frame would refer to the error


class Executor:
    """Runs tasks in at most `threads` threads, whatever the number of callers. Threads start when they are needed.

    Safe to share between threads. A task must not wait for another task of the same executor.

    Example:
        >>> list(Executor(2).map(abs, [-1, -2]))
        [1, 2]
    """

    def __init__(self, threads: int) -> None:
        self._limit = threads
        self._begin()
        renew_after_fork(self)

    @property
    def threads(self) -> int:
        """The largest number of threads that run tasks."""
        return self._limit

    def submit(self, function: Callable[[_T], _R], item: _T) -> Task[_R]:
        """Start `function(item)` and return its task. If there can be no thread, run it here before returning.

        Example:
            >>> Executor(2).submit(abs, -3).result()
            3
        """
        task = Task(function, item)
        # In the last phase of the interpreter's shutdown other threads do not run any more.
        if sys.is_finalizing() or not self._state.accept(task, self._limit):
            task.run()
        return task

    def map(self, function: Callable[[_T], _R], items: Iterable[_T], ahead: int | None = None) -> Iterator[_R]:
        """Yield `function(item)` for each item, in order, while the next ones are computed.

        If the caller stops early or a task raises, tasks that have not started are cancelled. Then `map` waits for the
        running tasks.

        Args:
            function: called in the executor's threads.
            items: iterated over in the caller's thread.
            ahead: number of tasks to start before the first result is yielded. None starts all.

        Example:
            >>> list(Executor(2).map(str, range(3), ahead=1))
            ['0', '1', '2']
        """
        tasks: TaskQueue[_R] = TaskQueue(self)
        try:
            for item in items:
                tasks.submit(function, item)
                if ahead is not None and len(tasks) > ahead:
                    yield tasks.result()
            while tasks:
                yield tasks.result()
        finally:
            tasks.close()

    def withdraw(self, tasks: Collection[Task[Any]]) -> None:
        """Cancel those of `tasks` that have not started.

        Example:
            >>> Executor(2).withdraw([])
        """
        # While the interpreter ends, a stopped thread may hold the lock of the queue, and no thread starts tasks.
        if tasks and not sys.is_finalizing():
            self._state.withdraw(tasks)
        for task in tasks:
            task.cancel()

    def close(self) -> None:
        """End the threads after the submitted tasks are done. Later tasks run in the thread that submits them.

        Example:
            >>> Executor(2).close()
        """
        self._finalizer()

    def renew(self) -> None:
        """Forget the threads after a fork: they exist only in the parent."""
        closed = not self._finalizer.alive
        self._finalizer.detach()
        self._begin()
        if closed:
            self.close()

    def _begin(self) -> None:
        self._state = _State()
        self._finalizer = weakref.finalize(self, self._state.stop)
        self._finalizer.atexit = False  # functions that run at exit may still submit tasks


class TaskQueue(Generic[_R]):
    """Tasks of an executor whose results are taken in order. For one thread.

    Example:
        >>> tasks = TaskQueue(Executor(2))
        >>> tasks.submit(abs, -3)
        >>> tasks.result()
        3
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._waiting: deque[Task[_R]] = deque()

    def __len__(self) -> int:
        """Return the number of tasks whose results have not been taken."""
        return len(self._waiting)

    def submit(self, function: Callable[[_T], _R], item: _T) -> None:
        """Start `function(item)`."""
        self._waiting.append(self._executor.submit(function, item))

    def has_result(self) -> bool:
        """Return whether there is a first task, and its function has returned."""
        return bool(self._waiting) and self._waiting[0].has_result()

    def result(self) -> _R:
        """Take the result of the first task. Raises the error that its function raised."""
        return self._waiting.popleft().result()

    def cancel(self) -> None:
        """Cancel the tasks that have not started. Others run on, and nobody waits for them."""
        self._executor.withdraw(self._waiting)

    def close(self) -> None:
        """Cancel the tasks that have not started, and wait for the others."""
        self.cancel()
        for task in self._waiting:
            task.wait()


class _State:
    """The state that the threads share. Threads must not refer to the executor, or it would never be collected."""

    def __init__(self) -> None:
        # Its lock is reentrant: the garbage collector may call `stop` in a thread that holds it.
        self._changed = threading.Condition()
        self._tasks: deque[Task[Any]] = deque()
        self._threads = self._idle = 0
        self._stopped = False

    def accept(self, task: Task[Any], limit: int) -> bool:
        """Give `task` to a thread, a new one if all are busy. Return False if there is no thread and none can start."""
        with self._changed:
            if self._stopped or not (self._idle > len(self._tasks) or self._add_thread(limit)):
                return False
            self._tasks.append(task)
            self._changed.notify()
            return True

    def withdraw(self, tasks: Collection[Task[Any]]) -> None:
        """Take `tasks` back from the queue all at once, before they are cancelled.

        Otherwise a thread that skips cancelled tasks might overtake the caller that cancels them.
        """
        withdrawn = set(tasks)
        with self._changed:
            self._tasks = deque(task for task in self._tasks if task not in withdrawn)

    def _add_thread(self, limit: int) -> bool:
        """Start a thread if there are fewer than `limit`. Return whether there is any thread."""
        if self._threads < limit:
            try:
                _Worker(self).start()
                self._threads += 1
            except RuntimeError:  # the interpreter is shutting down, or the system has no more threads
                pass
        return self._threads > 0

    def take(self) -> Task[Any] | None:
        """Wait for a task and return it. Return None if the thread should end."""
        with self._changed:
            while not self._tasks:
                if self._stopped:
                    return None
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            return self._tasks.popleft()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class _Worker(threading.Thread):
    """A thread of an executor."""

    def __init__(self, state: _State) -> None:
        super().__init__(name="embedder", daemon=True)
        self.state = state

    def run(self) -> None:
        while (task := self.state.take()) is not None:
            task.run()
            del task  # it may hold a result


@atexit.register
def _end_threads() -> None:
    """End the threads at exit. A stream that nobody closed has tasks, and libraries that they use are torn down."""
    workers = [thread for thread in threading.enumerate() if isinstance(thread, _Worker)]
    for worker in workers:
        worker.state.stop()
    end_s = time.monotonic() + _LAST_TASKS_S
    for worker in workers:
        worker.join(max(0.0, end_s - time.monotonic()))
    native_calls.end(_LAST_TASKS_S)


_shared = LoadOnce(lambda: Executor(usable_cores()))


def shared_executor() -> Executor:
    """Return the executor for code without a model, such as search. It has one thread for each usable core.

    Example:
        >>> list(shared_executor().map(abs, [-1, -2]))
        [1, 2]
    """
    return _shared.get()
