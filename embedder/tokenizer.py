"""Texts to token ids; the only file that knows the tokenizers library."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedder.errors import ArtifactError

TokenIds = NDArray[np.int32]

# A first guess at how much of a long text the first tokens cover; `_clip` checks it and takes more where need be.
_CHARACTERS_PER_TOKEN = 16


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
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_seq_length)
        self._max_seq_length = max_seq_length

    def __call__(self, texts: Sequence[str]) -> list[TokenIds]:
        """The token ids of each text, special tokens included, cut at the model's limit, not padded."""
        long = self._max_seq_length * _CHARACTERS_PER_TOKEN
        clipped = [text if len(text) <= long else self._clip(text) for text in texts]
        return [np.array(encoding.ids, np.int32) for encoding in self._tokenizer.encode_batch_fast(clipped)]

    def _clip(self, text: str) -> str:
        """The start of `text` that already fills the limit: tokenising 10 MB to keep 256 tokens takes gigabytes.

        Tokenizers look no further than a word, so what stands behind a space cannot change the tokens before it.
        """
        end = self._max_seq_length * _CHARACTERS_PER_TOKEN
        while end < len(text):
            start = text[: max(text.rfind(" ", 0, end), 0)].rstrip()
            if start and len(self._tokenizer.encode(start).ids) == self._max_seq_length:
                return start
            end *= 2
        return text
