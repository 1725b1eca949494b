"""The text side of a model with a vector for each token. Queries and documents become tokens in their own ways."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.manifest import Graph, Output, TokenizerSettings
from embedder.artifact.multi_vector import DOCUMENT, QUERY, MultiVectorSettings, QueryExpansion
from embedder.backends import Backend
from embedder.engine.outputs import Values
from embedder.engine.text_side import TextSide
from embedder.engine.token_table import Tokens, TokenTable
from embedder.engine.tokenizer import TextTokenizer
from embedder.errors import InputError
from embedder.inputs import Pair


class TokenSide(TextSide):
    """The side for texts without a role. `for_role` returns those for queries and for documents.

    Example:
        >>> side = TokenSide(backend, graph, tokenizer, settings, multi_vector)  # doctest: +SKIP
        >>> side.for_role("query").tokenize(["a query"]).lengths  # doctest: +SKIP
        array([32])
    """

    def __init__(
        self,
        backend: Backend,
        graph: Graph,
        tokenizer: TextTokenizer,
        settings: TokenizerSettings,
        multi_vector: MultiVectorSettings,
        document_length: int | None = None,
    ) -> None:
        """Take the parts of the side.

        Args:
            backend: runs the graph.
            graph: the graph.
            tokenizer: the tokenizer. Its limit is the highest one of all roles.
            settings: the tokenizer's settings.
            multi_vector: how queries and documents become tokens.
            document_length: most tokens of a document. None takes the model's own limit.

        Raises:
            InputError: the special tokens leave no room for a document.
        """
        super().__init__(backend, graph, tokenizer, settings, padded_tokens=1)
        if document_length is not None and document_length <= tokenizer.special_count:
            raise InputError(
                f"document_length should be at least {tokenizer.special_count + 1}, not {document_length}: the model "
                f"adds {tokenizer.special_count} special tokens to each document"
            )
        self._max_tokens = settings.max_seq_length
        self._expansion: QueryExpansion | None = None
        self._skipped_ids = _skipped_ids(multi_vector, DOCUMENT)
        self._skipped_first = multi_vector.skipped_first
        self._sides = {
            QUERY: self._with(
                _max_tokens=multi_vector.query_length,
                _expansion=multi_vector.expansion,
                _skipped_ids=_skipped_ids(multi_vector, QUERY),
            ),
            DOCUMENT: self._with(_max_tokens=document_length or multi_vector.document_length),
        }

    def for_role(self, role: str | None) -> TextSide:
        """Return the side for texts of a role; see `TextSide.for_role`."""
        return self if role is None else self._sides[role]

    def _with(self, **attributes: object) -> TokenSide:
        """Return a copy that shares all parts, with other values of `attributes`."""
        side = copy(self)
        vars(side).update(attributes)
        return side

    @property
    def _marks_expansion(self) -> bool:
        """Whether the table of tokens says which tokens are attended to, in its last array."""
        return self._expansion is not None and not self._expansion.is_attended

    def tokenize(self, texts: Sequence[str | Pair]) -> TokenTable:
        """Return the token ids of texts, cut at the role's limit and filled up; see `TextSide.tokenize`."""
        table = super().tokenize(texts)
        if (table.lengths > self._max_tokens).any():
            table = _cut(table, self._max_tokens, self._suffix_length)
        return table if self._expansion is None else self._expand(table)

    @cached_property
    def _suffix_length(self) -> int:
        return len(self.tokenizer.frame().suffix)

    def _expand(self, table: TokenTable) -> TokenTable:
        """Fill up short texts. If the new tokens are not attended to, the last array of the table marks the others."""
        expansion = self._expansion
        assert expansion is not None  # the caller made sure
        lengths = np.maximum(table.lengths, expansion.length)
        # For each token: where its text starts in the new table, less where it starts in the old one.
        shifts = np.cumsum(lengths) - lengths - np.cumsum(table.lengths) + table.lengths
        places = np.repeat(shifts, table.lengths) + np.arange(len(table.arrays[0]))
        marks = (np.ones(len(places), np.int64),) if self._marks_expansion else ()
        fillers = (expansion.token_id, *[0] * len(table.arrays))
        arrays = []
        for array, filler in zip((*table.arrays, *marks), fillers, strict=False):
            filled = np.full(int(lengths.sum()), filler, np.int64)
            filled[places] = array
            arrays.append(filled)
        return TokenTable(tuple(arrays), lengths)

    def cut_rows(self, texts: Sequence[str | Pair], tokens: TokenTable) -> list[int]:
        """Return the indices of the texts that `tokenize` has cut; see `TextSide.cut_rows`."""
        full = np.flatnonzero(tokens.lengths == self._max_tokens).tolist()
        if not full:
            return []
        whole = super().tokenize([texts[row] for row in full])
        too_long = whole.lengths > self._max_tokens
        if self._max_tokens == self.tokenizer.max_seq_length:
            too_long[:] = [self._is_cut(texts[row]) for row in full]
        return [row for row, is_cut in zip(full, too_long.tolist(), strict=True) if is_cut]

    def plan(self, tokens: TokenTable, batch_size: int | None) -> list[list[int]]:
        """Return the rows of each batch; see `TextSide.plan`."""
        unpadded_from = self._backend.device.unpadded_from_tokens
        if self._marks_expansion and unpadded_from is not None and tokens.lengths.max(initial=0) >= unpadded_from:
            # A long query computes attention in another way if it has no such tokens. So each query runs alone, and
            # its vectors do not depend on its batch.
            batch_size = 1
        return super().plan(tokens, batch_size)

    def _pad(self, tokens: TokenTable) -> tuple[Tokens, NDArray[np.int64]]:
        arrays, attention_mask = super()._pad(tokens)
        return arrays, arrays[-1] if self._marks_expansion else attention_mask

    def _run(
        self, tokens: TokenTable, output: Output, prompt_token_counts: NDArray[np.int64], single_batch: bool
    ) -> Values:
        values: NDArray[Any] = super()._run(tokens, output, prompt_token_counts, single_batch)
        if not len(self._skipped_ids) and not self._skipped_first:
            return values
        kept = ~np.isin(tokens.arrays[0], self._skipped_ids)
        ends = np.cumsum(tokens.lengths).tolist()
        for row, (start, stop) in enumerate(pairwise([0, *ends])):
            kept[start : min(start + self._skipped_first, stop)] = False
            values[row] = values[row][kept[start:stop]]
        return values


def _skipped_ids(multi_vector: MultiVectorSettings, role: str) -> NDArray[np.int64]:
    return np.array(multi_vector.skipped_ids if role in multi_vector.skipped_in else (), np.int64)


def _cut(table: TokenTable, limit: int, suffix_length: int) -> TokenTable:
    """Cut texts at `limit` tokens. The special tokens at their end stay, as if the tokenizer had cut them."""
    lengths = np.repeat(table.lengths, table.lengths)
    starts = np.repeat(np.cumsum(table.lengths) - table.lengths, table.lengths)
    places = np.arange(len(lengths)) - starts
    kept = (places < limit - suffix_length) | (places >= lengths - suffix_length)
    return TokenTable(tuple(array[kept] for array in table.arrays), np.minimum(table.lengths, limit))
