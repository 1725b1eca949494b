"""`embedder search`: find the images of a directory that are nearest to a text or to another image."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from embedder.cli.commands import (
    DEFAULT_IMAGE_MODEL,
    Commands,
    add_command,
    add_model_options,
    check_takes_images,
    load_model,
)
from embedder.cli.console import print_path, say, warn_of_image
from embedder.cli.inputs import image_files
from embedder.common.progress import is_watched
from embedder.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embedder import Embedder

_DESCRIPTION = """Find the images that are nearest to a text or to another image. Their scores
and paths are printed, the nearest first.

The model must take images, or name an image model. In the second case, the
image model encodes the images, and the model encodes the text. QUERY is always
a text, even if a file has that name."""
_EXAMPLE = """  embedder search --images photos "a dog in the snow"
  embedder search --images photos --query-image photos/dog.jpg"""


def add_parser(commands: Commands) -> None:
    """Add `embedder search`."""
    parser = add_command(commands, "search", "find images", description=_DESCRIPTION, example=_EXAMPLE)
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("query", nargs="?", metavar="QUERY", help="a text")
    query.add_argument("--query-image", metavar="FILE", help="search for images that are like this image")
    parser.add_argument(
        "--images", required=True, metavar="DIR", help="search in this directory and its subdirectories"
    )
    parser.add_argument("-k", "--top-k", type=int, default=10, metavar="N", help="print N images; default: %(default)s")
    add_model_options(parser, DEFAULT_IMAGE_MODEL)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the images that are nearest to the query."""
    from embedder.common.checks import check_count

    check_count("top_k", options.top_k)
    _explain_query(options)
    paths = image_files(options.images)
    model = image_model = load_model(options, options.model)
    if "image" not in model.modalities and model.manifest.image_model is not None:
        image_model = load_model(options, model.manifest.image_model)
    check_takes_images(image_model)
    query = _encode_query(options, model, image_model)
    vectors, rows = _encode_images(image_model, paths)
    scores = model.similarity(query, vectors)[0]
    for row in (-scores).argsort(kind="stable")[: options.top_k]:
        print_path(f"{scores[row]:.4f}  {paths[rows[row]]}")
    if len(rows) < len(paths):
        raise InputError(f"{len(paths) - len(rows)} of {len(paths)} images cannot be read, see the warnings")


def _explain_query(options: argparse.Namespace) -> None:
    """Print a note if the query is the path of an image. The user may have meant the image."""
    from embedder.images.sources import IMAGE_ENDINGS

    query = options.query
    if query is not None and query.lower().endswith(IMAGE_ENDINGS) and os.path.isfile(query):
        say(f"note: QUERY is a text here. To search for images that are like {query}, use --query-image {query}")


def _encode_query(options: argparse.Namespace, model: Embedder, image_model: Embedder) -> NDArray[np.float32]:
    if options.query is not None:
        query: NDArray[np.float32] = model.encode(options.query)
        return query
    result = image_model.encode_readable([Path(options.query_image)])
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
