"""Texts to token ids; the only file that knows the tokenizers library."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedder.errors import ArtifactError

TokenIds = NDArray[np.int32]

# A first guess at how much of a long text the first tokens cover; `_clip` checks it and takes more where need be.
_CHARACTERS_PER_TOKEN = 16
_PART = 64
# In characters; none in use comes near.
_LONGEST_ADDED_TOKEN = 256


class TextTokenizer:
    """A checkpoint's tokenizer with the model's own limit. Safe to call from many threads.

    A tokenizer.json often has a limit and a padding of its own baked in (all-MiniLM-L6-v2: 128, where the model's limit
    is 256); both are replaced.
    """

    def __init__(self, path: Path, max_seq_length: int) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ArtifactError(f"{path} is not a tokenizer: {error}. Export or copy the model again") from error
        special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if max_seq_length <= special:
            raise ArtifactError(
                f"{path} adds {special} special tokens to each text, and max_seq_length is {max_seq_length}: no room "
                "for the text. Export the model again"
            )
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_seq_length)
        self._max_seq_length = max_seq_length

    def __call__(self, texts: Sequence[str]) -> list[TokenIds]:
        """The token ids of each text, special tokens included, cut at the model's limit, not padded.

        Raises:
            ArtifactError: the tokenizer is damaged in a way that shows only in use, such as a missing [UNK].
        """
        long = self._max_seq_length * _CHARACTERS_PER_TOKEN
        try:
            clipped = [text if len(text) <= long else self._clip(text) for text in texts]
            # In parts, as the library keeps a hundred bytes a token beside its id.
            parts = (clipped[start : start + _PART] for start in range(0, len(clipped), _PART))
            return [
                np.array(encoding.ids, np.int32)
                for part in parts
                for encoding in self._tokenizer.encode_batch_fast(part)
            ]
        except Exception as error:  # as above
            raise ArtifactError(f"the model's tokenizer failed: {error}. Export or copy the model again") from error

    def prompt_length(self, prompt: str, special_ids: Collection[int]) -> int:
        """How many tokens at the start of a text are those of `prompt`, as sentence-transformers counts them.

        That is the prompt's tokens where it stands alone, less one of `special_ids` at their end (such as [SEP]).
        """
        if not prompt:
            return 0
        (token_ids,) = self([prompt])
        return len(token_ids) - (len(token_ids) > 0 and int(token_ids[-1]) in special_ids)

    def _clip(self, text: str) -> str:
        """The start of `text` that has its first tokens: tokenising 10 MB to keep 256 tokens takes gigabytes."""
        end = self._max_seq_length * _CHARACTERS_PER_TOKEN
        while end < len(text):
            if self._is_settled(text[:end]):
                return text[:end]
            end *= 4
        return text

    def _is_settled(self, start: str) -> bool:
        """Whether nothing that follows `start` can change its first tokens, as many as the model takes.

        Tokenizers split a text at added tokens, then into words, and each word by itself into tokens. So what follows
        can change the last word, or all that it completes an added token with; what stands before that is settled.
        """
        encoding = self._tokenizer.encode(start)
        words = [word for word in encoding.word_ids if word is not None]
        cut_off = [word for rest in encoding.overflowing[-1:] for word in rest.word_ids if word is not None]
        if not words or not cut_off or cut_off[-1] == words[-1]:
            return False
        settled: int = max(end for _, end in encoding.offsets)
        return settled <= len(start) - _LONGEST_ADDED_TOKEN
