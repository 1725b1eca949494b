"""Pixel values are those of transformers' CLIPImageProcessor that uses Pillow.

One difference is known. Version 5 of transformers puts a transparent Pillow image on a white background. Version 4
drops the transparency. Both versions drop it for files. embedder always drops it. So the tests drop it first.
"""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from embedder.artifact.image_settings import RESAMPLES, ImageSettings
from embedder.errors import InputError
from embedder.images import preprocessor
from embedder.images.preprocessor import Preprocessor
from embedder.images.sources import is_image

transformers = pytest.importorskip("transformers")
# Version 5 has this name for the processor that needs no torchvision.
CLIPImageProcessor = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F", "I;16")
# The difference in pixel values for one of the 256 steps of a colour.
STEP = 1 / 255 / min(STD)


def settings(resize=(224,), resample="bicubic", crop=(224, 224), rescale=1 / 255, mean=MEAN, std=STD):
    return ImageSettings(tuple(resize), resample, tuple(crop), rescale, tuple(mean), tuple(std), 50, None)


def original(item, chosen):
    """Return the pixel values of transformers for a Pillow image."""
    size = {"shortest_edge": chosen.resize[0]} if len(chosen.resize) == 1 else None
    if len(chosen.resize) == 2:
        size = dict(zip(("height", "width"), chosen.resize, strict=True))
    processor = CLIPImageProcessor(
        do_resize=bool(chosen.resize),
        size=size,
        resample=Image.Resampling[chosen.resample.upper()],
        do_center_crop=bool(chosen.crop),
        crop_size=dict(zip(("height", "width"), chosen.crop or (1, 1), strict=True)),
        rescale_factor=chosen.rescale,
        image_mean=list(chosen.mean),
        image_std=list(chosen.std),
    )
    opaque = without_transparency(item)
    # Without `input_data_format`, an image with a height of one or three pixels is read with the wrong axes.
    return processor(opaque, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]


def without_transparency(image):
    image = image.copy()
    image.info.pop("transparency", None)
    return image.convert("RGB")


def picture(seed, mode, width, height):
    """Return a Pillow image of `mode` with random blocks of colour."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (-(-height // 3), -(-width // 3), 4), dtype=np.uint8)
    pixels = blocks.repeat(3, 0).repeat(3, 1)[:height, :width]
    if mode == "I;16":
        return Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 3)
    if mode in ("I", "F"):
        return Image.fromarray((pixels[:, :, 0].astype(np.int32) * 2 - 100).astype({"I": "i4", "F": "f4"}[mode]))
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return image.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr", "HSV") else image.convert(mode)


EDGES = st.integers(1, 70)
SIZES = st.one_of(st.just(()), st.tuples(EDGES), st.tuples(EDGES, EDGES))
CROPS = st.one_of(st.just(()), st.tuples(EDGES, EDGES))
SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.sampled_from(MODES), EDGES, EDGES, SIZES, st.sampled_from(RESAMPLES), CROPS)
def test_any_mode_size_filter_and_crop(seed, mode, width, height, resize, resample, crop):
    chosen = settings(resize, resample, crop)
    image = picture(seed, mode, width, height)
    found = Preprocessor(chosen)(image)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, original(image, chosen))


@given(
    st.floats(1e-3, 1), st.tuples(*[st.floats(-1, 1)] * 3), st.tuples(*[st.floats(0.01, 2)] * 3)
)  # published models are within these ranges
def test_any_rescaling_and_normalisation(rescale, mean, std):
    chosen = settings((8,), crop=(8, 8), rescale=rescale, mean=mean, std=std)
    image = picture(0, "RGB", 9, 20)
    np.testing.assert_array_equal(Preprocessor(chosen)(image), original(image, chosen))


@pytest.mark.parametrize(
    "size", [(640, 480), (333, 500), (3000, 225), (224, 224), (225, 224), (100, 37), (1, 1), (1, 90)]
)
def test_settings_of_published_models(size):
    image = picture(1, "RGB", *size)
    np.testing.assert_array_equal(Preprocessor(settings())(image), original(image, settings()))


SMOOTH = ("bilinear", "bicubic", "hamming", "lanczos")


@given(SEEDS, EDGES, EDGES, st.one_of(st.tuples(EDGES), st.tuples(EDGES, EDGES)), CROPS, st.sampled_from(SMOOTH))
def test_resizing_only_the_cropped_part_changes_only_roundings(seed, width, height, resize, crop, resample):
    """The colours stay in their range under every filter. The filters have no hard edges."""
    chosen = settings(resize, resample, crop)
    image = picture(seed, "RGB", width, height).point(lambda value: 96 + value // 4)
    expected = original(image, chosen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocessor, "_MAX_RESIZED_PIXELS", expected[0].size)
        found = Preprocessor(chosen)(image)
    assert np.abs(found - expected).max() <= 2.01 * STEP


@pytest.fixture(scope="module")
def published(data):
    """The settings of openai/clip-vit-base-patch32."""
    config = json.loads((data / "tokenizers/clip/preprocessor_config.json").read_text())
    chosen = settings((config["size"],), mean=config["image_mean"], std=config["image_std"])
    assert (config["crop_size"], config["resample"]) == (224, Image.Resampling.BICUBIC)
    return chosen


def from_path(path, chosen):
    """Return the pixel values of transformers for a file. It turns the image upright by its EXIF data."""
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("ignore")
        return original(transformers.image_utils.load_image(image), chosen)


def files(data, folder):
    found = sorted((data / "images" / folder).iterdir())
    assert found
    return found


@pytest.mark.parametrize("folder", ["photos", "exif"])
def test_real_photographs(data, published, folder):
    for path in files(data, folder):
        expected = from_path(path, published)
        np.testing.assert_array_equal(Preprocessor(published)(path), expected, str(path))
        np.testing.assert_array_equal(Preprocessor(published)(path.read_bytes()), expected, str(path))
        with Image.open(path) as image:
            np.testing.assert_array_equal(Preprocessor(published)(image), original(image, published), str(path))


def test_file_is_turned_upright_but_pillow_image_is_not(data, published):
    """transformers turns a file upright, and leaves a Pillow image as its caller opened it."""
    turned = data / "images/exif/Landscape_6.jpg"
    with Image.open(turned) as image:
        assert not np.array_equal(Preprocessor(published)(turned), Preprocessor(published)(image))


UNREADABLE = {
    "pillow-broken.png": "is not an image that Pillow can read: as PNG it is damaged",
    "pillow-truncated_image.png": "is truncated",
    "pillow-ultrahdr.jpg": "is truncated",
}


def test_odd_files(data, published):
    for path in files(data, "odd"):
        if path.name in UNREADABLE:
            with pytest.raises(InputError, match=f"{path.name} {UNREADABLE[path.name]}"):
                Preprocessor(published)(path)
        else:
            np.testing.assert_array_equal(Preprocessor(published)(path), from_path(path, published), str(path))


def test_strings_that_are_images(data):
    """embedder agrees with sentence-transformers, but knows more endings, and needs data in a data URI."""
    modality = pytest.importorskip("sentence_transformers.base.modality")
    path = str(data / "images/photos/coral-pets.jpg")
    texts = ["", "a cat", "cat.jpg", path, path.upper(), path + " ", "data:image/png;base64,", "data:text/plain,a.jpg"]
    texts += [
        "https://example.com",
        "https://example.com/cat jpg",
        "https://[[a]]/cat.jpg",
        "https://a.b/c d.jpg",
        "https://a.jpg",
    ]
    for text in texts:
        assert is_image(text, read_paths=True) == modality.is_image_url_or_path(text), text
    for url in ("https://example.com/cat.jpg", "http://example.com/cat.PNG?size=3#top", "https://a.b/c\n.webp"):
        assert is_image(url, read_paths=True)
        assert modality.is_image_url_or_path(url)
