"""The examples with images run. Their output and drawings agree with an independent computation."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from embedder_export import pipeline
from embedder_export.checkpoint.read import read_checkpoint
from PIL import Image, ImageDraw
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

import embedder
from examples import image_search, near_duplicates, zero_shot
from examples.image_search import GAP, LINE, SIDE
from tests.clips import write_clip

ROOT = Path(__file__).parents[2]
SIZES = [(64, 64), (90, 60), (48, 96), (300, 200)]
ORIENTATION, QUARTER_TURN = 0x0112, 6  # an EXIF tag, and a value of it
THRESHOLD = 0.98  # the cosines of the copies are above 0.998, all others are below 0.97
EXAMPLES = (image_search, near_duplicates, zero_shot)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("checkpoint") / "clip")


@pytest.fixture(scope="module")
def artifact(checkpoint, tmp_path_factory):
    directory = tmp_path_factory.mktemp("artifact") / "clip"
    pipeline.export(
        read_checkpoint(str(checkpoint)), directory, lambda line: None, pipeline.ExportSettings(dtypes=("fp32",))
    )
    return directory


@pytest.fixture(scope="module")
def model(artifact):
    return embedder.Embedder(artifact)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory of 12 drawings, with two copies of the first, a truncated file, and a file that is not an image."""
    directory = tmp_path_factory.mktemp("drawings")
    (directory / "copies").mkdir()
    for number in range(12):
        drawing(number).save(directory / f"drawing-{number:02}.png")
    drawing(0).resize((45, 45)).save(directory / "copies/small.png")
    drawing(0).save(directory / "copies/again.jpg", quality=70)
    whole = (directory / "drawing-01.png").read_bytes()
    (directory / "copies/cut.png").write_bytes(whole[: len(whole) // 2])
    (directory / "notes.txt").write_text("no image", encoding="utf-8")
    return directory


def drawing(number):
    """Return a disc on a blur of random colours. The same number always gives the same drawing."""
    generator = np.random.default_rng(number)
    width, height = SIZES[number % len(SIZES)]
    image = Image.fromarray(generator.integers(0, 256, (3, 2, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    ImageDraw.Draw(image).ellipse(
        (width / 4, height / 4, 3 * width / 4, 3 * height / 4), tuple(generator.integers(0, 256, 3).tolist())
    )
    return image


def readable(folder):
    return sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg") and path.name != "cut.png")


def cosines(a, b):
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T


def run(example, *arguments):
    """Run an example as a user does. Return its standard output and its standard error."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", example, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def cell_of(sheet, number, columns):
    """Return the picture of a cell of the sheet, and the picture of the text below it."""
    left = GAP + number % columns * (SIDE + GAP)
    top = GAP + number // columns * (SIDE + 2 * LINE + 2 * GAP)
    picture = sheet.crop((left, top, left + SIDE, top + SIDE))
    return picture, sheet.crop((left, top + SIDE, left + SIDE, top + SIDE + 2 * LINE + GAP))


def test_image_search(artifact, model, folder, tmp_path):
    sheet = tmp_path / "sheet.png"
    printed, messages = run(
        "examples/image_search.py", folder, "a red disc", "--model", artifact, "--top-k", 7, "--sheet", sheet
    )
    assert messages.splitlines() == [f"skipped: {folder}/copies/cut.png is truncated"]

    paths = readable(folder)
    scores = cosines([model.encode("a red disc")], model.encode(paths))[0]
    best = sorted(zip(scores, paths, strict=True), reverse=True)[:7]
    *hits, last = printed.splitlines()
    assert [line.split("  ")[1] for line in hits] == [str(path) for _, path in best]
    np.testing.assert_allclose([float(line.split()[0]) for line in hits], [score for score, _ in best], atol=6e-4)
    assert last == f"the best 7 of {len(paths)} images are drawn in {sheet}"

    with Image.open(sheet) as image:
        assert (image.format, image.mode, image.size) == (
            "PNG", "RGB", (GAP + 3 * (SIDE + GAP), GAP + 3 * (SIDE + 2 * LINE + 2 * GAP))
        )  # fmt: skip
        for number, (_, path) in enumerate(best):
            picture, caption = cell_of(image, number, 3)
            with Image.open(path) as original:
                assert picture.getpixel((SIDE // 2, SIDE // 2)) == pytest.approx(
                    original.convert("RGB").getpixel((original.width // 2, original.height // 2)), abs=9
                )
            assert np.ptp(np.asarray(caption)) == 255
        assert all(part.getextrema() == ((255, 255),) * 3 for part in cell_of(image, 7, 3))


def test_image_search_by_an_image(artifact, folder, tmp_path, capsys):
    query, sheet = folder / "drawing-03.png", tmp_path / "sheet.jpg"
    image_search.main([str(folder), str(query), "--model", str(artifact), "--top-k", "1", "--sheet", str(sheet)])
    assert capsys.readouterr().out.splitlines() == [
        f"1.000  {query}", f"the best 1 of 14 images are drawn in {sheet}"
    ]  # fmt: skip
    with Image.open(sheet) as image:
        assert image.size == (SIDE + 2 * GAP, SIDE + 2 * LINE + 3 * GAP)


def test_contact_sheet_shows_upright_uncropped_images_and_their_names(tmp_path):
    wide = Image.new("RGB", (400, 100), "red")
    wide.paste("blue", (200, 0, 400, 100))
    exif = Image.Exif()
    exif[ORIENTATION] = QUARTER_TURN
    wide.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    Image.new("RGBA", (50, 50), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("CMYK", (300, 600), (0, 0, 0, 255)).save(tmp_path / f"{'long-' * 20}name.jpg")
    paths = [tmp_path / name for name in ("turned.jpg", "clear.png", f"{'long-' * 20}name.jpg")]
    sheet = image_search.contact_sheet(paths, [0.5, 0.25, -0.125])
    turned, clear, tall = (np.asarray(cell_of(sheet, number, 2)[0]).astype(int) for number in range(3))

    middle = turned[SIDE // 2]
    assert np.abs(middle[: SIDE // 2 - 4] - (255, 0, 0)).max() < 9
    assert np.abs(middle[SIDE // 2 + 4 :] - (0, 0, 255)).max() < 9
    drawn = np.ptp(turned, axis=2) > 99
    assert (drawn.any(axis=0).sum(), drawn.any(axis=1).sum()) == (SIDE, SIDE // 4)
    assert np.ptp(clear) == 0
    dark = tall.max(axis=2) < 20
    assert (dark.any(axis=0).sum(), dark.any(axis=1).sum()) == (SIDE // 2, SIDE)
    # A name that is too long is shortened. It does not extend into the next cell.
    margins = np.asarray(sheet)[:, [*range(GAP - 2), *range(GAP + SIDE + 2, SIDE + 2 * GAP - 2)]]
    assert margins.min() == 255


def test_zero_shot(artifact, model, folder):
    labels = ["red", "a disc", "stripes", "cat", "dog", "bird"]
    printed, messages = run("examples/zero_shot.py", folder, *labels, "--model", artifact)
    assert "cut.png is truncated" in messages
    expected = expected_probabilities(model, readable(folder), labels)
    blocks = re.split(r"\n(?! )", printed.strip())
    assert [block.splitlines()[0] for block in blocks] == [str(path) for path in readable(folder)]
    for block, row in zip(blocks, expected, strict=True):
        shown = [re.fullmatch(r" +([\d.]+)%  (.+)", line).groups() for line in block.splitlines()[1:]]
        assert [label for _, label in shown] == [labels[index] for index in np.argsort(-row)[:5]]
        np.testing.assert_allclose([float(percent) for percent, _ in shown], 100 * np.sort(row)[:0:-1], atol=0.06)


def expected_probabilities(model, paths, labels):
    """Compute the probabilities as CLIP's own notebook does, with one label and one template at a time."""
    means = []
    for label in labels:
        vectors = [model.encode(template.format(label)).astype(np.float64) for template in zero_shot.TEMPLATES]
        means.append(np.mean([vector / np.linalg.norm(vector) for vector in vectors], axis=0))
    odds = np.exp(100 * cosines(model.encode(paths), means))
    return odds / odds.sum(axis=1, keepdims=True)


def test_zero_shot_of_one_image(artifact, folder, capsys):
    path = folder / "copies/again.jpg"
    zero_shot.main([str(path), "cat", "--model", str(artifact)])
    assert capsys.readouterr().out == f"{path}\n  100.0%  cat\n"


def test_zero_shot_with_one_template_agrees_with_transformers(checkpoint, model, folder):
    labels, paths = ["cat", "dog", "bird"], readable(folder)
    reference = CLIPModel.from_pretrained(checkpoint).eval()
    reference.logit_scale.data.fill_(math.log(100))
    tokenizer = CLIPTokenizerFast.from_pretrained(checkpoint)
    tokens = tokenizer([f"a {label}." for label in labels], padding=True, return_tensors="pt")
    images = [Image.open(path).convert("RGB") for path in paths]
    pixels = CLIPImageProcessor.from_pretrained(checkpoint)(images, return_tensors="pt")
    with torch.no_grad():
        theirs = reference(**tokens, **pixels).logits_per_image.softmax(dim=1).numpy()

    vectors = model.encode(paths, normalize_embeddings=True)
    ours = zero_shot.probabilities(vectors, zero_shot.label_vectors(model, labels, ["a {}."]))
    np.testing.assert_allclose(ours.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_near_duplicates(artifact, model, folder):
    copies = [str(folder / name) for name in ("copies/again.jpg", "copies/small.png", "drawing-00.png")]
    printed, messages = run("examples/near_duplicates.py", folder, "--model", artifact, "--threshold", THRESHOLD)
    assert "cut.png is truncated" in messages
    first, *lines = printed.splitlines()
    assert first == "group 1: 3 files"
    assert len(lines) == 4
    assert sorted(line.split("  ")[2] for line in lines[:3]) == copies
    paths = [str(path) for path in readable(folder)]
    scores = cosines(*[model.encode([Path(path) for path in paths])] * 2)
    np.fill_diagonal(scores, -1)
    for line in lines[:3]:
        _, score, path = line.split("  ")
        assert float(score) == pytest.approx(scores[paths.index(path)].max(), abs=6e-5)
    assert lines[3] == f"1 groups with a cosine of at least {THRESHOLD}, among 14 images"


def test_folder_without_near_duplicates(artifact, folder, capsys):
    near_duplicates.main([str(folder), "--model", str(artifact), "--threshold", "1.1"])
    assert capsys.readouterr().out == "0 groups with a cosine of at least 1.1, among 14 images\n"


@pytest.mark.parametrize("chunk", [1, 3, 7, 1024])
@pytest.mark.parametrize("threshold", [-1.1, 0.5, 0.8, 0.9, 1.1])
def test_duplicates_are_connected_components_for_every_chunk_size(chunk, threshold):
    vectors = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = cosines(vectors, vectors)
    near = scores >= threshold
    np.fill_diagonal(near, True)
    reached = np.linalg.matrix_power(near.astype(float), 40) > 0
    expected = {frozenset(np.flatnonzero(row).tolist()) for row in reached if row.sum() > 1}

    groups = near_duplicates.duplicates(vectors, threshold, chunk)
    assert {frozenset(int(row) for _, row in group) for group in groups} == expected
    assert len(groups) == len(expected)
    assert [group[0][0] for group in groups] == sorted((group[0][0] for group in groups), reverse=True)
    np.fill_diagonal(scores, -2)
    for group in groups:
        assert [score for score, _ in group] == sorted((score for score, _ in group), reverse=True)
        np.testing.assert_allclose([score for score, _ in group], [scores[row].max() for _, row in group], atol=1e-6)
    pairs = sorted((a, b) for _, a, b in near_duplicates.near_pairs(vectors, threshold, chunk))
    assert pairs == [(a, b) for a, b in np.argwhere(near).tolist() if a < b]


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("name", ["empty", "missing"])
def test_folder_without_images(tmp_path, example, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").write_text("no image", encoding="utf-8")
    rest = [] if example is near_duplicates else ["cat"]
    with pytest.raises(SystemExit, match=rf"^there are no images in .*{name}$"):
        example.main([str(tmp_path / name), *rest])


@pytest.mark.parametrize("example", [image_search, zero_shot])
def test_folder_without_readable_images(artifact, tmp_path, capsys, example):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(SystemExit, match=r"^no image in .* can be read$"):
        example.main([str(tmp_path), "cat", "--model", str(artifact)])
    assert "broken.png is not an image" in capsys.readouterr().err


def test_recompressed_photograph_is_nearest_to_its_original(model, data, tmp_path):
    originals = sorted((data / "images/photos").iterdir())
    copies = []
    for path in originals:
        copies.append(tmp_path / f"{path.stem}.jpg")
        with Image.open(path) as image:
            image.convert("RGB").save(copies[-1], quality=80)
    vectors = model.encode([*originals, *copies], normalize_embeddings=True)
    best = sorted(near_duplicates.near_pairs(vectors, 0.9), reverse=True)[: len(originals)]
    assert {(a, b - len(originals)) for _, a, b in best} == {(n, n) for n in range(len(originals))}
