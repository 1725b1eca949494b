import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedder.engine.batching import pad, plan_batches, windows

LENGTHS = st.lists(st.integers(0, 600), max_size=80)


WORKERS = st.integers(1, 64)


@given(LENGTHS, st.integers(1, 1024), WORKERS, st.none() | st.integers(1, 40))
def test_batches_hold_every_text_once_within_budget_and_ceiling(lengths, budget, workers, batch_size):
    batches = [batch.tolist() for batch in plan_batches(lengths, budget, workers, batch_size)]
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
        assert batch_size is None or len(batch) <= batch_size


@given(LENGTHS, st.integers(1, 1024), WORKERS)
def test_longest_come_first_and_like_lengths_together(lengths, budget, workers):
    order = [lengths[index] for batch in plan_batches(lengths, budget, workers, None) for index in batch]
    assert order == sorted(lengths, reverse=True)


def test_little_work_is_shared_out_and_very_little_is_not():
    assert [len(batch) for batch in plan_batches([40] * 8, 512, 4, None)] == [2, 2, 2, 2]
    assert [len(batch) for batch in plan_batches([40] * 8, 512, 1, None)] == [8]
    assert [len(batch) for batch in plan_batches([8] * 4, 512, 4, None)] == [4]


@given(st.lists(st.text(max_size=8) | st.just("x" * 400_000), max_size=2100))
def test_windows_keep_order_and_bounds(texts):
    cut = list(windows(iter(texts)))
    assert [text for window in cut for text in window] == texts
    for window in cut:
        assert 1 <= len(window) <= 1024
        assert sum(map(len, window[:-1])) < 1_000_000


def test_windows_read_no_further_than_they_must():
    taken = []
    stream = windows(taken.append(number) or "text" for number in range(5000))
    next(stream)
    assert len(taken) == 1024


def test_padding_goes_on_the_right():
    ids, mask = pad([np.array([5, 6, 7], np.int32), np.array([8], np.int32)], 1)
    assert ids.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert ids.dtype == mask.dtype == np.int64


def test_a_row_without_tokens_has_a_masked_one():
    ids, mask = pad([np.array([], np.int32)], 1)
    assert (ids.tolist(), mask.tolist()) == ([[1]], [[0]])
    assert pad([], 1)[0].shape == (0, 0)
