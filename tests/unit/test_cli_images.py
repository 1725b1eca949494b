"""The command line with images: vectors of those in a directory, and a search among them."""

import io
import json
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import embedder
from embedder.artifact.manifest import read_manifest, write_manifest
from embedder.cli import main as cli
from tests.tiny import IMAGE_SIZE, add_image_graph, expected_of_image, write_tiny_artifact

PIXELS = np.random.default_rng(0).integers(0, 256, (6, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
NAMES = ["a.png", "b.PNG", "below/c.bmp", "below/deeper/d.tiff", "e.webp", "z.gif"]


@pytest.fixture
def both(tiny):
    add_image_graph(tiny)
    return tiny


@pytest.fixture
def folder(tmp_path):
    """Images of which all formats keep every number, and what is none."""
    directory = tmp_path / "images"
    for name, pixels in zip(NAMES, PIXELS, strict=True):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **({"lossless": True} if name.endswith("webp") else {}))
    (directory / "notes.txt").write_text("no image", encoding="utf-8")
    return directory


@pytest.fixture
def run(both, capsys):
    def run(command, *arguments, model=both):
        status = cli.main([command, "--model", str(model), *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_images_of_a_directory_to_jsonl(run, folder):
    status, out, err = run("encode", "--images", folder)
    records = [json.loads(line) for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert [record["image"] for record in records] == [str(folder / name) for name in NAMES]
    wanted = np.stack([expected_of_image(pixels) for pixels in PIXELS[:5]])
    np.testing.assert_allclose([record["embedding"] for record in records[:5]], wanted, atol=1e-5)


def test_images_of_a_directory_to_npy(run, folder, tmp_path, both):
    assert run("encode", "--images", folder, "-o", tmp_path / "out.npy", "--normalize", "--truncate-dim", "4")[0] == 0
    wanted = embedder.Embedder(both).encode(
        [folder / name for name in NAMES], normalize_embeddings=True, truncate_dim=4
    )
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), wanted, atol=1e-6)


def test_images_that_cannot_be_read_are_named_and_the_others_written(run, folder, caplog):
    (folder / "b.PNG").write_bytes(b"")
    (folder / "z.gif").write_bytes(b"no image")
    status, out, err = run("encode", "--images", folder)
    assert status == 1
    assert [json.loads(line)["image"] for line in out.splitlines()] == [
        str(folder / name) for name in NAMES if name not in ("b.PNG", "z.gif")
    ]
    assert caplog.messages == [
        f"skipped inputs[1]: {folder / 'b.PNG'} is empty",
        f"skipped inputs[5]: {folder / 'z.gif'} is not an image that Pillow can read",
    ]
    assert err == "embedder: error: 2 of the images cannot be read, as said above; what can be is written\n"
    status, out, err = run("search", "--images", folder, "the cat")
    assert (status, len(out.splitlines())) == (1, 4)
    assert "2 of 6 images cannot be read" in err


@pytest.mark.parametrize("query", ["the cat", "a path"])
def test_search_for_a_text_or_an_image(run, folder, both, query):
    query = str(folder / NAMES[2]) if query == "a path" else query
    model = embedder.Embedder(both)
    scores = model.similarity(model.encode(query), model.encode([folder / name for name in NAMES]))[0]
    order = np.argsort(-scores)
    status, out, _ = run("search", "--images", folder, "--top-k", "3", query)
    assert status == 0
    assert out.splitlines() == [f"{scores[row]:.4f}  {folder / NAMES[row]}" for row in order[:3]]


def test_what_is_no_file_is_not_read(run, folder):
    os.mkfifo(folder / "a pipe.png")
    (folder / "a directory.jpg").mkdir()
    (folder / "link.jpg").symlink_to(folder / "nowhere")
    status, out, err = run("encode", "--images", folder)
    assert (status, len(out.splitlines())) == (1, len(NAMES))
    assert "1 of the images cannot be read" in err  # the link


def test_names_that_are_not_utf8(run, folder, capsys, monkeypatch):
    path = os.fsencode(folder) + b"/caf\xe9.png"
    os.link(folder / NAMES[0], path)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    assert run("search", "--images", folder, "the cat")[0] == 0
    stream.flush()
    assert b"caf\\udce9.png" in stream.buffer.getvalue()


def test_lines_of_a_file_are_texts_whatever_they_name(run, folder, tmp_path):
    (tmp_path / "in.txt").write_text(f"{folder / NAMES[0]}\nhttps://x.y/z.png\n", encoding="utf-8")
    status, out, _ = run("encode", tmp_path / "in.txt")
    assert status == 0
    assert [json.loads(line)["text"] for line in out.splitlines()] == [str(folder / NAMES[0]), "https://x.y/z.png"]


def test_an_image_is_searched_for_by_the_model_of_images(run, folder, both, tmp_path, monkeypatch):
    texts = write_tiny_artifact(tmp_path / "texts", image_model=both.name)
    monkeypatch.setenv("EMBEDDER_ARTIFACTS", str(both.parent))
    first = run("search", "--images", folder, folder / NAMES[2], model=texts)[1].splitlines()[0]
    assert first == f"1.0000  {folder / NAMES[2]}"


@pytest.mark.parametrize("option", ["--column", "--prompt", "--prompt-name"])
def test_options_of_texts_with_images(run, folder, option):
    status, _, err = run("encode", "--images", folder, option, "text")
    assert (status, err) == (1, f"embedder: error: {option} is for texts, and --images gives none\n")


def test_search_by_a_model_of_texts_that_goes_with_one_of_images(run, folder, both, tmp_path, monkeypatch):
    texts = write_tiny_artifact(tmp_path / "texts", image_model=both.name)
    monkeypatch.setenv("EMBEDDER_ARTIFACTS", str(both.parent))
    assert run("search", "--images", folder, "the cat", model=texts) == run("search", "--images", folder, "the cat")


def test_models_that_take_no_images(run, folder, tmp_path):
    texts = write_tiny_artifact(tmp_path / "texts")
    for command in (["encode", "--images", folder], ["search", "--images", folder, "the cat"]):
        status, _, err = run(*command, model=texts)
        assert status == 1
        assert err == "embedder: error: 'tiny' takes no images. Choose --model, such as clip-ViT-B-32\n"


def test_directories_without_images(run, tmp_path):
    status, _, err = run("encode", "--images", tmp_path / "nowhere")
    assert (status, err) == (1, f"embedder: error: {tmp_path / 'nowhere'} is not a directory\n")
    (tmp_path / "empty").mkdir()
    status, _, err = run("search", "--images", tmp_path / "empty", "the cat")
    assert status == 1
    assert f"there are no images in {tmp_path / 'empty'}: their names would end in .jpg, " in err


def test_wrong_usage(run, folder):
    status, _, err = run("search", "--images", folder, "--top-k", "0", "the cat")
    assert (status, err) == (1, "embedder: error: top_k should be a whole number, at least 1, not 0\n")
    status, _, err = run("search", "--images", folder, "nowhere.JPG")
    assert (status, err) == (
        1,
        "embedder: error: QUERY is the name of an image, and there is no such file: nowhere.JPG\n",
    )
    for arguments in (["encode", "in.txt", "--images", folder], ["search", "the cat"]):
        with pytest.raises(SystemExit):
            run(*arguments)


def test_info_says_how_images_are_prepared_and_whose_they_are(both, capsys, tmp_path):
    assert cli.main(["info", str(both)]) == 0
    told = capsys.readouterr().out
    assert "images          resized to 2 x 2 (box), cropped to all\n" in told
    assert "image graph     fp32" in told
    assert "parity          of images not measured" in told
    texts = write_tiny_artifact(tmp_path / "texts", image_model="clip-ViT-B-32")
    assert cli.main(["info", str(texts)]) == 0
    assert "images          none; its texts go with the images of clip-ViT-B-32\n" in capsys.readouterr().out


def test_manifest_with_images_is_checked(both):
    manifest = read_manifest(both)
    write_manifest(manifest, both)
    assert read_manifest(both) == manifest
    for change, message in (
        ({"images": None}, r"they take \['image', 'text'\], and should take \['text'\]"),
        ({"graphs": manifest.graphs[:1]}, r"they take \['text'\], and should take \['image', 'text'\]"),
        ({"graphs": manifest.graphs[:1] * 2, "images": None}, "several of one kind"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(manifest, **change)
    for change, message in (
        ({"resize": (0,)}, "resize: "),
        ({"resize": (1, 2, 3)}, "resize: "),
        ({"crop": (3,)}, "crop: "),
        ({"resample": "sharp"}, "resample: 'sharp' is none of nearest"),
        ({"mean": (0.5,)}, "not three numbers"),
        ({"std": (1.0, 0.0, 1.0)}, "holds a zero"),
        ({"tokens": 0}, "tokens: 0 is below 1"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(manifest.images, **change)
    for change, message in (
        ({"modality": "sound"}, "'sound' is neither"),
        ({"inputs": ("input_ids", "attention_mask")}, "pixel_values"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(manifest.graphs[1], **change)
