"""What the engine reads from a backend's outputs, for each kind of output."""

import numpy as np
import pytest

from embedder.artifact.manifest import Output
from embedder.engine.outputs import SPARSE, NotFiniteError, check_finite, empty_values, read_values
from embedder.errors import ArtifactError

TOKENS = Output("tokens", "token", (None, 2))
SPARSE_OUTPUT = Output("weights", "sparse", (5,))


def test_token_vectors_have_no_padding_and_are_copies() -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    values = read_values({"tokens": vectors}, TOKENS, np.array([3, 1]))
    expected = vectors.copy()
    vectors[:] = 0  # a backend may write the next batch into its array
    assert values.dtype == object
    np.testing.assert_array_equal(values[0], expected[0])
    np.testing.assert_array_equal(values[1], expected[1, :1])


def test_texts_without_tokens_have_no_token_vectors() -> None:
    values = read_values({"tokens": np.zeros((2, 1, 2), np.float32)}, TOKENS, np.array([0, 0]))
    assert [value.shape for value in values] == [(0, 2), (0, 2)]
    check_finite(values, range(2))


def test_sparse_vectors_are_the_numbers_that_are_not_0() -> None:
    dense = np.float32([[0, 1.5, 0, 0, 2.5], [0, 0, 0, 0, 0]])
    values = read_values({"weights": dense}, SPARSE_OUTPUT, np.array([3, 1]))
    assert [value.dtype for value in values] == [SPARSE, SPARSE]
    assert values[0].tolist() == [(1, 1.5), (4, 2.5)]
    assert values[1].tolist() == []
    check_finite(values, range(2))


def test_values_of_one_size_remain_an_array_of_objects() -> None:
    values = read_values({"tokens": np.ones((2, 3, 2), np.float32)}, TOKENS, np.array([3, 3]))
    assert values.shape == (2,)
    room = empty_values(TOKENS, 2)
    room[[1, 0]] = values
    assert [value.shape for value in room] == [(3, 2), (3, 2)]


@pytest.mark.parametrize("shape", [(2, 4, 2), (2, 3, 3), (1, 3, 2), (2, 3)])
def test_token_vectors_of_another_shape_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArtifactError, match=r"the graph gave the output 'tokens' as float32"):
        read_values({"tokens": np.ones(shape, np.float32)}, TOKENS, np.array([3, 1]))


def test_numbers_that_are_not_finite_name_the_input() -> None:
    values = empty_values(TOKENS, 2)
    values[0], values[1] = np.ones((1, 2), np.float32), np.float32([[1, 2], [np.inf, 1]])
    with pytest.raises(NotFiniteError, match="NaN or infinity for input 7"):
        check_finite(values, (3, 7))
    sparse = read_values({"weights": np.float32([[0, np.nan, 0, 0, 0]])}, SPARSE_OUTPUT, np.array([3]))
    with pytest.raises(NotFiniteError, match="NaN or infinity for input 5"):
        check_finite(sparse, (5,))
