"""From the checked pairs of texts of a request to scores: tokenise, score in shared batches, put the best first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from embedder.common.records import frozen
from embedder.errors import InputError
from embedder.serve.embedding import refuse_cut, tokenize_in_time
from embedder.serve.models import ServedCrossEncoder
from embedder.serve.request_record import RequestRecord
from embedder.serve.requests import refuse


@frozen
class ScoreRequest:
    """The pairs of texts of a request. It is the same for all interfaces.

    Attributes:
        pairs: the pairs.
        name_of: returns the name of the pair with an index, for messages.
        truncate: cut pairs that are longer than the model reads. False refuses them.
        timeout_s: seconds that the scores may take.
    """

    pairs: list[tuple[str, str]]
    name_of: Callable[[int], str]
    truncate: bool
    timeout_s: float


async def score(served: ServedCrossEncoder, request: ScoreRequest, record: RequestRecord) -> NDArray[np.float32]:
    """Return the raw scores of a request, float32 (n, labels).

    Args:
        served: the model.
        request: the checked request.
        record: takes the model, the number of pairs, and the number of tokens that the model reads.

    Raises:
        RequestRefused: 400, a pair has no tokens; 422, a pair is too long and should not be cut; and as in
            `Batcher.encode`.
    """
    record.model, record.texts = served.name, len(request.pairs)
    characters = sum(len(first) + len(second) for first, second in request.pairs)
    try:
        pairs = await tokenize_in_time(characters, lambda: served.model.tokenize_pairs(request.pairs))
    except InputError as error:  # a pair of two empty texts, if the model's tokenizer adds no special tokens
        raise refuse(str(error)) from error
    if not request.truncate:
        refuse_cut(served, request.name_of, pairs)
    record.tokens = sum(map(len, pairs))
    return await served.batcher.encode(pairs, deadline_s=request.timeout_s)


def labels_of(served: ServedCrossEncoder) -> list[str]:
    """Return the names of the labels of a model. Those without a name get one as in transformers.

    Example:
        >>> labels_of(models.cross_encoder(None))  # doctest: +SKIP
        ['LABEL_0']
    """
    model = served.model
    return list(model.label_names) or [f"LABEL_{index}" for index in range(model.label_count)]


def best_first(scores: NDArray[np.float32]) -> list[int]:
    """Return the indices of scores, the highest one first. Equal scores keep their order.

    Args:
        scores: raw scores, float32 (n,). After an activation, high scores that differ may be equal.

    Example:
        >>> best_first(np.float32([0.1, 0.9, 0.1]))
        [1, 0, 2]
    """
    order: list[int] = np.argsort(-scores, kind="stable").tolist()
    return order
