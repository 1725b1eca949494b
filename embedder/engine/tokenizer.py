"""Texts to token ids. The only file that knows the tokenizers library."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.errors import ArtifactError
from embedder.inputs import Pair

TokenIds = NDArray[np.int32]

# A first guess at how many characters the first tokens of a long text cover. `_clip` checks the guess.
_CHARACTERS_PER_TOKEN = 16
# Texts that are tokenised at once: the library holds about 100 bytes for each token.
_TEXTS_AT_ONCE = 64
# No added token in use is nearly as long.
_MAX_ADDED_TOKEN_CHARACTERS = 256


class TextTokenizer:
    """A checkpoint's tokenizer with the model's own limit. Safe to call from many threads.

    Many a `tokenizer.json` has a limit and a padding of its own (all-MiniLM-L6-v2: 128 tokens, and the model's limit is
    256). Both are replaced.
    """

    def __init__(self, path: Path, max_seq_length: int) -> None:
        """Load the tokenizer at `path`; texts are cut at `max_seq_length` tokens, special tokens included.

        Raises:
            ArtifactError: it is damaged, or its special tokens leave no room for a text.
        """
        from tokenizers import Tokenizer, __version__

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            # The digest of the file has been checked before, so to copy the file again would not help.
            raise ArtifactError(f"{path} is not a tokenizer that tokenizers {__version__} reads: {error}") from error
        special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if max_seq_length <= special:
            raise ArtifactError(
                f"{path} adds {special} special tokens to each text, and max_seq_length is {max_seq_length}: no room "
                "for the text. Export the model again"
            )
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_seq_length)
        self._max_seq_length = max_seq_length

    def __call__(self, texts: Sequence[str | Pair]) -> list[TokenIds]:
        """Return the token ids of each text or pair: with special tokens, cut at the model's limit, not padded.

        Raises:
            ArtifactError: the tokenizer is damaged in a way that shows only in use, such as a missing [UNK].
        """
        return self._encode(texts, lambda encoding: np.array(encoding.ids, np.int32))

    def with_type_ids(self, texts: Sequence[str | Pair]) -> list[TokenIds]:
        """Return token ids and token type ids of each text or pair, int32 (2, tokens). Raises as a call does."""
        return self._encode(texts, lambda encoding: np.array([encoding.ids, encoding.type_ids], np.int32))

    def _encode(self, texts: Sequence[str | Pair], convert: Any) -> list[TokenIds]:
        try:
            clipped = [self._clipped(text) for text in texts]
            parts = (clipped[start : start + _TEXTS_AT_ONCE] for start in range(0, len(clipped), _TEXTS_AT_ONCE))
            return [convert(encoding) for part in parts for encoding in self._tokenizer.encode_batch_fast(part)]
        except Exception as error:  # as in `__init__`
            raise ArtifactError(f"the model's tokenizer failed: {error or type(error).__name__}") from error

    def prompt_token_count(self, prompt: str, special_ids: Collection[int]) -> int:
        """Return how many tokens at the start of a text are the prompt's, as sentence-transformers counts them.

        These are the tokens of the prompt alone, without a last one that is in `special_ids` (such as [SEP]).
        """
        if not prompt:
            return 0
        (token_ids,) = self([prompt])
        return len(token_ids) - (len(token_ids) > 0 and int(token_ids[-1]) in special_ids)

    def _clipped(self, text: str | Pair) -> Any:
        """What the library takes for the text: a string, or a tuple of two."""
        if isinstance(text, Pair):
            return self._clip(text.first), self._clip(text.second)
        return self._clip(text)

    def _clip(self, text: str) -> str:
        """Return the start of `text` that has all tokens up to the limit.

        To tokenise 10 MB for the sake of 256 tokens would take gigabytes.
        """
        end = self._max_seq_length * _CHARACTERS_PER_TOKEN
        while end < len(text):
            if self._is_settled(text[:end]):
                return text[:end]
            end *= 4
        return text

    def _is_settled(self, start: str) -> bool:
        """Return whether nothing that follows `start` can change its first tokens, up to the limit.

        Tokenizers split a text at added tokens, then into words, and then each word into tokens. So what follows can
        change only the last word, or complete an added token. What stands before that is settled.
        """
        encoding = self._tokenizer.encode(start)
        words = [word for word in encoding.word_ids if word is not None]
        cut_off = [word for rest in encoding.overflowing[-1:] for word in rest.word_ids if word is not None]
        if not words or not cut_off or cut_off[-1] == words[-1]:
            return False
        settled: int = max(end for _, end in encoding.offsets)
        return settled <= len(start) - _MAX_ADDED_TOKEN_CHARACTERS
