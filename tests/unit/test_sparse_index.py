"""A sparse index finds what a dense product finds, and its file is complete or refused."""

import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest

from embedder import ArtifactError, FormatError, InputError, SparseIndex, SparseVectors

DIMENSION = 50


def random_vectors(rows, seed, whole=False):
    """Return vectors. Small whole numbers give many equal scores."""
    generator = np.random.default_rng(seed)
    dense = generator.integers(1, 4, (rows, DIMENSION)) if whole else generator.normal(size=(rows, DIMENSION))
    dense = np.where(generator.random(dense.shape) < 0.1, dense, 0)
    return SparseVectors.of_dense(dense)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("whole", [False, True])
def test_hits_are_those_of_a_dense_product(seed, whole):
    generator = np.random.default_rng(seed)
    documents, queries = random_vectors(200, seed, whole), random_vectors(12, seed + 100, whole)
    index = SparseIndex(DIMENSION)
    ends = np.sort(generator.integers(0, 201, 11)).tolist()
    for start, end in zip([0, *ends], [*ends, 200], strict=True):
        index.add(documents[start:end], ids=np.arange(start, end) * 3)
    top_k = int(generator.integers(1, 40))
    scores = queries.to_dense().astype(np.float64) @ documents.to_dense().astype(np.float64).T
    for row, hits in enumerate(index.search(queries, top_k)):
        found = np.flatnonzero(np.abs(scores[row]) > 1e-12)
        best = found[np.lexsort((found, -scores[row][found]))][:top_k]
        assert np.abs([hit["score"] for hit in hits] - scores[row][best]).max(initial=0) < 1e-6
        if whole:  # the sums are exact, so equal scores are equal here too
            assert [hit["corpus_id"] for hit in hits] == (best * 3).tolist()


def test_ids():
    index = SparseIndex(2)
    assert index.add(SparseVectors.of_dense([[1, 0], [0, 1]]), ids=[7, 3]).tolist() == [7, 3]
    assert index.add(SparseVectors.of_dense([[1, 0]])).tolist() == [8]
    assert index.ids.tolist() == [7, 3, 8]
    assert repr(index) == "SparseIndex(3 vectors of length 2)"
    for ids, problem in (
        ([7], "ids should differ"),
        ([1, 2], "a whole number for each of the 1 vectors"),
        (["a"], "ids should be whole numbers"),
        ([[1], [2, 3]], "ids should be whole numbers"),
        (np.uint64([2**63]), r"ids should be below 2\*\*63"),
    ):
        with pytest.raises(InputError, match=problem):
            index.add(SparseVectors.of_dense([[1, 0]]), ids=ids)
    assert len(index) == 3
    index.add(SparseVectors.of_dense([[1, 0]]), ids=[2**63 - 1])
    with pytest.raises(InputError, match="there are no ids left"):
        index.add(SparseVectors.of_dense([[1, 0]]))


def test_pickle_and_copies():
    index = SparseIndex(DIMENSION)
    index.add(random_vectors(9, 1))
    copied, queries = pickle.loads(pickle.dumps(index)), random_vectors(3, 2)
    copied.add(random_vectors(9, 3))
    assert (len(index), len(copied)) == (9, 18)
    assert copy.deepcopy(index).search(queries) == index.search(queries)


def test_many_small_parts_are_merged():
    """A search reads few parts, and a number is copied only a few times."""
    index, vectors, sizes = SparseIndex(DIMENSION), random_vectors(300, 1), []
    for row in range(300):
        index.add(vectors[row : row + 1])
        sizes.append([part.count for part in index._state.parts])
    assert max(map(len, sizes)) <= 8
    assert max(map(max, sizes)) <= 300
    for before, after in pairwise(sizes[-1]):
        assert before > 2 * after
    whole = SparseIndex(DIMENSION)
    whole.add(vectors)
    assert index.search(random_vectors(5, 2), 300) == whole.search(random_vectors(5, 2), 300)


def test_inputs_that_do_not_fit():
    index = SparseIndex(2)
    assert index.search(SparseVectors.of_dense([[1, 1]])) == [[]]
    with pytest.raises(InputError, match="takes SparseVectors, not list"):
        index.search([[1, 2]])
    with pytest.raises(InputError, match="vectors of length 2, not 3"):
        index.add(SparseVectors.of_dense([[1, 2, 3]]))
    with pytest.raises(InputError, match="NaN or infinity"):
        index.add(SparseVectors.of_dense([[np.nan, 0]]))
    with pytest.raises(InputError, match="NaN or infinity"):
        index.search(SparseVectors.of_dense([[np.inf, 0]]))
    for number in (0, None):
        with pytest.raises(InputError, match="top_k"):
            index.search(SparseVectors.of_dense([[1, 1]]), top_k=number)
        with pytest.raises(InputError, match="dimension"):
            SparseIndex(number)


@pytest.mark.parametrize("rows", [0, 100])
def test_saved_index(tmp_path, rows):
    index, queries = SparseIndex(DIMENSION), random_vectors(5, 1)
    index.add(random_vectors(rows, 2))
    index.save(tmp_path / "texts.sparse")
    loaded = SparseIndex.load(tmp_path / "texts.sparse")
    assert len(loaded) == rows
    assert loaded.search(queries) == index.search(queries)
    loaded.add(random_vectors(10, 3))
    index.add(random_vectors(10, 3))
    loaded.save(tmp_path / "texts.sparse")
    again = SparseIndex.load(tmp_path / "texts.sparse")
    assert again.search(queries) == index.search(queries)


def test_places_that_cannot_be_written(tmp_path):
    for path in (tmp_path, tmp_path / "none" / "texts.sparse"):
        with pytest.raises(OSError, match="directory"):
            SparseIndex(3).save(path)


def test_damaged_files(tmp_path):
    path = tmp_path / "texts.sparse"
    index = SparseIndex(DIMENSION)
    index.add(random_vectors(100, 2))
    index.save(path)
    content = path.read_bytes()

    def refused(changed, problem, error=ArtifactError):
        path.write_bytes(changed)
        with pytest.raises(error, match=problem):
            SparseIndex.load(path)

    refused(content[:-1], "is damaged: it has")
    refused(b"", "is not a sparse index of embedder")
    refused(b"\x89EMBIDX\n" + content[8:], "is not a sparse index of embedder")
    refused(content[:8] + b"\x09" + content[9:], "format version 9", FormatError)
    refused(content[:-40] + b"\x01" + content[-39:], "its sha256 is")
    refused(content[:16] + b"\xff" * 8 + content[24:], "its version and sizes are")
    path.unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        SparseIndex.load(path)
