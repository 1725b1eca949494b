"""The command line with images: encode the images of a directory, and search in them."""

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
    """An artifact that takes texts and images."""
    add_image_graph(tiny)
    return tiny


@pytest.fixture
def folder(tmp_path_factory):
    """A directory of images in lossless formats, and a file that is not an image. Its path is short.

    Messages shorten a long path.
    """
    directory = tmp_path_factory.mktemp("images")
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


def test_unreadable_images_are_reported_and_the_others_written(run, folder):
    (folder / "b.PNG").write_bytes(b"")
    (folder / "z.gif").write_bytes(b"no image")
    warnings = (
        f"embedder: warning: {folder / 'b.PNG'} is empty\n"
        f"embedder: warning: {folder / 'z.gif'} is not an image that Pillow can read\n"
    )
    status, out, err = run("encode", "--images", folder)
    assert status == 1
    records = [json.loads(line) for line in out.splitlines()]
    readable = [index for index, name in enumerate(NAMES) if name not in ("b.PNG", "z.gif")]
    assert [record["image"] for record in records] == [str(folder / NAMES[index]) for index in readable]
    wanted = [expected_of_image(PIXELS[index]) for index in readable]
    np.testing.assert_allclose([record["embedding"] for record in records], wanted, atol=1e-5)
    assert err == (
        f"{warnings}embedder: error: 2 images cannot be read, see the warnings. The vectors of the others are written\n"
    )
    status, out, err = run("search", "--images", folder, "the cat")
    assert (status, len(out.splitlines())) == (1, 4)
    assert err == f"{warnings}embedder: error: 2 of 6 images cannot be read, see the warnings\n"


def test_warning_of_an_unreadable_image_has_the_whole_path(run, tmp_path):
    path = tmp_path / ("long" * 20) / "name.png"
    path.parent.mkdir()
    path.write_bytes(b"")
    assert f"embedder: warning: {path}: " in run("encode", "--images", tmp_path)[2]


def test_output_file_is_complete_if_images_cannot_be_read(run, folder, tmp_path):
    (folder / "b.PNG").write_bytes(b"")
    assert run("encode", "--images", folder, "-o", tmp_path / "out.npy")[0] == 1
    assert np.load(tmp_path / "out.npy").shape == (5, 8)
    assert not (tmp_path / "out.npy.partial").exists()


@pytest.mark.parametrize("query", [["the cat"], ["--query-image", NAMES[2]]])
def test_search_for_a_text_or_an_image(run, folder, both, query):
    model = embedder.Embedder(both)
    if len(query) == 2:
        query = [query[0], folder / query[1]]
    scores = model.similarity(model.encode(query[-1]), model.encode([folder / name for name in NAMES]))[0]
    order = np.argsort(-scores)
    status, out, err = run("search", "--images", folder, "--top-k", "3", *query)
    assert (status, err) == (0, "")
    assert out.splitlines() == [f"{scores[row]:.4f}  {folder / NAMES[row]}" for row in order[:3]]


def test_query_that_names_an_image_is_a_text(run, folder, both):
    query = str(folder / NAMES[2])
    model = embedder.Embedder(both)
    vectors = model.encode([folder / name for name in NAMES])
    best = model.similarity(model.encode(query, read_paths=False), vectors)[0].max()
    status, out, err = run("search", "--images", folder, query)
    assert (status, out.split()[0]) == (0, f"{best:.4f}")
    assert err == (
        f"embedder: note: QUERY is a text here. To search for images that are like {query}, use --query-image {query}\n"
    )


@pytest.mark.parametrize(
    ("name", "reason"), [("nowhere.jpg", "cannot be read: No such file or directory"), ("notes.txt", "is not an image")]
)
def test_query_image_that_cannot_be_read(run, folder, monkeypatch, name, reason):
    monkeypatch.chdir(folder)
    status, out, err = run("search", "--images", folder, "--query-image", name)
    assert (status, out) == (1, "")
    assert err.startswith(f"embedder: error: --query-image: {name} {reason}")


def test_directory_that_cannot_be_listed_is_an_error(run, folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("below"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    status, out, err = run("encode", "--images", folder)
    assert (status, out, err) == (1, "", f"embedder: error: {folder / 'below'}: Permission denied\n")


def test_pipes_and_directories_are_not_images(run, folder):
    os.mkfifo(folder / "a pipe.png")
    (folder / "a directory.jpg").mkdir()
    (folder / "link.jpg").symlink_to(folder / "nowhere")
    status, out, err = run("encode", "--images", folder)
    assert (status, len(out.splitlines())) == (1, len(NAMES))
    assert "1 image cannot be read" in err  # the broken link


def test_file_names_that_are_not_utf8(run, folder, capsys, monkeypatch):
    path = os.fsencode(folder) + b"/caf\xe9.png"
    os.link(folder / NAMES[0], path)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    assert run("search", "--images", folder, "the cat")[0] == 0
    stream.flush()
    assert b"caf\\udce9.png" in stream.buffer.getvalue()


def test_lines_that_name_files_are_texts(run, folder, tmp_path):
    (tmp_path / "in.txt").write_text(f"{folder / NAMES[0]}\nhttps://x.y/z.png\n", encoding="utf-8")
    status, out, _ = run("encode", tmp_path / "in.txt")
    assert status == 0
    assert [json.loads(line)["text"] for line in out.splitlines()] == [str(folder / NAMES[0]), "https://x.y/z.png"]


def test_query_image_is_encoded_by_the_image_model(run, folder, both, tmp_path, monkeypatch):
    texts = write_tiny_artifact(tmp_path / "texts", image_model=both.name)
    monkeypatch.setenv("EMBEDDER_HOME", str(both.parent))
    first = run("search", "--images", folder, "--query-image", folder / NAMES[2], model=texts)[1].splitlines()[0]
    assert first == f"1.0000  {folder / NAMES[2]}"


@pytest.mark.parametrize("option", ["--column", "--delimiter", "--prompt", "--prompt-name"])
def test_options_for_texts_are_refused_with_images(run, folder, option):
    status, _, err = run("encode", "--images", folder, option, "text")
    assert (status, err) == (1, f"embedder: error: {option} is for texts. It cannot be used with --images\n")


def test_search_with_a_text_model_that_names_an_image_model(run, folder, both, tmp_path, monkeypatch):
    texts = write_tiny_artifact(tmp_path / "texts", image_model=both.name)
    monkeypatch.setenv("EMBEDDER_HOME", str(both.parent))
    assert run("search", "--images", folder, "the cat", model=texts) == run("search", "--images", folder, "the cat")


def test_models_that_take_no_images(run, folder, tmp_path):
    texts = write_tiny_artifact(tmp_path / "texts")
    for command in (["encode", "--images", folder], ["search", "--images", folder, "the cat"]):
        status, _, err = run(*command, model=texts)
        assert status == 1
        assert err == "embedder: error: 'tiny' takes no images. Choose another --model, such as clip-ViT-B-32\n"


def test_directories_without_images(run, tmp_path):
    status, _, err = run("encode", "--images", tmp_path / "nowhere")
    assert (status, err) == (1, f"embedder: error: {tmp_path / 'nowhere'} is not a directory\n")
    (tmp_path / "empty").mkdir()
    status, _, err = run("search", "--images", tmp_path / "empty", "the cat")
    assert status == 1
    assert f"there are no images in {tmp_path / 'empty'}. Names of images end in .jpg, " in err


def test_wrong_usage(run, folder):
    status, _, err = run("search", "--images", folder, "--top-k", "0", "the cat")
    assert (status, err) == (1, "embedder: error: top_k should be a whole number, at least 1, not 0\n")
    for arguments in (
        ["encode", "in.txt", "--images", folder],
        ["search", "the cat"],
        ["search", "--images", folder],
        ["search", "--images", folder, "the cat", "--query-image", "cat.jpg"],
    ):
        with pytest.raises(SystemExit):
            run(*arguments)


def test_info_describes_the_preparation_of_images_and_the_image_model(both, capsys, tmp_path):
    assert cli.main(["info", str(both)]) == 0
    out = capsys.readouterr().out
    assert "images          resized to 2 x 2 (box), not cropped\n" in out
    assert "image graph     fp32" in out
    assert "parity          not measured for images, because" in out
    texts = write_tiny_artifact(tmp_path / "texts", image_model="clip-ViT-B-32")
    assert cli.main(["info", str(texts)]) == 0
    assert "images          none; compare its texts with the images of clip-ViT-B-32\n" in capsys.readouterr().out


def test_manifest_with_images_is_checked(both):
    manifest = read_manifest(both)
    write_manifest(manifest, both)
    assert read_manifest(both) == manifest
    for change, message in (
        ({"images": None}, r"they take \['image', 'text'\], and should take \['text'\]"),
        ({"graphs": manifest.graphs[:1]}, r"they take \['text'\], and should take \['image', 'text'\]"),
        ({"graphs": manifest.graphs[:1] * 2, "images": None}, "two have the same modality and dtype"),
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
