"""Classify images by your own labels, without training.

Usage: python examples/zero_shot.py FOLDER_OR_IMAGE LABEL LABEL ... [--model clip-ViT-B-32]

The example prints the path of each image, and below it the most probable labels. Images that cannot be read are
reported on stderr and left out. The probabilities of all labels sum to 1. So an image gets a label even if none fits.

The example needs Pillow, and the exported model in artifacts/ (`make export MODEL=clip-ViT-B-32`).
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from embedder import Embedder

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
TEMPLATES = ["a photo of a {}.", "a photo of the {}.", "a good photo of a {}.", "a close-up photo of a {}."]
LOGIT_SCALE = 100  # a weight of CLIP. It is 100 in all released models
MAX_LABELS_SHOWN = 5


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Classify images by your own labels.")
    parser.add_argument("images", type=Path, metavar="FOLDER_OR_IMAGE")
    parser.add_argument("labels", nargs="+", metavar="LABEL")
    parser.add_argument("--model", default="clip-ViT-B-32")
    options = parser.parse_args(arguments)

    paths = sorted(path for path in options.images.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    paths = [options.images] if options.images.is_file() else paths
    if not paths:
        sys.exit(f"there are no images in {options.images}")
    model = Embedder(options.model)
    images = model.encode_readable(paths, normalize_embeddings=True)
    for reason in images.reasons.values():
        print(f"skipped: {reason}", file=sys.stderr)
    if not len(images.embeddings):
        sys.exit(f"no image in {options.images} can be read")

    rows = probabilities(images.embeddings, label_vectors(model, options.labels))
    for index, row in zip(images.indices, rows, strict=True):
        print(paths[index])
        for label in (-row).argsort(kind="stable")[:MAX_LABELS_SHOWN]:
            print(f"  {row[label]:6.1%}  {options.labels[label]}")


def label_vectors(model, labels, templates=TEMPLATES):
    """Return a vector of length 1 for each label: the mean of its vectors in all templates.

    CLIP's paper calls this a prompt ensemble. Source: https://arxiv.org/abs/2103.00020, section 3.1.4. The paper
    measures that it is better than a single template, and much better than the label alone.
    """
    texts = [template.format(label) for label in labels for template in templates]
    vectors = model.encode(texts, normalize_embeddings=True)
    means = vectors.reshape(len(labels), len(templates), -1).mean(axis=1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def probabilities(images, labels):
    """Return the probability of each label for each image, (n, m).

    `images` are (n, dim) and `labels` are (m, dim). All vectors have length 1.
    """
    logits = LOGIT_SCALE * images @ labels.T
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


if __name__ == "__main__":
    main(sys.argv[1:])
