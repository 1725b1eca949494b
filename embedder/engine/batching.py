"""Which texts go through the model together, and how their token ids become one rectangle.

Padding is wasted work, so texts of like length share a batch; and a batch is filled by tokens, not by texts,
because that is what its time and memory depend on.
"""

import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from embedder.inputs import ImageItem

# A window is what is held at once, tokenised and sorted by length: wide enough to find batch-mates of like length,
# narrow enough for memory to stay bounded (a token takes some 100 bytes while tokenizers holds it).
_WINDOW_ITEMS = 1024
_WINDOW_CHARACTERS = 1_000_000
# What an image counts for that is in memory, rather than a file.
_IMAGE_CHARACTERS = _WINDOW_CHARACTERS // 64
# In tokens; below it a batch takes a thread no less time than to be handed to it.
_LEAST_BATCH = 64


def windows(items: Iterable[str | ImageItem]) -> Iterator[list[str | ImageItem]]:
    """Cut a stream of texts and images into lists, in order, each bounded in items and in memory."""
    window: list[str | ImageItem] = []
    characters = 0
    for item in items:
        window.append(item)
        characters += _characters(item)
        if len(window) == _WINDOW_ITEMS or characters >= _WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def _characters(item: str | ImageItem) -> int:
    source = item.source if isinstance(item, ImageItem) else item
    if isinstance(source, str):
        return len(source)
    return 0 if isinstance(source, os.PathLike) else _IMAGE_CHARACTERS


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
