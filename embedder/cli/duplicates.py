"""`embedder duplicates`: find texts of a collection that are equal or nearly equal."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from embedder.cli.collection import (
    COLLECTION_HELP,
    Collection,
    add_collection_arguments,
    fields_of,
    open_collection,
)
from embedder.cli.commands import Commands, add_command
from embedder.cli.console import print_json, print_table, print_text, say
from embedder.cli.texts import Entry
from embedder.common.counted import counted
from embedder.common.progress import is_watched
from embedder.common.records import frozen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DESCRIPTION = f"""Find texts that are copies of each other, exactly or nearly. They are printed in
groups. The first text of a group is its centre: each other text is an exact
copy of a text of the group, or its cosine with the centre is at least the
threshold. Keep the first text of each group, and no near copies remain.

Groups with exact copies come first. No text is in two groups.

{COLLECTION_HELP}"""
_EXAMPLE = """  embedder duplicates reviews.csv --column review
  embedder duplicates notes --threshold 0.8 --json"""


def add_parser(commands: Commands) -> None:
    """Add `embedder duplicates`."""
    parser = add_command(
        commands,
        "duplicates",
        "find equal and nearly equal texts",
        usage="COLLECTION",
        description=_DESCRIPTION,
        example=_EXAMPLE,
    )
    parser.add_argument(
        "--threshold", type=float, default=0.9, metavar="X", help="smallest cosine of near copies; default: %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="print each group as a line of JSON")
    add_collection_arguments(parser)
    parser.set_defaults(run=run)


@frozen
class Copy:
    """A text of a group.

    Attributes:
        entry: the text.
        score: its cosine with the first text of the group.
        exact: whether an earlier text of the group is equal to it.
    """

    entry: Entry
    score: float
    exact: bool


Group = list[Copy]


def run(options: argparse.Namespace) -> None:
    """Print the groups of equal and nearly equal texts."""
    from embedder.common.checks import check_number

    check_number("threshold", options.threshold)
    collection = open_collection(options)
    groups = find_groups(collection, options.threshold)
    if options.json:
        for group in groups:
            print_json(_fields(group))
    else:
        _print_groups(groups)
    count, copy_count = len(collection.entries), sum(len(group) - 1 for group in groups)
    say(f"{counted(count, 'text')}, {count - copy_count:,} without the copies in {counted(len(groups), 'group')}")
    collection.source.check_complete()


def find_groups(collection: Collection, threshold: float) -> list[Group]:
    """Return the groups of copies. Those with exact copies come first, then those with the nearest texts."""
    from embedder import community_detection

    distinct = _distinct(collection.entries)
    rows = [copies[0] for copies in distinct]
    vectors = collection.vectors[rows]
    near = community_detection(vectors, threshold, min_community_size=2, show_progress_bar=is_watched())
    grouped = {row for group in near for row in group}
    alone = [[row] for row, copies in enumerate(distinct) if row not in grouped and len(copies) > 1]
    groups = [list(_group(group, distinct, collection.entries, _cosines(vectors, group))) for group in near + alone]
    return sorted(groups, key=lambda group: (not any(copy.exact for copy in group), -_best_score(group)))


def _distinct(entries: list[Entry]) -> list[list[int]]:
    """Return the rows of each distinct text, in the order in which the texts first appear."""
    rows: dict[str, list[int]] = {}
    for row, entry in enumerate(entries):
        rows.setdefault(entry.text, []).append(row)
    return list(rows.values())


def _cosines(vectors: NDArray[np.float32], group: list[int]) -> list[float]:
    """Return the cosines of the vectors of `group` with the first of them."""
    from embedder import cos_sim

    cosines: list[float] = cos_sim(vectors[group[:1]], vectors[group])[0].tolist()
    return [1.0, *cosines[1:]]


def _group(group: list[int], distinct: list[list[int]], entries: list[Entry], cosines: list[float]) -> Iterator[Copy]:
    """Yield the copies of a group of distinct texts. Exact copies follow the text that they are equal to."""
    for number, cosine in zip(group, cosines, strict=True):
        for row in distinct[number]:
            yield Copy(entries[row], cosine, row != distinct[number][0])


def _best_score(group: Group) -> float:
    return max(copy.score for copy in group[1:])


def _fields(group: Group) -> dict[str, object]:
    return {
        "size": len(group),
        "texts": [fields_of(copy.entry) | {"score": round(copy.score, 6), "exact": copy.exact} for copy in group],
    }


def _print_groups(groups: list[Group]) -> None:
    for number, group in enumerate(groups):
        if number:
            print_text("")
        print_table(
            [
                (_label(copy, is_first=place == 0), copy.entry.id, "" if copy.exact else copy.entry.text)
                for place, copy in enumerate(group)
            ]
        )


def _label(copy: Copy, *, is_first: bool) -> str:
    if is_first:
        return ""
    return "equal" if copy.exact else f"{copy.score:.4f}"
