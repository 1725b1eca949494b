"""An embedding function for LanceDB."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from embedder.common.imports import import_optional
from embedder.encoder import DEFAULT_MODEL
from embedder.integrations.text_model import TextModel

import_optional("lancedb", needed_for=__name__, requirement="lancedb")

from lancedb.embeddings import TextEmbeddingFunction, register
from pydantic import Field, PrivateAttr

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@register("embedder")
class EmbedderFunction(TextEmbeddingFunction):
    """Embeds a column of texts, and queries, with a model of embedder. Make it with `create`.

    LanceDB saves the options with a table, and makes the function again for each call. All share one loaded model. A
    row without a text gets no vector.

    Attributes:
        name: name or path of a model, as `Embedder` takes it.
        query_prompt: text to put before each query. None takes the model's own prompt for queries.
        document_prompt: text to put before each text of the column. None takes the model's own prompt for documents.
        model_kwargs: options of `Embedder`, such as `{"dtype": "int8"}`.
        encode_kwargs: options of `encode`, such as `{"normalize_embeddings": True}`.
        max_retries: how often LanceDB calls the function again after an error. An error of a model on this machine
            would come again, so the default is 0.

    Example:
        >>> function = EmbedderFunction.create(name="all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> function.ndims()  # doctest: +SKIP
        384
    """

    name: str = DEFAULT_MODEL
    query_prompt: str | None = None
    document_prompt: str | None = None
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    encode_kwargs: dict[str, Any] = Field(default_factory=dict)
    max_retries: int = 0

    _model: TextModel = PrivateAttr()

    def __init__(self, **options: Any) -> None:
        """Check the options. The model is loaded when it is first needed.

        Raises:
            InputError: an option cannot be used.
        """
        super().__init__(**options)
        self._model = TextModel(
            self.name,
            query_prompt=self.query_prompt,
            document_prompt=self.document_prompt,
            model_kwargs=self.model_kwargs,
            encode_kwargs=self.encode_kwargs,
        )

    def ndims(self) -> int:
        """Return the length of a vector."""
        truncated = self.encode_kwargs.get("truncate_dim")
        return truncated or self._model.embedder.dimension

    def compute_query_embeddings(self, query: Any, *args: Any, **kwargs: Any) -> list[NDArray[np.float32]]:
        """Return the vector of a query, in a list."""
        return list(self._model.encode_queries(self.sanitize_input(query)))

    def generate_embeddings(
        self, texts: Iterable[str | None], *args: Any, **kwargs: Any
    ) -> list[NDArray[np.float32] | None]:
        """Return the vector of each text, and None for each row without a text."""
        rows = list(texts)
        vectors = iter(self._model.encode_documents(text for text in rows if text is not None))
        return [None if text is None else next(vectors) for text in rows]
