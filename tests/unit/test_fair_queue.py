"""The fair queue: order, shares, moves, withdrawal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.serve.fair_queue import FairQueue


def take_one(queue):
    (entry,) = queue.first(1)
    queue.take([entry])
    return entry.item


def test_requests_of_one_text_are_served_in_the_order_in_which_they_come():
    queue = FairQueue(quantum=100)
    for length in (200, 3, 50):
        queue.put(length, length, queue.begin())
    assert [take_one(queue) for _ in range(3)] == [200, 3, 50]


def test_small_request_passes_a_huge_one_that_came_before():
    queue = FairQueue(quantum=10)
    huge = queue.begin()
    for number in range(100):
        queue.put(("huge", number), 10, huge)
    assert take_one(queue) == ("huge", 0)
    queue.put("small", 10, queue.begin())
    assert {take_one(queue), take_one(queue)} == {"small", ("huge", 1)}


def test_huge_request_gets_its_share_while_small_ones_never_end():
    queue = FairQueue(quantum=10)
    huge = queue.begin()
    for number in range(20):
        queue.put(("huge", number), 10, huge)
    for _ in range(9):
        queue.put("small", 10, queue.begin())
    served = []
    while ("huge", 19) not in served:
        served.append(take_one(queue))
        if served[-1] == "small":  # its client sends the next one at once
            queue.put("small", 10, queue.begin())
        assert len(served) < 300
    assert 150 < len(served) < 230  # one of ten requests, so about 200 texts for its 20


def test_entry_that_a_small_request_joins_moves_forward():
    queue = FairQueue(quantum=10)
    huge = queue.begin()
    entries = [queue.put(number, 10, huge) for number in range(50)]
    assert take_one(queue) == 0
    queue.hasten(entries[40], queue.begin())
    queue.hasten(entries[0], queue.begin())  # it has started, so this does nothing
    assert {take_one(queue), take_one(queue)} == {1, 40}
    assert take_one(queue) == 2
    assert len(queue) == 46


def test_entry_never_moves_back():
    queue = FairQueue(quantum=1)
    first = queue.put("first", 5, queue.begin())
    other = queue.begin()
    queue.put("second", 50, other)
    queue.hasten(first, other)
    assert take_one(queue) == "first"


@pytest.mark.parametrize("count", [3, 40])
def test_removed_entries_are_gone_and_may_be_removed_again(count):
    queue = FairQueue(quantum=10)
    flow = queue.begin()
    entries = [queue.put(number, 2, flow) for number in range(50)]
    queue.remove(entries[:count])
    queue.remove(entries[:count])
    assert (len(queue), queue.tokens) == (50 - count, 2 * (50 - count))
    assert take_one(queue) == count


def test_first_leaves_out_what_may_not_start():
    queue = FairQueue(quantum=10)
    for number in range(6):
        queue.put(number, 1, queue.begin())
    assert [entry.item for entry in queue.first(2, lambda entry: entry.item % 2 == 1)] == [1, 3]
    queue.take([])
    assert len(queue) == 6


@given(st.lists(st.tuples(st.sampled_from(["begin", "put", "take", "remove", "hasten"]), st.integers(0, 30))))
def test_queue_keeps_its_order_and_its_sums(steps):
    queue = FairQueue(quantum=8)
    flows, waiting = [queue.begin()], []
    for step, number in steps:
        flow = flows[number % len(flows)]
        if step == "begin":
            flows.append(queue.begin())
        elif step == "put":
            waiting.append(queue.put(object(), number + 1, flow))
        elif step == "take":
            taken = queue.first(number % 4)
            queue.take(taken)
            waiting = [entry for entry in waiting if entry not in taken]
        elif waiting:
            entry = waiting[number % len(waiting)]
            if step == "remove":
                queue.remove([entry])
                waiting.remove(entry)
            else:
                queue.hasten(entry, flow)
        found = queue.first(len(queue))
        assert sorted(map(id, found)) == sorted(map(id, waiting))
        assert [(entry.start, entry.number) for entry in found] == sorted((e.start, e.number) for e in waiting)
        assert queue.tokens == sum(entry.tokens for entry in waiting)
        assert all(flow.waiting == sum(entry.flow is flow for entry in waiting) for flow in flows)
