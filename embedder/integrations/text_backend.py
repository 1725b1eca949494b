"""What the backends for BERTopic and KeyBERT share. Both have a class of the same form to derive from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

from embedder.encoder import DEFAULT_MODEL, Embedder
from embedder.kept_models import get_model
from embedder.options import EncodeOptions, EncodeSettings

if TYPE_CHECKING:
    from embedder.results import Embeddings


class TextBackend:
    """Encodes lists of texts. A backend derives from it and from the class of its framework.

    Attributes:
        embedding_model: the Embedder.

    Example:
        >>> backend = TextBackend("all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> backend.embed(["A cat.", "A dog."]).shape  # doctest: +SKIP
        (2, 384)
    """

    def __init__(
        self, model: str | os.PathLike[str] | Embedder = DEFAULT_MODEL, **options: Unpack[EncodeOptions]
    ) -> None:
        """Load the model.

        Args:
            model: name or path of a model, as `Embedder` takes it; or a loaded Embedder.
            **options: options of `encode`, such as `prompt="clustering: "`.

        Raises:
            EmbedderError: the model cannot be loaded, or an option cannot be used.
        """
        super().__init__()
        self._settings = EncodeSettings.of(options)
        self.embedding_model = model if isinstance(model, Embedder) else get_model(model)

    def embed(self, documents: Iterable[str], verbose: bool = False) -> Embeddings:
        """Return the vectors of documents or words, float32 (n, dimension).

        Args:
            documents: the texts.
            verbose: show progress on stderr.

        Raises:
            InputError: a text is not a string.

        Example:
            >>> backend.embed(["A cat.", "A dog."]).shape  # doctest: +SKIP
            (2, 384)
        """
        shown = verbose or self._settings.show_progress_bar
        return self.embedding_model.encode(documents, settings=replace(self._settings, show_progress_bar=shown))
