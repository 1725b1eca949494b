"""Classify images by labels of your own, with no training.

Usage: python examples/zero_shot.py FOLDER_OR_IMAGE LABEL LABEL ... [--model clip-ViT-B-32]

Prints the path of each image, and below it the most probable labels. Files that cannot be read are named on stderr, and
left out. The probabilities are of these labels alone: one of them wins, even where none fits.

Needs Pillow, and the exported model in artifacts/ (`make export MODEL=clip-ViT-B-32`).
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from embedder import Embedder

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
TEMPLATES = ["a photo of a {}.", "a photo of the {}.", "a good photo of a {}.", "a close-up photo of a {}."]
LOGIT_SCALE = 100  # CLIP learns it, and in the released models it is 100, the most that its training allowed
TOP = 5


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Classify images by labels of your own.")
    parser.add_argument("images", type=Path, metavar="FOLDER_OR_IMAGE")
    parser.add_argument("labels", nargs="+", metavar="LABEL")
    parser.add_argument("--model", default="clip-ViT-B-32")
    options = parser.parse_args(arguments)

    paths = sorted(path for path in options.images.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    paths = [options.images] if options.images.is_file() else paths
    if not paths:
        sys.exit(f"there are no images in {options.images}")
    model = Embedder(options.model)
    vectors, readable = model.encode(paths, errors="skip", normalize_embeddings=True)
    if not len(vectors):
        sys.exit(f"no image in {options.images} can be read")

    for index, row in zip(readable, probabilities(vectors, label_vectors(model, options.labels)), strict=True):
        print(paths[index])
        for label in (-row).argsort(kind="stable")[:TOP]:
            print(f"  {row[label]:6.1%}  {options.labels[label]}")


def label_vectors(model, labels, templates=TEMPLATES):
    """A vector of length 1 for each label: the mean of those that it has in each template.

    That is the ensemble of section 3.1.4 of CLIP's paper (https://arxiv.org/abs/2103.00020), which finds it better than
    a single template, and much better than the bare label.
    """
    texts = [template.format(label) for label in labels for template in templates]
    vectors = model.encode(texts, normalize_embeddings=True)
    means = vectors.reshape(len(labels), len(templates), -1).mean(axis=1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def probabilities(images, labels):
    """Of each image's vector (n, dim) the probabilities of the labels' (m, dim), all of length 1: (n, m)."""
    logits = LOGIT_SCALE * images @ labels.T
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


if __name__ == "__main__":
    main(sys.argv[1:])
