"""The attributes and methods of `SentenceTransformer` besides `encode`: devices, limits, similarity, pools, tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from typing import Any, NoReturn, Self

from embedder.artifact.hub_access import HubAccess
from embedder.artifact.locate import open_artifact
from embedder.common.checks import check_choice, check_count
from embedder.compat.device import CPU, Device, provider_of
from embedder.compat.inputs import add_prompt
from embedder.compat.loading import Loading, dtype_of, is_dtype
from embedder.compat.process_pool import ProcessPool, checked_pool, start_pool
from embedder.compat.refusals import FIXED, MEMBERS, UnsupportedError
from embedder.compat.similarity import SimilarityFunction
from embedder.compat.tensors import as_scores, imported_torch
from embedder.compat.tokenizer import Tokenizer
from embedder.encoder import Embedder
from embedder.errors import ProviderError
from embedder.inputs import InputKinds, is_single


class ModelCardData:
    """Takes what evaluators of sentence-transformers report for a model card, and keeps nothing of it."""

    def set_evaluation_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing. Models are not saved, so that no card is written."""


class Members:
    """What a loaded model knows and does besides encoding.

    Attributes:
        prompts: the prompts by name. It may be changed.
        default_prompt_name: the name of the prompt that `encode` takes if none is given, or None. It may be set.
    """

    SUPPORTED_SIMILARITY_FN_NAMES = tuple(SimilarityFunction.possible_values())

    prompts: dict[str, str]
    default_prompt_name: str | None
    _loading: Loading
    _embedder: Embedder
    _backend: str
    _truncate_dim: int | None
    _similarity_fn_name: str
    _tokenizer: Tokenizer | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._embedder!r})"

    def __getattr__(self, name: str) -> NoReturn:
        if name in MEMBERS:
            raise UnsupportedError(f"embedder's SentenceTransformer has no {name!r}: {MEMBERS[name]}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if (hint := FIXED.get(name, MEMBERS.get(name))) is not None:
            raise UnsupportedError(f"SentenceTransformer.{name} cannot be set: {hint}")
        super().__setattr__(name, value)

    def __getitem__(self, index: object) -> NoReturn:
        raise UnsupportedError(f"embedder's SentenceTransformer has no modules: {MEMBERS['modules']}")

    def __iter__(self) -> NoReturn:
        raise UnsupportedError(f"embedder's SentenceTransformer has no modules: {MEMBERS['modules']}")

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse token ids.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError("the model cannot be called on token ids. Call model.encode(texts)")

    @property
    def embedder(self) -> Embedder:
        """The model underneath. Moving the model to another device or limit replaces it."""
        return self._embedder

    @classmethod
    def load(cls, input_path: str) -> Self:
        """Return `SentenceTransformer(input_path)`. This is the old form of the constructor."""
        return cls(input_path)  # type: ignore[call-arg]

    # The device and the graph.

    @property
    def device(self) -> Any:
        """The device: a `torch.device` if the program has imported torch, otherwise a string with its attributes."""
        torch = imported_torch()
        return Device(self._embedder.device) if torch is None else torch.device(self._embedder.device)

    @property
    def backend(self) -> str:
        """The backend as it was given. It has no effect."""
        return self._backend

    def get_backend(self) -> str:
        """Return the backend as it was given. It has no effect."""
        return self._backend

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the model to a device, or to the graph of a dtype, by loading it again. Return the model.

        Raises:
            EmbedderError: the device does not work here, or the artifact has no graph of this dtype.
        """
        kwargs.pop("non_blocking", None)
        for value in (*args, *kwargs.values()):
            if is_dtype(value):
                self._load_again(dtype=dtype_of(value))
            elif value is not None and provider_of(value) != self._embedder.device:
                self._load_again(provider=provider_of(value))
        return self

    def cpu(self) -> Self:
        """Move the model to the CPU. Return the model."""
        return self.to(CPU)

    def cuda(self, device: Any = None) -> Self:
        """Move the model to the first GPU. Return the model.

        Raises:
            ProviderError: no GPU works here.
        """
        if device not in (None, 0):
            return self.to(device)
        if self._embedder.device == CPU:
            before = self._loading, self._embedder
            self._load_again(provider=None)
            if self._embedder.device == CPU:
                self._loading, self._embedder = before
                raise ProviderError("no GPU works here. Leave this call out: embedder takes a GPU where one works")
        return self

    def half(self) -> Self:
        """Take the fp16 graph of the artifact. Return the model.

        Raises:
            InputError: the artifact has none.
        """
        return self._load_again(dtype="fp16")

    def float(self) -> Self:
        """Take the fp32 graph of the artifact. Return the model.

        Raises:
            InputError: the artifact has none.
        """
        return self._load_again(dtype="fp32")

    def _load_again(self, **changes: Any) -> Self:
        if changes != {"dtype": self._embedder.dtype}:
            loading = replace(self._loading, options=self._loading.options | changes)
            self._embedder = Embedder(loading.model, **loading.options)
            self._loading, self._tokenizer = loading, None
        return self

    def eval(self) -> Self:
        """Do nothing, and return the model. It never trains."""
        return self

    def train(self, mode: bool = True) -> Self:
        """Return the model for `train(False)`.

        Raises:
            UnsupportedError: `mode` is true.
        """
        if mode:
            raise UnsupportedError(f"embedder's SentenceTransformer has no training mode: {MEMBERS['fit']}")
        return self

    @property
    def training(self) -> bool:
        """False: the model never trains."""
        return False

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Return the model for `requires_grad_(False)`.

        Raises:
            UnsupportedError: `requires_grad` is true.
        """
        return self.train(requires_grad)

    def share_memory(self) -> Self:
        """Do nothing, and return the model. `start_multi_process_pool` loads it in each process."""
        return self

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing. The graph is compiled when it is loaded."""

    # Dimensions and limits.

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
        dimension = self._embedder.dimension
        return dimension if self.truncate_dim is None else min(dimension, self.truncate_dim)

    get_sentence_embedding_dimension = get_embedding_dimension

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a text that the model reads, special tokens included. Setting it loads the model again."""
        return self._embedder.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        if value != self._embedder.max_seq_length:
            self._load_again(max_seq_length=value)

    def get_max_seq_length(self) -> int:
        """Return `max_seq_length`."""
        return self.max_seq_length

    # Inputs.

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, with the names of transformers."""
        if self._tokenizer is None:
            self._tokenizer = self._load_tokenizer()
        return self._tokenizer

    def _load_tokenizer(self) -> Tokenizer:
        options = self._loading.options
        access = HubAccess(*(options[name] for name in ("revision", "token", "local_files_only")))
        artifact = open_artifact(self._loading.model, access)
        settings = artifact.manifest.tokenizer
        return Tokenizer(
            artifact.path(settings.file),
            model_max_length=self.max_seq_length,
            pad_token_id=settings.pad_id,
            special_ids=settings.special_ids,
        )

    def tokenize(self, texts: Any, **kwargs: Any) -> dict[str, Any]:
        """Return `input_ids` and `attention_mask` of `texts`, cut at the limit and padded."""
        return {name: as_scores(ids) for name, ids in self._embedder.tokenize(add_prompt(texts, **kwargs)).items()}

    preprocess = tokenize

    @property
    def modalities(self) -> list[str]:
        """The kinds of input that the model takes."""
        return list(self._embedder.modalities)

    def is_singular_input(self, inputs: Any) -> bool:
        """Return whether `inputs` is one text or one image, not a list of them."""
        return is_single(inputs, InputKinds(images="image" in self.modalities))

    def supports(self, modality: object) -> bool:
        """Return whether the model takes inputs of this kind, such as "text"."""
        return modality in self.modalities

    def get_model_kwargs(self) -> list[str]:
        """Return an empty list: `encode` takes no further options."""
        return []

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

    # Evaluation.

    @property
    def model_card_data(self) -> ModelCardData:
        """An object for evaluators of sentence-transformers, which report their measures to it."""
        return ModelCardData()

    def evaluate(self, evaluator: Any, output_path: str | None = None) -> Any:
        """Return `evaluator(self, output_path)`. The directory `output_path` is made first."""
        if output_path is not None:
            os.makedirs(output_path, exist_ok=True)
        return evaluator(self, output_path)

    # Pools.

    def start_multi_process_pool(self, target_devices: Sequence[Any] | None = None) -> ProcessPool:
        """Start a process for each device. Each loads the model. See `EncoderPool`.

        Args:
            target_devices: a list such as ["cpu", "cpu"]. None takes four processes.
        """
        return start_pool(self._loading, target_devices)

    @staticmethod
    def stop_multi_process_pool(pool: ProcessPool) -> None:
        """Stop the processes of a pool."""
        checked_pool(pool).encoder_pool.stop()
