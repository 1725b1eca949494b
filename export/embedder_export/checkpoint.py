"""First stage: what a sentence-transformers checkpoint says of itself, read from its own files.

Nothing in a checkpoint is ever executed, and what cannot be honoured is refused by name.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedder import hub
from embedder.digests import sha256_of
from embedder.errors import ModelNotFoundError
from embedder.manifest import SIMILARITIES, Head

from embedder_export.errors import CheckpointError

# What the stages read; a Hub repository also holds the same weights in several other formats.
_HUB_PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's directory, that of the transformer in it, where it came from, and its settings."""

    directory: Path
    transformer: Path
    name: str
    revision: str | None
    weights_sha256: str
    head: Head
    max_seq_length: int | None
    positions: int | None
    lowercase: bool
    similarity: str
    prompts: dict[str, str]
    default_prompt_name: str | None


def read_checkpoint(model: str) -> Checkpoint:
    """Find and read `model`: a local directory, `org/name` on the Hub, or `name` for sentence-transformers/name.

    Raises:
        ModelNotFoundError: there is no such directory or repository.
        CheckpointError: a file is missing or damaged, or has something that the export cannot honour.
    """
    directory, name, revision = _locate(model)
    modules = _read_modules(directory)
    transformer = directory / modules[0]["path"]
    # sentence_bert_config.json, or the same by the name of another architecture.
    limits_path = min(transformer.glob("sentence_*_config.json"), default=transformer / "sentence_bert_config.json")
    limits = _read_json(limits_path, dict, default={})
    config = _read_json(directory / "config_sentence_transformers.json", dict, default={})
    if config.get("truncate_dim") is not None:
        raise CheckpointError(f"{name} truncates its embeddings (truncate_dim), which is not supported")
    prompts = _checked_prompts(name, config)
    positions = _read_json(transformer / "config.json", dict).get("max_position_embeddings")
    similarity = config.get("similarity_fn_name") or "cosine"
    if similarity not in SIMILARITIES:
        raise CheckpointError(f"{name} has the unknown similarity function {similarity!r}")
    return Checkpoint(
        directory=directory,
        transformer=transformer,
        name=name,
        revision=revision,
        weights_sha256=_weights_digest(transformer),
        head=Head(pooling=_read_pooling(directory / modules[1]["path"]), normalize=len(modules) == 3),
        max_seq_length=_checked_limit(name, limits.get("max_seq_length"), positions),
        positions=positions,
        lowercase=bool(limits.get("do_lower_case")),
        similarity=similarity,
        prompts=prompts,
        default_prompt_name=config.get("default_prompt_name"),
    )


def _checked_prompts(name: str, config: dict[str, Any]) -> dict[str, str]:
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str | None) for prompt in prompts.values()):
        raise CheckpointError(f"{name} has prompts that are not strings by name: {prompts!r:.80}")
    default = config.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise CheckpointError(f"{name} has the default prompt {default!r}, which is not among its prompts")
    return {key: prompt for key, prompt in prompts.items() if prompt is not None}


def _checked_limit(name: str, limit: Any, positions: Any) -> int | None:
    for number in (limit, positions):
        if number is not None and (type(number) is not int or number < 1):
            raise CheckpointError(f"{name} has {number!r} as max_seq_length or max_position_embeddings")
    if limit is not None and positions is not None and limit > positions:
        raise CheckpointError(f"{name} has a max_seq_length of {limit}, but only {positions} positions")
    return limit  # type: ignore[no-any-return]


def _locate(model: str) -> tuple[Path, str, str | None]:
    path = os.path.expanduser(model)
    if os.path.isdir(path):
        return Path(path), Path(path).resolve().name, None
    repository = model if "/" in model else hub.DEFAULT_ORGANISATION + model
    if not hub.is_repository_id(repository):
        raise ModelNotFoundError(f"{model!r} is neither a directory nor the name of a Hub repository")
    directory = hub.fetch(repository, _HUB_PATTERNS)
    return directory, repository.removeprefix(hub.DEFAULT_ORGANISATION), directory.name


def _read_modules(directory: Path) -> list[dict[str, str]]:
    """The entries of modules.json: a Transformer, a Pooling and perhaps a Normalize, in that order."""
    modules = _read_json(directory / "modules.json", list)
    if not all(
        isinstance(m, dict) and isinstance(m.get("type"), str) and isinstance(m.get("path"), str) for m in modules
    ):
        raise CheckpointError(f"{directory / 'modules.json'} is not a list of modules, each with a type and a path")
    kinds = []
    for module in modules:
        # `sentence_transformers.models.Pooling`, or, since 5.0, `sentence_transformers.….pooling.Pooling`
        package, _, kind = module["type"].rpartition(".")
        kinds.append(kind if package.split(".")[0] == "sentence_transformers" else module["type"])
    for kind in kinds:
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise CheckpointError(f"{directory.name} has the module {kind!r}, which is not supported")
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise CheckpointError(f"{directory.name} has the modules {', '.join(kinds)}, an order that is not supported")
    return modules  # type: ignore[no-any-return]


def _read_pooling(directory: Path) -> str:
    config = _read_json(directory / "config.json", dict)
    if "pooling_mode" in config:
        modes = config["pooling_mode"]
        modes = modes if isinstance(modes, list) else [modes]
    else:
        flags = [name for name, value in config.items() if name.startswith("pooling_mode_") and value]
        modes = [_old_mode(name) for name in flags] or ["mean"]
    if modes != ["mean"]:
        raise CheckpointError(f"the pooling {'+'.join(map(str, modes))} is not supported; mean is")
    if config.get("include_prompt", True) is False:
        raise CheckpointError("pooling without the prompt's tokens (include_prompt: false) is not supported")
    return "mean"


def _old_mode(flag: str) -> str:
    """`pooling_mode_mean_tokens` is mean, `pooling_mode_cls_token` cls."""
    return flag.removeprefix("pooling_mode_").removesuffix("s").removesuffix("_token")


def _weights_digest(directory: Path) -> str:
    """SHA-256 of the weights; of a checkpoint in several files, that of their digests in the order of their names."""
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{directory} has no .safetensors file")
    digests = [sha256_of(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _read_json(path: Path, kind: type, default: Any = None) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if default is not None:
            return default
        raise CheckpointError(f"{path} is missing: is this a sentence-transformers checkpoint?") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, kind):
        raise CheckpointError(f"{path} should hold a JSON {kind.__name__}, not {content!r:.80}")
    return content
