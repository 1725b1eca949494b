"""A backend for KeyBERT."""

from __future__ import annotations

from embedder.common.imports import import_optional
from embedder.integrations.text_backend import TextBackend

import_optional("keybert", needed_for=__name__, requirement="keybert")

from keybert.backend import BaseEmbedder


class EmbedderBackend(TextBackend, BaseEmbedder):
    """Lets KeyBERT embed with a model of embedder. Safe to share between threads.

    KeyBERT does not know an `Embedder`. If it is given one, it takes a model of its own, without a message.

    Example:
        >>> keywords = KeyBERT(model=EmbedderBackend("all-MiniLM-L6-v2"))  # doctest: +SKIP
    """
