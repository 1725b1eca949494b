"""The documents that `rank` of a model returns, best first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray


class RankedDocument(TypedDict):
    """A document that `CrossEncoder.rank` returns, as sentence-transformers returns it.

    Attributes:
        corpus_id: index of the document.
        score: its score.
        text: the document, if `return_documents`.
    """

    corpus_id: int
    score: float
    text: NotRequired[str]


def rank_documents(
    scores: NDArray[np.float32], documents: Sequence[str], top_k: int | None, *, return_documents: bool
) -> list[RankedDocument]:
    """Return documents by their score, best first. Equal scores keep the order of the documents.

    Args:
        scores: the score of each document, float32 (documents,).
        documents: the documents.
        top_k: how many documents to return. None returns all.
        return_documents: whether the results have the documents, under "text".

    Example:
        >>> rank_documents(np.float32([0, 1]), ["a", "b"], 1, return_documents=False)
        [{'corpus_id': 1, 'score': 1.0}]
    """
    ranked: list[RankedDocument] = []
    for row in np.argsort(-scores, kind="stable")[:top_k].tolist():
        found: RankedDocument = {"corpus_id": row, "score": float(scores[row])}
        if return_documents:
            found["text"] = documents[row]
        ranked.append(found)
    return ranked
