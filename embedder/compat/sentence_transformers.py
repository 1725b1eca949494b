"""`SentenceTransformer` on `Embedder`: the constructor and `encode` of sentence-transformers 6.2.

BERTopic and KeyBERT look for "sentence_transformers" in the full name of a model's class. If they do not find it, they
silently take a model of their own. So this module has that name: they find it, and raise an error for the other class.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.common.checks import check_count
from embedder.compat.inputs import check_image_strings, shows_progress, take_inputs
from embedder.compat.loading import read_arguments
from embedder.compat.members import Members
from embedder.compat.process_pool import checked_pool, start_pool
from embedder.compat.tensors import as_tensor, import_torch
from embedder.errors import InputError
from embedder.options import EncodeSettings

# The names that `encode_query` and `encode_document` look for, in this order.
_QUERY_PROMPTS = ("query",)
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
# The arguments of `encode` after the prompt, in their order.
_LATER_ARGUMENTS = (
    *("batch_size", "show_progress_bar", "output_value", "precision", "convert_to_numpy", "convert_to_tensor"),
    *("device", "normalize_embeddings", "truncate_dim", "pool", "chunk_size"),
)


class SentenceTransformer(Members):
    """A model with the methods of `sentence_transformers.SentenceTransformer`. `embedder` is the model underneath.

    Many threads may call `encode` at once. Settings, such as `truncate_dim`, belong to all of them.

    Example:
        >>> model = SentenceTransformer("all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> model.encode(["The cat sits outside.", "A dog plays."]).shape  # doctest: +SKIP
        (2, 384)
    """

    def __init__(
        self,
        model_name_or_path: str | None = None,
        *,
        modules: Any = None,
        device: Any = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        use_auth_token: bool | str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        model_card_data: Any = None,
        backend: str = "torch",
        similarity_fn_name: str | Enum | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        """Load an exported model, as `Embedder(model_name_or_path)` does.

        Args:
            model_name_or_path: a model's name, or the path of an artifact. The path of a checkpoint is refused; the
                message has the command that exports it.
            modules: refused. embedder loads exported models alone.
            device: "cpu" or the name of a GPU, as a string or a `torch.device`. None takes a GPU if one works.
            prompts: prompts by name. They replace those of the model that have the same name.
            default_prompt_name: name of the prompt that `encode` takes if none is given.
            cache_folder: a directory that holds the exported model, as EMBEDDER_HOME names one.
            trust_remote_code: has no effect. Code of a repository is never run, neither here nor by the export.
            revision: as in `Embedder`.
            local_files_only: as in `Embedder`.
            token: as in `Embedder`. True takes the token of `hf auth login`, as None does.
            use_auth_token: the old name of `token`.
            model_kwargs: "dtype" or "torch_dtype" chooses the graph ("fp32", "fp16", "int8", or the names of torch).
                "provider" and "device_map" choose the device. Entries that change no vector are accepted, others
                refused.
            processor_kwargs: entries that change no vector are accepted, others refused.
            tokenizer_kwargs: the old name of `processor_kwargs`.
            config_kwargs: refused.
            model_card_data: has no effect. Models are not saved.
            backend: "torch", "onnx" or "openvino". embedder runs onnxruntime for each of them.
            similarity_fn_name: "cosine", "dot", "euclidean" or "manhattan". None takes the model's own.
            truncate_dim: how many dimensions of each vector to keep.

        Raises:
            InputError: an argument cannot be honoured. The message says what to use.
            EmbedderError: as in `Embedder`.
        """
        self._loading = read_arguments(
            model_name_or_path,
            modules=modules,
            device=device,
            cache_folder=cache_folder,
            revision=revision,
            local_files_only=local_files_only,
            token=token,
            use_auth_token=use_auth_token,
            model_kwargs=model_kwargs,
            processor_kwargs={**(tokenizer_kwargs or {}), **(processor_kwargs or {})},
            config_kwargs=config_kwargs,
            backend=backend,
        )
        self._model = self._open(self._loading)
        self._backend = backend
        self._set_prompts(self._model.prompts, prompts, default_prompt_name)
        self.similarity_fn_name = similarity_fn_name or self._model.similarity_fn_name
        self.truncate_dim = truncate_dim

    def encode(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: Any = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the vectors of one text or of many, and of images if the model takes them.

        Args:
            inputs: as in `Embedder.encode`. `sentences` is its old name.
            prompt_name: the name of a prompt in `prompts`.
            prompt: text to put before each text. It takes precedence over `prompt_name`.
            batch_size: most inputs in one call of the graph.
            show_progress_bar: None shows it if the level of the logger "embedder" is INFO or DEBUG.
            output_value: "sentence_embedding". Vectors of tokens are refused.
            precision: as in `Embedder.encode`.
            convert_to_numpy: return an array. False returns a list of tensors.
            convert_to_tensor: return a tensor on the CPU. It takes precedence over `convert_to_numpy`.
            device: a device; the model moves there. A list of devices starts a process for each, for this call.
            normalize_embeddings: as in `Embedder.encode`.
            truncate_dim: None takes `self.truncate_dim`.
            pool: what `start_multi_process_pool` returned.
            chunk_size: as in `EncoderPool.encode`.
            **kwargs: `task` is accepted. It has no effect on the models that embedder exports.

        Returns:
            float32 (n, dimension), or (dimension,) for one input. (0,) for an empty list, as in sentence-transformers.

        Raises:
            InputError: an input or an option cannot be used.
            DependencyError: a tensor is asked for, and torch is not installed.

        Example:
            >>> model.encode("The cat sits outside.", normalize_embeddings=True).shape  # doctest: +SKIP
            (384,)
        """
        inputs = take_inputs(inputs, kwargs)
        if output_value != "sentence_embedding":
            raise InputError(
                f"output_value={output_value!r} cannot be honoured: embedder gives a vector for each input, not for "
                "each token. Use sentence-transformers for vectors of tokens"
            )
        if convert_to_tensor or not convert_to_numpy:
            import_torch()  # before the work, because torch may not be installed
        settings = EncodeSettings(
            prompt=self._resolve_prompt(prompt, prompt_name),
            batch_size=batch_size,
            show_progress_bar=shows_progress(show_progress_bar),
            normalize_embeddings=bool(normalize_embeddings),
            truncate_dim=self._dimension_to_keep(truncate_dim),
            precision="float32" if precision is None else precision,
        )
        vectors = self._vectors(inputs, settings, device, pool, chunk_size)
        if convert_to_tensor:
            return as_tensor(vectors if vectors.size else vectors.astype(np.float32))  # torch.tensor([]) is float32
        if convert_to_numpy:
            return vectors
        return as_tensor(vectors) if vectors.ndim == 1 and len(vectors) else list(as_tensor(vectors))

    def encode_query(
        self, inputs: Any = None, prompt_name: str | None = None, prompt: str | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Return what `encode` returns, for the same arguments. If no prompt is given, take the prompt "query"."""
        return self._encode_as("query", _QUERY_PROMPTS, inputs, prompt_name, prompt, args, kwargs)

    def encode_document(
        self, inputs: Any = None, prompt_name: str | None = None, prompt: str | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Return what `encode` returns. If no prompt is given, take the first of "document", "passage" and "corpus"."""
        return self._encode_as("document", _DOCUMENT_PROMPTS, inputs, prompt_name, prompt, args, kwargs)

    def encode_multi_process(
        self,
        sentences: list[str],
        pool: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        chunk_size: int | None = None,
        show_progress_bar: bool | None = None,
        precision: str | None = "float32",
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> Any:
        """Return `encode(sentences, pool=pool, ...)`. This is its old form."""
        return self.encode(
            sentences,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            precision=precision,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            pool=pool,
            chunk_size=chunk_size,
        )

    def _encode_as(
        self,
        task: str,
        candidates: tuple[str, ...],
        inputs: Any,
        name: str | None,
        prompt: str | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if name is None and prompt is None:
            name = next((candidate for candidate in candidates if candidate in self.prompts), None)
        if len(args) > len(_LATER_ARGUMENTS):
            raise InputError(f"encode takes at most {len(_LATER_ARGUMENTS) + 3} arguments, not {len(args) + 3}")
        options = dict(zip(_LATER_ARGUMENTS, args, strict=False)) | {"task": task} | kwargs
        inputs = options.pop("sentences", None) if inputs is None else inputs
        return self.encode(inputs=inputs, prompt_name=name, prompt=prompt, **options)

    def _vectors(
        self, inputs: Any, settings: EncodeSettings, device: Any, pool: Any, chunk_size: int | None
    ) -> NDArray[Any]:
        single = self.is_singular_input(inputs)
        if self.supports("image"):
            inputs = check_image_strings(inputs, single)
        if pool is not None:
            encoder_pool = checked_pool(pool).check_model(self._loading)
            vectors = encoder_pool.encode(inputs, chunk_size=chunk_size, settings=settings)
        elif isinstance(device, list | tuple) and device:
            with start_pool(self._loading, device, self._model.device).encoder_pool as encoder_pool:
                vectors = encoder_pool.encode(inputs, chunk_size=chunk_size, settings=settings)
        else:
            check_count("chunk_size", chunk_size)
            embedder = self._model if device is None else self.to(device).embedder
            vectors = embedder.encode(inputs, settings=settings)
        return vectors if single or len(vectors) else np.array([])

    def _dimension_to_keep(self, truncate_dim: int | None) -> int | None:
        wanted = self.truncate_dim if truncate_dim is None else truncate_dim
        check_count("truncate_dim", wanted)
        kept, head = self._model.dimension, self._model.manifest.head
        if wanted is None or wanted <= kept:
            return wanted
        if head is not None and any(layer.startswith("truncate") for layer in head.layers):
            raise InputError(
                f"truncate_dim={wanted} cannot be honoured: the checkpoint sets truncate_dim to {kept}, so that the "
                "graph has no more dimensions. Remove it from config_sentence_transformers.json, and export it again"
            )
        return None  # as in sentence-transformers, a larger number keeps all dimensions
