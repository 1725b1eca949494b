"""Recorded calls for one short text. Here a CPU runs them: the memory, the padding and the order are the same."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedder.artifact.locate import open_artifact
from embedder.backends.cuda_queries import LENGTHS, QueryGraphs
from embedder.backends.sessions import CPU_EXECUTION_PROVIDER, open_session, session_options
from tests.tiny import DIMENSION, expected, write_tiny_artifact

CALLS = 8
SHAPES = {"embedding": (DIMENSION,)}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    artifact = open_artifact(write_tiny_artifact(tmp_path_factory.mktemp("tiny") / "model"))
    return artifact.path(artifact.manifest.graphs[0].file)


def feeds_of(ids):
    return {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}


def make_graphs(path, opened=None, max_tokens=64, shapes=SHAPES):
    def start():
        if opened is not None:
            opened.append(path)
        return open_session(path, CPU_EXECUTION_PROVIDER, session_options(1))

    return QueryGraphs(start, shapes, device=("cpu", 0), max_tokens=max_tokens)


def recorded(graphs):
    """Return `graphs` after enough calls, and after its thread has recorded them."""
    for _ in range(CALLS):
        assert graphs.run(feeds_of([2, 5, 3])) is None
    graphs._executor.submit(lambda _: None, None).result()
    return graphs


def test_nothing_is_loaded_for_a_few_texts(path):
    opened = []
    graphs = make_graphs(path, opened)
    for _ in range(CALLS - 1):
        assert graphs.run(feeds_of([2, 5, 3])) is None
    assert opened == []
    assert recorded(graphs).run(feeds_of([2, 5, 3])) is not None
    assert opened == [path]


def test_each_text_has_its_own_vector_whatever_came_before_it(path):
    graphs = recorded(make_graphs(path))
    texts = [[2, *([5 + n % 9] * n), 3] for n in [*range(60, 0, -1), *range(1, 61)]]
    for ids in texts:
        vectors = graphs.run(feeds_of(ids))["embedding"]
        np.testing.assert_allclose(vectors, [expected(ids)], atol=1e-6)


def test_many_threads_get_their_own_vectors(path):
    graphs = recorded(make_graphs(path))
    texts = [[2, *([4 + n % 20] * (1 + n % 13)), 3] for n in range(200)]
    with ThreadPoolExecutor(8) as executor:
        found = list(executor.map(lambda ids: graphs.run(feeds_of(ids))["embedding"][0], texts))
    np.testing.assert_allclose(found, [expected(ids) for ids in texts], atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 8), (1, LENGTHS[-1] + 1)])
def test_several_texts_and_long_texts_take_the_ordinary_session(path, shape):
    feeds = {"input_ids": np.full(shape, 5), "attention_mask": np.ones(shape, np.int64)}
    assert recorded(make_graphs(path)).run(feeds) is None


def test_no_length_is_recorded_that_the_model_cannot_read(path):
    graphs = recorded(make_graphs(path, max_tokens=20))
    assert graphs.run(feeds_of([5] * 16)) is not None
    assert graphs.run(feeds_of([5] * 17)) is None


def test_a_device_that_cannot_record_leaves_all_texts_to_the_ordinary_session():
    def fail():
        raise RuntimeError("This session cannot use the graph capture feature")

    graphs = recorded(QueryGraphs(fail, SHAPES, device=("cpu", 0), max_tokens=64))
    assert [graphs.run(feeds_of([5] * 9)) for _ in range(2 * CALLS)] == [None] * 2 * CALLS


def test_a_failed_replay_leaves_the_text_to_the_ordinary_session(path):
    graphs = recorded(make_graphs(path))
    assert graphs.run({"input_ids": np.array([[5]])}) is None
    assert graphs.run(feeds_of([5])) is None
