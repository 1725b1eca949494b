"""Every kernel takes columns of vectors from NumPy, pandas, polars and pyarrow."""

import numpy as np
import pytest

import embedder
from embedder.errors import InputError
from embedder.vectors.arrays import as_embeddings
from tests.vectors import random_vectors

VECTORS = random_vectors(1, 6, 4)


def object_column(rows):
    column = np.empty(len(rows), object)
    column[:] = rows
    return column


def columns_of(rows):
    """Yield the same vectors in each kind of column. Packages that are not installed are left out."""
    lists = [row.tolist() for row in rows]
    yield "object array of arrays", object_column(list(rows))
    yield "object array of lists", object_column(lists)
    try:
        import pandas
    except ImportError:
        pass
    else:
        yield "pandas, arrays", pandas.DataFrame({"vector": list(rows)})["vector"]
        yield "pandas, lists", pandas.Series(lists, index=range(10, 10 + len(lists)))
    try:
        import polars
    except ImportError:
        pass
    else:
        yield "polars, lists", polars.Series(lists, dtype=polars.List(polars.Float32))
        yield "polars, arrays", polars.Series(lists, dtype=polars.Array(polars.Float32, rows.shape[1]))
    try:
        import pyarrow
    except ImportError:
        pass
    else:
        yield "pyarrow, lists", pyarrow.array(lists, pyarrow.list_(pyarrow.float32()))
        yield "pyarrow, fixed", pyarrow.array(lists, pyarrow.list_(pyarrow.float32(), rows.shape[1]))
        yield "pyarrow, chunked", pyarrow.chunked_array([pyarrow.array(lists, pyarrow.list_(pyarrow.float32()))])


KERNELS = {
    "cos_sim": lambda x: embedder.cos_sim(x, x),
    "dot_score": lambda x: embedder.dot_score(VECTORS, x),
    "euclidean_sim": lambda x: embedder.euclidean_sim(x, VECTORS),
    "manhattan_sim": lambda x: embedder.manhattan_sim(x, x),
    "pairwise_cos_sim": lambda x: embedder.pairwise_cos_sim(x, VECTORS),
    "pairwise_euclidean_sim": lambda x: embedder.pairwise_euclidean_sim(VECTORS[0], x),
    "normalize_embeddings": embedder.normalize_embeddings,
    "truncate_embeddings": lambda x: embedder.truncate_embeddings(x, 2),
    "semantic_search": lambda x: embedder.semantic_search(x, x),
    "paraphrase_mining_embeddings": embedder.paraphrase_mining_embeddings,
    "community_detection": lambda x: embedder.community_detection(x, 0.1, 1),
    "bitext_mining": lambda x: embedder.bitext_mining(x, VECTORS),
    "mine_hard_negatives": lambda x: embedder.mine_hard_negatives(x, x, range(6)),
    "quantize_embeddings": lambda x: embedder.quantize_embeddings(x, "ubinary"),
    "int8": lambda x: embedder.quantize_embeddings(x, "int8", calibration_embeddings=x),
    "VectorIndex": lambda x: index_of(x).search(x, 3),
}


def index_of(vectors):
    index = embedder.VectorIndex(4)
    index.add(vectors)
    return index


@pytest.mark.parametrize("name", KERNELS)
def test_a_column_of_vectors(name):
    expected = KERNELS[name](VECTORS)
    for kind, column in columns_of(VECTORS):
        found = KERNELS[name](column)
        if isinstance(expected, np.ndarray):
            assert found.shape == expected.shape, kind
            # The ranges of lists are float64, so a value may be in the step above or below.
            atol = 1 if name == "int8" else 0
            np.testing.assert_allclose(found.astype(float), expected.astype(float), 1e-6, atol, err_msg=kind)
        else:
            assert found == expected, kind


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0, 2.0], [1.0]], r"embeddings\[1\] has 1 numbers, but embeddings\[0\] has 2"),
        ([[1.0, 2.0], None], r"embeddings\[1\] should be a vector of numbers, not None"),
        ([[1.0, 2.0], [1.0, None]], r"embeddings\[1\] should be a vector of numbers, not \[1.0, None\]"),
        ([[1.0, 2.0], "a text"], r"embeddings\[1\] should be a vector of numbers, not 'a text'"),
        ([[[1.0], [2.0]]], r"embeddings\[0\] should be a vector of numbers, not \[\[1.0\], \[2.0\]\]"),
        ([[[1.0], [2.0, 3.0]]], r"embeddings\[0\] should be a vector of numbers, not \[\[1.0\], \[2.0, 3.0\]\]"),
        ([1.0, None], r"embeddings\[1\] should be a vector of numbers, not None"),
    ],
)
def test_column_without_vectors_is_refused(rows, message):
    column = np.empty(len(rows), object)
    for index, row in enumerate(rows):
        column[index] = row
    if rows[0] == 1.0:
        column = column[::-1]
        message = message.replace("[1", "[0")
    with pytest.raises(InputError, match=message):
        embedder.cos_sim(column, column)


class Tensor:
    """Refuses to become an array, like a tensor that requires gradients."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Use tensor.detach().numpy() instead.")


def test_object_that_numpy_cannot_read():
    for call in (embedder.normalize_embeddings, embedder.VectorIndex(4).add, embedder.VectorIndex(4).search):
        with pytest.raises(InputError, match=r"should be numbers: Use tensor.detach\(\).numpy\(\) instead"):
            call(Tensor())


def test_texts_and_wrong_shapes_are_refused():
    for texts in (["1", "2"], np.array(["1", "2"]), [1.0, "2"]):
        with pytest.raises(InputError, match=r"embeddings should be numbers, not <U"):
            embedder.cos_sim(texts, texts)
    with pytest.raises(InputError, match="embeddings should be numbers, not object"):
        as_embeddings(np.full((2, 2), None))
    with pytest.raises(InputError, match="embeddings should be numbers, not NoneType"):
        as_embeddings(None)
    with pytest.raises(InputError, match=r"embeddings should be \(n, dim\) or \(dim,\), not \(\)"):
        as_embeddings(1.0)
    assert as_embeddings(object_column([])).shape == (0, 0)
