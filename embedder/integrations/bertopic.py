"""A backend for BERTopic."""

from __future__ import annotations

from embedder.common.imports import import_optional
from embedder.integrations.text_backend import TextBackend

import_optional("bertopic", needed_for=__name__, requirement="bertopic")

from bertopic.backend import BaseEmbedder


class EmbedderBackend(TextBackend, BaseEmbedder):
    """Lets BERTopic embed with a model of embedder. Safe to share between threads.

    BERTopic does not know an `Embedder`. If it is given one, it takes a model of its own, without a message.

    Example:
        >>> topics = BERTopic(embedding_model=EmbedderBackend("all-MiniLM-L6-v2"))  # doctest: +SKIP
    """
