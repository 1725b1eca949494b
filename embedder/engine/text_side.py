"""The text side of a model: tokenise texts, run batches of a token budget, return outputs in the caller's order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.manifest import GRAPH_INPUTS, POOLING_MASK, TOKEN_TYPE_IDS, Graph, Output, TokenizerSettings
from embedder.backends import Backend
from embedder.engine.batching import pad, plan_batches
from embedder.engine.job import Job
from embedder.engine.outputs import fixed_shape, values_of
from embedder.engine.tokenizer import TextTokenizer, TokenIds
from embedder.inputs import Pair


class TextSide:
    """A loaded graph of texts and its tokenizer. Safe to call from many threads.

    Example:
        >>> side = TextSide(backend, graph, tokenizer, settings)  # doctest: +SKIP
        >>> side.run(side.tokenize(["a text"]), output, job).shape  # doctest: +SKIP
        (1, 384)
    """

    def __init__(self, backend: Backend, graph: Graph, tokenizer: TextTokenizer, settings: TokenizerSettings) -> None:
        self.tokenizer = tokenizer
        self._backend = backend
        self._graph = graph
        self._settings = settings

    def tokenize(self, texts: Sequence[str | Pair]) -> list[TokenIds]:
        """Return the token ids of each text, int32 (tokens,).

        If the graph takes token type ids, they are the second row: int32 (2, tokens).

        Raises:
            ArtifactError: the tokenizer is damaged.
        """
        if TOKEN_TYPE_IDS in self._graph.inputs:
            return self.tokenizer.with_type_ids(texts)
        return self.tokenizer(texts)

    def run(self, token_ids: Sequence[TokenIds], output: Output, job: Job) -> NDArray[np.float32]:
        """Return the values of `output`, float32 (texts, *output.shape), for the result of `tokenize`.

        Many batches run side by side. A single batch uses all threads.

        Raises:
            ArtifactError: the graph fails, the shape of `output` depends on the input, or the result has another shape.
        """
        values = np.empty((len(token_ids), *fixed_shape(output)), np.float32)
        device = self._backend.device
        lengths = [ids.shape[-1] for ids in token_ids]
        batches = plan_batches(
            lengths, device.token_budget, device.threads, job.batch_size, device.unpadded_from_tokens
        )
        single = len(batches) == 1

        def run(rows: NDArray[np.intp]) -> int:
            feeds = self._feeds([token_ids[row] for row in rows], job.prompt_token_count)
            values[rows] = values_of(self._backend.run(feeds, single_batch=single), output, len(rows))
            return len(rows)

        for count in map(run, batches) if single else job.executor.map(run, batches):
            job.advance(count)
        return values

    def _feeds(self, token_ids: list[TokenIds], prompt_token_count: int) -> dict[str, NDArray[Any]]:
        """Return the graph's inputs for one batch."""
        typed = TOKEN_TYPE_IDS in self._graph.inputs
        input_ids, attention_mask = pad([ids[0] for ids in token_ids] if typed else token_ids, self._settings.pad_id)
        feeds = dict(zip(GRAPH_INPUTS, (input_ids, attention_mask), strict=True))
        if typed:
            feeds[TOKEN_TYPE_IDS] = pad([ids[1] for ids in token_ids], 0)[0]
        if POOLING_MASK in self._graph.inputs:
            feeds[POOLING_MASK] = attention_mask.copy()
            feeds[POOLING_MASK][:, :prompt_token_count] = 0
        return feeds
