import gc
import threading
import weakref
from contextlib import suppress

import pytest

from embedder.common.side_by_side import side_by_side


def test_both_run_at_the_same_time():
    barrier = threading.Barrier(2, timeout=60)
    assert sorted(side_by_side(barrier.wait, barrier.wait)) == [0, 1]


def test_the_second_runs_in_the_thread_of_the_caller():
    first, second = side_by_side(threading.current_thread, threading.current_thread)
    assert first is not second is threading.current_thread()


def fail(text):
    raise ValueError(text)


def test_errors():
    with pytest.raises(ValueError, match="one"):
        side_by_side(lambda: fail("one"), lambda: 2)
    with pytest.raises(ValueError, match="two"):
        side_by_side(lambda: fail("one"), lambda: fail("two"))


class Result:
    """An object whose end can be seen."""


def test_an_error_keeps_no_result():
    results = []

    def second():
        result = Result()
        results.append(weakref.ref(result))
        return result

    gc.disable()
    try:
        with suppress(ValueError):
            side_by_side(lambda: fail("one"), second)
        assert results[0]() is None
    finally:
        gc.enable()


def test_an_error_waits_for_the_other_one():
    second_failed, first_ended = threading.Event(), threading.Event()

    def first():
        second_failed.wait(60)
        first_ended.set()

    def second():
        second_failed.set()
        fail("two")

    with pytest.raises(ValueError, match="two"):
        side_by_side(first, second)
    assert first_ended.is_set()


def test_no_thread_can_start(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert side_by_side(lambda: 1, lambda: 2) == (1, 2)
    with pytest.raises(ValueError, match="one"):
        side_by_side(lambda: fail("one"), lambda: 2)


def test_the_first_may_wait_for_the_second_also_without_threads(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    for patched in (False, True):
        if patched:
            monkeypatch.setattr(threading.Thread, "start", refuse)
        event = threading.Event()
        assert side_by_side(lambda event=event: event.wait(60), event.set) == (True, None)
