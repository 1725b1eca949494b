"""Recognise images, read them, and prepare them as transformers does."""

import base64
import contextlib
import io
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from embedder.artifact.image_settings import ImageSettings
from embedder.errors import DependencyError, InputError
from embedder.images.preprocessor import Preprocessor
from embedder.images.sources import describe, is_image

ORIENTATION = 0x0112


def settings(resize=(), crop=(), resample="bicubic"):
    return ImageSettings(resize, resample, crop, 1 / 255, (0, 0, 0), (1, 1, 1), 50, None)


def colours(item, **options):
    """Return the pixel values of `item` as integers from 0 to 255, (height, width, 3)."""
    pixels = Preprocessor(settings(**options))(item)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    return np.rint(pixels.transpose(1, 2, 0) * 255).astype(int)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


ARRAY = noise(5, 4, 3)
PNG = encoded(Image.fromarray(ARRAY))


class Unreadable:
    def read(self):
        raise RuntimeError("the line is down")


def test_is_image_tells_images_from_texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cat.JPG").touch()
    Path("folder.jpg").mkdir()
    images = ["cat.JPG", "data:image/png;base64,", Path("none"), b"", bytearray(), memoryview(b""), io.BytesIO()]
    images += [Image.new("L", (1, 1)), ARRAY, Unreadable()]
    assert [item for item in images if not is_image(item, read_paths=True)] == []
    texts = [
        "",
        "a cat",
        "none.jpg",
        "folder.jpg",
        "cat.JPG ",
        ".jpg",
        "data:text/plain,",
        "data:image/png is a type",
        "x" * 10**6 + ".jpg",
    ]
    texts += ["a\0.jpg", "\ud800.jpg", "https://example.com", "https://example.com/a b.jpg", "https://[[a]]/cat.jpg"]
    assert [item for item in [*texts, None, 1, 1.5, [ARRAY], {}] if is_image(item, read_paths=True)] == []
    strings = [item for item in images if isinstance(item, str)]
    assert [item for item in strings if is_image(item)] == []


def test_a_url_is_not_fetched():
    url = "https://example.com/cat.jpg?size=3"
    assert is_image(url, read_paths=True)
    with pytest.raises(InputError, match=r"^https://example.com/cat.jpg\?size=3 is not fetched: download it, and give"):
        Preprocessor(settings())(url)


def test_texts_do_not_import_pillow():
    code = """if True:
        import sys
        from embedder.images.preprocessor import Preprocessor
        from embedder.images.sources import describe, is_image
        from embedder.artifact.image_settings import ImageSettings
        Preprocessor(ImageSettings((), "bicubic", (), 1.0, (0, 0, 0), (1, 1, 1), 50, None))
        for item in ("a cat", "cat.jpg", b"", object()):
            is_image(item), describe(item)
        assert not [name for name in sys.modules if name.split(".")[0] == "PIL"]
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_formats_that_pillow_loads_last():
    code = """if True:
        import sys
        from embedder.images.preprocessor import Preprocessor
        from embedder.artifact.image_settings import ImageSettings
        settings = ImageSettings((), "bicubic", (), 1.0, (0, 0, 0), (1, 1, 1), 50, None)
        print(Preprocessor(settings)(sys.stdin.buffer).shape)
    """
    file = encoded(Image.fromarray(ARRAY), "TIFF")
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, input=file, capture_output=True).stdout
        == b"(3, 5, 4)\n"
    )


def test_if_a_reader_fails_the_next_one_tries(monkeypatch):
    def fails(file, name):
        raise struct.error("too short")

    first = {"NONE": (fails, lambda prefix: "this Pillow cannot read it"), "ODD": (fails, None)}
    monkeypatch.setattr(Image, "OPEN", first | Image.OPEN)
    assert (colours(PNG) == ARRAY).all()
    with pytest.raises(InputError, match=r"can read$"):
        Preprocessor(settings())(b"text")
    monkeypatch.setattr(Image, "OPEN", {"ODD": (fails, lambda prefix: True)})
    with pytest.raises(InputError, match=r"can read: as ODD it is damaged \(too short\)$"):
        Preprocessor(settings())(PNG)


def test_without_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert not is_image("a cat")
    with pytest.raises(DependencyError, match=r'pip install "embedder-onnx\[image\]"'):
        Preprocessor(settings())(PNG)


def test_every_source_gives_the_same(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(PNG)
    uri = "data:image/png;base64," + base64.encodebytes(PNG).decode()
    sources = [path, str(path), PNG, bytearray(PNG), memoryview(PNG), io.BytesIO(PNG), uri, Image.open(path), ARRAY]
    sources += [ARRAY.copy(order="F"), memoryview(b"".join(bytes([byte, 0]) for byte in PNG))[::2]]
    for source in sources:
        assert (colours(source) == ARRAY).all(), describe(source)


def test_file_objects_are_read_from_their_position_and_not_closed():
    file = io.BytesIO(b"before" + PNG)
    file.seek(6)
    assert (colours(file) == ARRAY).all()
    assert not file.closed


def test_arrays_of_grey_rgb_and_rgba():
    grey = ARRAY[:, :, :1]
    assert (colours(grey) == grey).all()
    assert (colours(grey[:, :, 0]) == grey).all()
    assert (colours(np.dstack([ARRAY, grey])) == ARRAY).all()
    assert (colours(ARRAY[::2, ::-1]) == ARRAY[::2, ::-1]).all()
    assert (colours(ARRAY[:1, :1]) == ARRAY[:1, :1]).all()


SHAPE = r"should be of dtype uint8 and of shape \(height, width\) or \(height, width, channels\)"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (ARRAY / 255, rf"^an array of shape \(5, 4, 3\) and dtype float64 {SHAPE}"),
        (noise(3, 9, 9), rf"^an array of shape \(3, 9, 9\) and dtype uint8 {SHAPE}"),
        (noise(9), SHAPE),
        (noise(2, 5, 4, 3), SHAPE),
        (np.uint8([]), SHAPE),
        (noise(0, 5, 3), "not empty"),
        (noise(0, 5), "not empty"),
        (noise(5, 4, 0), SHAPE),
        (np.array("cat.jpg"), SHAPE),
        (np.array(None), SHAPE),
    ],
)
def test_arrays_that_are_not_images(array, message):
    with pytest.raises(InputError, match=message):
        Preprocessor(settings())(array)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (None, "^an image should be a path, bytes, a file object, a Pillow image or an array, not NoneType$"),
        (7, "not int"),
        ([ARRAY], "not list"),
        (b"", r"^bytes of length 0 is empty$"),
        (b"not an image" * 999, r"^bytes of length 11,988 is not an image that Pillow can read$"),
        (PNG[:8] + b"?" * 99, r"is not an image that Pillow can read: as PNG it is damaged \(broken PNG file"),
        (PNG[:-40], "is truncated$"),
        (PNG[:50] + b"?" + PNG[51:], "cannot be read|is truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image that Pillow can read$"),
        (io.StringIO("text"), "^the file object StringIO gives str, not bytes: open it in binary mode$"),
        (Unreadable(), "^the file object Unreadable cannot be read: the line is down$"),
        (Unreadable, "^the file object type cannot be read: "),
        ("data:image/png,abc", r"^a data URI \(18 characters\) should begin with data:image/...;base64,$"),
        ("data:image/png;base64,ab!c", "^a data URI .* cannot be read: "),
        ("data:image/png;base64,é", "^a data URI .* cannot be read: "),
        ("data:image/png;base64,abcde", "^a data URI .* cannot be read: "),
        ("data:image/png;base64,!" + base64.b64encode(PNG).decode(), "^a data URI .* cannot be read: "),
        ("data:image/png;base64,", "is empty"),
        ("a\0b", r"^'a\\x00b' cannot be read: no file can have this name$"),
        ("\ud800", r"^'\\ud800' cannot be read: "),
        (Path("none.jpg"), "^none.jpg cannot be read: No such file or directory$"),
        ("x" * 999, "^x{25}[.]{3}x{52} cannot be read: File name too long$"),
        (Path("/"), "^/ cannot be read: it is a directory$"),
    ],
)
def test_items_that_cannot_be_read(item, message):
    with pytest.raises(InputError, match=message):
        Preprocessor(settings())(item)


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(PNG[:-40])
    with pytest.raises(InputError, match=r"photo.png is truncated$"):
        Preprocessor(settings())(path)
    with path.open("rb") as closed:
        pass
    with pytest.raises(InputError, match=r"^the file object .*photo.png cannot be read: read of closed file$"):
        Preprocessor(settings())(closed)
    with Image.open(io.BytesIO(PNG)) as image:
        pass
    with pytest.raises(InputError, match=r"^a Pillow image of 4 x 5 cannot be read: "):
        Preprocessor(settings())(image)


def test_a_truncated_pillow_image_is_refused_again():
    """Pillow itself refuses it once. The second time it takes the decoded part for the whole image."""
    broken = encoded(Image.fromarray(noise(40, 50, 3)), "TIFF", compression="tiff_deflate")
    broken = broken[:3000] + bytes(100) + broken[3100:]
    for damaged in (PNG[:-40], broken, encoded(Image.fromarray(ARRAY), "JPEG")[:-20]):
        image = Image.open(io.BytesIO(damaged))
        for _ in range(3):
            with pytest.raises(InputError, match=r"is truncated|cannot be read: "):
                Preprocessor(settings())(image)


def test_truncated_images_are_read_if_the_user_sets_pillows_option(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole = encoded(Image.fromarray(noise(64, 64, 3)), "JPEG")
    assert colours(whole[: len(whole) // 2]).shape == (64, 64, 3)


def test_decompression_bombs(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert colours(PNG).shape == (5, 4, 3)  # without a warning, which Image.open would give
    message = r"^bytes .* has 5 x 5 pixels, as a decompression bomb might: .*MAX_IMAGE_PIXELS, which is 10$"
    with pytest.raises(InputError, match=message):
        Preprocessor(settings())(encoded(Image.new("L", (5, 5))))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert colours(encoded(Image.new("L", (5, 5)))).shape == (5, 5, 3)


def turned(orientation, image, kind="JPEG"):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(image, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda array: array),
        (2, lambda array: array[:, ::-1]),
        (3, lambda array: array[::-1, ::-1]),
        (4, lambda array: array[::-1]),
        (5, lambda array: array.swapaxes(0, 1)),
        (6, lambda array: np.rot90(array, -1)),
        (7, lambda array: np.rot90(array, 2).swapaxes(0, 1)),
        (8, lambda array: np.rot90(array)),
        (9, lambda array: array),
    ],
)
def test_files_are_turned_upright(orientation, upright, kind):
    file = turned(orientation, Image.fromarray(ARRAY), kind)
    assert (colours(file) == upright(ARRAY)).all()


def test_pillow_images_are_taken_as_they_are():
    file = turned(6, Image.fromarray(noise(8, 24, 3)))
    image = Image.open(io.BytesIO(file))
    assert (colours(image) == np.asarray(image)).all()
    assert colours(file).shape == (24, 8, 3)
    assert image.getexif()[ORIENTATION] == 6


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # a warning of Pillow
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0nonsense" * 9])
def test_damaged_exif_is_ignored(exif):
    assert colours(encoded(Image.fromarray(noise(8, 24, 3)), "JPEG", exif=exif)).shape == (8, 24, 3)


def palette_image(transparency):
    image = Image.fromarray(noise(5, 4) % 4).convert("P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 9, 8, 7])
    image.info["transparency"] = transparency
    return image


@pytest.mark.parametrize("transparency", [bytes([0, 255, 128, 9]), 2])
def test_transparency_is_dropped_without_a_warning(transparency):
    image = palette_image(transparency)
    opaque = image.copy()
    del opaque.info["transparency"]
    expected = np.asarray(opaque.convert("RGB"))
    before = (image.mode, dict(image.info), image.tobytes(), image.getpalette())
    assert (colours(image) == expected).all()
    assert (colours(encoded(image)) == expected).all()
    assert (image.mode, dict(image.info), image.tobytes(), image.getpalette()) == before


def test_colour_modes_become_rgb():
    """Values above 255 are cut off, not scaled. transformers does the same."""
    deep = np.uint16([[0, 200, 300, 65535]])
    assert colours(Image.fromarray(deep))[0, :, 0].tolist() == [0, 200, 255, 255]
    assert colours(encoded(Image.fromarray(deep)))[0, :, 0].tolist() == [0, 200, 255, 255]
    assert colours(Image.fromarray(np.int32([[-5, 7, 999]])))[0, :, 0].tolist() == [0, 7, 255]
    assert colours(Image.fromarray(np.float32([[-5, 7.5, 999]])))[0, :, 0].tolist() == [0, 7, 255]
    assert colours(Image.new("LA", (1, 1), (50, 255)).convert("La"))[0, 0].tolist() == [50] * 3
    assert colours(Image.new("RGBA", (1, 1), (1, 2, 3, 0)))[0, 0].tolist() == [1, 2, 3]
    assert colours(Image.new("CMYK", (1, 1), (255, 0, 0, 0)))[0, 0].tolist() == [0, 255, 255]
    assert colours(Image.new("1", (1, 1), 1))[0, 0].tolist() == [255] * 3


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (4, 5), colour) for colour in ("red", "blue")]
    file = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert abs(colours(file) - [255, 0, 0]).max() <= 3  # one of the formats is lossy


def test_crop_takes_the_middle_and_fills_with_black():
    assert (colours(ARRAY, crop=(2, 2)) == ARRAY[1:3, 1:3]).all()
    wide = colours(ARRAY, crop=(2, 9))
    assert (wide[:, 3:7] == ARRAY[1:3]).all()
    assert not wide[:, :3].any()
    assert not wide[:, 7:].any()


@pytest.mark.parametrize(
    ("shape", "resize", "expected"),
    [((10, 31), (7,), (7, 21)), ((31, 10), (7,), (21, 7)), ((9, 9), (7,), (7, 7)), ((9, 20), (3, 5), (3, 5))],
)
def test_sizes_after_a_resize(shape, resize, expected):
    assert colours(noise(*shape), resize=resize).shape == (*expected, 3)


@pytest.mark.parametrize("resample", ["bicubic", "nearest", "lanczos"])
@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1), (150, 200_000), (1, 1)])
def test_extreme_shapes_take_little_memory(shape, resample, monkeypatch):
    made = []
    resize = Image.Image.resize

    def spy(image, size, *options):
        made.append(size[0] * size[1])
        return resize(image, size, *options)

    monkeypatch.setattr(Image.Image, "resize", spy)
    array = np.full(shape, 9, np.uint8)
    array[tuple(slice(length // 2, length // 2 + 3) for length in shape)] = 200
    found = colours(array, resize=(224,), crop=(224, 224), resample=resample)
    assert max(made) <= 224 * 224
    assert found.shape == (224, 224, 3)
    assert found.max() >= 190  # the middle is in the middle


def test_extreme_shapes_without_a_crop_are_refused():
    message = r"^an array .* would be resized to 4480000 x 224 pixels, which is too large: crop it$"
    with pytest.raises(InputError, match=message):
        Preprocessor(settings(resize=(224,)))(noise(1, 20_000))


def test_one_lazily_opened_image_in_many_threads():
    array = noise(200, 300, 3)
    file = encoded(Image.fromarray(array))
    preprocessor = Preprocessor(settings())
    expected = preprocessor(array)
    for _ in range(10):
        image, barrier = Image.open(io.BytesIO(file)), threading.Barrier(8)

        def run(_, image=image, barrier=barrier):
            barrier.wait()
            return preprocessor(image)

        with ThreadPoolExecutor(8) as pool:
            for found in pool.map(run, range(8)):
                assert np.array_equal(found, expected)


def test_describe_names_each_kind_of_image():
    named = [Path("photos/cat.jpg"), "photos/cat.jpg", b"123", bytearray(1234), Image.new("L", (640, 480)), ARRAY]
    assert [describe(item) for item in named] == [
        "photos/cat.jpg",
        "photos/cat.jpg",
        "bytes of length 3",
        "bytearray of length 1,234",
        "a Pillow image of 640 x 480",
        "an array of shape (5, 4, 3) and dtype uint8",
    ]

    class Broken:
        def __fspath__(self):
            raise RuntimeError

    released = memoryview(b"")
    released.release()
    for item in ("\ud800" * 999, "a\nb", "x" * 999, Broken(), released, type("X" * 999, (), {})(), None, Unreadable()):
        name = describe(item)
        assert 0 < len(name) <= 80
        assert name.isprintable()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
def test_damaged_files_give_an_error_or_a_whole_image(kind):
    preprocessor = Preprocessor(settings())
    file = encoded(Image.fromarray(noise(20, 30, 3)), kind)
    whole = preprocessor(file)
    random = np.random.default_rng(0)
    for length in range(0, len(file), 9):
        with contextlib.suppress(InputError):
            assert np.array_equal(preprocessor(file[:length]), whole)  # only bytes after the pixels were lost
    for _ in range(150):
        damaged = np.frombuffer(file, np.uint8).copy()
        damaged[random.integers(0, random.choice([40, len(file)]), 3)] = random.integers(0, 256, 3)
        with contextlib.suppress(InputError):
            preprocessor(damaged.tobytes())
