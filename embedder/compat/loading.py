"""The arguments of sentence-transformers' constructor, as options of `Embedder`.

Arguments that cannot change a vector are accepted. Arguments that embedder cannot honour and that would change a vector
are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from embedder.artifact.store import find
from embedder.common.checks import check_choice, shown
from embedder.common.records import frozen
from embedder.compat.device import provider_of
from embedder.errors import InputError, ModelNotFoundError

BACKENDS = ("torch", "onnx", "openvino")

# Entries of model_kwargs and processor_kwargs that change speed or memory, but no vector.
_HARMLESS_MODEL = {"attn_implementation", "export", "low_cpu_mem_usage", "use_safetensors", "trust_remote_code"}
_HARMLESS_PROCESSOR = {"use_fast", "clean_up_tokenization_spaces", "padding_side", "trust_remote_code"}
# What follows "model" in the names of graph files that sentence-transformers writes, by the dtype of the graph.
_FILES = {"": None, "_o1": None, "_o2": None, "_o3": None, "_optimized": None, "_o4": "fp16", "_fp16": "fp16"}
# The graph for each name of a dtype in model_kwargs. "auto" of transformers takes the dtype of the checkpoint's files.
_DTYPES = {
    "float32": "fp32",
    "fp32": "fp32",
    "float16": "fp16",
    "fp16": "fp16",
    "int8": "int8",
    "int4": "int4",
    "auto": None,
}


@frozen
class Loading:
    """What `SentenceTransformer` loads: a model and options of `Embedder`.

    Attributes:
        model: a path or a name.
        options: keyword arguments of `Embedder`.
    """

    model: str
    options: dict[str, Any]


def read_arguments(
    model_name_or_path: Any,
    *,
    modules: Any,
    device: Any,
    cache_folder: Any,
    revision: str | None,
    local_files_only: bool,
    token: Any,
    use_auth_token: Any,
    model_kwargs: Mapping[str, Any] | None,
    processor_kwargs: Mapping[str, Any] | None,
    config_kwargs: Mapping[str, Any] | None,
    backend: str,
) -> Loading:
    """Return what to load.

    Raises:
        InputError: an argument cannot be honoured. The message says what to use.
        ModelNotFoundError: `cache_folder` does not hold the model.
    """
    if modules is not None or model_name_or_path is None:
        raise InputError(
            "embedder loads exported models, and does not build them of modules. Build and save the model with "
            "sentence-transformers, export it with embedder-export, and pass the artifact's path"
        )
    check_choice("backend", backend, BACKENDS)
    if config_kwargs:
        raise InputError(
            f"config_kwargs {shown(dict(config_kwargs))} cannot be honoured: the graph is exported already. Change "
            "config.json of the checkpoint, and export it again"
        )
    _check_processor(processor_kwargs or {})
    graph = _read_model_kwargs(model_kwargs or {})
    options = graph | {
        "provider": provider_of(device) or graph["provider"],
        "revision": revision,
        "token": _token(use_auth_token if token is None else token),
        "local_files_only": local_files_only,
    }
    if cache_folder is None or Path(model_name_or_path).is_dir():
        return Loading(model_name_or_path, options)
    found = find(Path(cache_folder), model_name_or_path, revision)
    if found is None:
        raise ModelNotFoundError(
            f"cache_folder {str(cache_folder)!r} does not hold the exported model {model_name_or_path!r}. Put it there "
            f"with: EMBEDDER_HOME={cache_folder} embedder pull {model_name_or_path}. Or leave cache_folder out"
        )
    return Loading(str(found), options | {"revision": None})


def _token(token: Any) -> str | None:
    """Return the token for `Embedder`. True stands for the token of the login, which is the default."""
    if token is False:
        raise InputError("token=False cannot be honoured. Unset HF_TOKEN, or run: hf auth logout")
    return None if token is True else token


def _check_processor(processor_kwargs: Mapping[str, Any]) -> None:
    for name, value in processor_kwargs.items():
        if name == "model_max_length":
            raise InputError(f"set the limit after loading: model.max_seq_length = {value!r}")
        if name not in _HARMLESS_PROCESSOR:
            raise InputError(
                f"processor_kwargs[{name!r}] cannot be honoured: the tokenizer is exported already. Change "
                "tokenizer_config.json of the checkpoint, and export it again"
            )


def _read_model_kwargs(model_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the provider, its options and the dtype that `model_kwargs` ask for."""
    provider = provider_options = dtype = None
    for name, value in model_kwargs.items():
        if name in ("torch_dtype", "dtype"):
            dtype = dtype_of(value)
        elif name == "file_name":
            dtype = _dtype_of_file(str(value)) or dtype
        elif name == "provider":
            provider = str(value).removesuffix("ExecutionProvider").lower()
        elif name == "provider_options":
            provider_options = value
        elif name == "device_map":
            provider = None if value == "auto" else provider_of(value)
        elif name not in _HARMLESS_MODEL:
            raise InputError(
                f"model_kwargs[{name!r}] cannot be honoured. Known are dtype, torch_dtype, file_name, provider, "
                f"provider_options, device_map, and these, which change no vector: {', '.join(sorted(_HARMLESS_MODEL))}"
            )
    return {"provider": provider, "provider_options": provider_options, "dtype": dtype}


def is_dtype(value: object) -> bool:
    """Return whether `value` names a dtype, such as `torch.float16`."""
    return type(value).__name__ == "dtype"


def dtype_of(value: Any) -> str | None:
    """Return the dtype of `Embedder` for one of torch, or for its name. None stands for the artifact's first graph.

    Raises:
        InputError: embedder has no such dtype.
    """
    name = str(value).removeprefix("torch.")
    if value is None:
        return None
    if name not in _DTYPES:
        raise InputError(f'model_kwargs["dtype"] should be one of {", ".join(_DTYPES)}, not {shown(value)}')
    return _DTYPES[name]


def _dtype_of_file(name: str) -> str | None:
    """Return the dtype of a graph file of sentence-transformers. None stands for the artifact's first graph."""
    variant = PurePath(name).stem.lower().rpartition("model")[2]
    if variant not in _FILES:
        raise InputError(
            f"the file {name} may be another quantisation, with other vectors. Leave file_name out for the fp32 graph. "
            'embedder\'s int8 graph is model_kwargs={"dtype": "int8"}, if the artifact has one'
        )
    return _FILES[variant]
