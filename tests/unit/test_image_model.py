"""A model that takes texts and images: mixed inputs, streams, damaged images. Each side loads when it is needed."""

import base64
import io
import pickle
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import embedder
from embedder import DependencyError, ImageError, InputError
from embedder.artifact.manifest import read_manifest, write_manifest
from embedder.artifact.match_logits import MatchLogits, match_logits, with_match_logits
from embedder.images.preprocessor import Preprocessor
from tests.tiny import (
    DIMENSION,
    IMAGE_SIZE,
    add_image_graph,
    add_int8_graph,
    expected,
    expected_of_image,
    flip_a_bit,
    ids_of,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (300, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
EXPECTED = np.stack([expected_of_image(pixels) for pixels in PIXELS])


@pytest.fixture
def artifact(tiny):
    add_image_graph(tiny)
    return tiny


@pytest.fixture
def model(artifact):
    return embedder.Embedder(artifact, threads=3)


def png(pixels=PIXELS[0]):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_every_source_of_an_image(model, tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(png())
    with path.open("rb") as file, Image.open(path) as opened:
        sources = [file, path, png(), bytearray(png()), opened, PIXELS[0], Image.fromarray(PIXELS[0])]
        for source in sources[1:]:
            vector = model.encode(source)
            assert (vector.shape, vector.dtype) == ((DIMENSION,), np.float32)
            assert_close(vector, EXPECTED[0])
        assert_close(model.encode(sources), EXPECTED[[0] * len(sources)])


def test_arrays_of_one_and_of_many(model):
    assert_close(model.encode(PIXELS[:3]), EXPECTED[:3])
    assert model.encode(PIXELS[0, :, :, 0]).shape == (DIMENSION,)
    assert model.encode(np.array(["cat", "dog"])).shape == (2, DIMENSION)
    assert model.encode(PIXELS[:0]).shape == (0, DIMENSION)


@pytest.mark.parametrize("batch_size", [None, 1, 7, 1000])
def test_texts_and_images_mixed_come_in_order(model, batch_size):
    words = ["cat", "the dog", "", "cat sat on the mat"]
    inputs = [PIXELS[at] if at % 3 else words[at % 4] for at in range(len(PIXELS))]
    wanted = [EXPECTED[at] if at % 3 else expected(ids_of(words[at % 4])) for at in range(len(PIXELS))]
    assert_close(model.encode(inputs, batch_size=batch_size), np.stack(wanted))
    blocks = list(model.encode_iter(iter(inputs), batch_size=batch_size))
    assert len(blocks) > 1
    assert_close(np.concatenate(blocks), np.stack(wanted))


def test_options_are_for_images_too(model):
    vectors = model.encode(PIXELS[:5], truncate_dim=3, normalize_embeddings=True, prompt="the ")
    assert vectors.shape == (5, 3)
    assert_close(vectors, EXPECTED[:5, :3] / np.linalg.norm(EXPECTED[:5, :3], axis=1, keepdims=True))


def test_modalities_queries_and_documents(model):
    assert model.modalities == ("text", "image")
    assert model.encode_query("cat").shape == model.encode_document(PIXELS[0]).shape == (DIMENSION,)
    assert model.similarity(model.encode("cat"), model.encode(PIXELS[:2])).shape == (1, 2)


def test_each_side_is_loaded_when_it_is_first_needed(artifact):
    flip_a_bit(artifact / "image.onnx")
    model = embedder.Embedder(artifact)
    assert model.encode("cat").shape == (DIMENSION,)
    with pytest.raises(embedder.ArtifactError, match=r"image\.onnx"):
        model.encode(PIXELS[0])
    flip_a_bit(artifact / "image.onnx")
    flip_a_bit(artifact / "model.onnx.data")
    model = embedder.Embedder(artifact)
    assert_close(model.encode(PIXELS[:2]), EXPECTED[:2])
    with pytest.raises(embedder.ArtifactError, match=r"model\.onnx\.data"):
        model.encode("cat")


@pytest.mark.parametrize("count", [1, 40])
def test_an_image_error_has_the_vectors_of_the_other_inputs(model, count):
    inputs = [*PIXELS[:50], "cat"]
    bad = list(range(0, 50, 50 // count))[:count]
    for index in bad:
        inputs[index] = b"no image"
    with pytest.raises(ImageError, match=r"^inputs\[0\]: bytes of length 8 is not an image") as raised:
        model.encode(inputs)
    error = raised.value
    assert list(error.reasons) == bad
    assert error.indices.tolist() == [index for index in range(51) if index not in bad]
    wanted = np.stack([*EXPECTED[:50], expected(ids_of("cat"))])[error.indices]
    assert_close(error.embeddings, wanted)
    assert ("and 37 more" in str(error)) == (count == 40)
    assert f"This error holds the vectors of the other {51 - count} inputs" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.reasons) == (str(error), error.reasons)
    result = model.encode_readable(inputs)
    assert_close(result.embeddings, wanted)
    np.testing.assert_array_equal(result.indices, error.indices)
    assert result.reasons == error.reasons


def test_images_that_are_left_out_are_in_the_result(model):
    assert model.encode_readable([PIXELS[0], b""]).reasons == {1: "bytes of length 0 is empty"}


def test_encode_readable_with_one_image_or_none_left(model):
    result = model.encode_readable(PIXELS[0])
    assert (result.embeddings.shape, result.indices.tolist(), result.reasons) == ((1, DIMENSION), [0], {})
    result = model.encode_readable(b"no image")
    assert (result.embeddings.shape, result.indices.tolist()) == ((0, DIMENSION), [])
    assert (result.embeddings.dtype, result.indices.dtype) == (np.float32, np.int64)
    assert result.reasons == {0: "bytes of length 8 is not an image that Pillow can read"}
    with pytest.raises(ImageError, match=r"inputs\[0\]: bytes"):
        model.encode(b"no image")


def test_a_stream_with_damaged_images(model):
    inputs = [b"no image" if at % 70 == 3 else png(PIXELS[at]) for at in range(200)]
    blocks = list(model.iter_results(iter(inputs)))
    indices = np.concatenate([block.indices for block in blocks])
    assert indices.tolist() == [at for at in range(200) if at % 70 != 3]
    assert_close(np.concatenate([block.embeddings for block in blocks]), EXPECTED[indices])
    assert [index for block in blocks for index in block.reasons] == [3, 73, 143]
    with pytest.raises(ImageError, match=r"inputs\[3\]"):
        next(model.encode_iter(iter(inputs)))


def test_images_in_memory_are_released_as_they_are_used(model):
    """At most 129 images are in memory at once, whatever their number."""
    alive, most, taken = set(), 0, 0

    class File(io.BytesIO):
        def __init__(self):
            super().__init__(png())
            alive.add(id(self))

        def __del__(self):
            alive.discard(id(self))

    def stream():
        nonlocal most, taken
        for _ in range(1000):
            taken += 1
            most = max(most, len(alive))
            yield File()

    blocks = model.encode_iter(stream())
    assert len(next(blocks)) == 64
    assert taken <= 128
    assert sum(map(len, blocks)) == 936
    assert most <= 129


def test_images_are_decoded_in_several_threads(model, monkeypatch):
    meeting, decode = threading.Barrier(3, timeout=60), Preprocessor.__call__

    def together(self, item):
        meeting.wait()
        return decode(self, item)

    monkeypatch.setattr(Preprocessor, "__call__", together)
    assert_close(model.encode(PIXELS[:12]), EXPECTED[:12])


def test_graphs_are_chosen_for_both_sides(artifact):
    add_int8_graph(artifact)
    with pytest.raises(InputError, match="the model has no graph of dtype 'int8', it has 'fp32'"):
        embedder.Embedder(artifact, dtype="int8")
    assert "dtype='int8+fp32'" in repr(embedder.Embedder(artifact, dtype="auto"))
    assert "dtype='fp32'" in repr(embedder.Embedder(artifact))


@pytest.mark.parametrize("item", [None, 3, 3.5, object(), ["cat"], {"a": 1}])
def test_an_item_that_is_neither_a_text_nor_an_image_is_refused(model, item):
    with pytest.raises(InputError, match=r"inputs\[1\] should be a string or an image, not "):
        model.encode(["cat", item])


@pytest.mark.parametrize("inputs", [None, 3, {"a": 1}, {"cat"}])
def test_inputs_that_are_not_a_list_are_refused(model, inputs):
    with pytest.raises(InputError, match="inputs should be a string, an image or a list of them, not "):
        model.encode(inputs)


def test_a_web_address_is_not_fetched_and_the_others_are_encoded(model):
    result = model.encode_readable(["http://somewhere/cat.png", "cat"], read_paths=True)
    assert result.indices.tolist() == [1]
    assert_close(result.embeddings, [expected(ids_of("cat"))])
    with pytest.raises(ImageError, match=r"inputs\[0\]: http://somewhere/cat\.png is not fetched: download it"):
        model.encode("http://somewhere/cat.png", read_paths=True)


def test_a_string_is_a_text_unless_read_paths_is_given(model, tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(png())
    strings = [str(path), "http://somewhere/cat.png", "data:image/png;base64,AAAA"]
    for string in strings:
        assert_close(model.encode(string), expected(ids_of(string)))
        assert_close(model.encode([string, path]), [expected(ids_of(string)), EXPECTED[0]])
    wanted = np.stack([expected(ids_of(string)) for string in strings])
    assert_close(model.encode_query(strings), wanted)
    assert_close(model.encode_readable(strings).embeddings, wanted)
    assert_close(next(model.encode_iter(strings)), wanted)
    assert_close(next(model.iter_results(strings)).embeddings, wanted)


def test_with_read_paths_strings_that_name_images_are_images(model, tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(png())
    uri = "data:image/png;base64," + base64.b64encode(png()).decode()
    wanted = [EXPECTED[0], EXPECTED[0], expected(ids_of("none.png")), expected(ids_of("cat"))]
    inputs = [str(path), uri, "none.png", "cat"]
    assert_close(model.encode(inputs, read_paths=True), wanted)
    assert_close(model.encode(str(path), read_paths=True), EXPECTED[0])
    assert_close(next(model.encode_iter(iter(inputs), read_paths=True)), wanted)
    assert_close(model.encode_document(inputs, read_paths=True), wanted)


def test_an_image_without_pixels(model):
    with pytest.raises(ImageError, match=r"inputs\[1\]: a Pillow image of 0 x 5 is empty"):
        model.encode(["cat", Image.new("RGB", (0, 5))])


@pytest.mark.parametrize("inputs", [PIXELS[0], png(), [png()], [PIXELS[0]]])
def test_a_model_of_texts_alone_takes_no_images(tiny, inputs):
    with pytest.raises(InputError, match=r"texts(\[0\])? should be a string"):
        embedder.Embedder(tiny).encode(inputs)
    with pytest.raises(InputError, match="this model takes no images"):
        embedder.Embedder(tiny).encode([PIXELS[0]])


def test_without_pillow(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert model.encode("cat").shape == (DIMENSION,)
    with pytest.raises(DependencyError, match=r'pip install "embedder-onnx\[image\]"'):
        model.encode([png(), png()])


def test_probabilities_of_images_and_texts(artifact):
    manifest = read_manifest(artifact)
    write_manifest(with_match_logits(manifest, MatchLogits(5.0, -2.0)), artifact)
    model = embedder.Embedder(artifact)
    images, texts = model.encode(list(PIXELS[:3])), model.encode(["a b", "c"])
    found = model.match_probabilities(images, texts)
    assert (found.shape, found.dtype) == ((3, 2), np.float32)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(2 - 5 * embedder.cos_sim(images, texts))), atol=1e-6)
    np.testing.assert_allclose(model.match_probabilities(images[0], texts[1]), found[:1, 1:], atol=1e-6)
    with pytest.raises(InputError, match=r"embeddings should be \(n, dim\)"):
        model.match_probabilities(images[:, :2], texts)


def test_a_model_without_probabilities_says_so(model):
    with pytest.raises(InputError, match="has no probabilities of an image and a text, as SigLIP models have"):
        model.match_probabilities(np.ones(DIMENSION), np.ones(DIMENSION))


@pytest.mark.parametrize("field", [None, {"scale": 1.0}, {"scale": "x", "bias": 0.0}, {"scale": -1.0, "bias": 0.0}])
def test_logits_of_another_form_do_not_count(artifact, field):
    manifest = read_manifest(artifact)
    assert match_logits(replace(manifest, extra={"match_logits": field})) is None


@pytest.mark.parametrize(("scale", "bias"), [(0.0, 1.0), (float("inf"), 1.0), (1.0, float("nan"))])
def test_logits_out_of_range(scale, bias):
    with pytest.raises(ValueError, match=r"scale: .* is not above 0|bias: nan is not finite"):
        MatchLogits(scale, bias)
