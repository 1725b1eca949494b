"""Choose the texts that run in one batch."""

from __future__ import annotations

from collections.abc import Sequence

# A call of the graph takes as long as this many tokens more than it has. Measured on two cores with all-MiniLM-L6-v2:
# 8 in fp32 and 15 in int8.
_CALL_TOKENS = 12


def choose_batch(lengths: Sequence[int], token_budget: int, unpadded_from: int | None) -> list[int]:
    """Return the texts that run together with the first one: those that give the most tokens in the least time.

    Args:
        lengths: number of tokens of each text. The first text is in the batch in any case.
        token_budget: most tokens of the batch, padding included.
        unpadded_from: texts of at least this many tokens share a batch only with texts of the same length. None: with
            any texts.

    Returns:
        The indices of the texts, the first one among them.

    Example:
        >>> sorted(choose_batch([10, 200, 12, 9, 11], 64, None))
        [0, 2, 3, 4]
    """
    first = lengths[0]
    if unpadded_from is not None and first >= unpadded_from:
        same = [index for index, length in enumerate(lengths) if length == first]
        return same[: max(1, token_budget // first)]
    usable = (index for index in range(len(lengths)) if unpadded_from is None or lengths[index] < unpadded_from)
    order = sorted(usable, key=lambda index: (lengths[index], -index))  # of equal texts, the earlier ones are longer
    place = order.index(0)
    best, best_rate = [0], first / (first + _CALL_TOKENS)
    for end in range(place, len(order)):
        start, rate = _longest_first(lengths, order[: end + 1], place, token_budget)
        if start > place:  # no room for the first text beside longer ones
            break
        if rate > best_rate:
            best, best_rate = order[start : end + 1], rate
    return best


def _longest_first(lengths: Sequence[int], order: Sequence[int], place: int, token_budget: int) -> tuple[int, float]:
    """Choose a batch from the end of `order`, texts in the order of their lengths.

    Args:
        lengths: number of tokens of each text.
        order: indices of texts. The last text is the longest one, and is in the batch.
        place: the place in `order` of the text that the batch must have.
        token_budget: most tokens of the batch, padding included.

    Returns:
        The place of the shortest text of the batch, after `place` if there is no room for all; and the tokens that the
        batch gives in the time of one token.
    """
    longest = lengths[order[-1]]
    most = max(1, token_budget // longest)
    start, tokens, rate = len(order), 0, 0.0
    while start > 0 and len(order) - start < most:
        more = tokens + lengths[order[start - 1]]
        next_rate = more / (_CALL_TOKENS + longest * (len(order) - start + 1))
        if next_rate <= rate and start <= place:
            break  # shorter texts would be padding for the most part
        start, tokens, rate = start - 1, more, next_rate
    return start, rate
