"""Read what config_sentence_transformers.json and the list of modules say, for checkpoints of every task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embedder.artifact.manifest import DEFAULT_PROMPTS, SIMILARITY_FUNCTIONS

from embedder_export.checkpoint.files import digest_weights, read_json
from embedder_export.checkpoint.layers import WEIGHTLESS
from embedder_export.checkpoint.modules import Module
from embedder_export.errors import CheckpointError
from embedder_export.families.family import Family
from embedder_export.families.table import family_of_config


def family_of_first(first: Module, config: Mapping[str, Any]) -> Family[Any]:
    """Return the family of the transformer that is the first module.

    Args:
        first: the module.
        config: the content of its config.json.

    Raises:
        CheckpointError: the module's class belongs to another family, or the family is not known.

    Example:
        >>> family_of_first(Module("Transformer", Path("checkpoint")), {"model_type": "bert"}).prefix
        'bert'
    """
    family = family_of_config(config)
    if first.kind not in family.module_classes:
        raise CheckpointError(f"the first module is a {first.kind}, but config.json belongs to another kind of model")
    return family


def digest_modules(modules: Sequence[Module], files: Sequence[Path] = ()) -> str:
    """Return the SHA-256 of the weights of all modules, and of other `files`.

    Example:
        >>> len(digest_modules(read_modules(Path("checkpoints/all-MiniLM-L6-v2"))))  # doctest: +SKIP
        64
    """
    return digest_weights([module.directory for module in modules if module.kind not in WEIGHTLESS], files)


def check_no_chat_template(directory: Path) -> None:
    """Check a checkpoint without modules.json.

    Raises:
        CheckpointError: it has a chat template.

    Example:
        >>> check_no_chat_template(Path("no such directory"))
    """
    tokenizer = read_json(directory / "tokenizer_config.json", dict, default={})
    if tokenizer.get("chat_template") is not None or any(directory.rglob("*.jinja")):
        raise CheckpointError("the checkpoint has a chat template and no modules.json, which is not supported")


def read_similarity(config: Mapping[str, Any], default: str) -> str:
    """Return the name of the function that compares the vectors.

    Raises:
        CheckpointError: the function is not known.

    Example:
        >>> read_similarity({}, "cosine")
        'cosine'
    """
    similarity = config.get("similarity_fn_name") or default
    if similarity not in SIMILARITY_FUNCTIONS:
        raise CheckpointError(f"the checkpoint has the unknown similarity function {similarity!r:.80}")
    return str(similarity)


def read_prompts(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the prompts by name.

    Raises:
        CheckpointError: they are damaged, or the default prompt is not among them.

    Example:
        >>> read_prompts({"prompts": {"query": "query: "}})
        {'query': 'query: '}
    """
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str | None) for prompt in prompts.values()):
        raise CheckpointError(f"the checkpoint has prompts that are not strings by name: {prompts!r:.80}")
    default = config.get("default_prompt_name")
    if default not in (None, *DEFAULT_PROMPTS, *prompts):
        raise CheckpointError(f"the checkpoint has the default prompt {default!r:.80}, which is not among its prompts")
    return {key: prompt or "" for key, prompt in prompts.items()}
