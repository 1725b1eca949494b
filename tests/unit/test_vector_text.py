"""Vectors as JSON: numbers of few digits that give the same float32, and base64."""

import binascii
import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embedder.common.vector_text import to_base64, to_numbers


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 3), st.integers(1, 5)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_numbers_are_the_same_float32_in_the_fewest_digits(vectors):
    numbers = to_numbers(vectors)
    again = np.array(json.loads(json.dumps(numbers)), np.float64).reshape(vectors.shape).astype(np.float32)
    assert again.tobytes() == vectors.tobytes()
    for number, value in zip(np.ravel(numbers), vectors.ravel(), strict=True):
        assert float(number) == float(str(value)) or len(repr(float(number))) <= len(repr(float(str(value))))


def test_numbers_of_many_sizes():
    random = np.random.default_rng(5)
    vectors = (random.normal(size=(200, 50)) * 10.0 ** random.integers(-40, 38, (200, 50))).astype(np.float32)
    decimals = random.integers(-9_999_999, 9_999_999, (200, 50)) / 10.0 ** random.integers(0, 12, (200, 50))
    for array in (vectors, decimals.astype(np.float32)):
        numbers = to_numbers(array)
        np.testing.assert_array_equal(np.float32(numbers), array)
        np.testing.assert_array_equal(numbers, [[float(str(value)) for value in row] for row in array])


def test_number_has_no_more_digits_than_it_needs():
    assert to_numbers(np.float32([[0.1, 16777216, -0.0, 1e-45, 3.4028235e38, 0.30000001]])) == [
        [0.1, 16777216.0, 0.0, 1e-45, 3.4028235e38, 0.3]
    ]


def test_base64_of_a_strided_array():
    vectors = np.arange(8, dtype=np.float32).reshape(2, 4)[:, ::2]
    texts = to_base64(vectors)
    np.testing.assert_array_equal([np.frombuffer(binascii.a2b_base64(text), "<f4") for text in texts], vectors)
