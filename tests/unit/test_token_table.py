"""The token ids of many texts in one array: take texts, pad them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embedder.engine.token_table import TokenTable

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=12)


def table_of(*rows):
    return TokenTable.of([(np.array(row, np.int64), -np.array(row, np.int64)) for row in rows])


def rows_of(table):
    ends = np.cumsum(table.lengths).tolist()
    starts = [0, *ends]
    return [table.arrays[0][start:end].tolist() for start, end in zip(starts, ends, strict=False)]


@given(ROWS, st.randoms())
def test_texts_are_taken_in_any_order(rows, random):
    order = random.sample(range(len(rows)), len(rows))
    table = table_of(*rows).take(np.array(order, np.intp))
    assert rows_of(table) == [rows[row] for row in order]
    np.testing.assert_array_equal(table.arrays[1], -table.arrays[0])


@given(ROWS, st.data())
def test_a_part_has_its_texts(rows, data):
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    part = table_of(*rows).part(start, stop)
    assert len(part) == stop - start
    assert rows_of(part) == rows[start:stop]


@given(ROWS)
def test_padding_is_on_the_right(rows):
    table = table_of(*rows)
    (ids, types), mask = table.pad(77)
    assert ids.shape == types.shape == mask.shape == (len(rows), max(1, *map(len, rows)))
    assert table.padded_size() == mask.size
    (wide, _), wide_mask = table.pad(77, 9)
    columns = max(9, mask.shape[1])
    assert wide.shape == wide_mask.shape == (len(rows), columns)
    assert table.padded_size(9) == wide_mask.size
    assert (wide[:, mask.shape[1] :] == 77).all()
    assert wide_mask.sum() == mask.sum()
    assert ids.dtype == mask.dtype == np.int64
    for row, padded, kinds, marks in zip(rows, ids.tolist(), types.tolist(), mask.tolist(), strict=True):
        rest = mask.shape[1] - len(row)
        assert padded == row + [77] * rest
        assert kinds == [-number for number in row] + [0] * rest
        assert marks == [1] * len(row) + [0] * rest
    # A backend may write into them.
    assert not any(np.shares_memory(padded, array) for padded, array in zip((ids, types), table.arrays, strict=True))


def test_no_text_has_no_column():
    empty = TokenTable((np.empty(0, np.int64),), np.empty(0, np.int64))
    (ids,), mask = empty.pad(0)
    assert ids.shape == mask.shape == (0, 0)
