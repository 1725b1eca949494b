"""The text side of a model: tokenise texts, run batches of a token budget, return outputs in the caller's order."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.manifest import GRAPH_INPUTS, POOLING_MASK, TOKEN_TYPE_IDS, Graph, Output, TokenizerSettings
from embedder.backends import Backend
from embedder.common.executor import TaskQueue
from embedder.engine.batching import plan_batches
from embedder.engine.job import Job
from embedder.engine.memory import InputMemoryError, MemoryLimit, errors_at
from embedder.engine.outputs import Values, empty_values, read_values
from embedder.engine.token_table import Tokens, TokenTable
from embedder.engine.tokenizer import TextTokenizer
from embedder.errors import DeviceMemoryError
from embedder.inputs import Pair, TokenizedText

if TYPE_CHECKING:
    from embedder.engine.pair_tokenizer import PairTokenizer


class TextSide:
    """A loaded graph of texts and its tokenizer. Safe to call from many threads.

    Example:
        >>> side = TextSide(backend, graph, tokenizer, settings, 1)  # doctest: +SKIP
        >>> side.start(side.tokenize(["a text"]), output, job).finish().shape  # doctest: +SKIP
        (1, 384)
    """

    def __init__(
        self, backend: Backend, graph: Graph, tokenizer: TextTokenizer, settings: TokenizerSettings, padded_tokens: int
    ) -> None:
        """Join the parts. `padded_tokens` is the length to which shorter texts are padded, 1 for most models."""
        self.tokenizer = tokenizer
        self.padded_tokens = padded_tokens
        self._pairs: PairTokenizer | None = None
        if tokenizer.unit == "pair":
            from embedder.engine.pair_tokenizer import PairTokenizer  # here, as models of texts do not need it

            self._pairs = PairTokenizer(tokenizer)
        self._backend = backend
        self._graph = graph
        self._settings = settings
        self._typed = TOKEN_TYPE_IDS in graph.inputs
        self._limit = MemoryLimit()

    def for_role(self, role: str | None) -> TextSide:
        """Return the side for texts of a role, such as queries. Most models treat all texts alike.

        Args:
            role: one of `ROLES` in `artifact.multi_vector`. None for texts without a role.
        """
        return self

    @property
    def token_budget(self) -> int:
        """Most tokens of a batch: the budget of the device, or less if so many did not fit into its memory."""
        return min(self._backend.device.token_budget, self._limit.tokens)

    def tokenize(self, texts: Sequence[str | Pair]) -> TokenTable:
        """Return the token ids of texts or pairs, and their token type ids if the graph takes them.

        Args:
            texts: texts, or pairs for a model of pairs. At least one.

        Raises:
            InputError: a pair has no tokens.
            ArtifactError: the tokenizer is damaged.
        """
        if self._pairs is not None:
            found = self._pairs.tokenize(cast("Sequence[Pair]", texts))
            return TokenTable.of([tokens if self._typed else tokens[:1] for tokens, _ in found])
        return self.tokenizer.table(cast("Sequence[str]", texts), typed=self._typed)

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

    def cut_rows(self, texts: Sequence[str | Pair], tokens: TokenTable) -> list[int]:
        """Return the indices of the texts that `tokenize` has cut.

        Args:
            texts: the texts or pairs.
            tokens: what `tokenize` returned for them.

        Raises:
            ArtifactError: the tokenizer is damaged.
        """
        full = np.flatnonzero(tokens.lengths == self.tokenizer.max_seq_length).tolist()
        return [row for row in full if self._is_cut(texts[row])]

    def _is_cut(self, text: str | Pair) -> bool:
        if self._pairs is not None:
            return any(cut for _, cut in self._pairs.tokenize([cast(Pair, text)]))
        return self.tokenizer.is_cut(cast(str, text))

    def start(self, tokens: TokenTable, output: Output, job: Job) -> TextRun:
        """Start to compute the values of `output` for the result of `tokenize`. Many batches run side by side."""
        return TextRun(self, tokens, output, job)

    def plan(self, tokens: TokenTable, batch_size: int | None) -> list[list[int]]:
        """Return the rows of each batch."""
        device = self._backend.device
        lengths: list[int] = np.maximum(tokens.lengths, self.padded_tokens).tolist()
        return plan_batches(lengths, self.token_budget, device.threads, batch_size, device.unpadded_from_tokens)

    def run_tokenized(
        self, texts: Sequence[TokenizedText], output: Output, batch_size: int | None, *, single_thread: bool
    ) -> Values:
        """Return the values of `output`, computed in the calling thread, in as few calls of the graph as it can.

        Args:
            texts: what `read_texts` or `read_token_ids` returned.
            output: the output to return.
            batch_size: most texts in one call. None sets no such limit.
            single_thread: whether each call uses one thread, also if no other call is running.

        Returns:
            The value of each text; `outputs` describes the values of each kind of output.

        Raises:
            InputError: a text is none that this model could have made.
            ArtifactError, InputMemoryError: as in `run_batch`.
        """
        from embedder.engine.token_ids import check_texts  # here, as few programs need it

        check_texts(self.tokenizer, texts, typed=self._typed)
        values = empty_values(output, len(texts))
        unpadded_from = self._backend.device.unpadded_from_tokens
        batches = plan_batches([len(text) for text in texts], sys.maxsize, 1, batch_size, unpadded_from)
        for rows in batches:
            batch = [texts[row] for row in rows]
            tokens = TokenTable.of(
                [(text.ids,) if text.type_ids is None else (text.ids, text.type_ids) for text in batch]
            )
            counts = np.array([text.prompt_token_count for text in batch], np.int64)
            single = len(batches) == 1 and not single_thread
            with errors_at(rows.__getitem__):
                values[rows] = self.run_batch(tokens, output, counts, single_batch=single)
        return values

    def run_batch(
        self, tokens: TokenTable, output: Output, prompt_token_counts: NDArray[np.int64], *, single_batch: bool
    ) -> Values:
        """Return the values of `output`, computed in the calling thread. The backend may own the array.

        All texts run in one call of the graph if they fit into the memory of the device, else in several.

        Args:
            tokens: the token ids of the texts.
            output: the output to return.
            prompt_token_counts: for each text, number of tokens at its start that the pooling leaves out, int64
                (texts,).
            single_batch: whether the request has only this batch, which may then use all threads.

        Returns:
            The value of each text; `outputs` describes the values of each kind of output.

        Raises:
            ArtifactError: the graph fails, or the result has another shape than the manifest says.
            InputMemoryError: the device has too little memory for one of the texts alone.
        """
        if len(tokens) == 1:  # the shortest way, because a single text is often all that a caller has
            try:
                return self._run(tokens, output, prompt_token_counts, single_batch)
            except DeviceMemoryError as error:
                raise InputMemoryError(0, self._padded_size(tokens)) from error
        found: list[Values] = []

        def run(start: int, stop: int) -> None:
            part = self._run(tokens.part(start, stop), output, prompt_token_counts[start:stop], single_batch)
            # The next call may overwrite an array of the backend's own.
            found.append(part if len(part) == len(tokens) else np.array(part))

        self._limit.run(0, len(tokens), lambda start, stop: self._padded_size(tokens.part(start, stop)), run)
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _padded_size(self, tokens: TokenTable) -> int:
        return tokens.padded_size(self.padded_tokens)

    def _run(
        self, tokens: TokenTable, output: Output, prompt_token_counts: NDArray[np.int64], single_batch: bool
    ) -> Values:
        """Run one call of the graph."""
        outputs = self._backend.run(self._feeds(tokens, prompt_token_counts), single_batch=single_batch)
        return read_values(outputs, output, tokens.lengths)

    def _feeds(self, tokens: TokenTable, prompt_token_counts: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return the graph's inputs for one batch."""
        arrays, attention_mask = self._pad(tokens)
        feeds = dict(zip(GRAPH_INPUTS, (arrays[0], attention_mask), strict=True))
        if self._typed:
            feeds[TOKEN_TYPE_IDS] = arrays[1]
        if POOLING_MASK in self._graph.inputs:
            after_prompt = np.arange(attention_mask.shape[1]) >= prompt_token_counts[:, np.newaxis]
            feeds[POOLING_MASK] = attention_mask * after_prompt
        return feeds

    def _pad(self, tokens: TokenTable) -> tuple[Tokens, NDArray[np.int64]]:
        """Return the padded arrays of a batch, and its attention mask."""
        return tokens.pad(self._settings.pad_id, self.padded_tokens)


class TextRun:
    """The batches of a window of texts. Many batches run side by side. A single batch uses all threads."""

    def __init__(self, side: TextSide, tokens: TokenTable, output: Output, job: Job) -> None:
        """Start the batches. A single batch starts only when the result is wanted."""
        self._side, self._output, self._job = side, output, job
        batches = side.plan(tokens, job.batch_size)
        self._rows = np.fromiter(chain.from_iterable(batches), np.intp, len(tokens))
        self._tokens = tokens.take(self._rows)  # so that the texts of a batch follow one another
        self._counts = np.full(len(tokens), job.prompt_token_count, np.int64)
        self._values = empty_values(output, len(tokens))
        self._tasks: TaskQueue[int] = TaskQueue(job.executor)
        ends = list(accumulate(map(len, batches)))
        if len(ends) > 1:
            for part in pairwise([0, *ends]):
                self._tasks.submit(self._run, part)

    def finish(self) -> Values:
        """Wait for all batches and return the values, one for each text.

        Raises:
            ArtifactError, InputMemoryError: as in `TextSide.run_batch`.
        """
        if not self._tasks:
            self._job.advance(self._run((0, len(self._rows)), single_batch=True))
        try:
            while self._tasks:
                self._job.advance(self._tasks.result())
        finally:
            self._tasks.close()
        return self._values

    def cancel(self) -> None:
        """Cancel the batches that have not started."""
        self._tasks.cancel()

    def _run(self, part: tuple[int, int], *, single_batch: bool = False) -> int:
        start, stop = part
        rows = self._rows[start:stop]
        tokens, counts = self._tokens.part(start, stop), self._counts[start:stop]
        with errors_at(rows.__getitem__):
            self._values[rows] = self._side.run_batch(tokens, self._output, counts, single_batch=single_batch)
        return len(rows)
