"""The methods of `Embedder` that tokenise texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from embedder.common.checks import check_text
from embedder.errors import InputError
from embedder.inputs import InputKinds, Token, TokenizedText, check_list, is_single, type_name
from embedder.loaded_model import LoadedModel
from embedder.options import EncodeSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from embedder.engine.chunks import Chunk


class Tokenizing(LoadedModel):
    """Base of models that tokenise texts. Safe to call from many threads at once.

    Example:
        >>> model = Embedder("all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> model.count_tokens("hello")  # doctest: +SKIP
        3
    """

    def tokenize(self, texts: str | Iterable[str]) -> dict[str, NDArray[np.int64]]:
        """Return the graph's inputs for `texts`: `input_ids` and `attention_mask`, int64 (n, tokens of the longest).

        No prompt is added.

        Raises:
            InputError: a text is not a string.

        Example:
            >>> model.tokenize("hello")["input_ids"]  # doctest: +SKIP
            array([[ 101, 7592,  102]])
        """
        table = self._engine.tokenize(check_list(texts, InputKinds()))
        (token_ids,), attention_mask = table.pad(self._engine.manifest.tokenizer.pad_id)
        return {"input_ids": token_ids, "attention_mask": attention_mask}

    def tokenize_texts(
        self, texts: str | Iterable[str], *, prompt_name: str | None = None, prompt: str | None = None
    ) -> list[TokenizedText]:
        """Return texts as the model reads them, for `encode_batch`. `encode` reads them in the same way.

        Args:
            texts: one text or many texts.
            prompt_name: as in `encode`.
            prompt: as in `encode`.

        Raises:
            InputError: a text is not a string, or is not valid Unicode; or the model has no such prompt.

        Example:
            >>> model.tokenize_texts("hello")[0].ids  # doctest: +SKIP
            array([ 101, 7592,  102])
        """
        return self._engine.read_texts(_checked_texts(texts), EncodeSettings(prompt_name=prompt_name, prompt=prompt))

    def from_token_ids(self, token_ids: Iterable[Sequence[int]]) -> list[TokenizedText]:
        """Return texts for `encode_batch` whose token ids the caller has made with this model's tokenizer.

        Args:
            token_ids: for each text, its token ids. They include the special tokens that the tokenizer puts around each
                text, and a prompt if the model wants one.

        Raises:
            InputError: an id is no whole number, or the vocabulary does not have it; a text has more tokens than
                `max_seq_length`; or the special tokens are missing. Token ids of another tokenizer would give wrong
                vectors. Most of them are found in this way.

        Example:
            >>> len(model.from_token_ids([[101, 7592, 102]])[0])  # doctest: +SKIP
            3
        """
        return self._engine.read_token_ids(token_ids)

    def tokens(self, text: str) -> list[Token]:
        """Return every token of `text` with its place, and the special tokens around them. No prompt is added.

        The list has all tokens of the text, also those after `max_seq_length`, which the model does not read.

        Raises:
            InputError: the text is not a string, or is not valid Unicode.

        Example:
            >>> model.tokens("hello")[1]  # doctest: +SKIP
            Token(id=7592, name='hello', start=0, end=5)
        """
        return self._engine.tokenizer.tokens(_checked_text(text))

    def count_tokens(self, texts: str | Iterable[str]) -> int | NDArray[np.int64]:
        """Return how many tokens each text has, with special tokens, without a prompt and without the model's limit.

        Returns:
            A number for one text, int64 (n,) for n texts. If it is more than `max_seq_length`, `encode` cuts the text.

        Raises:
            InputError: a text is not a string, or is not valid Unicode.

        Example:
            >>> model.count_tokens(["hello", "hello world"])  # doctest: +SKIP
            array([3, 4])
        """
        from embedder.engine.token_counts import count_tokens  # here, as few programs need it

        counts = count_tokens(self._engine.tokenizer, _checked_texts(texts))
        return int(counts[0]) if is_single(texts, InputKinds()) else counts

    def chunks(self, text: str, size: int | None = None, overlap: int = 0) -> list[Chunk]:
        """Cut a long text into chunks that the model reads whole.

        A chunk ends after a sentence if possible, else after a line, else after a word, else after a token. The chunks
        have all of the text but white space between them. The model can read each chunk with its default prompt, and
        with its prompt for documents.

        Args:
            text: the text. It may have hundreds of megabytes.
            size: most tokens of a chunk, without special tokens and prompts. None takes what the model can read.
            overlap: most tokens at the end of a chunk that the next chunk begins with.

        Returns:
            The chunks in their order, with their places in `text`. An empty text has none.

        Raises:
            InputError: the text is not a string or not valid Unicode, an option is out of range, or a single character
                has more than `size` tokens.

        Example:
            >>> [chunk.text for chunk in model.chunks("A cat. A dog.", size=3)]  # doctest: +SKIP
            ['A cat.', 'A dog.']
        """
        from embedder.engine.chunks import Chunker  # here, as few programs need it

        _checked_text(text)
        settings = (EncodeSettings(), EncodeSettings(prompt_name="document"))
        prompts = {self._engine.resolve_prompt(request) for request in settings} - {""}
        return list(Chunker(self._engine.tokenizer, size, overlap, sorted(prompts)).chunks(text))


def _checked_text(text: object) -> str:
    if not isinstance(text, str):
        raise InputError(f"text should be a string, not {type_name(text)}. For many texts, make a call for each")
    check_text(text, "text")
    return text


def _checked_texts(texts: str | Iterable[str]) -> list[str]:
    return [item for item in check_list(texts, InputKinds()) if isinstance(item, str)]  # all are, without images
