"""Which inputs share a call of the graph, and how their token ids become one array.

Padding is wasted work, so texts of similar length share a batch. A batch is filled by tokens, not by texts, because its
time and memory depend on its tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from embedder.inputs import ImageItem, Item, Pair

# A window is held at once, tokenised and sorted by length. It is wide enough to find texts of similar length, and
# narrow enough to bound memory: `tokenizers` holds about 100 bytes for each token.
_WINDOW_ITEMS = 1024
_WINDOW_CHARACTERS = 1_000_000
# What an image in memory counts for; an image that is still a file counts nothing.
_IMAGE_CHARACTERS = _WINDOW_CHARACTERS // 64
# A batch of fewer tokens takes less time than to hand it to another thread.
_MIN_BATCH_TOKENS = 64


def windows(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Cut a stream of items into lists, in order, each bounded in items and in memory."""
    window: list[Item] = []
    characters = 0
    for item in items:
        window.append(item)
        characters += _characters(item)
        if len(window) == _WINDOW_ITEMS or characters >= _WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def _characters(item: Item) -> int:
    if isinstance(item, str):
        return len(item)
    if isinstance(item, Pair):
        return len(item.first) + len(item.second)
    source = item.source if isinstance(item, ImageItem) else item
    if isinstance(source, str):  # a path or a data URI
        return len(source)
    return 0 if isinstance(source, os.PathLike) else _IMAGE_CHARACTERS


def plan_batches(
    lengths: Sequence[int], token_budget: int, threads: int, batch_size: int | None
) -> list[NDArray[np.intp]]:
    """Group texts into batches, longest first.

    Args:
        lengths: tokens of each text.
        token_budget: most tokens of a batch, padding included. A longer text is a batch of its own.
        threads: how many share the batches. Little work is cut finer, so that each has a part of it.
        batch_size: most texts of a batch; None sets no such limit.

    Returns:
        The indices of each batch's texts.
    """
    share = -(-sum(lengths) // threads)
    token_budget = min(token_budget, max(share, _MIN_BATCH_TOKENS))
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
    """Return input ids and attention mask, both int64 (texts, longest), padded on the right.

    A text without any token gets one that is masked, as a graph needs at least one.
    """
    longest = max((max(1, len(sequence)) for sequence in sequences), default=0)
    input_ids = np.full((len(sequences), longest), pad_id, np.int64)
    attention_mask = np.zeros_like(input_ids)
    for row, sequence in enumerate(sequences):
        input_ids[row, : len(sequence)] = sequence
        attention_mask[row, : len(sequence)] = 1
    return input_ids, attention_mask
