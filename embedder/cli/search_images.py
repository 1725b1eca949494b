"""The part of `embedder search` that searches the images of a directory."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from embedder.cli.commands import DEFAULT_IMAGE_MODEL, check_takes_images, load_model
from embedder.cli.console import print_json, print_path, say, warn_of_image
from embedder.common.progress import is_watched
from embedder.errors import InputError
from embedder.files.directories import image_files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embedder import Embedder


def search_images(options: argparse.Namespace, query: str | None) -> None:
    """Print the images of `options.images` that are nearest to a text, or to `options.query_image` if it is None."""
    if query is not None:
        _explain_query(query)
    paths = image_files(options.images)
    model = image_model = load_model(options, options.model or DEFAULT_IMAGE_MODEL)
    if "image" not in model.modalities and model.manifest.image_model is not None:
        image_model = load_model(options, model.manifest.image_model)
    check_takes_images(image_model)
    vector = _encode_image(image_model, options.query_image) if query is None else model.encode(query)
    vectors, rows = _encode_images(image_model, paths)
    scores = model.similarity(vector, vectors)[0]
    best = (-scores).argsort(kind="stable")[: options.top_k]
    for score, path in [(float(scores[row]), str(paths[rows[row]])) for row in best]:
        if options.min_score is not None and score < options.min_score:
            break
        if options.json:
            print_json({"score": round(score, 6), "image": path})
        else:
            print_path(f"{score:.4f}  {path}")
    if len(rows) < len(paths):
        raise InputError(f"{len(paths) - len(rows)} of {len(paths)} images cannot be read, see the warnings")


def _explain_query(query: str) -> None:
    """Print a note if the query is the path of an image. The user may have meant the image."""
    from embedder.images.sources import IMAGE_ENDINGS

    if query.lower().endswith(IMAGE_ENDINGS) and os.path.isfile(query):
        say(f"note: QUERY is a text here. To search for images that are like {query}, use --query-image {query}")


def _encode_image(model: Embedder, path: str) -> NDArray[np.float32]:
    result = model.encode_readable([Path(path)])
    if result.reasons:
        raise InputError(f"--query-image: {result.reasons[0]}")
    vector: NDArray[np.float32] = result.embeddings[0]
    return vector


def _encode_images(model: Embedder, paths: list[Path]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Encode the images that can be read, and print a warning for each of the others.

    Returns:
        Embeddings (n, dim), and the index of each embedding's path (n,).
    """
    import numpy as np

    embeddings, indices = [np.empty((0, model.dimension), np.float32)], [np.empty(0, np.int64)]
    for result in model.iter_results(paths, show_progress_bar=is_watched()):
        for index, reason in result.reasons.items():
            warn_of_image(str(paths[index]), reason)
        embeddings.append(result.embeddings)
        indices.append(result.indices)
    return np.concatenate(embeddings), np.concatenate(indices)
