"""Turn texts into token ids."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.common.cores import usable_cores
from embedder.common.panics import PanicError, panics_as_exceptions
from embedder.common.tokenizer_file import MAX_TOKEN_CHARACTERS, load_tokenizer
from embedder.engine.frame import Frame, find_special
from embedder.engine.token_table import Tokens, TokenTable
from embedder.engine.word_ids import WordIds, treats_words_alone
from embedder.errors import ArtifactError, InputError
from embedder.inputs import Token

# A first guess at the number of characters of a token. `_clip` checks the guess.
_CHARACTERS_PER_TOKEN = 16
# Most texts in one call of the library for each core, and at most. The library needs about 100 bytes for each token. It
# tokenises the texts of a call side by side. Between calls, other threads get to run Python.
_MAX_TEXTS_PER_CORE = 32
_MAX_TEXTS_PER_CALL = 512
# Of long texts, a call gets fewer, with at most about this many characters.
_MAX_CHARACTERS_PER_CALL = 1_000_000


class TextTokenizer:
    """A checkpoint's tokenizer with the model's own limit. Safe to call from many threads.

    Many `tokenizer.json` files contain a limit and a padding that are not the model's. For example, the limit of
    all-MiniLM-L6-v2 is 256 tokens, and its file says 128. Both are replaced.

    Example:
        >>> TextTokenizer(Path("tokenizer.json"), 256)(["hello"])  # doctest: +SKIP
        [(array([ 101, 7592,  102]),)]
    """

    def __init__(self, path: Path, max_seq_length: int, *, pairs: bool = False, verify: bool = True) -> None:
        """Load the tokenizer at `path`. It cuts texts at `max_seq_length` tokens, special tokens included.

        Args:
            path: the file `tokenizer.json`.
            max_seq_length: the limit.
            pairs: whether it is for a model of pairs. The special tokens are then those of a pair.
            verify: whether to check the content before the library reads it.

        Raises:
            ArtifactError: the file is damaged, or the special tokens leave no room for a text.
        """
        try:
            self._tokenizer = load_tokenizer(path, verify=verify)
            with panics_as_exceptions():
                self._special_count: int = self._tokenizer.num_special_tokens_to_add(is_pair=pairs)
                self._tokenizer.no_padding()
                self._tokenizer.enable_truncation(max_seq_length)
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
        except Exception as error:  # the library raises bare Exception
            from tokenizers import __version__

            # No advice to copy the file again: unless `verify` is False, its digest has been checked before.
            raise ArtifactError(f"{path} is not a tokenizer that tokenizers {__version__} reads: {error}") from error
        self._unit = "pair" if pairs else "text"
        if max_seq_length <= self._special_count:
            raise ArtifactError(
                f"{path} adds {self._special_count} special tokens to each {self._unit}, and max_seq_length is "
                f"{max_seq_length}: no room for the {self._unit}. Export the model again"
            )
        self._max_seq_length = max_seq_length
        # WordPiece makes one token, that for unknown words, of a word of more characters.
        self._longest_word: int = getattr(self._tokenizer.model, "max_input_chars_per_word", 0)
        is_plain = self._special_count == 0 and treats_words_alone(self._tokenizer)
        self._words = WordIds(self._library_table) if is_plain else None

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a text or a pair, special tokens included. The rest is cut off."""
        return self._max_seq_length

    @property
    def unit(self) -> str:
        """What the model reads: "text" or "pair"."""
        return self._unit

    @property
    def special_count(self) -> int:
        """Number of special tokens that each text gets, or each pair in a model of pairs."""
        return self._special_count

    @property
    def room(self) -> int:
        """Most tokens of a text, or of a pair in a model of pairs, special tokens not included."""
        return self._max_seq_length - self._special_count

    def set_limit(self, max_seq_length: int) -> None:
        """Cut texts at another limit. Call it before the tokenizer is shared between threads.

        Raises:
            InputError: the special tokens leave no room for a text.

        Example:
            >>> tokenizer.set_limit(128)  # doctest: +SKIP
        """
        if max_seq_length <= self._special_count:
            raise InputError(
                f"max_seq_length should be at least {self._special_count + 1}, not {max_seq_length}: the model adds "
                f"{self._special_count} special tokens to each {self._unit}"
            )
        self._tokenizer.enable_truncation(max_seq_length)
        self._max_seq_length = max_seq_length

    def table(self, texts: Sequence[str], *, typed: bool = False) -> TokenTable:
        """Return the token ids of texts, and their token type ids if the graph is `typed`.

        They include special tokens, are cut at the limit, and are not padded.

        Raises:
            ArtifactError: the tokenizer has a fault that shows only in use, such as a missing [UNK] token.

        Example:
            >>> tokenizer.table(["hello"]).arrays  # doctest: +SKIP
            (array([ 101, 7592,  102]),)
        """
        if self._words is not None and len(texts) > 1 and not typed:
            return self._words.table(texts, self._max_seq_length, self._max_unclipped)
        return self._library_table(texts, typed=typed)

    def _library_table(self, texts: Sequence[str], *, typed: bool = False) -> TokenTable:
        """Return what `table` returns, all of it from the library."""
        if len(texts) == 1:  # a single text is often all that a caller has, and needs few steps
            ((encoding,),) = self._encode_parts(texts)
            rows = (encoding.ids, encoding.type_ids) if typed else (encoding.ids,)
            return TokenTable(tuple([np.array(row, np.int64) for row in rows]), np.array([len(rows[0])], np.int64))
        ids, types = array("q"), array("q")
        lengths: list[int] = []
        # This is done for each text while other threads wait for Python. `fromlist` is the fastest way to read a list.
        for encodings in self._encode_parts(texts):
            lengths += map(len, encodings)
            for encoding in encodings:
                ids.fromlist(encoding.ids)
                if typed:
                    types.fromlist(encoding.type_ids)
            del encodings, encoding  # before the next ones are made, so that two parts are never in memory together
        arrays = [np.array(numbers, np.int64) for numbers in ((ids, types) if typed else (ids,))]
        return TokenTable(tuple(arrays), np.array(lengths, np.int64))

    def tokenize_and_find_cut(self, texts: Sequence[str]) -> Iterator[tuple[Tokens, bool]]:
        """Yield the token ids and the token type ids of each text, and whether the text has more tokens than the limit.

        Raises:
            ArtifactError: as in a call.
        """
        for encoding in self._encode(texts):
            arrays = (np.array(encoding.ids, np.int64), np.array(encoding.type_ids, np.int64))
            # `overflowing` copies what was cut off, and a shorter text has nothing there.
            yield arrays, len(encoding) == self._max_seq_length and bool(encoding.overflowing)

    def frame(self) -> Frame:
        """Return the special tokens that the tokenizer puts around each text.

        Raises:
            ArtifactError: as in a call.

        Example:
            >>> tokenizer.frame().prefix  # doctest: +SKIP
            (101,)
        """
        # Any text with a token shows them. A text without one has no special tokens in some tokenizers.
        (encoding,) = self._encode(["a"])
        return find_special(encoding)

    def token_of(self, token_id: int) -> str | None:
        """Return the token with this id, or None if the vocabulary has no such id.

        Example:
            >>> tokenizer.token_of(101)  # doctest: +SKIP
            '[CLS]'
        """
        if not 0 <= token_id < 1 << 32:  # the library counts in 32 bits
            return None
        token: str | None = self._tokenizer.id_to_token(token_id)
        return token

    def first_tokens(self, texts: Sequence[str]) -> Iterator[tuple[NDArray[np.int64], bool]]:
        """Yield the token ids of each text without special tokens, cut at the limit; and whether there are more.

        Raises:
            ArtifactError: as in a call.

        Example:
            >>> next(tokenizer.first_tokens(["hello"]))  # doctest: +SKIP
            (array([7592]), False)
        """
        for encoding in self._encode(texts, add_special_tokens=False):
            ids = np.array(encoding.ids, np.int64)
            yield ids, len(ids) == self._max_seq_length and bool(encoding.overflowing)  # `overflowing` copies the rest

    def encode_pair(self, first: str, second: str) -> Any:
        """Return the library's encoding of a pair of short texts, with special tokens, cut at the limit.

        Raises:
            ArtifactError: as in a call.

        Example:
            >>> tokenizer.encode_pair("hello", "").ids  # doctest: +SKIP
            [101, 7592, 102, 102]
        """
        with _failures_as_artifact_errors():
            return self._tokenizer.encode(first, second)

    def _encode(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> Iterator[Any]:
        """Yield the library's encoding of each text."""
        return chain.from_iterable(self._encode_parts(texts, add_special_tokens=add_special_tokens))

    def _encode_parts(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> Iterator[list[Any]]:
        """Yield the library's encodings of the texts, some texts at a time."""
        size, longest = _MAX_TEXTS_PER_CORE, self._max_unclipped
        if len(texts) > size:
            characters = max(1, min(longest, max(map(len, texts))))
            size = max(size, min(self._texts_per_call, _MAX_CHARACTERS_PER_CALL // characters))
        with _failures_as_artifact_errors():
            for start in range(0, len(texts), size):
                part = [text if len(text) <= longest else self._clip(text) for text in texts[start : start + size]]
                yield self._tokenizer.encode_batch_fast(part, add_special_tokens=add_special_tokens)

    def is_cut(self, text: str) -> bool:
        """Return whether the text has more tokens than the limit.

        Raises:
            ArtifactError: as in a call.

        Example:
            >>> tokenizer.is_cut("hello")  # doctest: +SKIP
            False
        """
        (encoding,) = self._encode([text])
        return bool(encoding.overflowing)

    def offsets(self, text: str, count: int | None = None) -> list[tuple[int, int]]:
        """Return where the first `count` tokens of `text` are, without the limit; None: where all are.

        Returns:
            For each token, the index of its first character and the index after its last one. Special tokens are left
            out. If a character has several tokens, each of them has the character's indices.

        Raises:
            ArtifactError: as in a call.

        Example:
            >>> tokenizer.offsets("hello world")  # doctest: +SKIP
            [(0, 5), (6, 11)]
        """
        with _failures_as_artifact_errors():
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
            found: list[tuple[int, int]] = encoding.offsets
            if count is None or len(found) < count:
                for rest in encoding.overflowing:
                    found += rest.offsets
        return found[:count]

    def tokens(self, text: str) -> list[Token]:
        """Return every token of `text`, without the limit, with the special tokens around them.

        Raises:
            ArtifactError: as in a call.

        Example:
            >>> tokenizer.tokens("hello")[1]  # doctest: +SKIP
            Token(id=7592, name='hello', start=0, end=5)
        """
        frame = self.frame()
        with _failures_as_artifact_errors():
            first = self._tokenizer.encode(text, add_special_tokens=False)
            own = [
                Token(*values, *place)
                for part in (first, *first.overflowing)
                for *values, place in zip(part.ids, part.tokens, part.offsets, strict=True)
            ]
        before, after = (
            [Token(number, self.token_of(number) or "", None, None) for number in special]
            for special in (frame.prefix, frame.suffix)
        )
        return before + own + after

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, without the limit and without special tokens.

        Raises:
            ArtifactError: as in a call.

        Example:
            >>> tokenizer.token_counts(["hello world"])  # doctest: +SKIP
            [2]
        """
        with _failures_as_artifact_errors():
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
            return [len(encoding) + sum(map(len, encoding.overflowing)) for encoding in encodings]

    def prompt_token_count(self, prompt: str, special_ids: Collection[int]) -> int:
        """Return the number of tokens of the prompt at the start of a text, as sentence-transformers counts them.

        The prompt is tokenised alone. Its last token does not count if it is in `special_ids` (such as [SEP]).

        Example:
            >>> tokenizer.prompt_token_count("query: ", special_ids=[101, 102])  # doctest: +SKIP
            3
        """
        if not prompt:
            return 0
        token_ids = self.table([prompt]).arrays[0]
        return len(token_ids) - (len(token_ids) > 0 and int(token_ids[-1]) in special_ids)

    @cached_property
    def _texts_per_call(self) -> int:
        return min(_MAX_TEXTS_PER_CORE * usable_cores(), _MAX_TEXTS_PER_CALL)

    @property
    def _max_unclipped(self) -> int:
        """Number of characters up to which a text is not clipped: to find a part takes as long as to tokenise it."""
        return 2 * self._clipped_length

    @property
    def _clipped_length(self) -> int:
        """Number of characters of the first part that `_clip` tries. It has room for the longest word of WordPiece."""
        return max(self._max_seq_length * _CHARACTERS_PER_TOKEN, self._longest_word + 1)

    def _clip(self, text: str) -> str:
        """Return a part of a long `text` that has the same first tokens, up to the limit.

        Without this, the library would need gigabytes to tokenise a text of 10 MB.
        """
        length = self._clipped_length
        start, ids = 0, None
        while start + length < len(text):
            # Without special tokens, the part has the first tokens of all that `first_tokens` returns.
            encoding = self._tokenizer.encode(text[start : start + length], add_special_tokens=False)
            if not len(encoding) and length > MAX_TOKEN_CHARACTERS:
                start += length - MAX_TOKEN_CHARACTERS  # without white space, for example, that has no tokens
                continue
            # One word may be longer than the part. It has the same first tokens in a longer part.
            if _is_settled(encoding, length) or (encoding.overflowing and encoding.ids == ids):
                return text[start : start + length]
            ids = encoding.ids
            length *= 4
        return text[start:]


def _is_settled(encoding: Any, length: int) -> bool:
    """Return whether nothing that follows a part of a text can change its first tokens, up to the limit.

    A tokenizer splits a text at added tokens, then into words, and then each word into tokens. So the text that follows
    can only change the last word or complete an added token. The tokens before that are settled.

    Args:
        encoding: the library's encoding of the part.
        length: number of characters of the part.
    """
    words = [word for word in encoding.word_ids if word is not None]
    cut_off = [word for rest in encoding.overflowing[-1:] for word in rest.word_ids if word is not None]
    if not words or not cut_off or cut_off[-1] == words[-1]:
        return False
    settled: int = max(end for _, end in encoding.offsets)
    return settled <= length - MAX_TOKEN_CHARACTERS


class _failures_as_artifact_errors(panics_as_exceptions):  # noqa: N801  (as its base class)
    """Raise ArtifactError for any failure of the library. Its tokenizer is a file of the artifact."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        try:
            super().__exit__(kind, error, trace)
        except PanicError as panic:
            error = panic
        if isinstance(error, Exception):  # as in `TextTokenizer.__init__`
            raise ArtifactError(f"the model's tokenizer failed: {str(error) or type(error).__name__}") from error
