"""Search a folder of images by a text or by another image, and draw the best images on a contact sheet.

Usage: python examples/image_search.py FOLDER QUERY [--model clip-ViT-B-32] [--top-k 9] [--sheet hits.png]

The example prints the scores and the paths of the nearest images. The contact sheet shows each image above its score
and its name. QUERY is a text, or the path of an image. Images that cannot be read are reported on stderr and left out.

The example needs Pillow, and the exported model in artifacts/ (`make export MODEL=clip-ViT-B-32`).
"""

import argparse
import math
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from embedder import Embedder

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
SIDE, GAP, LINE = 224, 12, 18  # in pixels: the side of a thumbnail, the gap between two, the height of a line of text
BACKGROUND = "gainsboro"  # seen beside images that are not square, and through transparent images


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Search a folder of images by a text or an image.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("query")
    parser.add_argument("--model", default="clip-ViT-B-32")
    parser.add_argument("--top-k", type=int, default=9)
    parser.add_argument("--sheet", default="hits.png")
    options = parser.parse_args(arguments)

    paths = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not paths:
        sys.exit(f"there are no images in {options.folder}")
    model = Embedder(options.model)
    images = model.encode_readable(paths)
    for reason in images.reasons.values():
        print(f"skipped: {reason}", file=sys.stderr)
    if not len(images.embeddings):
        sys.exit(f"no image in {options.folder} can be read")
    # With `read_paths`, a string that names an image file is this image. Here the query comes from the user of this
    # computer. A web service must not use `read_paths`, because its callers could read any image on its disk.
    query = model.encode(options.query, read_paths=True)
    scores = model.similarity(query, images.embeddings)[0]
    best = (-scores).argsort(kind="stable")[: options.top_k]

    hits = [paths[images.indices[row]] for row in best]
    for score, path in zip(scores[best], hits, strict=True):
        print(f"{score:.3f}  {path}")
    contact_sheet(hits, scores[best]).save(options.sheet)
    print(f"the best {len(hits)} of {len(images.embeddings)} images are drawn in {options.sheet}")


def contact_sheet(paths, scores) -> Image.Image:
    """Draw the images in a grid, above their scores and names. Images are turned upright, and none is cropped."""
    columns = math.ceil(math.sqrt(len(paths)))
    rows = math.ceil(len(paths) / columns)
    width, height = SIDE + GAP, SIDE + 2 * LINE + 2 * GAP  # distance from one cell to the next
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for cell, (path, score) in enumerate(zip(paths, scores, strict=True)):
        left, top = GAP + cell % columns * width, GAP + cell // columns * height
        with Image.open(path) as image:
            image.draft(None, (2 * SIDE, 2 * SIDE))  # a large JPEG is decoded at a lower resolution, which is faster
            thumbnail = ImageOps.exif_transpose(image).convert("RGBA")
        thumbnail.thumbnail((SIDE, SIDE))
        corner = left + (SIDE - thumbnail.width) // 2, top + (SIDE - thumbnail.height) // 2
        draw.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), BACKGROUND)
        sheet.paste(thumbnail, corner, thumbnail)
        name, kept = path.name, len(path.name)
        while font.getlength(name) > SIDE:  # replace the middle of a long name by dots
            kept -= 1
            name = f"{path.name[: kept // 2]}...{path.name[-(kept // 2) :]}"
        for line, text in enumerate([f"{score:.3f}", name]):
            draw.text((left + SIDE / 2, top + SIDE + 4 + line * LINE), text, "black", font, anchor="ma")
    return sheet


if __name__ == "__main__":
    main(sys.argv[1:])
