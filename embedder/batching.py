"""Which texts go through the model together, and how their token ids become one rectangle.

Padding is wasted work, so texts of like length share a batch; and a batch is filled by tokens, not by texts,
because that is what its time and memory depend on.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

# A window is what is held at once, tokenised and sorted by length: wide enough to find batch-mates of like length,
# narrow enough for memory to stay bounded (a token takes some 100 bytes while tokenizers holds it).
_WINDOW_TEXTS = 1024
_WINDOW_CHARACTERS = 1_000_000
# In tokens; below it a batch takes a thread no less time than to be handed to it.
_LEAST_BATCH = 64


def windows(texts: Iterable[str]) -> Iterator[list[str]]:
    """Cut a stream of texts into lists, in order, each bounded in texts and in characters."""
    window: list[str] = []
    characters = 0
    for text in texts:
        window.append(text)
        characters += len(text)
        if len(window) == _WINDOW_TEXTS or characters >= _WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def plan_batches(
    lengths: Sequence[int], token_budget: int, workers: int, batch_size: int | None
) -> list[NDArray[np.intp]]:
    """Group the indices of `lengths` into batches, longest first, each of at most `token_budget` padded tokens.

    Little work is cut finer, so that each of `workers` gets a share of it. A text longer than the budget is a batch of
    its own; `batch_size`, where given, is a ceiling on texts.
    """
    share = -(-sum(lengths) // workers)
    token_budget = min(token_budget, max(share, _LEAST_BATCH))
    batches = []
    order = np.argsort(np.negative(lengths), kind="stable")
    start = 0
    while start < len(order):
        count = max(1, token_budget // max(1, lengths[order[start]]))
        if batch_size is not None:
            count = min(count, batch_size)
        batches.append(order[start : start + count])
        start += count
    return batches


def pad(sequences: Sequence[NDArray[np.int32]], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Input ids and attention mask, both int64 of shape (len(sequences), longest), padded on the right.

    A row without a token gets one that is masked, as a graph cannot do with none.
    """
    longest = max((max(1, len(sequence)) for sequence in sequences), default=0)
    input_ids = np.full((len(sequences), longest), pad_id, np.int64)
    attention_mask = np.zeros_like(input_ids)
    for row, sequence in enumerate(sequences):
        input_ids[row, : len(sequence)] = sequence
        attention_mask[row, : len(sequence)] = 1
    return input_ids, attention_mask
