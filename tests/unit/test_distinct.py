"""Copies of a text are encoded once, and its vector goes to all its places."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import embedder
from embedder.backends.cpu import CpuDevice
from embedder.engine.distinct import find_distinct
from embedder.errors import ArtifactError, ImageError
from embedder.inputs import ImageItem, Pair
from tests.tiny import add_image_graph, expected, ids_of, write_tiny_ranker

WORDS = ["cat", "dog", "the cat sat on the mat", "", "a b c"]


class Caseless(str):
    """A string that compares in its own way."""

    def __eq__(self, other):
        return isinstance(other, str) and self.lower() == other.lower()

    def __hash__(self):
        return hash(self.lower())


class Spy:
    """A backend that gives each text its number of tokens, or NaN, and keeps how many texts each call has."""

    def __init__(self, nan_from=None, output=("embedding", 8)):
        self.device, self.texts, self.nan_from, self.output = CpuDevice(2), [], nan_from, output

    def run(self, feeds, *, single_batch=False):
        counts = feeds["attention_mask"].sum(axis=1, keepdims=True).astype(np.float32)
        self.texts.append(len(counts))
        if self.nan_from is not None:
            counts[counts >= self.nan_from] = np.nan
        name, size = self.output
        return {name: np.repeat(counts, size, axis=1)}


@given(st.lists(st.sampled_from(WORDS) | st.builds(Pair, st.sampled_from(WORDS), st.sampled_from(WORDS)), max_size=60))
def test_each_item_finds_its_own_value(items):
    distinct, places = find_distinct(items)
    assert len(set(distinct)) == len(distinct)
    assert [items[row] for row in places.rows] == distinct
    assert places.copies == len(items) - len(distinct)
    spread = places.spread(np.arange(len(distinct), dtype=np.float32))
    assert [distinct[int(place)] for place in spread] == items


def test_items_that_all_differ_are_not_copied():
    items = ["a", "b", Pair("a", "b")]
    distinct, places = find_distinct(items)
    assert distinct is items
    assert places.sources is None


@pytest.mark.parametrize(
    "items",
    [
        [Caseless("Cat"), Caseless("CAT")],
        [ImageItem(b"x"), ImageItem(b"x")],
        [ImageItem(Path("a.png")), ImageItem(Path("a.png"))],
        [ImageItem(bytearray(b"x")), ImageItem(bytearray(b"x"))],
        ["a.png", ImageItem("a.png")],
        ["a", Pair("a", "")],
    ],
    ids=["own comparison", "bytes", "paths", "unhashable", "text and image", "text and pair"],
)
def test_only_equal_texts_are_copies(items):
    assert find_distinct(items)[0] == items
    assert find_distinct([*items, "b", "b"])[0] == [*items, "b"]


def test_copies_are_encoded_once_in_a_list(tiny):
    backend = Spy()
    texts = WORDS * 1000  # many windows
    vectors = embedder.Embedder(tiny, backend=backend).encode(texts)
    assert sum(backend.texts) == len(WORDS)
    np.testing.assert_array_equal(vectors[:, 0], [len(ids_of(text)) for text in texts])


def test_copies_are_encoded_once_in_a_window_of_a_stream(tiny):
    backend = Spy()
    parts = list(embedder.Embedder(tiny, backend=backend).encode_iter(iter(WORDS * 300)))
    assert sum(backend.texts) == 2 * len(WORDS)
    assert [len(part) for part in parts] == [1024, 476]
    np.testing.assert_array_equal(np.concatenate(parts)[:, 0], [len(ids_of(text)) for text in WORDS * 300])


def test_arrays_of_strings_have_copies_too(tiny):
    backend = Spy()
    embedder.Embedder(tiny, backend=backend).encode(np.array(WORDS * 3))
    assert sum(backend.texts) == len(WORDS)


@pytest.mark.parametrize("options", [{}, {"prompt": "query : "}, {"truncate_dim": 3, "normalize_embeddings": True}])
def test_a_copy_has_the_vector_of_its_text(tiny, options):
    model = embedder.Embedder(tiny)
    texts = [*WORDS, "c", *WORDS[::-1]]
    vectors = model.encode(texts, **options)
    np.testing.assert_array_equal(vectors[: len(WORDS)], vectors[: len(WORDS) : -1])
    np.testing.assert_allclose(vectors, [model.encode(text, **options) for text in texts], atol=1e-6)
    np.testing.assert_array_equal(np.concatenate(list(model.encode_iter(texts, **options))), vectors)


def test_copies_are_quantised_as_all_others(tiny):
    model = embedder.Embedder(tiny)
    texts = [*WORDS, *WORDS]
    quantised = embedder.quantize_embeddings(model.encode(texts), "int8")
    np.testing.assert_array_equal(model.encode(texts, precision="int8"), quantised)


@pytest.mark.parametrize("encode", ["encode", "encode_iter"])
def test_the_progress_bar_counts_copies(tiny, capsys, encode):
    list(getattr(embedder.Embedder(tiny), encode)(WORDS * 100, show_progress_bar=True))
    assert "500/500" in capsys.readouterr().err


@pytest.mark.parametrize("encode", ["encode", "encode_iter"])
def test_an_error_names_the_callers_input(tiny, encode):
    model = embedder.Embedder(tiny, backend=Spy(nan_from=5))
    with pytest.raises(ArtifactError, match=r"NaN or infinity for input 3 \(counted"):
        list(getattr(model, encode)(["cat", "cat", "dog", "the cat sat on the mat", "cat"]))


def test_images_between_copies(tiny):
    add_image_graph(tiny)
    model = embedder.Embedder(tiny)
    image = np.full((2, 2, 3), 90, np.uint8)
    inputs = ["cat", image, "cat", b"no image", "dog", image, "cat", b"no image"]
    for result in (model.encode_readable(inputs), next(model.iter_results(iter(inputs)))):
        assert result.indices.tolist() == [0, 1, 2, 4, 5, 6]
        assert list(result.reasons) == [3, 7]
        np.testing.assert_allclose(result.embeddings[[0, 2, 5]], [expected(ids_of("cat"))] * 3, atol=1e-6)
        np.testing.assert_allclose(result.embeddings[3], expected(ids_of("dog")), atol=1e-6)
        np.testing.assert_array_equal(result.embeddings[1], result.embeddings[4])
    with pytest.raises(ImageError) as caught:
        model.encode(inputs)
    assert list(caught.value.reasons) == [3, 7]


def test_pairs_are_scored_once(tmp_path):
    backend = Spy(output=("score", 1))
    model = embedder.CrossEncoder(write_tiny_ranker(tmp_path / "ranker"), backend=backend)
    assert model.predict([("cat", "dog"), ("dog", "cat"), ("cat", "dog")]).shape == (3,)
    assert sum(backend.texts) == 2
