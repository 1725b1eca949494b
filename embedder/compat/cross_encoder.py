"""`CrossEncoder` on `embedder.CrossEncoder`: the constructor, `predict` and `rank` of sentence-transformers 6.2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from embedder import cross_encoder
from embedder.activations import apply_activation
from embedder.common.checks import check_count, shown
from embedder.compat.inputs import shows_progress
from embedder.compat.loading import Loading, read_arguments
from embedder.compat.model_members import ModelMembers
from embedder.compat.refusals import CROSS_ENCODER_FIXED, CROSS_ENCODER_MEMBERS
from embedder.compat.tensors import as_array, as_scores, as_tensor, import_torch, imported_torch
from embedder.errors import InputError
from embedder.inputs import check_documents, is_pair
from embedder.options import ACTIVATIONS

# A module with a path is a package for Python: it asks `ModuleFinder` for modules such as cross_encoder.model.
__path__: list[str] = []

# Older names of the constructor's arguments, and of those of `predict` and `rank`.
_OLD_ARGUMENTS = {
    "model_name": "model_name_or_path",
    "automodel_args": "model_kwargs",
    "tokenizer_args": "processor_kwargs",
    "tokenizer_kwargs": "processor_kwargs",
    "config_args": "config_kwargs",
    "cache_dir": "cache_folder",
    "default_activation_function": "activation_fn",
}
_OLD_OPTIONS = {"sentences": "inputs", "activation_fct": "activation_fn"}
# sentence-transformers 6.2 accepts these and ignores them.
_IGNORED_BY_PREDICT = frozenset({"num_workers"})
_IGNORED_BY_RANK = frozenset({"num_workers", "apply_softmax", "convert_to_numpy", "convert_to_tensor"})


class CrossEncoder(ModelMembers[cross_encoder.CrossEncoder]):
    """A model with the methods of `sentence_transformers.CrossEncoder`. `embedder` is the model underneath.

    Many threads may call `predict` at once. Settings, such as `activation_fn`, belong to all of them.

    Example:
        >>> model = CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2")  # doctest: +SKIP
        >>> model.predict([("Where is the cat?", "The cat is outside.")]).shape  # doctest: +SKIP
        (1,)
    """

    _missing: ClassVar[Mapping[str, str]] = CROSS_ENCODER_MEMBERS
    _fixed: ClassVar[Mapping[str, str]] = CROSS_ENCODER_FIXED
    _call = "model.predict(pairs)"

    def __init__(
        self,
        model_name_or_path: str | None = None,
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: Callable[..., Any] | str | None = None,
        device: Any = None,
        *,
        modules: Any = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        model_card_data: Any = None,
        backend: str = "torch",
        keep_in_fp32_modules: Any = None,
        **old: Any,
    ) -> None:
        """Load an exported cross-encoder, as `embedder.CrossEncoder(model_name_or_path)` does.

        Args:
            model_name_or_path: a model's name, or the path of an artifact. The path of a checkpoint is refused; the
                message has the command that exports it.
            num_labels: the model's number of labels. Another one is refused.
            max_length: most tokens of a pair, special tokens included. None takes the model's own limit.
            activation_fn: a function for the scores, such as `torch.nn.Sigmoid()`. None takes the model's own.
            device: "cpu" or the name of a GPU, as a string or a `torch.device`. None takes a GPU if one works.
            modules: refused. embedder loads exported models alone.
            prompts: prompts by name. They replace those of the model that have the same name.
            default_prompt_name: name of the prompt that is taken if none is given.
            cache_folder: a directory that holds the exported model, as EMBEDDER_HOME names one.
            trust_remote_code: has no effect. Code of a repository is never run, neither here nor by the export.
            revision: as in `Embedder`.
            local_files_only: as in `Embedder`.
            token: as in `Embedder`. True takes the token of `hf auth login`, as None does.
            model_kwargs: as in `SentenceTransformer`.
            processor_kwargs: "model_max_length" is `max_length`. Entries that change no score are accepted, others
                refused.
            config_kwargs: "num_labels" is `num_labels`. Other entries are refused.
            model_card_data: has no effect. Models are not saved.
            backend: "torch", "onnx" or "openvino". embedder runs onnxruntime for each of them.
            keep_in_fp32_modules: refused, unless it is empty.
            **old: older names of these arguments. `classifier_dropout` has no effect.

        Raises:
            InputError: an argument cannot be honoured. The message says what to use.
            EmbedderError: as in `embedder.CrossEncoder`.
        """
        given = _renamed("CrossEncoder", old, _OLD_ARGUMENTS, frozenset({"classifier_dropout"}))
        processor = dict(processor_kwargs or given.get("processor_kwargs") or {})
        config = dict(config_kwargs or given.get("config_kwargs") or {})
        if keep_in_fp32_modules:
            raise InputError('keep_in_fp32_modules cannot be honoured. model_kwargs={"dtype": "fp32"} computes in fp32')
        max_length = processor.pop("model_max_length", max_length) if max_length is None else max_length
        num_labels = config.pop("num_labels", num_labels) if num_labels is None else num_labels
        loading = read_arguments(
            given.get("model_name_or_path") if model_name_or_path is None else model_name_or_path,
            modules=modules,
            device=device,
            cache_folder=given.get("cache_folder") if cache_folder is None else cache_folder,
            revision=revision,
            local_files_only=local_files_only,
            token=token,
            use_auth_token=None,
            model_kwargs=given.get("model_kwargs") if model_kwargs is None else model_kwargs,
            processor_kwargs=processor,
            config_kwargs=config,
            backend=backend,
        )
        self._loading = Loading(loading.model, loading.options | {"max_seq_length": max_length})
        self._backend = backend
        self.activation_fn = given.get("activation_fn") if activation_fn is None else activation_fn
        self._model = self._open(self._loading)
        self._check_num_labels(num_labels)
        self._set_prompts(self._model.manifest.prompts, prompts, default_prompt_name)

    def _check_num_labels(self, num_labels: object) -> None:
        if num_labels not in (None, self.num_labels):
            raise InputError(
                f"num_labels={shown(num_labels)} cannot be honoured: the exported model has {self.num_labels}. Set it "
                "in config.json of the checkpoint before you train, and export the model again"
            )

    def _open(self, loading: Loading) -> cross_encoder.CrossEncoder:
        return cross_encoder.CrossEncoder(loading.model, **loading.options)

    @property
    def num_labels(self) -> int:
        """Number of scores that a pair gets."""
        return self._model.label_count

    @property
    def max_length(self) -> int:
        """The old name of `max_seq_length`. It may be set."""
        return self.max_seq_length

    @max_length.setter
    def max_length(self, value: int) -> None:
        self.max_seq_length = value

    @property
    def activation_fn(self) -> Any:
        """The function for the scores. It may be set.

        It is what was set. Otherwise it is the model's own: a module of torch if the program has imported torch, else
        its name.
        """
        return self._own_activation() if self._activation_fn is None else self._activation_fn

    @activation_fn.setter
    def activation_fn(self, value: Callable[..., Any] | str | None) -> None:
        _check_activation(value)
        self._activation_fn = value

    @property
    def default_activation_function(self) -> Any:
        """The old name of `activation_fn`."""
        return self.activation_fn

    def _own_activation(self) -> Any:
        torch, name = imported_torch(), self._model.activation_fn
        return name if torch is None else {"sigmoid": torch.nn.Sigmoid, "identity": torch.nn.Identity}[name]()

    def is_singular_input(self, inputs: Any) -> bool:
        """Return whether `inputs` is one pair of texts, not a list of pairs."""
        return is_pair(inputs)

    def predict(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[..., Any] | str | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the scores of one pair of texts or of many.

        Args:
            inputs: one pair, which is a list or tuple of two strings; or many pairs. `sentences` is its old name.
            prompt_name: the name of a prompt in `prompts`.
            prompt: text to put before the first text of each pair. It takes precedence over `prompt_name`.
            batch_size: most pairs in one call of the graph.
            show_progress_bar: None shows it if the level of the logger "embedder" is INFO or DEBUG.
            activation_fn: a function for the scores. None takes `self.activation_fn`. `activation_fct` is its old name.
            apply_softmax: apply a softmax over the labels after it.
            convert_to_numpy: return an array. False returns a list of tensors.
            convert_to_tensor: return a tensor on the CPU. It takes precedence over `convert_to_numpy`.
            device: a device; the model moves there. A list of devices is refused.
            pool: refused.
            chunk_size: has no effect, as there are no pools.
            **kwargs: older names. `num_workers` has no effect.

        Returns:
            float32 (n,) for n pairs if the model has one label, otherwise (n, labels). For one pair: a float32, or
            (labels,). (0,) for an empty list, as in sentence-transformers.

        Raises:
            InputError: a pair or an option cannot be used.
            DependencyError: a tensor is asked for, and torch is not installed.

        Example:
            >>> model.predict(("Where is the cat?", "The cat is outside.")).shape  # doctest: +SKIP
            ()
        """
        given = _renamed("predict", kwargs, _OLD_OPTIONS, _IGNORED_BY_PREDICT)
        inputs = given.get("inputs") if inputs is None else inputs
        activation_fn = given.get("activation_fn") if activation_fn is None else activation_fn
        if convert_to_tensor or not convert_to_numpy:
            import_torch()  # before the work, because torch may not be installed
        check_count("chunk_size", chunk_size)
        activation_fn = self.activation_fn if activation_fn is None else activation_fn
        _check_activation(activation_fn)
        raw = self._on(device, pool).predict(
            inputs,
            prompt=self._resolve_prompt(prompt, prompt_name),
            batch_size=batch_size,
            show_progress_bar=shows_progress(show_progress_bar),
            activation_fn="identity",
        )
        scores = self._activated(np.reshape(raw, (-1, self.num_labels)), activation_fn, bool(apply_softmax))
        if convert_to_tensor:
            # torch.tensor([]) is float32
            result = as_tensor(scores if scores.size else scores.astype(np.float32))
        else:
            result = _as_float32(scores) if convert_to_numpy else list(as_tensor(scores))
        return result[0] if is_pair(inputs) else result

    def rank(
        self,
        query: str,
        documents: Any,
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[..., Any] | str | None = None,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Return the documents by their score with a query, best first.

        Args:
            query: the first text of each pair.
            documents: the second texts.
            top_k: how many documents to return. None returns all.
            return_documents: whether the results have the documents, under "text".
            prompt_name: as in `predict`.
            prompt: as in `predict`.
            batch_size: as in `predict`.
            show_progress_bar: as in `predict`.
            activation_fn: as in `predict`.
            device: as in `predict`.
            pool: as in `predict`.
            chunk_size: as in `predict`.
            **kwargs: as in `predict`. `apply_softmax` and those for the kind of the result have no effect.

        Raises:
            InputError: the model has several labels; or as in `predict`.

        Example:
            >>> model.rank("Where is the cat?", ["It rains.", "The cat is outside."])[0]["corpus_id"]  # doctest: +SKIP
            1
        """
        given = _renamed("rank", kwargs, _OLD_OPTIONS, _IGNORED_BY_RANK)
        if self.num_labels != 1:
            raise InputError(f"rank needs a model with one label, and this one has {self.num_labels}. Use predict")
        if top_k is not None:
            check_count("top_k", top_k, smallest=0)
        pairs = check_documents(query, documents)
        scores = self.predict(
            [(pair.first, pair.second) for pair in pairs],
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            activation_fn=given.get("activation_fn") if activation_fn is None else activation_fn,
            device=device,
            pool=pool,
            chunk_size=chunk_size,
        ).tolist()
        ranked: list[dict[str, Any]] = []
        for row in sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:top_k]:
            text = {"text": pairs[row].second} if return_documents else {}
            ranked.append({"corpus_id": row, "score": scores[row]} | text)
        return ranked

    def _on(self, device: Any, pool: Any) -> cross_encoder.CrossEncoder:
        """Return the model underneath, on a device."""
        if pool is not None or isinstance(device, list | tuple):
            raise InputError(
                "embedder has no pools of processes for cross-encoders. One model uses all cores: leave pool out, and "
                "pass one device"
            )
        return self._model if device is None else self.to(device).embedder

    def _activated(self, scores: NDArray[np.float32], activation_fn: Any, apply_softmax: bool) -> NDArray[Any]:
        """Return scores (n, labels) after the activation, without the axis of the labels if there is one label."""
        if not len(scores):
            return np.array([])  # as in sentence-transformers
        name = _name_of(activation_fn)
        values = as_array(activation_fn(as_scores(scores))) if name is None else apply_activation(scores, name)
        if self.num_labels == 1 and values.ndim > 1:
            return np.squeeze(values, -1)
        return apply_activation(values, "softmax") if apply_softmax and values.ndim > 1 else values


def _as_float32(scores: NDArray[Any]) -> NDArray[Any]:
    """Return scores as sentence-transformers does: float32, whatever the activation gave. No scores stay float64."""
    return scores.astype(np.float32, copy=False) if len(scores) else scores


def _check_activation(activation_fn: object) -> None:
    if isinstance(activation_fn, str) and activation_fn not in ACTIVATIONS:
        raise InputError(
            f"activation_fn should be a function or one of {', '.join(ACTIVATIONS)}, not {shown(activation_fn)}"
        )
    if activation_fn is not None and not isinstance(activation_fn, str) and not callable(activation_fn):
        raise InputError(f"activation_fn should be a function, not {shown(activation_fn)}")


def _name_of(activation_fn: Any) -> str | None:
    """Return embedder's name of an activation, or None if it is another function."""
    if isinstance(activation_fn, str):
        return activation_fn
    kind = type(activation_fn)
    name = kind.__name__.lower()
    return name if kind.__module__.startswith("torch.nn.") and name in ("identity", "sigmoid") else None


def _renamed(call: str, given: Mapping[str, Any], names: Mapping[str, str], ignored: frozenset[str]) -> dict[str, Any]:
    """Return the arguments that were given by an older name, by their new one.

    Raises:
        InputError: an argument is unknown.
    """
    for name, value in given.items():
        if name not in names and name not in ignored:
            hint = ". Set model.max_seq_length to change the limit" if name == "processing_kwargs" else ""
            raise InputError(f"{call} has no option {name!r} (it is {shown(value)}){hint}")
    return {names[name]: value for name, value in given.items() if name in names}
