"""`embedder clusters`: find groups of texts that are about the same."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from embedder.cli.collection import (
    COLLECTION_HELP,
    Collection,
    add_collection_arguments,
    fields_of,
    open_collection,
)
from embedder.cli.commands import Commands, add_command
from embedder.cli.console import print_json, print_table, say
from embedder.common.counted import counted
from embedder.common.progress import is_watched
from embedder.common.records import frozen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DESCRIPTION = f"""Find groups of texts that are about the same. The size of each cluster and its
title are printed, the largest first. The title is the central text: each other
text of the cluster has a cosine of at least the threshold with it. No text is
in two clusters. --json prints the members, too. Its last line has the texts
that are in no cluster.

Without --threshold, one is chosen that fits the collection, and is named: three
quarters of the texts could then be the central text of a cluster.

{COLLECTION_HELP}"""
_EXAMPLE = """  embedder clusters reviews.csv --column review
  embedder clusters notes --threshold 0.6 --min-size 5 --json"""
_SMALLEST_MIN_SIZE = 3
# The least size of a cluster is a tenth of the square root of the number of texts: 10 for 10,000 texts.
_MIN_SIZE_SHARE = 10
_CENTRAL_SHARE = 0.75
# The threshold is chosen by this many texts, spread over the collection.
_MAX_SAMPLED_TEXTS = 2000


def add_parser(commands: Commands) -> None:
    """Add `embedder clusters`."""
    parser = add_command(
        commands,
        "clusters",
        "find groups of texts about the same",
        usage="COLLECTION",
        description=_DESCRIPTION,
        example=_EXAMPLE,
    )
    add_cluster_options(parser)
    parser.add_argument("--json", action="store_true", help="print each cluster with its members as a line of JSON")
    add_collection_arguments(parser)
    parser.set_defaults(run=run)


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a cluster is."""
    parser.add_argument(
        "--threshold", type=float, metavar="X", help="smallest cosine with the central text; default: chosen"
    )
    parser.add_argument(
        "--min-size",
        type=int,
        metavar="N",
        help="a cluster has at least N texts; default: 3, or more for thousands of texts",
    )


@frozen
class Clusters:
    """The clusters of a collection.

    Attributes:
        groups: the rows of each cluster, the largest first. Its central text comes first.
        rest: the rows that are in no cluster.
        threshold: the smallest cosine of a text with the central text of its cluster.
    """

    groups: list[list[int]]
    rest: list[int]
    threshold: float


def run(options: argparse.Namespace) -> None:
    """Print the clusters of a collection."""
    check_cluster_options(options)
    collection = open_collection(options)
    clusters = find_clusters(collection.vectors, options.threshold, options.min_size)
    if options.json:
        for group in clusters.groups:
            print_json(_fields(collection, group, title=collection.entries[group[0]].text))
        if clusters.rest:
            print_json(_fields(collection, clusters.rest, title=None))
    else:
        centres = [(str(len(group)), collection.entries[group[0]]) for group in clusters.groups]
        print_table([(size, entry.id, entry.text) for size, entry in centres])
    say(summary(clusters, len(collection.entries)))
    collection.source.check_complete()


def check_cluster_options(options: argparse.Namespace) -> None:
    """Raise InputError if an option of `add_cluster_options` is out of range."""
    from embedder.common.checks import check_count, check_number

    check_count("min_size", options.min_size)
    if options.threshold is not None:
        check_number("threshold", options.threshold)


def find_clusters(vectors: NDArray[np.float32], threshold: float | None, min_size: int | None) -> Clusters:
    """Find the clusters of vectors (n, dim). A threshold or a size that is None is chosen by the vectors."""
    import numpy as np

    from embedder import community_detection

    if min_size is None:
        min_size = max(_SMALLEST_MIN_SIZE, math.isqrt(len(vectors)) // _MIN_SIZE_SHARE)
    threshold = choose_threshold(vectors, min_size) if threshold is None else threshold
    groups = community_detection(vectors, threshold, min_size, show_progress_bar=is_watched())
    alone = np.ones(len(vectors), bool)
    for group in groups:
        alone[group] = False
    return Clusters(groups, np.flatnonzero(alone).tolist(), threshold)


def choose_threshold(vectors: NDArray[np.float32], min_size: int) -> float:
    """Return a threshold at which three quarters of the texts have `min_size` texts near, themselves included.

    It is at least the mean cosine of two texts. Otherwise a few texts about different things would be a cluster.
    """
    import numpy as np

    from embedder import semantic_search

    sample = vectors[:: -(-len(vectors) // _MAX_SAMPLED_TEXTS)]
    hits = semantic_search(sample, vectors, top_k=min_size)
    quantile = float(np.quantile([row[-1]["score"] for row in hits], 1 - _CENTRAL_SHARE))
    return math.floor(100 * max(quantile, _mean_cosine(sample))) / 100


def _mean_cosine(vectors: NDArray[np.float32]) -> float:
    """Return the mean cosine of two different rows of vectors (n, dim). It is -1 if there is one row."""
    import numpy as np

    from embedder import cos_sim

    count = len(vectors)
    return float((np.sum(cos_sim(vectors, vectors)) - count) / (count * (count - 1))) if count > 1 else -1.0


def summary(clusters: Clusters, count: int) -> str:
    """Return a sentence that says how many texts are in clusters, and at which threshold."""
    return (
        f"{counted(count, 'text')}: {count - len(clusters.rest):,} in {counted(len(clusters.groups), 'cluster')}, "
        f"{len(clusters.rest):,} in none (threshold {clusters.threshold:g})"
    )


def _fields(collection: Collection, rows: list[int], title: str | None) -> dict[str, object]:
    """Return a cluster for a line of JSON."""
    from embedder import cos_sim

    members = [fields_of(collection.entries[row]) for row in rows]
    if title is not None:
        cosines = cos_sim(collection.vectors[rows[:1]], collection.vectors[rows])[0].tolist()
        for member, cosine in zip(members, cosines, strict=True):
            member["score"] = round(cosine, 6)
    return {"title": title, "size": len(rows), "members": members}
