"""Choose the inputs that share a call of the graph, and pad their token ids to one array.

Padding is wasted work, so texts of similar length share a batch. A batch is filled by tokens, not by texts, because its
time and its memory depend on its tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from embedder.common.records import frozen
from embedder.inputs import ImageItem, Item, Pair

# A window is held in memory, tokenised and sorted by length. It is large enough to find texts of similar length, and
# small enough to bound memory: `tokenizers` needs about 100 bytes for each token.
_WINDOW_ITEMS = 1024
# A device gets windows with an item for each of so many tokens of its budget, if that is more than one window.
_BUDGET_TOKENS_PER_ITEM = 2
_WINDOW_CHARACTERS = 1_000_000
# An image in memory counts as this many characters. An image that is a path counts as none: it is not read yet.
_IMAGE_CHARACTERS = _WINDOW_CHARACTERS // 64
# A batch of fewer tokens runs faster than it can be handed to another thread.
_MIN_BATCH_TOKENS = 64
# A device with a large token budget takes hardly less time for this share of it.
_MIN_BATCH_SHARE = 1 / 8


@frozen
class BatchLimits:
    """What makes a good batch on a device. For programs that make their own batches.

    Attributes:
        token_budget: most tokens of a batch, padding included, that the device runs well. A longer text is alone.
        threads: number of batches that run at the same time.
        unpadded_from_tokens: texts of at least this many tokens share a call of the graph only with texts of the same
            length. None: with any texts.
        tokens_per_image: number of tokens that an image counts as. None if the model takes no images.
        padded_tokens: number of tokens that a shorter text counts as. It is above 1 for models that pad all texts to
            one length.

    Example:
        >>> BatchLimits(256, 2, 129, None).token_budget
        256
    """

    token_budget: int
    threads: int
    unpadded_from_tokens: int | None
    tokens_per_image: int | None
    padded_tokens: int = 1


def windows(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Cut a stream of items into lists, in order. Each list is bounded in items and in memory.

    If the stream raises an error, the items before it come first.

    Example:
        >>> [len(window) for window in windows(["a text"] * 2000)]
        [1024, 976]
    """
    window: list[Item] = []
    characters = 0
    failure: Exception | None = None
    try:
        for item in items:
            window.append(item)
            characters += len(item) if isinstance(item, str) else _characters(item)
            if len(window) == _WINDOW_ITEMS or characters >= _WINDOW_CHARACTERS:
                yield window
                window, characters = [], 0
    except Exception as error:
        failure = error
    if window:
        yield window
    if failure is not None:
        raise failure


def windows_ahead(window: list[Item], token_budget: int) -> int:
    """Return how many windows to read and prepare ahead, when `window` is the last one that was read.

    A device with a large token budget sorts the texts of several windows together, so that its batches have little
    padding. Images are large, so only one window of them is read ahead.

    Example:
        >>> windows_ahead(["a text"], 256), windows_ahead(["a text"], 16384)
        (1, 8)
    """
    if any(isinstance(item, ImageItem) for item in window):
        return 1
    return max(1, token_budget // _BUDGET_TOKENS_PER_ITEM // _WINDOW_ITEMS)


def _characters(item: Pair | ImageItem) -> int:
    if isinstance(item, Pair):
        return len(item.first) + len(item.second)
    source = item.source
    if isinstance(source, str):  # a path or a data URI
        return len(source)
    return 0 if isinstance(source, os.PathLike) else _IMAGE_CHARACTERS


def plan_batches(
    lengths: Sequence[int],
    token_budget: int,
    threads: int,
    batch_size: int | None = None,
    unpadded_from: int | None = None,
) -> list[list[int]]:
    """Group texts into batches, longest texts first.

    Args:
        lengths: number of tokens of each text.
        token_budget: most tokens of a batch, padding included. A longer text is alone in its batch.
        threads: number of threads that run the batches. If there is little work, batches are smaller, so that every
            thread gets one.
        batch_size: most texts of a batch. None sets no such limit.
        unpadded_from: texts of at least this many tokens share a batch only with texts of the same length. None: with
            any texts.

    Returns:
        The indices of the texts of each batch.

    Example:
        >>> plan_batches([3, 40, 4, 39], 200, threads=1)
        [[1, 3], [2, 0]]
    """
    share = -(-sum(lengths) // threads)
    token_budget = min(token_budget, max(share, _MIN_BATCH_TOKENS, int(_MIN_BATCH_SHARE * token_budget)))
    batches = []
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)  # equal lengths keep their order
    start = 0
    while start < len(order):
        longest = lengths[order[start]]
        count = max(1, token_budget // max(1, longest))
        if batch_size is not None:
            count = min(count, batch_size)
        batch = order[start : start + count]
        if unpadded_from is not None and longest >= unpadded_from:
            batch = batch[: sum(lengths[row] == longest for row in batch)]  # the longest texts come first
        batches.append(batch)
        start += len(batch)
    return batches
