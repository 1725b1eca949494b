"""What the models of sentence-transformers know and do, whatever their kind: device, limit, tokenizer, evaluation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Generic, NoReturn, Self, TypeVar

from embedder.artifact.hub_access import HubAccess
from embedder.artifact.locate import open_artifact
from embedder.common.checks import check_choice, shown
from embedder.compat.device import CPU, Device, provider_of
from embedder.compat.loading import Loading, dtype_of, is_dtype
from embedder.compat.refusals import FIXED, MEMBERS, UnsupportedError
from embedder.compat.tensors import imported_torch
from embedder.compat.tokenizer import Tokenizer
from embedder.cross_encoder import CrossEncoder
from embedder.encoder import Embedder
from embedder.errors import InputError, ProviderError

_Model = TypeVar("_Model", Embedder, CrossEncoder)


class ModelCardData:
    """Takes what evaluators of sentence-transformers report for a model card, and keeps nothing of it."""

    def set_evaluation_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing. Models are not saved, so that no card is written."""


class ModelMembers(Generic[_Model]):
    """What `SentenceTransformer` and `CrossEncoder` have in common.

    Attributes:
        prompts: the prompts by name. It may be changed.
        default_prompt_name: the name of the prompt that is taken if none is given, or None. It may be set.
    """

    # What the class does not have, with what to do instead.
    _missing: ClassVar[Mapping[str, str]] = MEMBERS
    # What is here, but cannot be set.
    _fixed: ClassVar[Mapping[str, str]] = FIXED
    # How to call the model.
    _call: ClassVar[str]

    prompts: dict[str, str]
    default_prompt_name: str | None
    _loading: Loading
    _model: _Model
    _backend: str
    _tokenizer: Tokenizer | None = None

    def _open(self, loading: Loading) -> _Model:
        """Load the model underneath."""
        raise NotImplementedError

    def _set_prompts(self, own: Mapping[str, str], prompts: Mapping[str, str] | None, default: str | None) -> None:
        """Set the prompts: the model's own ones, replaced by `prompts` of the constructor."""
        self.prompts = dict(own)
        for name, text in (prompts or {}).items():  # None stands for the model's own prompt
            self.prompts[name] = self.prompts.get(name, "") if text is None else text
        self.default_prompt_name = default or self._model.manifest.default_prompt_name
        if self.default_prompt_name is not None:
            self._check_prompt_name("default_prompt_name", self.default_prompt_name)

    def _resolve_prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        if prompt is not None:
            return prompt
        if prompt_name is None:
            return self.prompts.get(self.default_prompt_name or "") or ""
        self._check_prompt_name("prompt_name", prompt_name)
        return self.prompts[prompt_name] or ""

    def _check_prompt_name(self, option: str, name: object) -> None:
        if not self.prompts:
            raise InputError(f"{option} should be None, not {shown(name)}: the model has no prompts")
        check_choice(option, name, list(self.prompts))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._model!r})"

    def __getattr__(self, name: str) -> NoReturn:
        if name in self._missing:
            raise UnsupportedError(f"embedder's {type(self).__name__} has no {name!r}: {self._missing[name]}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if (hint := self._fixed.get(name, self._missing.get(name))) is not None:
            raise UnsupportedError(f"{type(self).__name__}.{name} cannot be set: {hint}")
        super().__setattr__(name, value)

    def __getitem__(self, index: object) -> NoReturn:
        raise UnsupportedError(f"embedder's {type(self).__name__} has no modules: {MEMBERS['modules']}")

    def __iter__(self) -> NoReturn:
        raise UnsupportedError(f"embedder's {type(self).__name__} has no modules: {MEMBERS['modules']}")

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse token ids.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(f"the model cannot be called on token ids. Call {self._call}")

    @classmethod
    def load(cls, input_path: str) -> Self:
        """Return `cls(input_path)`. This is the old form of the constructor."""
        return cls(input_path)  # type: ignore[call-arg]

    @property
    def embedder(self) -> _Model:
        """The model underneath. Moving the model to another device or limit replaces it."""
        return self._model

    # The device and the graph.

    @property
    def device(self) -> Any:
        """The device: a `torch.device` if the program has imported torch, otherwise a string with its attributes."""
        torch = imported_torch()
        return Device(self._model.device) if torch is None else torch.device(self._model.device)

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
            elif value is not None and provider_of(value) != self._model.device:
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
        if self._model.device == CPU:
            before = self._loading, self._model
            self._load_again(provider=None)
            if self._model.device == CPU:
                self._loading, self._model = before
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
        if changes != {"dtype": self._model.dtype}:
            loading = replace(self._loading, options=self._loading.options | changes)
            self._model = self._open(loading)
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
            raise UnsupportedError(f"embedder's {type(self).__name__} has no training mode: {MEMBERS['fit']}")
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

    # Limits and tokens.

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a text that the model reads, special tokens included. Setting it loads the model again."""
        return self._model.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        if value != self._model.max_seq_length:
            self._load_again(max_seq_length=value)

    def get_max_seq_length(self) -> int:
        """Return `max_seq_length`."""
        return self.max_seq_length

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

    @property
    def modalities(self) -> list[str]:
        """The kinds of input that the model takes."""
        return list(self._model.manifest.modalities)

    def supports(self, modality: object) -> bool:
        """Return whether the model takes inputs of this kind, such as "text"."""
        return modality in self.modalities

    def get_model_kwargs(self) -> list[str]:
        """Return an empty list: `encode` and `predict` take no further options."""
        return []

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
