"""An encoder for mteb."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from embedder.common.imports import import_optional
from embedder.encoder import DEFAULT_MODEL, Embedder
from embedder.errors import InputError
from embedder.kept_models import get_model
from embedder.vectors.similarity import (
    pairwise_cos_sim,
    pairwise_dot_score,
    pairwise_euclidean_sim,
    pairwise_manhattan_sim,
)

import_optional("mteb", needed_for=__name__, requirement="mteb")

import torch
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import BatchedInput, PromptType
    from numpy.typing import ArrayLike
    from torch.utils.data import DataLoader

    from embedder.results import Embeddings

_PAIRWISE = {
    "cosine": pairwise_cos_sim,
    "dot": pairwise_dot_score,
    "euclidean": pairwise_euclidean_sim,
    "manhattan": pairwise_manhattan_sim,
}


class EmbedderEncoder(AbsEncoder):
    """Lets mteb measure a model of embedder on tasks of texts.

    Attributes:
        model: the Embedder.
        model_prompts: the model's prompts. mteb chooses among them by the names of the task, its type and its prompt
            type.
        mteb_model_meta: what mteb writes beside the results.

    Example:
        >>> mteb.evaluate(EmbedderEncoder("all-MiniLM-L6-v2"), mteb.get_tasks(["STS12"]))  # doctest: +SKIP
    """

    def __init__(self, model: str | os.PathLike[str] | Embedder = DEFAULT_MODEL) -> None:
        """Load the model.

        Args:
            model: name or path of a model, as `Embedder` takes it; or a loaded Embedder.

        Raises:
            EmbedderError: the model cannot be loaded.
        """
        self.model = model if isinstance(model, Embedder) else get_model(model)
        self.model_prompts = dict(self.model.prompts)
        self.mteb_model_meta = _meta_of(self.model)

    def encode(
        self,
        inputs: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **options: Any,
    ) -> Embeddings:
        """Return the vectors of a task's texts, float32 (n, dimension).

        Args:
            inputs: batches; each has a list of texts under "text".
            task_metadata: decides the prompt.
            hf_split: not used.
            hf_subset: not used.
            prompt_type: whether the texts are queries or documents; decides the prompt.
            **options: options of `encode`; mteb passes `batch_size` and what `encode_kwargs` of `evaluate` has.

        Raises:
            InputError: the inputs are no texts, or an option is unknown.
        """
        texts = []
        for batch in inputs:
            if "text" not in batch:
                raise InputError(f"the task {task_metadata.name} has inputs other than texts: {', '.join(batch)}")
            texts.extend(batch["text"])
        prompt_name = self.get_prompt_name(task_metadata, prompt_type)
        return self.model.encode(texts, prompt_name=prompt_name, **options)

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> torch.Tensor:
        """Return the scores of each vector with each other, float32 (n, m), by the model's own function.

        Example:
            >>> encoder.similarity([[1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])  # doctest: +SKIP
            tensor([[1., 0.]])
        """
        return torch.from_numpy(self.model.similarity(embeddings1, embeddings2))

    def similarity_pairwise(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> torch.Tensor:
        """Return the scores of the first vectors, of the second vectors and so on, float32 (n,).

        Example:
            >>> encoder.similarity_pairwise([[1.0, 0.0]], [[0.0, 1.0]])  # doctest: +SKIP
            tensor([0.])
        """
        return torch.from_numpy(_PAIRWISE[self.model.similarity_fn_name](embeddings1, embeddings2))


def _meta_of(model: Embedder) -> ModelMeta:
    source = model.manifest.source
    return ModelMeta.create_empty(
        {
            # mteb needs an organisation before the name.
            "name": source.model if "/" in source.model else f"local/{source.model}",
            "revision": source.revision or source.weights_sha256,
            # mteb keeps results by name, revision and these. So results of other programs and options stay apart.
            "experiment_kwargs": {
                "runtime": "embedder",
                "dtype": model.dtype,
                "dimension": model.dimension,
                "max_seq_length": model.max_seq_length,
            },
            "embed_dim": model.dimension,
            "max_tokens": model.max_seq_length,
            "similarity_fn_name": ScoringFunction(model.similarity_fn_name),
            "use_instructions": any(model.prompts.values()),
            "framework": ["ONNX"],
        }
    )
