"""Requests end before their deadline: texts are encoded in chunks, by a clock of the test."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.functions import RequestError
from embedder.functions.deadline import Deadline, chunks_in_time


class Clock:
    """A clock that stands still until a chunk is encoded."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def encode_in_time(texts, seconds, s_per_byte, *, numbers=0):
    """Return the chunks, and the seconds that they took. A text takes `s_per_byte` times its bytes plus 16."""
    clock = Clock()
    chunks = []
    for rows in chunks_in_time(texts, 256, numbers, Deadline.after(seconds, None, clock=clock)):
        chunks.append(rows)
        clock.now_s += s_per_byte * sum(16 + len(texts[row].encode()) for row in rows)
    return chunks, clock.now_s - 100


def test_without_a_deadline_all_texts_are_one_chunk_longest_first():
    texts = ["a", "ccc", "bb", "ddd"]
    assert encode_in_time(texts, None, 1.0) == ([[1, 3, 2, 0]], pytest.approx(73))


def test_with_much_time_each_chunk_is_larger():
    texts = ["a" * 1000] * 400
    chunks, _ = encode_in_time(texts, 600, 1e-5)
    assert [len(rows) for rows in chunks] == [4, 32, 288, 76]
    assert sorted(row for rows in chunks for row in rows) == list(range(400))


def test_first_texts_that_take_no_time_say_little_about_the_others():
    clock = Clock()

    def encode():
        done = 0
        for rows in chunks_in_time(["a" * 1000] * 400, 256, 0, Deadline.after(20, clock=clock)):
            clock.now_s += 0.5 * len(rows) if done else 0.001
            done += len(rows)

    with pytest.raises(RequestError, match=r"of 400 inputs were done after 19\.\d s"):
        encode()


def test_chunks_become_small_before_the_deadline():
    texts = ["a" * 1000] * 100
    chunks, took_s = encode_in_time(texts, 11, 1e-4)
    assert took_s == pytest.approx(10.16)
    assert [len(rows) for rows in chunks] == [4, 32, 35, 18, 9, 2]


def test_chunk_that_would_not_end_in_time_is_not_begun():
    texts = ["a" * 1000] * 100
    with pytest.raises(RequestError) as caught:
        encode_in_time(texts, 8, 1e-4)
    assert caught.value.status == 504
    assert str(caught.value) == (
        "the time limit of 8.0 s is too short: 78 of 100 inputs were done after 7.9 s. "
        "Send fewer or shorter texts, or give the function more time"
    )


def test_time_to_write_the_answer_is_kept():
    with pytest.raises(RequestError, match=r"the time limit of 4\.0 s is too short: 0 of 1 inputs"):
        encode_in_time(["a"], 4.0, 0.0, numbers=1_000_000)
    assert encode_in_time(["a"], 4.1, 0.0, numbers=1_000_000)[0] == [[0]]


@given(st.lists(st.text(max_size=40), max_size=30), st.floats(0.1, 3), st.floats(1e-5, 1e-2))
def test_every_text_is_done_once_or_the_time_is_over(texts, seconds, s_per_byte):
    try:
        chunks, took_s = encode_in_time(texts, seconds, s_per_byte)
    except RequestError:
        return
    assert sorted(row for rows in chunks for row in rows) == list(range(len(texts)))
    assert len(chunks) < 2 or took_s <= seconds
