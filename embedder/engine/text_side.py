"""The text side of a model: tokenise texts, run batches of a token budget, return outputs in the caller's order."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.manifest import GRAPH_INPUTS, POOLING_MASK, TOKEN_TYPE_IDS, Graph, Output, TokenizerSettings
from embedder.backends import Backend
from embedder.engine.batching import pad, plan_batches
from embedder.engine.job import Job
from embedder.engine.outputs import fixed_shape, values_of
from embedder.engine.tokenizer import TextTokenizer, Tokens
from embedder.inputs import Pair, TokenizedText

if TYPE_CHECKING:
    from embedder.engine.pair_tokenizer import PairTokenizer


class TextSide:
    """A loaded graph of texts and its tokenizer. Safe to call from many threads.

    Example:
        >>> side = TextSide(backend, graph, tokenizer, settings)  # doctest: +SKIP
        >>> side.run(side.tokenize(["a text"]), output, job).shape  # doctest: +SKIP
        (1, 384)
    """

    def __init__(self, backend: Backend, graph: Graph, tokenizer: TextTokenizer, settings: TokenizerSettings) -> None:
        self.tokenizer = tokenizer
        self._pairs: PairTokenizer | None = None
        if tokenizer.unit == "pair":
            from embedder.engine.pair_tokenizer import PairTokenizer  # here, as models of texts do not need it

            self._pairs = PairTokenizer(tokenizer)
        self._backend = backend
        self._graph = graph
        self._settings = settings
        self._typed = TOKEN_TYPE_IDS in graph.inputs
        self._ones = np.ones(tokenizer.max_seq_length, np.int64)

    def tokenize(self, texts: Sequence[str | Pair]) -> list[Tokens]:
        """Return the token ids of each text or pair, and its token type ids if the graph takes them.

        Args:
            texts: texts, or pairs for a model of pairs.

        Raises:
            InputError: a pair has no tokens.
            ArtifactError: the tokenizer is damaged.
        """
        if self._pairs is not None:
            found = self._pairs.tokenize(cast("Sequence[Pair]", texts))
            return [tokens if self._typed else tokens[:1] for tokens, _ in found]
        tokenize = self.tokenizer.with_type_ids if self._typed else self.tokenizer
        return tokenize(cast("Sequence[str]", texts))

    def read_texts(self, texts: Sequence[str | Pair], prompt_token_count: int) -> list[TokenizedText]:
        """Return texts or pairs as `run_tokenized` takes them.

        Args:
            texts: texts, or pairs for a model of pairs, with their prompt.
            prompt_token_count: number of tokens at the start of each text that the pooling leaves out.

        Raises:
            InputError, ArtifactError: as in `tokenize`.
        """
        if self._pairs is not None:
            found = self._pairs.tokenize(cast("Sequence[Pair]", texts))
        else:
            found = self.tokenizer.tokenize_and_find_cut(cast("Sequence[str]", texts))
        return [
            TokenizedText(ids, type_ids if self._typed else None, prompt_token_count, cut)
            for (ids, type_ids), cut in found
        ]

    def read_token_ids(self, token_ids: Any) -> list[TokenizedText]:
        """Return lists of token ids as `run_tokenized` takes them.

        Raises:
            InputError: as in `read_token_ids` of `engine.token_ids`.
        """
        from embedder.engine.token_ids import read_token_ids  # here, as few programs need it

        return read_token_ids(self.tokenizer, token_ids, typed=self._typed)

    def cut_rows(self, texts: Sequence[str | Pair], tokens: Sequence[Tokens]) -> list[int]:
        """Return the indices of the texts that `tokenize` has cut.

        Args:
            texts: the texts or pairs.
            tokens: what `tokenize` returned for them.

        Raises:
            ArtifactError: the tokenizer is damaged.
        """
        limit = self.tokenizer.max_seq_length
        full = (row for row, arrays in enumerate(tokens) if len(arrays[0]) == limit)
        return [row for row in full if self._is_cut(texts[row])]

    def _is_cut(self, text: str | Pair) -> bool:
        if self._pairs is not None:
            return any(cut for _, cut in self._pairs.tokenize([cast(Pair, text)]))
        return self.tokenizer.is_cut(cast(str, text))

    def run(self, tokens: Sequence[Tokens], output: Output, job: Job) -> NDArray[np.float32]:
        """Return the values of `output`, float32 (texts, *output.shape), for the result of `tokenize`.

        Many batches run side by side. A single batch uses all threads.

        Raises:
            ArtifactError: the graph fails, the shape of `output` depends on the input, or the result has another shape.
        """
        values = np.empty((len(tokens), *fixed_shape(output)), np.float32)
        device = self._backend.device
        lengths = [len(arrays[0]) for arrays in tokens]
        batches = plan_batches(
            lengths, device.token_budget, device.threads, job.batch_size, device.unpadded_from_tokens
        )
        single = len(batches) == 1

        def run(rows: list[int]) -> int:
            batch = [tokens[row] for row in rows]
            counts = [job.prompt_token_count] * len(batch)
            results = self.run_batch(batch, output, counts, single_batch=single)
            for row, value in zip(rows, results, strict=True):
                values[row] = value
            return len(rows)

        for count in map(run, batches) if single else job.executor.map(run, batches):
            job.advance(count)
        return values

    def run_tokenized(
        self, texts: Sequence[TokenizedText], output: Output, batch_size: int | None, *, single_thread: bool
    ) -> NDArray[np.float32]:
        """Return what `run` returns, computed in the calling thread, in as few calls of the graph as its rules allow.

        Args:
            texts: what `read_texts` or `read_token_ids` returned.
            output: the output to return.
            batch_size: most texts in one call. None sets no such limit.
            single_thread: whether each call uses one thread, also if no other call is running.

        Raises:
            InputError: a text is none that this model could have made.
            ArtifactError: as in `run`.
        """
        from embedder.engine.token_ids import check_texts  # here, as few programs need it

        check_texts(self.tokenizer, texts, typed=self._typed)
        values = np.empty((len(texts), *fixed_shape(output)), np.float32)
        unpadded_from = self._backend.device.unpadded_from_tokens
        batches = plan_batches([len(text) for text in texts], sys.maxsize, 1, batch_size, unpadded_from)
        for rows in batches:
            batch = [texts[row] for row in rows]
            tokens = [(text.ids,) if text.type_ids is None else (text.ids, text.type_ids) for text in batch]
            counts = [text.prompt_token_count for text in batch]
            single = len(batches) == 1 and not single_thread
            values[rows] = self.run_batch(tokens, output, counts, single_batch=single)
        return values

    def run_batch(
        self, tokens: Sequence[Tokens], output: Output, prompt_token_counts: Sequence[int], *, single_batch: bool
    ) -> NDArray[np.float32]:
        """Return what `run` returns, for texts that fit into one call of the graph. The backend may own the array.

        Args:
            tokens: the token ids of the texts.
            output: the output to return.
            prompt_token_counts: for each text, number of tokens at its start that the pooling leaves out.
            single_batch: whether the request has only this batch, which may then use all threads.

        Raises:
            ArtifactError: as in `run`.
        """
        outputs = self._backend.run(self._feeds(tokens, prompt_token_counts), single_batch=single_batch)
        return values_of(outputs, output.name, (len(tokens), *fixed_shape(output)))

    def _feeds(self, tokens: Sequence[Tokens], prompt_token_counts: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Return the graph's inputs for one batch."""
        token_ids = [arrays[0] for arrays in tokens]
        attention_mask = pad([self._ones[: len(ids)] for ids in token_ids], 0)
        feeds = dict(zip(GRAPH_INPUTS, (pad(token_ids, self._settings.pad_id), attention_mask), strict=True))
        if self._typed:
            feeds[TOKEN_TYPE_IDS] = pad([arrays[1] for arrays in tokens], 0)
        if POOLING_MASK in self._graph.inputs:
            feeds[POOLING_MASK] = attention_mask.copy()
            for row, count in zip(feeds[POOLING_MASK], prompt_token_counts, strict=True):
                row[:count] = 0
        return feeds
