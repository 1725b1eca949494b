"""The attributes and methods of `SentenceTransformer` besides `encode`: dimensions, inputs, similarity, pools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any

from embedder.common.checks import check_choice, check_count
from embedder.compat.inputs import add_prompt
from embedder.compat.loading import Loading
from embedder.compat.model_members import ModelMembers
from embedder.compat.process_pool import ProcessPool, checked_pool, start_pool
from embedder.compat.similarity import SimilarityFunction
from embedder.compat.tensors import as_scores
from embedder.encoder import Embedder
from embedder.inputs import InputKinds, is_single


class Members(ModelMembers[Embedder]):
    """What a loaded model for embeddings knows and does besides encoding."""

    SUPPORTED_SIMILARITY_FN_NAMES = tuple(SimilarityFunction.possible_values())
    _call = "model.encode(texts)"

    _truncate_dim: int | None
    _similarity_fn_name: str

    def _open(self, loading: Loading) -> Embedder:
        return Embedder(loading.model, **loading.options)

    # Dimensions.

    @property
    def truncate_dim(self) -> int | None:
        """How many dimensions of each vector to keep. None keeps all. It may be set."""
        return self._truncate_dim

    @truncate_dim.setter
    def truncate_dim(self, value: int | None) -> None:
        check_count("truncate_dim", value)
        self._truncate_dim = value

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Keep `truncate_dim` dimensions within a `with` statement."""
        before = self.truncate_dim
        self.truncate_dim = truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before

    truncate_sentence_embeddings = truncate_embeddings

    def get_embedding_dimension(self) -> int:
        """Return the length of the vectors of `encode`."""
        dimension = self._model.dimension
        return dimension if self.truncate_dim is None else min(dimension, self.truncate_dim)

    get_sentence_embedding_dimension = get_embedding_dimension

    # Inputs.

    def tokenize(self, texts: Any, **kwargs: Any) -> dict[str, Any]:
        """Return `input_ids` and `attention_mask` of `texts`, cut at the limit and padded."""
        return {name: as_scores(ids) for name, ids in self._model.tokenize(add_prompt(texts, **kwargs)).items()}

    preprocess = tokenize

    def is_singular_input(self, inputs: Any) -> bool:
        """Return whether `inputs` is one text or one image, not a list of them."""
        return is_single(inputs, InputKinds(images="image" in self.modalities))

    # Similarity.

    @property
    def similarity_fn_name(self) -> str:
        """The function of `similarity`: "cosine", "dot", "euclidean" or "manhattan". It may be set."""
        return self._similarity_fn_name

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: str | Enum | None) -> None:
        name = value.value if isinstance(value, Enum) else value
        if name is not None:
            check_choice("similarity_fn_name", name, self.SUPPORTED_SIMILARITY_FN_NAMES)
        self._similarity_fn_name = name or SimilarityFunction.COSINE.value

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Compare every vector of `embeddings1` with every vector of `embeddings2`.

        Returns:
            (n, m): a tensor if the program has imported torch, otherwise a `NumpyTensor`.
        """
        return SimilarityFunction.to_similarity_fn(self.similarity_fn_name)(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Compare vector i of `embeddings1` with vector i of `embeddings2`.

        Returns:
            (n,), as in `similarity`.
        """
        return SimilarityFunction.to_similarity_pairwise_fn(self.similarity_fn_name)(embeddings1, embeddings2)

    # Pools.

    def start_multi_process_pool(self, target_devices: Sequence[Any] | None = None) -> ProcessPool:
        """Start a process for each device. Each loads the model. See `EncoderPool`.

        Args:
            target_devices: a list such as ["cpu", "cpu"]. None takes all GPUs if the model is on one, otherwise four
                processes on the CPU.
        """
        return start_pool(self._loading, target_devices, self._model.device)

    @staticmethod
    def stop_multi_process_pool(pool: ProcessPool) -> None:
        """Stop the processes of a pool."""
        checked_pool(pool).encoder_pool.stop()
