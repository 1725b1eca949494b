"""Find the copies of texts among the inputs, so that each text is encoded once. Its vector goes to all its places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from embedder.common.records import frozen
from embedder.inputs import Item, Pair

_Scalar = TypeVar("_Scalar", bound=np.generic)

# Other types of strings may compare in their own way, such as without regard to case.
_TEXT_TYPES = frozenset((str, np.str_, Pair))


@frozen
class Places:
    """Where the items of a list without copies are in the list with copies.

    Attributes:
        rows: for each item, its first index in the list with copies.
        sources: for each item of the list with copies, the index of the item that it equals, int (inputs,). None if
            there are no copies.
    """

    rows: Sequence[int]
    sources: NDArray[np.intp] | None

    @property
    def size(self) -> int:
        """Number of items with the copies."""
        return len(self.rows if self.sources is None else self.sources)

    @property
    def copies(self) -> int:
        """Number of copies that were left out."""
        return self.size - len(self.rows)

    def spread(self, values: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Copy the value of each item to all its places in the list with copies: (inputs, *shape).

        Example:
            >>> find_distinct(["a", "b", "a"])[1].spread(np.float32([5, 6])).tolist()
            [5.0, 6.0, 5.0]
        """
        return values if self.sources is None else values[self.sources]


def find_distinct(items: list[Item]) -> tuple[list[Item], Places]:
    """Return `items` without the copies of texts and of pairs, in their order, and their places. Images are all kept.

    Example:
        >>> find_distinct(["a", "b", "a"])[0]
        ['a', 'b']
    """
    texts = [item for item in items if type(item) in _TEXT_TYPES]
    if len(set(texts)) == len(texts):
        return items, Places(range(len(items)), None)
    kept: list[Item] = []
    rows: list[int] = []
    sources = np.empty(len(items), np.intp)
    known: dict[Item, int] = {}
    for row, item in enumerate(items):
        source = known.setdefault(item, len(kept)) if type(item) in _TEXT_TYPES else len(kept)
        sources[row] = source
        if source == len(kept):
            kept.append(item)
            rows.append(row)
    return kept, Places(rows, sources)
