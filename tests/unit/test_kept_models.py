"""`embedder.encode` keeps the models used last, and no more."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import embedder
from embedder import kept_models
from embedder.errors import ArtifactError, InputError, ModelNotFoundError
from tests.tiny import expected, flip_a_bit, ids_of


@pytest.fixture(autouse=True)
def _no_models_before_or_after():
    embedder.release_models()
    yield
    embedder.release_models()


@pytest.fixture
def loads(monkeypatch):
    """A weak reference to each model that is loaded, by the name of its directory."""
    found = []

    def load(model, **options):
        made = embedder.Embedder(model, **options)
        found.append((str(model).rpartition("/")[2], weakref.ref(made)))
        return made

    monkeypatch.setattr(kept_models, "Embedder", load)
    return found


def alive(loads):
    gc.collect()
    return [name for name, model in loads if model() is not None]


def test_many_threads_load_one_model_once(tiny, loads):
    barrier = threading.Barrier(8)

    def work(_):
        barrier.wait()
        return embedder.encode("cat", model=tiny, normalize_embeddings=True)

    with ThreadPoolExecutor(8) as pool:
        vectors = list(pool.map(work, range(8)))
    np.testing.assert_allclose(vectors, [expected(ids_of("cat"))] * 8, atol=1e-6)
    assert len(loads) == 1


def test_the_four_models_used_last_are_kept(make_artifact, loads):
    paths = {name: make_artifact(name) for name in "abcde"}
    for name in "abcd":
        embedder.encode("cat", model=paths[name])
    embedder.encode("dog", model=paths["a"])  # now b is the model that was used least recently
    assert alive(loads) == ["a", "b", "c", "d"]
    embedder.encode("cat", model=paths["e"])
    assert alive(loads) == ["a", "c", "d", "e"]
    np.testing.assert_allclose(embedder.encode("cat", model=paths["b"]), expected(ids_of("cat")), atol=1e-6)
    assert alive(loads) == ["a", "d", "e", "b"]


def test_a_kept_model_is_freed_without_waiting_for_the_garbage_collector(make_artifact, loads):
    """A model has hundreds of megabytes outside of Python, and the collector does not know about them."""
    gc.disable()
    try:
        for name in "abcdefgh":
            embedder.encode("cat", model=make_artifact(name))
        assert [name for name, model in loads if model() is not None] == ["e", "f", "g", "h"]
        embedder.release_models()
        assert [name for name, model in loads if model() is not None] == []
    finally:
        gc.enable()


def test_release_models(tiny, loads):
    embedder.encode("cat", model=tiny)
    assert alive(loads) == ["tiny"]
    embedder.release_models()
    assert alive(loads) == []
    embedder.encode("cat", model=tiny)
    assert len(loads) == 2
    embedder.release_models()
    embedder.release_models()


def test_a_released_model_finishes_its_calls(tiny):
    def texts():
        yield "cat"
        embedder.release_models()
        gc.collect()
        yield from ["the dog"] * 3000

    vectors = embedder.encode(texts(), model=tiny)
    np.testing.assert_allclose(vectors[[0, -1]], [expected(ids_of("cat")), expected(ids_of("the dog"))], atol=1e-6)


def test_other_load_options_load_another_model(tiny, loads):
    for options in ({}, {"threads": 1}, {"threads": 2}, {"provider": "cpu"}, {}):
        embedder.encode("cat", model=tiny, **options)
    embedder.encode("cat", model=tiny, truncate_dim=3, batch_size=1)
    assert len(loads) == 4


def test_a_load_that_fails_is_tried_again(tiny, tmp_path):
    with pytest.raises(ModelNotFoundError):
        embedder.encode("cat", model=tmp_path / "nowhere")
    flip_a_bit(tiny / "model.onnx")
    for _ in range(2):
        with pytest.raises(ArtifactError, match=r"model\.onnx has been altered or damaged"):
            embedder.encode("cat", model=tiny)
    flip_a_bit(tiny / "model.onnx")
    assert embedder.encode("cat", model=tiny).shape == (8,)


def test_loads_that_fail_release_no_other_model(make_artifact, loads, tmp_path):
    for name in "abcd":
        embedder.encode("cat", model=make_artifact(name))
    for number in range(5):
        with pytest.raises(ModelNotFoundError):
            embedder.encode("cat", model=tmp_path / f"nowhere-{number}")
    assert alive(loads) == ["a", "b", "c", "d"]


def test_a_relative_path_depends_on_the_working_directory_of_the_call(make_artifact, tmp_path, monkeypatch):
    for directory, normalize in (("one", True), ("two", False)):
        (tmp_path / directory).mkdir()
        make_artifact(f"{directory}/model", normalize=normalize)
        monkeypatch.chdir(tmp_path / directory)
        vector = embedder.encode("cat", model="model")
        np.testing.assert_allclose(vector, expected(ids_of("cat"), normalize=normalize), atol=1e-6)


@pytest.mark.parametrize("bad", [None, 3, "", b"tiny", ["tiny"]])
def test_model_that_is_neither_a_name_nor_a_path(bad):
    with pytest.raises(InputError, match="model should be the name or the path of an exported model, not "):
        embedder.encode("cat", model=bad)
