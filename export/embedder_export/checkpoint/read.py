"""First stage: what a sentence-transformers checkpoint says of itself, read from its own files.

Nothing in a checkpoint is ever executed, and what cannot be honoured is refused by name.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from embedder.artifact import hub
from embedder.artifact.manifest import DEFAULT_PROMPTS, SIMILARITY_FUNCTIONS
from embedder.errors import ModelNotFoundError

from embedder_export.checkpoint.files import SAFETENSORS, TORCH_WEIGHTS, digest_weights, read_json
from embedder_export.checkpoint.modules import SENTENCE, TOKENS, WEIGHTLESS, Layer, Pooling, Truncate, read_layers
from embedder_export.errors import CheckpointError, NeedsTorchError

# What every checkpoint needs of a Hub repository, which also holds the same weights in several other formats; torch's
# own is fetched only for the directories that have no other.
_HUB_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja", SAFETENSORS, f"*/{SAFETENSORS}")

# A module's type: `sentence_transformers.models.Pooling`, or, since 5.0, `sentence_transformers.….pooling.Pooling`.
_PACKAGE = "sentence_transformers"

# The transformer's settings, by the names that sentence-transformers has given the file, in the order it tries them.
_SETTINGS_FILES = tuple(
    f"sentence_{architecture}_config.json"
    for architecture in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Each setting with what it may be. Arguments for transformers may not be anything: among them are paths, and
# `weights_only`, which decides whether loading runs code.
_SETTINGS: dict[str, Callable[[Any], bool]] = {
    "max_seq_length": lambda value: value is None or (type(value) is int and value >= 1),
    "do_lower_case": lambda value: value is None or isinstance(value, bool),
    "transformer_task": lambda value: value == "feature-extraction",
    "modality_config": lambda value: isinstance(value, dict) and "message" not in value and _is_text(value.get("text")),
    "module_output_name": lambda value: value == TOKENS,
    "unpad_inputs": lambda value: value is None or isinstance(value, bool),
} | dict.fromkeys(
    (
        "model_args",
        "model_kwargs",
        "tokenizer_args",
        "processor_kwargs",
        "config_args",
        "config_kwargs",
        "processing_kwargs",
        "tokenizer_name_or_path",
    ),
    lambda value: not value,
)
# The same of a CLIP, which pools and projects by itself.
_CLIP_SETTINGS = _SETTINGS | {
    "modality_config": lambda value: (
        isinstance(value, dict) and set(value) == {"text", "image"} and all(map(_is_feature, value.items()))
    ),
    "module_output_name": lambda value: value == SENTENCE,
}
# What the first module may be.
_FIRST = ("Transformer", "CLIPModel")
_CLIP = "clip"
# What each of these goes with no file says: its texts lie where the other model has its images.
_IMAGE_MODELS = {"clip-ViT-B-32-multilingual-v1": "clip-ViT-B-32"}
_SURROGATE = re.compile("[\ud800-\udfff]")
# sentence-transformers leaves the prompt out of the pooling for these, by name; no file of theirs says so.
_PROMPT_NOT_POOLED = ("hkunlp/instructor-base", "hkunlp/instructor-large", "hkunlp/instructor-xl")
# What config.json may say of how attention is computed: any other name is of code that transformers would fetch.
_ATTENTION = ("eager", "sdpa")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's directory, that of the transformer in it, where it came from, and its settings.

    repository: its id on the Hub and its commit, if it came from there.
    is_clip: whether it has two transformers, of texts and of images.
    image_model: the model of which the vectors of images go with this one's of texts, if it is known by its name.
    """

    directory: Path
    transformer: Path
    name: str
    repository: tuple[str, str] | None
    weights_sha256: str
    layers: tuple[Layer, ...]
    is_clip: bool = False
    image_model: str | None = None
    max_seq_length: int | None = None
    lowercase: bool = False
    similarity: str = "cosine"
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None


def read_checkpoint(model: str) -> Checkpoint:
    """Find and read `model`: a local directory, `org/name` on the Hub, or `name` for sentence-transformers/name.

    Raises:
        ModelNotFoundError: there is no such directory or repository.
        CheckpointError: a file is missing or damaged, or has something that the export cannot honour.
    """
    directory, name, repository = _locate(model)
    try:
        modules = _read_modules(directory)
        if modules is None:
            return _read_bare(directory, name, repository)
        return _read(directory, name, repository, modules)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from error


def _read(
    directory: Path, name: str, repository: tuple[str, str] | None, modules: list[tuple[str, Path]]
) -> Checkpoint:
    transformer = modules[0][1]
    is_clip = _check_transformer(directory, transformer).get("model_type") == _CLIP
    if modules[0][0] == "CLIPModel" and not is_clip:
        raise CheckpointError("the first module is a CLIPModel, and its config.json is of another model")
    settings = _read_settings(transformer, _CLIP_SETTINGS if is_clip else _SETTINGS)
    config = read_json(directory / "config_sentence_transformers.json", dict, default={})
    if config.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        raise CheckpointError(f"the checkpoint is a {config['model_type']}, not a SentenceTransformer")
    layers = read_layers(modules[1:], pooled=is_clip)
    if repository is not None and repository[0] in _PROMPT_NOT_POOLED:
        layers = tuple(
            replace(layer, include_prompt=False) if isinstance(layer, Pooling) else layer for layer in layers
        )
    dimension = config.get("truncate_dim")
    if dimension is not None:
        if type(dimension) is not int or dimension < 1:
            raise CheckpointError(f"the checkpoint has {dimension!r:.80} as truncate_dim")
        layers = (*layers, Truncate(dimension))
    similarity = config.get("similarity_fn_name") or "cosine"
    if similarity not in SIMILARITY_FUNCTIONS:
        raise CheckpointError(f"the checkpoint has the unknown similarity function {similarity!r:.80}")
    return Checkpoint(
        directory,
        transformer,
        name,
        repository,
        digest_weights([path for kind, path in modules if kind not in WEIGHTLESS]),
        layers,
        is_clip=is_clip,
        image_model=_IMAGE_MODELS.get(name),
        max_seq_length=settings.get("max_seq_length"),
        lowercase=bool(settings.get("do_lower_case")),
        similarity=similarity,
        prompts=_checked_prompts(config),
        default_prompt_name=config.get("default_prompt_name"),
    )


def _read_bare(directory: Path, name: str, repository: tuple[str, str] | None) -> Checkpoint:
    """A repository of transformers, without modules.json: as sentence-transformers does, its token vectors are pooled.

    By their mean; by the last token where it was made as a causal language model. A CLIP pools by itself.
    """
    config = _check_transformer(directory, directory)
    if config.get("model_type") == _CLIP:
        return Checkpoint(directory, directory, name, repository, digest_weights([directory]), (), is_clip=True)
    tokenizer = read_json(directory / "tokenizer_config.json", dict, default={})
    if tokenizer.get("chat_template") is not None or any(directory.rglob("*.jinja")):
        raise CheckpointError("the checkpoint has a chat template and no modules.json, which is not supported")
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    causal = architecture.endswith("ForCausalLM") and config.get("is_causal", True)
    pooling = Pooling(("lasttoken" if causal else "mean",), include_prompt=True)
    return Checkpoint(directory, directory, name, repository, digest_weights([directory]), (pooling,))


def _checked_prompts(config: dict[str, Any]) -> dict[str, str]:
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str | None) for prompt in prompts.values()):
        raise CheckpointError(f"the checkpoint has prompts that are not strings by name: {prompts!r:.80}")
    if any(_SURROGATE.search(text or "") for text in (*prompts, *prompts.values())):
        raise CheckpointError(f"the checkpoint has prompts that are not valid Unicode: {prompts!r:.80}")
    default = config.get("default_prompt_name")
    if default not in (None, *DEFAULT_PROMPTS, *prompts):
        raise CheckpointError(f"the checkpoint has the default prompt {default!r:.80}, which is not among its prompts")
    return {key: prompt or "" for key, prompt in prompts.items()}


def _locate(model: str) -> tuple[Path, str, tuple[str, str] | None]:
    path = os.path.expanduser(model)
    if os.path.isdir(path):
        return Path(path), Path(path).resolve().name, None
    repository = model if "/" in model else hub.DEFAULT_ORGANISATION + model
    if not hub.is_repository_id(repository):
        raise ModelNotFoundError(f"{model!r} is neither a directory nor the name of a Hub repository")
    directory = hub.fetch(repository, _HUB_PATTERNS)
    modules = _read_modules(directory) or [("Transformer", directory)]
    weighed = [path.relative_to(directory) for kind, path in modules if kind not in WEIGHTLESS]
    without = [(path / TORCH_WEIGHTS).as_posix() for path in weighed if not any((directory / path).glob(SAFETENSORS))]
    if without:
        if find_spec("torch") is None:
            raise NeedsTorchError(f"{repository} has no safetensors beside {', '.join(without)}")
        directory = hub.fetch(repository, [*_HUB_PATTERNS, *without], revision=directory.name)
    return directory, repository.removeprefix(hub.DEFAULT_ORGANISATION), (repository, directory.name)


def _read_modules(directory: Path) -> list[tuple[str, Path]] | None:
    """The modules of modules.json, a transformer first: the name of each one's class, and its directory."""
    path = directory / "modules.json"
    if not os.path.lexists(path):
        return None
    entries = read_json(path, list)
    modules = [_read_module(path, entry) for entry in entries]
    if len({str(entry.get("name")) for entry in entries}) < len(entries):  # of these sentence-transformers keeps one
        raise CheckpointError(f"{path} has several modules of one name")
    if not modules or modules[0][0] not in _FIRST:
        first = repr(modules[0][0]) if modules else "none"
        raise CheckpointError(f"the first module should be a Transformer, and is {first}: it is not supported")
    return modules


def _read_module(path: Path, entry: Any) -> tuple[str, Path]:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("type", "path")):
        raise CheckpointError(f"{path} is not a list of modules, each with a type and a path")
    package, _, kind = entry["type"].rpartition(".")
    if package.split(".")[0] != _PACKAGE:
        raise CheckpointError(f"the module {entry['type']!r:.80} is not supported")
    folder = PurePosixPath(entry["path"])
    if folder.is_absolute() or ".." in folder.parts or "\0" in entry["path"]:
        raise CheckpointError(f"{path} leads out of the checkpoint, to {entry['path']!r:.80}")
    return kind, path.parent / folder


def _read_settings(transformer: Path, known: dict[str, Callable[[Any], bool]]) -> dict[str, Any]:
    for name in _SETTINGS_FILES:
        path = transformer / name
        settings = read_json(path, dict, default={})
        if not settings:
            continue
        for key, value in settings.items():
            if key not in known or not known[key](value):
                raise CheckpointError(f"{path} has {value!r:.80} as {key}, which is not supported")
        return settings
    return {}


def _is_text(modality: Any) -> bool:
    if not isinstance(modality, dict):
        return False
    output = modality.get("method_output_name")
    return modality.get("method") == "forward" and output in ("last_hidden_state", ["last_hidden_state"])


def _is_feature(modality: tuple[Any, Any]) -> bool:
    kind, method = modality
    if kind not in ("text", "image") or not isinstance(method, dict):
        return False
    # Of transformers 4 it is the method's own result, of transformers 5 a part of it.
    return method.get("method") == f"get_{kind}_features" and method.get("method_output_name") in (
        None,
        "pooler_output",
    )


def _check_transformer(directory: Path, transformer: Path) -> dict[str, Any]:
    """The configuration; CheckpointError if the files that transformers reads would lead it to others."""
    for place in (directory, transformer):
        if (place / "adapter_config.json").exists():
            raise CheckpointError(f"{place} holds an adapter (adapter_config.json), which is not supported")
    config = read_json(transformer / "config.json", dict)
    for key, value in config.items():
        if "attn_implementation" in key and isinstance(value, str) and value not in _ATTENTION:
            raise CheckpointError(f"{transformer / 'config.json'} has {value!r:.80} as {key}")
    path = transformer / "tokenizer_config.json"
    for key, value in read_json(path, dict, default={}).items():
        # Old checkpoints name files of the machine that they were made on; what is not there does no harm.
        if key.endswith("_file") and isinstance(value, str) and _is_outside(transformer, value):
            raise CheckpointError(f"{path} has {value!r:.80} as {key}, a file outside of the checkpoint")
    return config


def _is_outside(directory: Path, name: str) -> bool:
    return os.path.exists(name) and not os.path.abspath(name).startswith(os.path.abspath(directory) + os.sep)
