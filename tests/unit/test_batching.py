"""Cut inputs into windows and batches, and pad token ids."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.artifact.manifest import UNPADDED_FROM_TOKENS
from embedder.backends.cpu import CpuDevice
from embedder.backends.cuda import CudaDevice
from embedder.engine import batching
from embedder.engine.batching import plan_batches, windows, windows_ahead
from embedder.inputs import ImageItem, Pair

LENGTHS = st.lists(st.integers(0, 600), max_size=80)
THREADS = st.integers(1, 64)
SMALL_WINDOW_ITEMS, SMALL_WINDOW_CHARACTERS = 8, 20


@given(LENGTHS, st.integers(1, 1024), THREADS, st.none() | st.integers(1, 40))
def test_every_text_is_in_one_batch_and_no_batch_is_too_large(lengths, token_budget, threads, batch_size):
    batches = plan_batches(lengths, token_budget, threads, batch_size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or len(batch) * longest <= token_budget
        assert batch_size is None or len(batch) <= batch_size


@given(LENGTHS, st.integers(1, 1024), THREADS)
def test_the_longest_texts_come_first_and_similar_lengths_share_a_batch(lengths, token_budget, threads):
    order = [lengths[index] for batch in plan_batches(lengths, token_budget, threads, None) for index in batch]
    assert order == sorted(lengths, reverse=True)


@given(LENGTHS, st.integers(1, 4096), THREADS, st.none() | st.integers(1, 40), st.integers(0, 600))
def test_long_texts_have_no_padding(lengths, token_budget, threads, batch_size, unpadded_from):
    batches = plan_batches(lengths, token_budget, threads, batch_size, unpadded_from)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        in_batch = [lengths[row] for row in batch]
        assert max(in_batch) < unpadded_from or len(set(in_batch)) == 1
        assert len(batch) == 1 or len(batch) * max(in_batch) <= token_budget
        assert batch_size is None or len(batch) <= batch_size


def test_long_texts_of_one_length_share_a_batch():
    plan = plan_batches([130, 129, 128, 130, 127, 129], 10_000, threads=1, unpadded_from=129)
    assert plan == [[0, 3], [1, 5], [2, 4]]


@given(LENGTHS, THREADS, st.none() | st.integers(1, 40))
def test_on_a_cpu_long_texts_fill_a_batch_anyway(lengths, threads, batch_size):
    budget = CpuDevice(1).token_budget
    rule = plan_batches(lengths, budget, threads, batch_size, UNPADDED_FROM_TOKENS)
    assert rule == plan_batches(lengths, budget, threads, batch_size)


def test_a_gpu_pads_long_texts_to_fill_its_batches():
    device = CudaDevice()
    lengths = list(range(129, 257))
    plan = plan_batches(lengths, device.token_budget, 1, None, device.unpadded_from_tokens)
    assert len(plan) == 2


def test_little_work_is_shared_among_threads_and_very_little_is_not():
    assert [len(batch) for batch in plan_batches([40] * 8, 512, 4)] == [2, 2, 2, 2]
    assert [len(batch) for batch in plan_batches([40] * 8, 512, 1)] == [8]
    assert [len(batch) for batch in plan_batches([8] * 4, 512, 4)] == [4]


SHORT_TEXTS = st.text(max_size=SMALL_WINDOW_CHARACTERS)


@given(st.lists(SHORT_TEXTS | st.builds(Pair, SHORT_TEXTS, SHORT_TEXTS), max_size=40))
def test_windows_keep_the_order_and_end_at_the_first_bound_that_is_reached(items):
    def characters(item):
        return len(item) if isinstance(item, str) else len(item.first) + len(item.second)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "_WINDOW_ITEMS", SMALL_WINDOW_ITEMS)
        patch.setattr(batching, "_WINDOW_CHARACTERS", SMALL_WINDOW_CHARACTERS)
        cut = list(windows(iter(items)))
    assert [item for window in cut for item in window] == items
    for window in cut:
        assert 1 <= len(window) <= SMALL_WINDOW_ITEMS
        assert sum(map(characters, window[:-1])) < SMALL_WINDOW_CHARACTERS
    for window in cut[:-1]:
        assert len(window) == SMALL_WINDOW_ITEMS or sum(map(characters, window)) >= SMALL_WINDOW_CHARACTERS


@pytest.mark.parametrize(
    ("item", "count"),
    [
        ("a", 1024),
        ("x" * 400_000, 3),
        (Pair("x" * 300_000, "y" * 300_000), 2),
        (ImageItem(Path("photo.jpg")), 1024),
        (ImageItem("data:image/png;base64," + "A" * 499_978), 2),
        (ImageItem(np.zeros((2, 2, 3), np.uint8)), 64),
    ],
    ids=["text", "long text", "pair", "path", "data URI", "array"],
)
def test_window_is_bounded_in_items_and_in_memory(item, count):
    assert [len(window) for window in windows([item] * (count + 1))] == [count, 1]


def test_a_window_reads_only_its_own_items_from_a_stream():
    read = []
    stream = windows(read.append(number) or "text" for number in range(5000))
    next(stream)
    assert len(read) == 1024


def test_a_large_token_budget_reads_more_windows_ahead_but_not_of_images():
    assert [windows_ahead(["a"], budget) for budget in (5, 256, 2048, 16384, 32768)] == [1, 1, 1, 8, 16]
    assert windows_ahead(["a", ImageItem(b"")], 32768) == 1


def test_batches_are_those_of_the_picture_on_the_page():
    """docs/pictures/batches.svg shows them, and docs/how-it-works.md gives the numbers of tokens."""
    lengths = [9, 31, 6, 120, 12, 8, 64, 5, 30, 11]
    batches = plan_batches(lengths, CpuDevice(threads=1).token_budget, 1)
    assert batches == [[3, 6], [1, 8, 4, 9, 0, 5, 2, 7]]
    assert [len(batch) * lengths[batch[0]] for batch in batches] == [240, 248]
