"""`embedder map`: draw a collection as one HTML page."""

from __future__ import annotations

import argparse
import os
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING

from embedder.cli.clusters import Clusters, add_cluster_options, check_cluster_options, find_clusters, summary
from embedder.cli.collection import COLLECTION_HELP, Collection, add_collection_arguments, open_collection
from embedder.cli.commands import Commands, add_command
from embedder.cli.console import print_json, print_path, say
from embedder.cli.map_page import MAX_TEXT_CHARACTERS, MapPoints, make_page
from embedder.common.counted import counted
from embedder.common.files import replacing
from embedder.common.imports import import_optional
from embedder.common.progress import is_watched
from embedder.errors import InputError
from embedder.files.inputs import STDIO
from embedder.files.targets import file_to_write

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LAYOUTS = ("auto", "neighbours", "pca", "umap")
# UMAP's own default.
_UMAP_NEIGHBOURS = 15
_SEED = 0

_DESCRIPTION = f"""Draw a collection as a map: one HTML file that needs no other file and no
network. A point is a text, and near points are texts about the same. The page
shows the text under the pointer, colours the clusters, and finds words. Open it
in a browser.

layouts:
  neighbours  puts each text near the 10 texts that are most like it. Distances
              between far groups mean little.
  pca         shows the two directions in which the texts differ most. Distances
              are true in these two directions, and most differences are hidden.
  umap        as UMAP places them. It needs the package umap-learn.
  auto        umap if umap-learn is installed, otherwise neighbours.

`embedder clusters` finds the same clusters.

{COLLECTION_HELP}"""
_EXAMPLE = """  embedder map reviews.csv --column review -o map.html"""


def add_parser(commands: Commands) -> None:
    """Add `embedder map`."""
    parser = add_command(
        commands, "map", "draw texts as a map", usage="COLLECTION", description=_DESCRIPTION, example=_EXAMPLE
    )
    parser.add_argument("-o", "--output", default="map.html", metavar="FILE", help="the page; default: %(default)s")
    parser.add_argument("--layout", choices=LAYOUTS, default="auto", help="how texts are placed; default: %(default)s")
    add_cluster_options(parser)
    parser.add_argument("--json", action="store_true", help="also print each text with its place as a line of JSON")
    add_collection_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write the page."""
    check_cluster_options(options)
    layout = _choose_layout(options.layout)
    target = file_to_write(options.output)
    if target.exists() and os.path.exists(options.collection) and target.samefile(options.collection):
        raise InputError("-o names the collection itself. Choose another name for the page, such as map.html")
    collection = open_collection(options)
    points, note = _place(collection.vectors, layout)
    clusters = find_clusters(collection.vectors, options.threshold, options.min_size)
    shown = _shown(collection, clusters, points)
    notes = [note, f"Clusters: {summary(clusters, len(shown.texts))}.", *_notes_of_texts(shown.texts)]
    page = make_page(_title(options.collection), notes, shown)
    with replacing(target) as new:
        new.write_bytes(page)
    if options.json:
        _print_points(shown)
    else:
        print_path(options.output)
    say(summary(clusters, len(shown.texts)))
    collection.source.check_complete()


def _title(collection: str) -> str:
    return "stdin" if collection == STDIO else os.path.basename(os.path.realpath(collection))


def _choose_layout(layout: str) -> str:
    """Return the layout that "auto" means. It does not import umap yet, because that takes seconds."""
    if layout != "auto":
        return layout
    return "umap" if find_spec("umap") is not None else "neighbours"


def _place(vectors: NDArray[np.float32], layout: str) -> tuple[NDArray[np.float64], str]:
    """Return the places of vectors (n, dim), and a sentence that says how they were found."""
    from embedder.vectors.layout import MIN_NEIGHBOUR_POINTS, NEIGHBOUR_COUNT, neighbour_layout, principal_layout

    if layout == "umap" and len(vectors) >= MIN_NEIGHBOUR_POINTS:
        return _umap_layout(vectors), "Layout: UMAP. Distances between far groups mean little."
    if layout == "neighbours" and len(vectors) >= MIN_NEIGHBOUR_POINTS:
        note = f"Layout: each text is near the {NEIGHBOUR_COUNT} texts that are most like it"
        return (
            neighbour_layout(vectors, show_progress_bar=is_watched()),
            f"{note} (by the method of PaCMAP). Distances between far groups mean little.",
        )
    principal = principal_layout(vectors)
    share = f"{100 * principal.variance_share:.0f} % of their variance"
    return principal.points, f"Layout: the two directions in which the texts differ most (PCA), with {share}."


def _umap_layout(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the places by UMAP, (n, 2). A fixed seed makes them the same each time."""
    umap = import_optional("umap", needed_for="--layout umap", requirement="embedder-onnx[map]")
    neighbours = min(_UMAP_NEIGHBOURS, len(vectors) - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a seed that allows one thread only
        reducer = umap.UMAP(n_neighbors=neighbours, metric="cosine", random_state=_SEED, verbose=is_watched())
        points: NDArray[np.float64] = reducer.fit_transform(vectors).astype("float64")
    return points


def _shown(collection: Collection, clusters: Clusters, points: NDArray[np.float64]) -> MapPoints:
    """Return what the page shows."""
    import numpy as np

    numbers = np.full(len(points), -1, np.int64)
    for number, group in enumerate(clusters.groups):
        numbers[group] = number
    return MapPoints(
        points=points,
        cluster=numbers,
        texts=[entry.text for entry in collection.entries],
        places=[str(entry.id) for entry in collection.entries],
        centres=[group[0] for group in clusters.groups],
    )


def _notes_of_texts(texts: list[str]) -> list[str]:
    cut = sum(len(text) > MAX_TEXT_CHARACTERS for text in texts)
    if not cut:
        return []
    return [f"The page has the first {MAX_TEXT_CHARACTERS:,} characters of each text. {counted(cut, 'text')} had more."]


def _print_points(shown: MapPoints) -> None:
    """Print each text with its place on the map and its cluster."""
    for place, text, (x, y), cluster in zip(
        shown.places, shown.texts, shown.points.tolist(), shown.cluster.tolist(), strict=True
    ):
        print_json({"id": place, "text": text, "x": x, "y": y, "cluster": None if cluster < 0 else cluster})
