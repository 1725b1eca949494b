"""Which texts share a batch."""

from hypothesis import given
from hypothesis import strategies as st

from embedder.serve.batch_choice import choose_batch


def chosen(lengths, budget, unpadded_from=None):
    return sorted(choose_batch(lengths, budget, unpadded_from))


def test_texts_of_similar_length_share_a_batch():
    assert chosen([10, 60, 11, 9, 64], 256) == [0, 2, 3]
    assert chosen([60, 10, 11, 9, 64], 256) == [0, 4]


def test_text_longer_than_the_budget_is_alone():
    assert chosen([300, 10, 290], 256) == [0]


def test_batch_is_filled_up_to_the_budget():
    assert chosen([16] * 40, 256) == list(range(16))
    assert chosen([8] * 3, 256) == [0, 1, 2]


def test_texts_that_should_not_be_padded_share_a_batch_only_with_texts_of_the_same_length():
    assert chosen([130, 131, 130, 20, 130], 260, 129) == [0, 2]
    assert chosen([128, 129, 127], 1000, 129) == [0, 2]
    assert chosen([500, 500], 256, 129) == [0]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(1, 600), st.sampled_from([None, 1, 129]))
def test_batch_has_the_first_text_and_keeps_to_the_budget(lengths, budget, unpadded_from):
    batch = choose_batch(lengths, budget, unpadded_from)
    assert 0 in batch
    assert len(set(batch)) == len(batch)
    longest = max(lengths[index] for index in batch)
    assert len(batch) == 1 or longest * len(batch) <= budget
    if unpadded_from is not None and longest >= unpadded_from:
        assert {lengths[index] for index in batch} == {longest}
