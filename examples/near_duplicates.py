"""Find images in a folder that are nearly the same: copies that were resized, recompressed or retouched.

Usage: python examples/near_duplicates.py FOLDER [--threshold 0.95] [--model clip-ViT-B-32]

The example prints groups of files, the nearest first. The number before a file is its cosine to the nearest other file
of the group. It is at least the threshold. The cosines to other files of the group may be lower. Images that cannot be
read are reported on stderr and left out.

The example needs Pillow, and the exported model in artifacts/ (`make export MODEL=clip-ViT-B-32`).
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from embedder import Embedder

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Find the images in a folder that are nearly the same.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--model", default="clip-ViT-B-32")
    options = parser.parse_args(arguments)

    paths = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not paths:
        sys.exit(f"there are no images in {options.folder}")
    images = Embedder(options.model).encode_readable(paths, normalize_embeddings=True)
    for reason in images.reasons.values():
        print(f"skipped: {reason}", file=sys.stderr)

    groups = duplicates(images.embeddings, options.threshold)
    for number, group in enumerate(groups, 1):
        print(f"group {number}: {len(group)} files")
        for score, row in group:
            print(f"  {score:.4f}  {paths[images.indices[row]]}")
    count = len(images.embeddings)
    print(f"{len(groups)} groups with a cosine of at least {options.threshold}, among {count} images")


def duplicates(vectors, threshold, chunk=1024):
    """Return groups of near `vectors`, the nearest first.

    A member of a group is a pair: its cosine to the nearest other vector, and its index. `chunk` is as in `near_pairs`.
    """
    group_of = np.arange(len(vectors))
    nearest = np.full(len(vectors), -np.inf, np.float32)
    for score, a, b in near_pairs(vectors, threshold, chunk):
        nearest[[a, b]] = np.maximum(nearest[[a, b]], score)
        if group_of[a] != group_of[b]:
            group_of[group_of == group_of[b]] = group_of[a]
    groups = {}
    for row in np.argsort(-nearest, kind="stable")[: np.isfinite(nearest).sum()]:
        groups.setdefault(group_of[row], []).append((nearest[row], row))
    return list(groups.values())


def near_pairs(vectors, threshold, chunk=1024):
    """Yield (cosine, lower index, higher index) for each pair of `vectors` with a cosine of at least `threshold`.

    The vectors must have length 1. `chunk` vectors are compared with `chunk` vectors at a time, so that memory does not
    grow with the square of their number.
    """
    for top in range(0, len(vectors), chunk):
        for left in range(top, len(vectors), chunk):
            scores = vectors[top : top + chunk] @ vectors[left : left + chunk].T
            for a, b in np.argwhere(scores >= threshold).tolist():
                if top + a < left + b:
                    yield scores[a, b], top + a, left + b


if __name__ == "__main__":
    main(sys.argv[1:])
