"""The text side of a model: texts to token ids, batches of a token budget, and vectors in the caller's order."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from embedder.artifact.manifest import POOLING_MASK, Manifest
from embedder.backends.session import Session
from embedder.engine.batching import pad, plan_batches
from embedder.engine.tokenizer import TextTokenizer, TokenIds


class TextModel:
    """A text graph with its tokenizer, loaded. Safe to call from many threads at once."""

    def __init__(self, session: Session, tokenizer: TextTokenizer, manifest: Manifest) -> None:
        self.session = session
        self.tokenizer = tokenizer
        self._manifest = manifest

    def embed(
        self,
        token_ids: Sequence[TokenIds],
        unpooled: int,
        batch_size: int | None,
        pool: ThreadPoolExecutor,
        advance: Callable[[int], None],
    ) -> NDArray[np.float32]:
        """The embeddings, float32 (n, dim), of texts that are held at once; `advance` is told of each batch's texts.

        By batches in many threads, or by one batch in all threads.
        """
        embeddings = np.empty((len(token_ids), self._manifest.dimension), np.float32)
        batches = plan_batches(list(map(len, token_ids)), self.session.token_budget, self.session.threads, batch_size)

        def run(rows: NDArray[np.intp]) -> int:
            inputs = self._inputs([token_ids[row] for row in rows], unpooled)
            embeddings[rows] = self.session.run(inputs, inputs["input_ids"].size, alone=len(batches) == 1)
            return len(rows)

        for count in map(run, batches) if len(batches) == 1 else pool.map(run, batches):
            advance(count)
        return embeddings

    def _inputs(self, token_ids: list[TokenIds], unpooled: int) -> dict[str, NDArray[np.int64]]:
        """What the graph takes; the first `unpooled` tokens of each text are left out of its pooling."""
        input_ids, attention_mask = pad(token_ids, self._manifest.tokenizer.pad_id)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if not self._manifest.head.include_prompt:
            inputs[POOLING_MASK] = attention_mask.copy()
            inputs[POOLING_MASK][:, :unpooled] = 0
        return inputs
