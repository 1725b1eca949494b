"""Windows are prepared ahead, and those that are ready come together."""

import pytest

from embedder.common.executor import Executor
from embedder.engine.ahead import Started, prepare_ahead, start_ahead


class Patient(Executor):
    """An executor that runs a task at once, so that each task is ready."""

    def submit(self, function, item):
        task = super().submit(function, item)
        task.wait()
        return task


def lists(count, read):
    for number in range(count):
        read.append(number)
        yield [number]


def test_more_come_together_the_longer_the_caller_works():
    read = []
    groups = prepare_ahead(lists(20, read), lambda items: items[0], Patient(2), lambda items: 4)
    assert next(groups) == [0]
    assert read == [0, 1]
    assert next(groups) == [1]
    assert read == [0, 1, 2, 3]
    assert [*groups] == [[2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15], [16, 17, 18, 19]]


def test_one_at_a_time_if_one_is_read_ahead():
    read = []
    groups = prepare_ahead(lists(4, read), lambda items: items[0], Patient(1), lambda items: 1)
    assert [(group, len(read)) for group in groups] == [([0], 2), ([1], 3), ([2], 4), ([3], 4)]


def test_the_next_window_has_been_started_when_a_result_is_due():
    steps = []

    def start(window):
        steps.append(f"start {window}")
        return Started(lambda: steps.append(f"finish {window}") or window, lambda: steps.append(f"cancel {window}"))

    assert list(start_ahead([1, 2, 3], start, 1)) == [1, 2, 3]
    assert steps == ["start 1", "start 2", "finish 1", "start 3", "finish 2", "finish 3"]
    steps.clear()
    results = start_ahead([1, 2, 3], start, 1)
    next(results)
    results.close()
    assert steps == ["start 1", "start 2", "finish 1", "cancel 2"]


def test_an_error_comes_after_the_windows_before_it():
    def fail_at_5(items):
        if items == [5]:
            raise OSError("window 5")
        return items[0]

    found = []
    with pytest.raises(OSError, match="window 5"):
        found.extend(prepare_ahead(lists(20, []), fail_at_5, Patient(2), lambda items: 8))
    assert found == [[0], [1], [2, 3], [4]]

    def start(window):
        return Started(lambda: fail_at_5([window]), lambda: None)

    found.clear()
    with pytest.raises(OSError, match="window 5"):
        found.extend(start_ahead(range(1, 9), start, 2))
    assert found == [1, 2, 3, 4]
    found.clear()
    with pytest.raises(OSError, match="window 5"):
        found.extend(start_ahead(range(1, 9), lambda window: fail_at_5([window]) and start(window), 2))
    assert found == [1, 2, 3, 4]
