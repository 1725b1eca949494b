"""The executor: a bounded number of threads, no lost task, and work until the end of the interpreter."""

import gc
import os
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from embedder.common.executor import Executor
from embedder.common.load_once import LoadOnce
from tests.processes import call_in_fork, run_python

no_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


class Gauge:
    """Counts the calls of `run` that run at the same time, and the threads that they run in."""

    def __init__(self):
        self.lock, self.now, self.most, self.threads = threading.Lock(), 0, 0, set()

    def run(self, item):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.threads.add(threading.current_thread())
        sum(range(2000))
        with self.lock:
            self.now -= 1
        return item


def have_ended(threads):
    for thread in threads:
        thread.join(60)
    return not any(thread.is_alive() for thread in threads)


def test_results_in_order():
    assert list(Executor(3).map(lambda item: item * 2, range(1000))) == list(range(0, 2000, 2))
    assert list(Executor(1).map(str, [])) == []
    assert Executor(2).submit(str, 3).result() == "3"


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_many_callers_share_the_threads_and_each_has_its_own_results(threads):
    executor, gauge, barrier = Executor(threads), Gauge(), threading.Barrier(16)

    def call(caller):
        barrier.wait()
        for _ in range(20):
            items = [(caller, number) for number in range(30)]
            assert list(executor.map(gauge.run, items)) == items
            assert executor.submit(gauge.run, caller).result(60) == caller

    with ThreadPoolExecutor(16) as callers:
        list(callers.map(call, range(16)))
    assert gauge.most <= threads
    assert len(gauge.threads) <= threads
    assert {thread.name for thread in gauge.threads} == {"embedder"}


def test_tasks_that_wait_for_one_another_each_get_a_thread():
    executor, meeting = Executor(4), threading.Barrier(4, timeout=60)
    for _ in range(50):
        assert len(list(executor.map(lambda _: meeting.wait(), range(4)))) == 4


def test_threads_start_only_when_they_are_needed():
    executor, gauge = Executor(8), Gauge()
    assert gauge.threads == set()
    for _ in range(100):
        executor.submit(gauge.run, 1).result(60)
    assert len(gauge.threads) <= 2


def test_a_result_that_takes_too_long():
    executor, go_on = Executor(1), threading.Event()
    task = executor.submit(go_on.wait, 60)
    with pytest.raises(TimeoutError, match="the task has not ended after 0 s"):
        task.result(0)
    go_on.set()
    assert task.result(60)


class Recording(Executor):
    """An executor that keeps the tasks, so that a task can wait until the last one has been cancelled."""

    def __init__(self, threads):
        super().__init__(threads)
        self.tasks = []

    def submit(self, function, item):
        self.tasks.append(super().submit(function, item))
        return self.tasks[-1]

    def wait_for_cancel(self):
        deadline = time.monotonic() + 60
        while not self.tasks[-1].cancelled():
            assert time.monotonic() < deadline


def test_an_error_reaches_the_caller_and_cancels_tasks_that_have_not_started():
    executor, ran = Recording(1), []

    def work(item):
        ran.append(item)
        if item == 2:
            raise KeyError("two")
        if item == 3:
            executor.wait_for_cancel()

    with pytest.raises(KeyError, match="two"):
        list(executor.map(work, range(1000)))
    assert ran in ([0, 1, 2], [0, 1, 2, 3])
    executor.submit(ran.append, "later").result(60)
    assert ran[-1] == "later"


def test_a_task_may_raise_system_exit():
    executor = Executor(1)
    with pytest.raises(SystemExit):
        executor.submit(sys.exit, 3).result(60)
    assert executor.submit(str, 3).result(60) == "3"


def test_a_caller_that_stops_early_waits_for_running_tasks_and_cancels_the_others():
    executor, done = Recording(1), []

    def work(item):
        if item == 1:
            executor.wait_for_cancel()
        done.append(item)
        return item

    results = executor.map(work, range(1000))
    assert next(results) == 0
    results.close()
    assert done in ([0], [0, 1])
    executor.submit(str, 1).result(60)
    assert len(done) <= 2


def test_ahead_bounds_the_number_of_started_tasks():
    taken = []
    results = Executor(2).map(str, (taken.append(number) or number for number in count()), ahead=3)
    assert next(results) == "0"
    assert len(taken) == 4
    results.close()


def test_an_iterable_that_raises():
    def items():
        yield from range(10)
        raise ValueError("the caller's own")

    with pytest.raises(ValueError, match="the caller's own"):
        list(Executor(2).map(str, items()))


def test_close_ends_the_threads_and_later_tasks_run_in_the_callers():
    executor, gauge = Executor(3), Gauge()
    list(executor.map(gauge.run, range(100)))
    executor.close()
    executor.close()
    assert have_ended(gauge.threads)
    here = threading.current_thread()
    assert executor.submit(lambda _: threading.current_thread(), 1).result(60) is here
    assert set(executor.map(lambda _: threading.current_thread(), range(10))) == {here}


def test_close_while_others_submit_loses_no_task():
    for _ in range(100):
        executor, barrier = Executor(2), threading.Barrier(5)

        def call(_, executor=executor, barrier=barrier):
            barrier.wait()
            return sum(executor.map(abs, range(50)))

        with ThreadPoolExecutor(4) as callers:
            sums = callers.map(call, range(4))
            barrier.wait()
            executor.close()
            assert list(sums) == [1225] * 4


def test_threads_end_with_the_executor():
    executor, gauge = Executor(3), Gauge()
    list(executor.map(gauge.run, range(100)))
    gone = weakref.ref(executor)
    del executor
    gc.collect()
    assert gone() is None
    assert have_ended(gauge.threads)


def test_a_system_without_more_threads(monkeypatch):
    def fail(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    executor = Executor(3)
    assert list(executor.map(str, range(5))) == ["0", "1", "2", "3", "4"]
    assert executor.submit(lambda _: threading.current_thread().name, 1).result() == "MainThread"


def test_a_task_keeps_no_argument_alive_once_it_is_done():
    class Item:
        pass

    executor, item = Executor(1), Item()
    gone = weakref.ref(item)
    executor.submit(id, item).result(60)
    del item
    executor.submit(id, 1).result(60)
    assert gone() is None


@no_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("closed", [False, True])
def test_works_in_a_fork_also_from_many_threads_at_once(closed):
    executor = Executor(2)
    started, finish = threading.Event(), threading.Event()
    held = executor.submit(lambda _: started.set() or finish.wait(60), 1)
    assert started.wait(60)
    if closed:
        executor.close()

    def work():
        barrier = threading.Barrier(8)

        def call(_):
            barrier.wait()
            return sum(executor.map(abs, range(100)))

        with ThreadPoolExecutor(8) as callers:
            return list(callers.map(call, range(8)))

    assert call_in_fork(work) == [4950] * 8
    finish.set()
    assert held.result(60)


@no_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_load_once_in_a_fork_while_another_thread_loads():
    started, finish = threading.Event(), threading.Event()
    process = os.getpid()

    def make():
        if os.getpid() == process:
            started.set()
            finish.wait(60)
        return os.getpid()

    table = LoadOnce(make)
    with ThreadPoolExecutor(1) as loader:
        loading = loader.submit(table.get)
        assert started.wait(60)
        made_by, child = call_in_fork(lambda: (table.get(), os.getpid()))
        assert made_by == child != process
        finish.set()
        assert loading.result(60) == process


def test_load_once_makes_once_and_tries_again_after_an_error():
    made, barrier = [], threading.Barrier(8)

    def make():
        made.append(1)
        if len(made) == 1:
            raise OSError("not yet")
        return len(made)

    table = LoadOnce(make)
    with pytest.raises(OSError, match="not yet"):
        table.get()

    def call(_):
        barrier.wait()
        return table.get()

    with ThreadPoolExecutor(8) as callers:
        assert set(callers.map(call, range(8))) == {2}
    assert len(made) == 2


LATE = """if True:
    import atexit, sys, threading
    from embedder.common.executor import Executor, shared_executor

    executor, shared, used = Executor(2), shared_executor(), Executor(2)
    assert list(used.map(abs, range(9))) == list(range(9))

    def call(when, executors=(executor, shared, used), print=print):
        for each in executors:
            assert list(each.map(abs, range(-3000, 0))) == list(range(3000, 0, -1))
        print(when)

    def later():
        threading.main_thread().join()
        call("thread")

    class AtTheEnd:
        def __del__(self, call=call, finalizing=sys.is_finalizing):
            call("finalizing" if finalizing() else "not finalizing")

    kept_to_the_end = AtTheEnd()
    atexit.register(call, "atexit")
    if sys.argv[1] == "thread":
        threading.Thread(target=later).start()
"""


@pytest.mark.parametrize("mode", ["thread", "atexit"])
def test_works_after_the_main_thread_has_ended_and_at_exit(mode):
    expected = ["thread", "atexit", "finalizing"] if mode == "thread" else ["atexit", "finalizing"]
    process = run_python("-W", "error", "-c", LATE, mode)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.split() == expected


ABANDONED = """
import os
import threading
from embedder.common.executor import Executor, TaskQueue

may_end = threading.Event()
tasks = TaskQueue(Executor(2))
for number in range(3):
    tasks.submit(lambda number: may_end.wait() and sum(range(10**6)) and os.write(1, b"task %d\\n" % number), number)
threading._register_atexit(may_end.set)  # when Python has begun to end
"""


def test_the_interpreter_ends_after_the_tasks_that_nobody_waits_for():
    process = run_python("-W", "error", "-c", ABANDONED)
    assert (process.returncode, process.stderr) == (0, "")
    assert sorted(process.stdout.splitlines()) == ["task 0", "task 1", "task 2"]
