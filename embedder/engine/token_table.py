"""The token ids of many texts in one array, so that NumPy pads a batch in a few steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from embedder.common.records import frozen

# The token ids of a text, int64 (tokens,). For a graph that takes token type ids, these are the second array.
Tokens: TypeAlias = tuple[NDArray[np.int64], ...]


@frozen
class TokenTable:
    """The token ids of texts, one text after another.

    Attributes:
        arrays: the token ids, int64 (tokens of all texts,). For a graph that takes token type ids, these are second.
        lengths: number of tokens of each text, int64 (texts,).

    Example:
        >>> table = TokenTable((np.int64([101, 102, 101, 7592, 102]),), np.int64([2, 3]))
        >>> len(table)
        2
    """

    arrays: Tokens
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Tokens]) -> TokenTable:
        """Make a table of texts that have arrays of their own: at least one text.

        Example:
            >>> TokenTable.of([(np.int64([101, 102]),), (np.int64([7]),)]).lengths.tolist()
            [2, 1]
        """
        lengths = np.array([len(row[0]) for row in rows], np.int64)
        return cls(tuple(np.concatenate(arrays) for arrays in zip(*rows, strict=True)), lengths)

    @classmethod
    def join(cls, tables: Sequence[TokenTable]) -> TokenTable:
        """Make a table of the texts of tables, at least one.

        Example:
            >>> len(TokenTable.join([table, table]))
            4
        """
        if len(tables) == 1:
            return tables[0]
        arrays = zip(*(table.arrays for table in tables), strict=True)
        return cls(tuple(map(np.concatenate, arrays)), np.concatenate([table.lengths for table in tables]))

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: NDArray[np.intp]) -> TokenTable:
        """Return the texts at `rows`, in that order.

        Example:
            >>> table.take(np.array([1, 0])).arrays[0].tolist()
            [101, 7592, 102, 101, 102]
        """
        lengths = self.lengths[rows]
        # For each token: where its text starts here, less where it starts in the new table.
        shifts = _starts(self.lengths)[rows] - _starts(lengths)
        places = np.repeat(shifts, lengths)
        places += np.arange(len(places))
        return TokenTable(tuple(array[places] for array in self.arrays), lengths)

    def part(self, start: int, stop: int) -> TokenTable:
        """Return the texts from `start` to `stop`, without a copy.

        Example:
            >>> table.part(1, 2).arrays[0].tolist()
            [101, 7592, 102]
        """
        if start == 0 and stop == len(self.lengths):
            return self
        first, last = int(self.lengths[:start].sum()), int(self.lengths[:stop].sum())
        return TokenTable(tuple(array[first:last] for array in self.arrays), self.lengths[start:stop])

    def padded_size(self, least: int = 1) -> int:
        """Return the number of tokens of all texts after padding to at least `least` tokens each.

        Example:
            >>> table.padded_size(), table.padded_size(64)
            (6, 128)
        """
        return len(self.lengths) * max(least, int(self.lengths.max(initial=0)))

    def pad(self, pad_id: int, least: int = 1) -> tuple[Tokens, NDArray[np.int64]]:
        """Return the arrays padded on the right, and the attention mask. All are the caller's own.

        A text without tokens becomes padding alone. There is at least one column, because a graph needs one.

        Args:
            pad_id: the token id after the end of a text. The token type id there is 0.
            least: smallest number of columns.

        Returns:
            The arrays, int64 (texts, columns), where the longest text decides the number of columns, or `least`; and 1
            where they have a token, 0 elsewhere, of that shape.

        Example:
            >>> (ids,), attention_mask = table.pad(0)
            >>> ids.tolist(), attention_mask.tolist()
            ([[101, 102, 0], [101, 7592, 102]], [[1, 1, 0], [1, 1, 1]])
        """
        if len(self.lengths) == 1 and len(self.arrays[0]) >= least:  # a single text needs few steps
            arrays = tuple([array[np.newaxis].copy() for array in self.arrays])  # a backend may write into them
            ones = np.empty((1, len(self.arrays[0])), np.int64)
            ones.fill(1)
            return arrays, ones
        columns = max(least, int(self.lengths.max())) if len(self.lengths) else 0
        mask: NDArray[np.bool_] = np.arange(columns) < self.lengths[:, np.newaxis]
        ids, *types = self.arrays
        return (_pad(ids, mask, pad_id), *(_pad(array, mask, 0) for array in types)), mask.astype(np.int64)


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.cumsum(lengths) - lengths


def _pad(array: NDArray[np.int64], mask: NDArray[np.bool_], padding: int) -> NDArray[np.int64]:
    padded = np.full(mask.shape, padding, np.int64)
    padded[mask] = array
    return padded
