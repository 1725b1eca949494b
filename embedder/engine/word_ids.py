"""Remember the token ids of words, for models that need hardly more time than the tokenizer.

The library takes about a microsecond for a token. That is nothing beside a transformer, and nearly everything beside a
model that only looks up vectors. Most words of a text have been seen before, so their ids are looked up here, which
takes a fifth of that time.

This is right only for tokenizers that treat each word by itself, where a word is what stands between two spaces. BERT's
tokenizer does: it splits at spaces, and its normalisation never looks beyond a space. It is used only if the tokenizer
adds no special tokens, as those of static embeddings.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from itertools import chain
from typing import Any

import numpy as np

from embedder.common.forks import renew_after_fork
from embedder.engine.token_table import TokenTable

# Longer words are rare, or belong to a script without spaces. They are not remembered.
_MAX_WORD_CHARACTERS = 32
# More words than this are forgotten together. So many take about 15 MB.
_MAX_WORDS = 1 << 16


def treats_words_alone(tokenizer: Any) -> bool:
    """Return whether the ids of a text are those of its words between spaces, one after another.

    Args:
        tokenizer: a `tokenizers.Tokenizer`. Special tokens at the start and the end of a text do not count.

    Example:
        >>> treats_words_alone(Tokenizer.from_file("tokenizer.json"))  # doctest: +SKIP
        True
    """
    # By name, because the library is imported only where a tokenizer is loaded.
    parts = (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.model)
    if tuple(type(part).__name__ for part in parts) != ("BertNormalizer", "BertPreTokenizer", "WordPiece"):
        return False
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    return not any(" " in token or not token.isprintable() for token in added)


class WordIds:
    """The token ids of words that have been seen. Safe to share between threads, and after a fork.

    Args:
        tokenize: returns the token ids of texts as the library gives them, cut at the limit.

    Example:
        >>> words = WordIds(tokenize)  # doctest: +SKIP
        >>> words.table(["a text", "another text"], 512, 10_000).lengths  # doctest: +SKIP
        array([2, 2])
    """

    def __init__(self, tokenize: Callable[[Sequence[str]], TokenTable]) -> None:
        self._tokenize = tokenize
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget all words. After a fork, another thread may have been at work here."""
        self._lock = threading.Lock()
        self._rows: dict[str, int] = {}  # the row of each word in `_table`
        self._table: TokenTable | None = None

    def table(self, texts: Sequence[str], limit: int, longest: int) -> TokenTable:
        """Return the token ids of texts.

        Args:
            texts: at least one text.
            limit: most tokens of a text. The rest is cut off.
            longest: texts of more characters are left to the library.
        """
        split = [text.split(" ") for text in texts]
        words = list(chain.from_iterable(split))
        with self._lock:
            new = set(words).difference(self._rows)
            if not _has_long(new) and len(max(texts, key=len)) <= longest:
                return _cut(self._look_up(words, new, [*map(len, split)]), limit)
        left = np.array([_has_long(part) or len(text) > longest for part, text in zip(split, texts, strict=True)])
        rows = (np.flatnonzero(left), np.flatnonzero(~left))
        tables = [self._tokenize([texts[row] for row in rows[0].tolist()])]
        if len(rows[1]):
            tables.append(self.table([texts[row] for row in rows[1].tolist()], limit, longest))
        return TokenTable.join(tables).take(np.argsort(np.concatenate(rows)))

    def _look_up(self, words: list[str], new: set[str], counts: list[int]) -> TokenTable:
        """Return the ids of texts from their words, in full.

        Args:
            words: the words of all texts.
            new: those that are not known yet.
            counts: number of words of each text.
        """
        if len(self._rows) + len(new) > _MAX_WORDS:
            self._rows, self._table, new = {}, None, set(words)
        if new or self._table is None:
            added, known = list(new), self._table
            learnt = self._tokenize(added)
            self._table = learnt if known is None else TokenTable.join([known, learnt])
            self._rows.update(zip(added, range(len(self._rows), len(self._table)), strict=True))
        found = self._table.take(np.array([*map(self._rows.__getitem__, words)], np.intp))
        starts = np.cumsum([0, *counts[:-1]], dtype=np.intp)
        return TokenTable(found.arrays, np.add.reduceat(found.lengths, starts))


def _has_long(words: Collection[str]) -> bool:
    return bool(words) and len(max(words, key=len)) > _MAX_WORD_CHARACTERS


def _cut(table: TokenTable, limit: int) -> TokenTable:
    """Return the table with at most `limit` tokens of each text."""
    if table.lengths.max() <= limit:
        return table
    starts = np.repeat(np.cumsum(table.lengths) - table.lengths, table.lengths)
    kept = np.arange(len(starts)) - starts < limit
    return TokenTable(tuple(array[kept] for array in table.arrays), np.minimum(table.lengths, limit))
